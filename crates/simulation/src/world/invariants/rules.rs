//! The invariants, one function each. What a function answers is broken.

use std::time::Duration;

use domain::clock::{Timestamp, since};
use domain::ids::{JobId, LaunchId, RunnerKey};
use domain::message::JobMessage;
use github::webhook::Kind;
use queue::Delivery;

use super::Finding;
use super::view::{JobRow, RunnerRow, View};

/// Clocks of two replicas differ by twice what one may be wrong.
const SKEW_MS: i64 = 10_000;
/// A conclusion has to be readable for so long before an attempt must know of it.
const READABLE: Duration = Duration::from_secs(60);
/// From the decision about a message to its end.
const A_MOMENT: Duration = Duration::from_secs(15);
/// Launches of one job: three failures of three strikes each, ten displacements, and machines lost before a start.
const LAUNCHES: u32 = 3 * 3 + 10 + 3;

/// I1: what was answered with 200 has a record.
pub(super) fn i1_recorded(view: &View, job: JobId) -> Option<Finding> {
    let known = view.jobs.get(&job)?;
    let lost = known.accepted && !known.had_row && known.concluded.is_none();
    lost.then(|| ("I1 recorded", Some(job), None, "its webhook was answered with 200, and it has no record".to_owned()))
}

/// I1, the other half: a record is not removed before it has been settled for long.
pub(super) fn i1_kept(before: &JobRow, now: Timestamp, kept: Duration) -> Option<Finding> {
    let settled = before.completed_at.as_ref().and_then(|at| at.parse::<Timestamp>().ok());
    let old = !before.is_open() && settled.is_none_or(|at| since(now, at) + Duration::from_secs(60) >= kept);
    (!old).then(|| {
        let text = format!("its record was removed while {} since {:?}", before.status, before.completed_at);
        ("I1 recorded", Some(before.id), before.machine.clone(), text)
    })
}

/// I2: a job that waits at GitHub gets a machine.
pub(super) fn i2_launched(view: &View, job: JobId) -> Option<Finding> {
    let known = view.jobs.get(&job)?;
    let settled = known.row.as_ref().is_some_and(|row| !row.is_open());
    let waits = known.concluded.is_none() && known.began.is_none() && !known.was_launched && !settled;
    waits.then(|| {
        let state = known.row.as_ref().map_or("without a record", |row| &*row.status);
        ("I2 launched", Some(job), None, format!("it still waits for a machine, {state}"))
    })
}

/// I3: a job of ours begins. A settled record is no excuse while GitHub still has it queued, unless its machines were
/// used up in bad weather.
pub(super) fn i3_served(view: &View, job: JobId) -> Option<Finding> {
    let known = view.jobs.get(&job)?;
    let waits = known.concluded.is_none() && known.began.is_none() && !view.is_given_up(job);
    waits.then(|| {
        let state = known.row.as_ref().map_or("without a record", |row| &*row.status);
        ("I3 served", Some(job), None, format!("it is queued at GitHub and {state}"))
    })
}

/// I4: no two unsettled jobs on one machine. Looked at between transactions, of which some take a machine from one job
/// and give it to another.
pub(super) fn i4_one_to_one(view: &View, machine: &RunnerKey) -> Option<Finding> {
    let jobs = &view.machines.get(machine)?.bound;
    (jobs.len() > 1).then(|| {
        let job = jobs.last().copied();
        ("I4 one to one", job, Some(machine.clone()), format!("the unsettled jobs {jobs:?} are on it"))
    })
}

/// I5: a machine that nobody bound is ended.
pub(super) fn i5_no_surplus(view: &View, machine: &RunnerKey) -> Option<Finding> {
    let known = view.machines.get(machine)?;
    let surplus = known.ended.is_none() && !known.was_bound && !known.spare;
    surplus.then(|| ("I5 no surplus", None, Some(machine.clone()), "it was never bound, and lives".to_owned()))
}

/// I6: a machine without work ends.
pub(super) fn i6_no_leak(view: &View, machine: &RunnerKey, since: Timestamp) -> Option<Finding> {
    let known = view.machines.get(machine)?;
    let leaked = known.ended.is_none() && known.idle_since == Some(since);
    leaked.then(|| ("I6 no leak", None, Some(machine.clone()), "it has no work, and lives".to_owned()))
}

/// I7: every write was decided on the row it changed; and nobody claims what another holds.
pub(super) fn i7_fenced(before: &JobRow, after: &JobRow, now: Timestamp) -> Option<Finding> {
    let fault = |text: String| Some(("I7 fenced", Some(after.id), after.machine.clone(), text));
    if after.version != before.version + 1 {
        return fault(format!("version {} was followed by {}", before.version, after.version));
    }
    let claimed = &*after.status == "claiming" && after.lease != before.lease;
    let held =
        &*before.status == "claiming" && before.lease.is_some() && before.lease_until > now.as_millisecond() + SKEW_MS;
    if claimed && held {
        return fault("it was claimed while somebody held it".to_owned());
    }
    if &*after.status == "launched" && &*before.status == "claiming" && after.lease != before.lease {
        return fault("it was bound under another lease".to_owned());
    }
    None
}

/// I7, for runners: their rows are fenced in the same way, and states only move on.
pub(super) fn i7_runner_fenced(before: &RunnerRow, after: &RunnerRow) -> Option<Finding> {
    let rank = |state: &str| match state {
        "minting" => 0,
        "minted" => 1,
        "online" => 2,
        "busy" => 3,
        "retiring" => 4,
        "done" => 5,
        _ => 6,
    };
    let fault = |text: String| Some(("I7 fenced", None, Some(after.key.clone()), text));
    if after.version != before.version + 1 {
        return fault(format!("version {} was followed by {}", before.version, after.version));
    }
    let anew = &*before.state == "gone" && &*after.state == "minting";
    let slipped = &*before.state == "retiring" && &*after.state == "busy";
    if rank(&after.state) < rank(&before.state) && !anew && !slipped {
        return fault(format!("{} was followed by {}", before.state, after.state));
    }
    None
}

/// I8: a settled record stays settled, as it was.
pub(super) fn i8_final(before: &JobRow, after: &JobRow) -> Option<Finding> {
    (!before.is_open() && before.status != after.status).then(|| {
        ("I8 final", Some(after.id), None, format!("it was settled as {}, and is {} now", before.status, after.status))
    })
}

/// I9: what only grows does not fall.
pub(super) fn i9_monotone(before: &JobRow, after: &JobRow) -> Option<Finding> {
    let fault = |text: &str| Some(("I9 monotone", Some(after.id), None, text.to_owned()));
    if after.retries < before.retries {
        return fault("retry_count fell");
    }
    if after.generation < before.generation {
        return fault("dispatch_seq fell");
    }
    if after.displaced < before.displaced {
        return fault("displaced_count fell");
    }
    if before.on_demand && !after.on_demand {
        return fault("it may use spot again");
    }
    if before.queued_at != after.queued_at {
        return fault("it was accepted at another time");
    }
    None
}

/// I10: bound records name their machine, pending ones none.
pub(super) fn i10_placed(after: &JobRow) -> Option<Finding> {
    let wrong = match &*after.status {
        "launched" | "running" => after.machine.is_none(),
        "requeued" | "claiming" => after.machine.is_some(),
        _ => false,
    };
    wrong.then(|| ("I10 placed", Some(after.id), after.machine.clone(), format!("it is {}", after.status)))
}

/// I11: a job's message may go when the job is prepared, running, condemned, settled, or pending with its outbox set.
pub(super) fn i11_acknowledged(view: &View, delivery: &Delivery, now: Timestamp) -> Option<Finding> {
    if Kind::of(&delivery.attributes) != Kind::Job {
        return None;
    }
    let message = JobMessage::decode(&delivery.body).ok()?.message;
    let job = view.jobs.get(&message.job_id);
    let row = job.and_then(|job| job.row.as_ref());
    let just_claimed = job.and_then(|job| job.claimed).is_some_and(|at| since(now, at) < A_MOMENT);
    let legal = row.is_some_and(|row| match &*row.status {
        "requeued" => row.redrive,
        // Of a later generation, or claimed a moment ago: this began after the message was found to be of no use.
        "claiming" | "launched" if !row.prepared => row.generation > i64::from(message.dispatch_seq) || just_claimed,
        _ => true,
    });
    // A record that was collected long after its end needs no message either.
    let collected = view.jobs.get(&message.job_id).is_none_or(|job| job.row.is_none() && job.had_row);
    (!legal && !collected).then(|| {
        let state = row.map_or("without a record", |row| &*row.status);
        ("I11 acknowledged", Some(message.job_id), None, format!("its message was acknowledged while it was {state}"))
    })
}

/// I15: there is an end to launching.
pub(super) fn i15_bounded(job: JobId, launches: u32) -> Option<Finding> {
    (launches > LAUNCHES).then(|| ("I15 bounded", Some(job), None, format!("it was bound {launches} times")))
}

/// I16: no hand-over outlives its machine for long.
pub(super) fn i16_no_secret(view: &View, machine: &RunnerKey) -> Option<Finding> {
    let known = view.machines.get(machine)?;
    let left = known.ended.is_some() && known.secret;
    left.then(|| ("I16 no secret", None, Some(machine.clone()), "it has ended, and its hand-over is left".to_owned()))
}

/// I17: an attempt that could have known that its job had ended launches nothing.
pub(super) fn i17_not_in_vain(view: &View, after: &JobRow) -> Option<Finding> {
    let known = view.jobs.get(&after.id)?;
    let (concluded, claimed) = (known.concluded?, known.claimed?);
    // Where GitHub cannot be asked, jobs are launched rather than forgotten.
    let blind = view.github_failed.is_some_and(|at| at >= claimed);
    let vain = since(claimed, concluded) > READABLE && !blind;
    vain.then(|| {
        let text = format!("it had ended at GitHub {:?} before this attempt", since(claimed, concluded));
        ("I17 not in vain", Some(after.id), after.machine.clone(), text)
    })
}

/// I18: no more machines than jobs asked for.
pub(super) fn i18_as_asked(machine: &RunnerKey, launch: Option<&LaunchId>, made: u32, asked: u32) -> Option<Finding> {
    (made > asked).then(|| {
        let launch = launch.map_or("", |launch| launch.as_str());
        let text = format!("{made} machines were launched as {launch}, for {asked} jobs");
        ("I18 as asked", None, Some(machine.clone()), text)
    })
}

/// B1: the record of a job that runs names the machine GitHub named.
pub(super) fn b1_true_binding(view: &View, job: JobId, machine: &RunnerKey) -> Option<Finding> {
    let known = view.jobs.get(&job)?;
    let row = known.row.as_ref().filter(|row| row.is_open())?;
    let wrong = known.concluded.is_none() && &*row.status != "terminating" && row.machine.as_ref() != Some(machine);
    wrong.then(|| {
        let text = format!("GitHub runs it there; its record is {} on {:?}", row.status, row.machine);
        ("B1 true binding", Some(job), Some(machine.clone()), text)
    })
}

/// B2: nobody terminates a machine whose runner has a job, unless it is taken back anyway.
pub(super) fn b2_no_killing(view: &View, machine: &RunnerKey, why: &str) -> Option<Finding> {
    let known = view.machines.get(machine)?;
    let job = known.serving.filter(|_| why == "orchestrator" && !known.warned && known.ended.is_none())?;
    Some((
        "B2 no killing",
        Some(job),
        Some(machine.clone()),
        "it was terminated while its runner had the job".to_owned(),
    ))
}

/// When everything has come to rest: nothing is open, nothing is left, and what was lost was run again.
pub(super) fn at_rest(view: &View) -> Vec<Finding> {
    let mut found = Vec::new();
    for job in view.open_at_github().filter(|job| !view.is_given_up(*job)) {
        found.push(("I3 served", Some(job), None, "it is still open at GitHub".to_owned()));
    }
    for job in &view.open_rows {
        let state = view.jobs.get(job).and_then(|job| job.row.as_ref()).map_or("", |row| &*row.status);
        found.push(("I3 served", Some(*job), None, format!("its record is still {state}")));
    }
    for machine in &view.secrets {
        found.push(("I16 no secret", None, Some(machine.clone()), "its hand-over is left".to_owned()));
    }
    // Last, because pools are not closed before the rest is done.
    for machine in &view.live {
        found.push(("I6 no leak", None, Some(machine.clone()), "it still lives".to_owned()));
    }
    for (run, view) in &view.runs {
        // A run that GitHub still waits for cannot be run again.
        if view.lost > view.reruns && !view.cancelled && view.open == 0 {
            let text =
                format!("run {run}: {} jobs were lost with their machine, {} were run again", view.lost, view.reruns);
            found.push(("I3 served", None, None, text));
        }
    }
    found
}
