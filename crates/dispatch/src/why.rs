//! "Why is job 123 waiting?", answered with a sentence. Pure: from the record and the runner's row.

use domain::clock::{self, Timestamp};
use domain::gh;
use domain::job::{Job, JobState, Origin, RerunState, Settled};
use domain::runner::{Runner, RunnerState};
use domain::timings::{MAX_CLAIM_ATTEMPTS, MAX_JOB_RETRIES, Timings};
use serde::Serialize;

use crate::records::pool_of;

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Why {
    /// One plain sentence.
    pub sentence: String,
    /// What it rests on.
    pub facts: Vec<Fact>,
    /// What happens next by itself, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Next>,
}

/// A fact from the records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// Attribute name, as in the record.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

/// What happens next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Next {
    /// In words.
    pub action: &'static str,
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

/// Says what a job waits for, or how it ended. `runner` is the row of the machine the record names.
pub fn why(job: &Job, runner: Option<&Runner>, now: Timestamp, timings: &Timings) -> Why {
    let (sentence, next) = match job.state {
        JobState::Requeued => pending(job, now, timings),
        JobState::Claiming => claiming(job, now),
        JobState::Launched => launched(job, runner, timings),
        JobState::Running => running(job, runner, now),
        JobState::Terminating => (
            format!(
                "The machine {} was lost while GitHub ran the job on it; waiting for GitHub to conclude the job, \
                 so that it can be re-run.",
                machine(job)
            ),
            next("recovery gives up", job.redrive_at),
        ),
        JobState::Settled(end) => settled(job, end),
    };
    Why { sentence, facts: facts(job, runner), next }
}

fn pending(job: &Job, now: Timestamp, timings: &Timings) -> (String, Option<Next>) {
    let again = next("the wake-up is sent again", job.redrive_at);
    let Some(reason) = job.requeue_reason.as_deref() else {
        return ("Accepted and waiting for a dispatcher to take it.".to_owned(), again);
    };
    let cause = match reason {
        "on_demand_fallback" => "No spot capacity could be had, so it goes on-demand".to_owned(),
        "capacity_wait" => "No machine of the kind it asks for could be had".to_owned(),
        "transient" => "The last attempt failed for a reason that should pass".to_owned(),
        "permanent" => format!(
            "The last attempt was refused ({} of {MAX_CLAIM_ATTEMPTS} strikes)",
            job.claim_attempts.min(MAX_CLAIM_ATTEMPTS)
        ),
        "claim_exhausted" => format!(
            "{MAX_CLAIM_ATTEMPTS} dispatchers or more died while they had it, so it is tried at longer intervals; their \
             logs say what of"
        ),
        "runner_stolen" | "job_still_queued" => "Its runner was given another job by GitHub".to_owned(),
        "served_elsewhere" => "GitHub runs it on a runner that is not ours".to_owned(),
        "bootstrap_failed" => "Its machine never became a runner".to_owned(),
        "spot_interruption" => "Its machine was lost before the job ran".to_owned(),
        "unconfirmed_runners" => format!(
            "Its runner did not come online within {} s (retry {} of {MAX_JOB_RETRIES})",
            timings.confirm.as_secs(),
            job.retry_count
        ),
        "stale_queued" | "orphan_queued" => "Its runner ended without running it".to_owned(),
        "operator_requeue" => "An operator sent it back".to_owned(),
        "shutdown" => "A replica gave it back while shutting down".to_owned(),
        other => format!("It was sent back ({other})"),
    };
    let error = job.last_error.as_deref().map(|e| format!(": {e}")).unwrap_or_default();
    match job.not_before {
        Some(at) if at > now => (
            format!("{cause}{error}; next try in {} s.", clock::since(at, now).as_secs()),
            next("the job is dispatched again", Some(at)),
        ),
        _ => (format!("{cause}{error}; it waits for a dispatcher to take it again."), again),
    }
}

fn claiming(job: &Job, now: Timestamp) -> (String, Option<Next>) {
    let until = job.lease.as_ref().and_then(|l| l.until);
    if job.lease_expired(now) {
        return (
            "A dispatcher took it and died; its lease is over and the next one takes the job.".to_owned(),
            next("the wake-up is sent again", job.redrive_at),
        );
    }
    let doing = if job.launch_id.is_some() { "is launching a machine for it" } else { "has taken it" };
    (format!("A dispatcher {doing}."), next("the lease ends, if the dispatcher dies", until))
}

fn launched(job: &Job, runner: Option<&Runner>, timings: &Timings) -> (String, Option<Next>) {
    let machine = machine(job);
    let whole = match job.origin() {
        Some(Origin::HotPool) => format!("The running spare {machine} of its pool"),
        Some(Origin::WarmPool) => format!("The stopped spare {machine} of its pool"),
        Some(Origin::ColdStart) | None => format!("The machine {machine}"),
    };
    match job.prepared_at {
        None => (
            format!("{whole} is bound to it; its hand-over is being written."),
            next("the lease ends, if the dispatcher dies", job.lease.as_ref().and_then(|l| l.until)),
        ),
        Some(at) => {
            let whose = runner.and_then(|r| r.running_job).filter(|id| *id != job.id);
            let sentence = match whose {
                Some(other) => format!("GitHub gave its runner on {machine} the job {other}; it waits for another."),
                None if job.hot_pool_hit => format!("{whole} has its hand-over; its runner has not come online yet."),
                None => format!("{whole} is starting; its runner has not come online yet."),
            };
            (sentence, next("an unconfirmed runner is replaced", Some(clock::after(at, timings.confirm))))
        }
    }
}

fn running(job: &Job, runner: Option<&Runner>, now: Timestamp) -> (String, Option<Next>) {
    let machine = machine(job);
    let over = job.sighting.is_some_and(|s| s.status.is_over());
    let sentence = if over {
        format!("GitHub has concluded it; the final report of {machine} is awaited.")
    } else if let Some(at) = job.in_progress_at {
        format!("Running on {machine} for {} s.", clock::since(now, at).as_secs())
    } else if runner.is_some_and(|r| r.running_job.is_some_and(|id| id != job.id)) {
        format!("Its runner on {machine} was given another job by GitHub; that is being put right.")
    } else {
        format!("The runner on {machine} is online; GitHub has not given it the job yet.")
    };
    (sentence, None)
}

fn settled(job: &Job, end: Settled) -> (String, Option<Next>) {
    let error = job.last_error.as_deref().map(|e| format!(" Last error: {e}.")).unwrap_or_default();
    let reason = job.settled_reason.as_deref().unwrap_or("unknown");
    let sentence = match end {
        Settled::Completed | Settled::Success => match job.conclusion.as_deref() {
            Some(word) => format!("Over: GitHub concluded it with {word}."),
            None => "Over: its runner served it and ended.".to_owned(),
        },
        Settled::Cancelled if reason == "missing" => "Over: GitHub no longer knows the job.".to_owned(),
        Settled::Cancelled => "Over: it was cancelled.".to_owned(),
        Settled::Failure => format!("Over: its runner failed (exit code {}).", exit(job)),
        Settled::Timeout => "Over: it reached the runtime ceiling.".to_owned(),
        Settled::Interrupted => match job.rerun {
            Some(RerunState::Pending) => "Its machine was lost; GitHub is being asked for a re-run.".to_owned(),
            Some(RerunState::Done) => "Its machine was lost; GitHub re-runs it under a new job id.".to_owned(),
            Some(RerunState::Expired) => "Its machine was lost, and GitHub accepted no re-run for a day.".to_owned(),
            Some(RerunState::Refused) | None => "Its machine was lost; it is not re-run.".to_owned(),
        },
        Settled::Error | Settled::Failed => format!(
            "Given up ({reason}): GitHub fails the job 24 hours after it was queued unless an operator revives it."
        ),
        Settled::Orphaned => "Its machine is gone, and GitHub never said what became of the job.".to_owned(),
    };
    (sentence + &error, None)
}

fn facts(job: &Job, runner: Option<&Runner>) -> Vec<Fact> {
    let mut facts = vec![Fact { name: "status", value: job.state.as_str().to_owned(), at: Some(job.created_at) }];
    let mut add = |name, value: Option<String>, at| {
        if let Some(value) = value {
            facts.push(Fact { name, value, at });
        }
    };
    add("queued_at", Some(job.queued_at.to_string()), None);
    add("attempt", Some(job.attempt().to_string()), None);
    add("requeue_reason", job.requeue_reason.clone(), job.requeued_at);
    add("instance_id", job.instance.as_ref().map(ToString::to_string), None);
    add("instance_type", job.instance_type.clone(), None);
    add("source", job.origin().map(|origin| origin.as_str().to_owned()), None);
    add("pool", pool_of(job).map(ToString::to_string), None);
    add("runner_state", runner.map(|r| r.state.as_str().to_owned()), runner.and_then(|r| r.online_at));
    add("runner_name", job.runner_name.clone().or_else(|| runner.map(|r| r.name.clone())), job.in_progress_at);
    let sighting = job.sighting.filter(|s| s.status != gh::Status::Unknown);
    add("gh_status", sighting.map(|s| s.status.as_str().to_owned()), sighting.map(|s| s.at));
    add("force_on_demand", job.force_on_demand.then(|| "true".to_owned()), None);
    add("label_warnings", Some(job.label_warnings.join(", ")).filter(|w| !w.is_empty()), None);
    add("last_error", job.last_error.clone(), None);
    add("settled_reason", job.settled_reason.clone(), job.completed_at);
    let gone = runner.is_some_and(|r| r.state == RunnerState::Gone);
    add("machine", gone.then(|| "gone".to_owned()), runner.and_then(|r| r.interrupted_at));
    facts
}

fn machine(job: &Job) -> &str {
    job.instance.as_ref().map_or("its machine", |key| key.as_str())
}

fn exit(job: &Job) -> String {
    job.exit_code.map_or_else(|| "unknown".to_owned(), |code| code.to_string())
}

const fn next(action: &'static str, at: Option<Timestamp>) -> Option<Next> {
    match at {
        Some(_) => Some(Next { action, at }),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use domain::testing::{accepted, at, claimed, cx, launched};

    use super::*;

    fn sentence(job: &Job) -> String {
        why(job, None, at(60), &Timings::PRODUCTION).sentence
    }

    #[test]
    fn every_state_has_a_sentence_of_its_own() {
        use domain::job::transition::{Bump, RequeueReason, SettleReason, Wake};
        let bound = launched(1, "t", "i-1");
        let prepared = bound.prepared(&cx(3));
        let mut jobs = vec![
            accepted(1),
            claimed(1, "t"),
            bound.clone(),
            prepared.clone(),
            prepared.started(at(5), &cx(5)),
            prepared.condemned(true, &cx(5)),
        ];
        let waits = bound.requeued(Bump::None, Wake::BackOff, RequeueReason::CapacityWait, Some(at(90)), &cx(9));
        assert!(sentence(&waits).ends_with("next try in 30 s."), "{}", sentence(&waits));
        jobs.push(waits);
        jobs.extend(Settled::ALL.map(|end| prepared.settled(end, SettleReason::Deadline, &cx(9))));
        let sentences: std::collections::BTreeSet<String> = jobs.iter().map(sentence).collect();
        // Completed and success, error and failed, read alike.
        assert_eq!(sentences.len(), jobs.len() - 2, "{sentences:#?}");
    }

    #[test]
    fn a_spare_is_told_from_a_fresh_machine() {
        let cold = launched(1, "t", "i-1");
        let warm = Job { warm_pool_hit: true, ..cold.clone() };
        let hot = Job { hot_pool_hit: true, ..warm.clone() };
        for (job, source, whole) in [
            (&cold, "cold_start", "The machine i-1 is"),
            (&warm, "warm_pool", "The stopped spare i-1 of its pool is"),
            (&hot, "hot_pool", "The running spare i-1 of its pool is"),
        ] {
            let why = why(job, None, at(60), &Timings::PRODUCTION);
            assert!(why.sentence.starts_with(whole), "{}", why.sentence);
            assert!(why.facts.iter().any(|fact| fact.name == "source" && fact.value == source), "{:?}", why.facts);
        }
        assert!(sentence(&hot.prepared(&cx(3))).contains("has its hand-over"));
    }

    #[test]
    fn the_last_error_is_told() {
        let mut job = accepted(1);
        job.requeue_reason = Some("transient".to_owned());
        job.last_error = Some("the provider is busy".to_owned());
        assert!(sentence(&job).contains("the provider is busy"));
    }
}
