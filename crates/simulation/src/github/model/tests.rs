//! Properties of the model under arbitrary histories, and the single rules as stories.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use domain::clock::{Timestamp, after};
use domain::gh::Conclusion;
use domain::ids::{InstallationId, JobId, Repo, RunId, RunnerId};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::chance::SeededRng;

const CLASSES: [&[&str]; 3] = [&["self-hosted", "runs-fleet/cpu=2"], &["runs-fleet/cpu=2"], &["Runs-Fleet/CPU=4"]];

fn repo() -> Repo {
    "acme/shop".parse().unwrap()
}

fn labels(class: usize) -> Vec<String> {
    CLASSES[class].iter().map(|l| (*l).to_owned()).collect()
}

fn job(class: usize) -> JobSpec {
    let (duration, outcome) = (Duration::from_secs(1), Conclusion::Success);
    JobSpec { name: "build".to_owned(), labels: labels(class), duration, outcome }
}

/// A GitHub, its clock, and a record of everything that came out of it.
struct World {
    model: Model,
    now: Timestamp,
    webhooks: Vec<Value>,
    credentials: Vec<(RunnerId, String)>,
    dead: BTreeSet<RunnerId>,
    minted: u64,
}

impl World {
    fn new(seed: u64, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::new("http://sim", InstallationId::new(7).unwrap(), 41_000_000);
        change(&mut settings);
        let mut model = Model::new(settings, Arc::new(SeededRng::new(seed)));
        model.add_repository(repo(), OwnerKind::Organization);
        model.add_repository("acme/other".parse().unwrap(), OwnerKind::Organization);
        let now = Timestamp::from_second(1_760_000_000).unwrap();
        let (webhooks, credentials, dead) = (Vec::new(), Vec::new(), BTreeSet::new());
        Self { model, now, webhooks, credentials, dead, minted: 0 }
    }

    fn honest() -> Self {
        Self::new(1, |s| s.theft = 0.0)
    }

    fn submit(&mut self, class: usize, count: usize) -> (RunId, Vec<JobId>) {
        let result = self.model.submit_run(&repo(), vec![job(class); count], self.now).unwrap();
        self.collect();
        result
    }

    fn mint(&mut self, class: usize, for_job: Option<JobId>) -> (RunnerId, String) {
        self.minted += 1;
        let suffix = for_job.map_or_else(|| "pool".to_owned(), |id| id.to_string()[2..].to_owned());
        let name = format!("runs-fleet-runner-shop-{suffix}-{:017x}", self.minted);
        let request = JitRequest { name, runner_group_id: 1, labels: labels(class) };
        let jit = self.model.generate_jitconfig(&repo(), request, self.now).unwrap();
        self.credentials.push((jit.runner_id, jit.credential.clone()));
        (jit.runner_id, jit.credential)
    }

    fn connect(&mut self, credential: &str) -> Result<RunnerId, Refusal> {
        let result = self.model.connect(credential, Connect::default(), self.now);
        self.collect();
        result
    }

    fn online(&mut self, class: usize, for_job: Option<JobId>) -> (RunnerId, String) {
        let (id, credential) = self.mint(class, for_job);
        self.connect(&credential).unwrap();
        (id, credential)
    }

    /// Time passes; every listener that is not dead lets GitHub hear of it.
    fn wait(&mut self, by: Duration) {
        let end = after(self.now, by);
        while self.now < end {
            self.now = after(self.now, Duration::from_secs(2)).min(end);
            for (id, credential) in &self.credentials {
                if !self.dead.contains(id) {
                    self.model.heard(credential, self.now);
                }
            }
            self.model.advance(self.now);
            self.collect();
        }
    }

    fn collect(&mut self) {
        for hook in self.model.take_webhooks() {
            let payload: Value = serde_json::from_str(&hook.body).unwrap();
            assert_eq!(payload["action"].as_str(), hook.action.as_deref());
            self.webhooks.push(payload);
        }
    }

    fn job_of(&self, runner: RunnerId) -> Option<JobId> {
        self.model.runner_reports().into_iter().find(|r| r.id == runner).and_then(|r| r.job)
    }

    fn report(&self, id: JobId) -> JobReport {
        self.model.job_reports().into_iter().find(|j| j.id == id).unwrap()
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Submit { class: usize, count: usize },
    Mint { class: usize, own: Option<usize> },
    Connect(usize),
    Complete { runner: usize, green: bool },
    Disconnect(usize),
    Die(usize),
    Delete(usize),
    RerunJob(usize),
    RerunRun(usize),
    Cancel(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0..64usize;
    prop_oneof![
        3 => (0..3usize, 1..4usize).prop_map(|(class, count)| Step::Submit { class, count }),
        4 => (0..3usize, prop::option::of(which.clone())).prop_map(|(class, own)| Step::Mint { class, own }),
        6 => which.clone().prop_map(Step::Connect),
        6 => (which.clone(), any::<bool>()).prop_map(|(runner, green)| Step::Complete { runner, green }),
        1 => which.clone().prop_map(Step::Disconnect),
        1 => which.clone().prop_map(Step::Die),
        2 => which.clone().prop_map(Step::Delete),
        2 => which.clone().prop_map(Step::RerunJob),
        1 => which.clone().prop_map(Step::RerunRun),
        1 => which.prop_map(Step::Cancel),
        3 => prop_oneof![1..20u64, 100..150u64].prop_map(Step::Wait),
    ]
}

fn pick<T: Clone>(items: &[T], index: usize) -> Option<T> {
    (!items.is_empty()).then(|| items[index % items.len()].clone())
}

/// Refusals are part of a history: only what was not refused changes anything.
fn take(world: &mut World, step: Step) {
    let jobs = world.model.job_reports();
    let now = world.now;
    match step {
        Step::Submit { class, count } => {
            world.submit(class, count);
        }
        Step::Mint { class, own } => {
            let own = own.and_then(|i| pick(&jobs, i)).map(|j| j.id);
            world.mint(class, own);
        }
        Step::Connect(i) => {
            if let Some((_, credential)) = pick(&world.credentials, i) {
                let _ = world.connect(&credential);
            }
        }
        Step::Complete { runner, green } => {
            if let Some((id, credential)) = pick(&world.credentials, runner)
                && let Some(job) = world.job_of(id)
            {
                let conclusion = if green { Conclusion::Success } else { Conclusion::Failure };
                world.model.complete(&credential, job, conclusion, now).unwrap();
            }
        }
        Step::Disconnect(i) => {
            if let Some((_, credential)) = pick(&world.credentials, i) {
                world.model.disconnect(&credential, now);
            }
        }
        Step::Die(i) => {
            if let Some((id, _)) = pick(&world.credentials, i) {
                world.dead.insert(id);
            }
        }
        Step::Delete(i) => {
            if let Some((id, _)) = pick(&world.credentials, i) {
                let busy = world.job_of(id).is_some();
                let deleted = world.model.delete_runner(&repo(), id, now);
                assert!(!busy || deleted.is_err(), "a busy runner is not deleted");
            }
        }
        Step::RerunJob(i) => {
            if let Some(old) = pick(&jobs, i) {
                let complete = jobs.iter().filter(|j| j.run == old.run).all(|j| j.completed_at.is_some());
                let accepted = world.model.rerun_job(&repo(), old.id, now).is_ok();
                assert!(complete || !accepted, "no re-run while the run goes on");
                if accepted {
                    let newest = world.model.job_reports().into_iter().next_back().unwrap();
                    assert!(jobs.iter().all(|j| j.id < newest.id), "a re-run is a new job");
                    let attempts = jobs.iter().filter(|j| j.run == old.run).map(|j| j.attempt);
                    assert_eq!(newest.attempt, attempts.max().unwrap() + 1);
                    assert_eq!((newest.run, newest.name, newest.labels), (old.run, old.name, old.labels));
                }
            }
        }
        Step::RerunRun(i) => {
            if let Some(old) = pick(&jobs, i) {
                let _ = world.model.rerun_run(&repo(), old.run, now);
            }
        }
        Step::Cancel(i) => {
            if let Some(old) = pick(&jobs, i) {
                let _ = world.model.cancel_run(&repo(), old.run, now);
            }
        }
        Step::Wait(seconds) => world.wait(Duration::from_secs(seconds)),
    }
    world.collect();
}

fn check(world: &World, before: &[JobReport]) -> Result<(), TestCaseError> {
    let jobs = world.model.job_reports();
    let mut served = BTreeSet::new();
    for job in &jobs {
        if let Some(runner) = job.runner_id {
            prop_assert!(served.insert(runner), "runner {} had two jobs", runner);
        }
        if let Some(old) = before.iter().find(|j| j.id == job.id) {
            prop_assert!(old.runner_id.is_none() || old.runner_id == job.runner_id, "a job changed its runner");
            prop_assert!(old.completed_at.is_none() || old.completed_at == job.completed_at, "concluded twice");
            prop_assert!(old.conclusion.is_none() || old.runner_id == job.runner_id, "handed out when concluded");
        }
    }
    let mut said: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for hook in &world.webhooks {
        let job = &hook["workflow_job"];
        said.entry(job["id"].as_u64().unwrap()).or_default().push(hook["action"].as_str().unwrap());
        prop_assert_eq!(&hook["action"], &job["status"]);
        prop_assert_eq!(job["runner_id"].is_u64(), hook["action"] != "queued" && job["runner_name"].is_string());
    }
    for job in &jobs {
        let mut due = vec!["queued"];
        due.extend(job.started_at.map(|_| "in_progress"));
        due.extend(job.completed_at.map(|_| "completed"));
        prop_assert_eq!(said.get(&job.id.get()), Some(&due), "webhooks of job {}", job.id);
    }
    let c = world.model.counters();
    let ended = jobs.iter().filter(|j| j.completed_at.is_some()).count() as u64;
    prop_assert_eq!(c.success + c.failure + c.cancelled + c.other, ended);
    prop_assert_eq!(c.queued + c.in_progress, jobs.len() as u64 - ended);
    prop_assert_eq!(c.submitted + c.rerun, jobs.len() as u64);
    prop_assert_eq!(c.unsettled(), c.queued + c.in_progress);
    listed_as_they_stand(&world.model)
}

/// Asking for the runs of one status brings those that a list of all of them shows with it.
fn listed_as_they_stand(model: &Model) -> Result<(), TestCaseError> {
    let page = Page { number: 1, size: 100 };
    let list = |filter| model.runs(&repo(), filter, page).unwrap().body["workflow_runs"].as_array().unwrap().clone();
    let all = list(RunFilter::All);
    for status in [Status::Queued, Status::InProgress, Status::Completed] {
        let such = |run: &&Value| run["status"] == status.as_str();
        let expected: Vec<Value> = all.iter().filter(such).cloned().collect();
        prop_assert_eq!(list(RunFilter::Status(status)), expected);
    }
    Ok(())
}

/// Days are long for a test.
fn hasty(settings: &mut Settings) {
    (settings.queue_limit, settings.offline_limit) = (Duration::from_secs(120), Duration::from_secs(120));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_history_keeps_the_rules(seed: u64, steps in prop::collection::vec(step(), 1..80)) {
        let (mut world, mut twin) = (World::new(seed, hasty), World::new(seed, hasty));
        for step in steps {
            let before = world.model.job_reports();
            take(&mut world, step);
            check(&world, &before)?;
            take(&mut twin, step);
        }
        prop_assert_eq!(world.webhooks, twin.webhooks, "the same seed and history, other webhooks");
    }
}

#[test]
fn only_a_runner_with_every_label_gets_the_job_whatever_the_case() {
    let mut world = World::honest();
    let (_, jobs) = world.submit(0, 1);
    let (narrow, _) = world.online(1, None);
    assert_eq!(world.job_of(narrow), None, "a subset of the labels");
    let (wide, _) = world.online(0, None);
    assert_eq!(world.job_of(wide), Some(jobs[0]));
    let (_, jobs) = world.submit(2, 1);
    let request = JitRequest { name: "x".to_owned(), runner_group_id: 1, labels: vec!["runs-fleet/cpu=4".to_owned()] };
    let jit = world.model.generate_jitconfig(&repo(), request, world.now).unwrap();
    world.connect(&jit.credential).unwrap();
    assert_eq!(world.job_of(jit.runner_id), Some(jobs[0]));
}

#[test]
fn a_runner_serves_only_its_repository() {
    let mut world = World::honest();
    let other: Repo = "acme/other".parse().unwrap();
    world.model.submit_run(&other, vec![job(1)], world.now).unwrap();
    let (runner, _) = world.online(1, None);
    assert_eq!(world.job_of(runner), None);
}

#[test]
fn jit_requests_are_held_to_githubs_limits() {
    let mut world = World::honest();
    let mut ask = |name: &str, labels: Vec<String>| {
        let request = JitRequest { name: name.to_owned(), runner_group_id: 1, labels };
        world.model.generate_jitconfig(&repo(), request, world.now).map(|_| ())
    };
    assert_eq!(ask("fine", labels(0)), Ok(()));
    assert_eq!(ask("FINE", labels(0)), Err(Refusal::Conflict("Already exists")));
    assert!(matches!(ask("", labels(0)), Err(Refusal::Unprocessable(_))));
    assert!(matches!(ask(&"n".repeat(65), labels(0)), Err(Refusal::Unprocessable(_))));
    assert!(matches!(ask("none", vec![]), Err(Refusal::Unprocessable(_))));
    assert!(matches!(ask("many", vec!["l".to_owned(); 101]), Err(Refusal::Unprocessable(_))));
    assert!(matches!(ask("long", vec!["l".repeat(257)]), Err(Refusal::Unprocessable(_))));
}

#[test]
fn a_rerun_waits_for_the_whole_run_and_is_a_new_job() {
    let mut world = World::honest();
    let (run, jobs) = world.submit(1, 2);
    let (_, first) = world.online(1, Some(jobs[0]));
    world.model.complete(&first, jobs[0], Conclusion::Failure, world.now).unwrap();
    let refused = world.model.rerun_job(&repo(), jobs[0], world.now);
    assert_eq!(refused, Err(Refusal::Forbidden("The workflow run containing this job is already running")));
    let (_, second) = world.online(1, Some(jobs[1]));
    world.model.complete(&second, jobs[1], Conclusion::Success, world.now).unwrap();
    world.model.rerun_job(&repo(), jobs[0], world.now).unwrap();
    let again = world.model.job_reports().into_iter().next_back().unwrap();
    assert_eq!((again.run, again.attempt, again.conclusion), (run, 2, None));
    assert_eq!(world.model.run(&repo(), run).unwrap()["run_attempt"], 2);
    let latest = world.model.jobs_of_run(&repo(), run, false, Page { number: 1, size: 100 }).unwrap();
    assert_eq!(latest.body["total_count"], 2);
    let all = world.model.jobs_of_run(&repo(), run, true, Page { number: 1, size: 2 }).unwrap();
    assert_eq!((&all.body["total_count"], all.more), (&Value::from(3), true));
    assert!(matches!(world.model.rerun_job(&repo(), jobs[0], world.now), Err(Refusal::Forbidden(_))));
}

#[test]
fn a_silent_runner_is_lost_and_its_job_fails() {
    let mut world = World::honest();
    let (_, jobs) = world.submit(1, 1);
    let (runner, credential) = world.online(1, Some(jobs[0]));
    world.wait(Duration::from_secs(60));
    assert_eq!(world.report(jobs[0]).conclusion, None, "heard of: not lost");
    world.dead.insert(runner);
    assert_eq!(world.model.next_due(world.now), Some(after(world.now, Duration::from_secs(10))));
    world.wait(Duration::from_secs(10));
    assert_eq!(world.report(jobs[0]).conclusion, Some("failure"));
    let counters = world.model.counters();
    assert_eq!((counters.runner_lost, counters.awaiting_rerun, counters.unsettled()), (1, 1, 0));
    assert_eq!(world.model.message(&credential, Some(jobs[0])), Message::Gone);
    world.model.rerun_job(&repo(), jobs[0], world.now).unwrap();
    let counters = world.model.counters();
    assert_eq!((counters.awaiting_rerun, counters.unsettled(), counters.rerun), (0, 1, 1));
}

#[test]
fn deleting_a_registration_ends_an_idle_listener_but_no_job() {
    let mut world = World::new(1, |s| {
        s.theft = 0.0;
        s.busy_lag = Duration::from_secs(60);
    });
    let (idle, credential) = world.online(1, None);
    assert_eq!(world.model.message(&credential, None), Message::Nothing);
    world.model.delete_runner(&repo(), idle, world.now).unwrap();
    assert_eq!(world.model.message(&credential, None), Message::Gone);
    assert_eq!(world.model.delete_runner(&repo(), idle, world.now), Err(Refusal::NotFound));

    let (_, jobs) = world.submit(1, 1);
    assert_eq!(world.report(jobs[0]).runner_id, None, "a deregistered runner gets nothing");
    let (busy, credential) = world.online(1, None);
    assert_eq!(world.model.runner(&repo(), busy, world.now).unwrap()["busy"], false, "busy shows late");
    world.model.delete_runner(&repo(), busy, world.now).unwrap();
    assert_eq!(world.model.message(&credential, Some(jobs[0])), Message::Nothing, "the job goes on");
    world.model.complete(&credential, jobs[0], Conclusion::Success, world.now).unwrap();

    let (_, jobs) = world.submit(1, 1);
    let (busy, _) = world.online(1, Some(jobs[0]));
    world.wait(Duration::from_secs(60));
    assert!(matches!(world.model.delete_runner(&repo(), busy, world.now), Err(Refusal::Unprocessable(_))));
}

#[test]
fn a_job_nobody_serves_fails_after_a_day() {
    let mut world = World::honest();
    let (_, jobs) = world.submit(1, 1);
    assert_eq!(world.model.next_due(world.now), Some(after(world.now, Duration::from_secs(86_400))));
    world.wait(Duration::from_secs(86_399));
    assert_eq!(world.report(jobs[0]).conclusion, None);
    world.wait(Duration::from_secs(1));
    assert_eq!(world.report(jobs[0]).conclusion, Some("failure"));
    assert_eq!(world.model.counters().never_run, 1);
}

#[test]
fn cancelling_ends_queued_jobs_now_and_running_ones_through_their_runner() {
    let mut world = World::honest();
    let (run, jobs) = world.submit(1, 2);
    let (_, credential) = world.online(1, Some(jobs[0]));
    world.model.cancel_run(&repo(), run, world.now).unwrap();
    assert_eq!(world.report(jobs[1]).conclusion, Some("cancelled"));
    assert_eq!(world.report(jobs[0]).conclusion, None);
    assert_eq!(world.model.message(&credential, Some(jobs[0])), Message::Cancel);
    world.model.complete(&credential, jobs[0], Conclusion::Cancelled, world.now).unwrap();
    assert!(matches!(world.model.cancel_run(&repo(), run, world.now), Err(Refusal::Conflict(_))));
}

#[test]
fn an_unused_registration_is_gone_after_a_day_offline() {
    let mut world = World::honest();
    let (runner, _) = world.mint(1, None);
    world.wait(Duration::from_secs(86_398));
    assert!(world.model.runner(&repo(), runner, world.now).is_ok());
    world.wait(Duration::from_secs(2));
    assert_eq!(world.model.runner(&repo(), runner, world.now), Err(Refusal::NotFound));
}

#[test]
fn a_redelivery_keeps_guid_and_body() {
    let mut world = World::honest();
    world.model.submit_run(&repo(), vec![job(1)], world.now).unwrap();
    let hook = world.model.take_webhooks().pop().unwrap();
    let attempt = Attempt { status_code: 502, status: "failed".to_owned(), duration: 0.0 };
    let id = world.model.record_attempt(hook.clone(), attempt, world.now);
    world.model.redeliver(id).unwrap();
    assert_eq!(world.model.take_webhooks(), [Webhook { redelivery: true, ..hook }]);
    assert_eq!(world.model.redeliver(id + 1), Err(Refusal::NotFound));
}

/// Eight jobs at a time, each with a runner minted for it that needs a while to come up.
fn stolen_of_400(theft: f64) -> u64 {
    let mut world = World::new(7, |s| s.theft = theft);
    let (mut arrivals, mut minted) = (Vec::new(), BTreeSet::new());
    for tick in 0u64.. {
        let counters = world.model.counters();
        if counters.submitted == 400 && counters.unsettled() == 0 {
            return counters.stolen;
        }
        assert!(tick < 100_000, "the jobs never end: {counters:?}");
        if counters.submitted < 400 && counters.unsettled() < 8 {
            world.submit((tick % 2) as usize + 1, 1);
        }
        for job in world.model.job_reports() {
            if job.conclusion.is_none() && minted.insert(job.id) {
                let class = (0..3).find(|c| labels(*c) == job.labels).unwrap();
                let (_, credential) = world.mint(class, Some(job.id));
                arrivals.push((tick + 1 + tick % 3, credential));
            }
        }
        for (_, credential) in arrivals.extract_if(.., |(at, _)| *at <= tick).collect::<Vec<_>>() {
            world.connect(&credential).unwrap();
        }
        for (_, credential) in world.credentials.clone() {
            if let Message::Job(job) = world.model.message(&credential, None)
                && after(world.report(job.id).started_at.unwrap(), job.duration) <= world.now
            {
                world.model.complete(&credential, job.id, job.outcome, world.now).unwrap();
            }
        }
        world
            .credentials
            .retain(|(_, c)| world.model.message(c, None) != Message::Gone || arrivals.iter().any(|(_, a)| a == c));
        world.wait(Duration::from_millis(100));
    }
    unreachable!()
}

#[test]
fn theft_happens_and_can_be_switched_off() {
    let stolen = stolen_of_400(0.15);
    // A theft usually makes two: the robbed job goes to the runner that lost its own.
    assert!((40..200).contains(&stolen), "{stolen} of 400");
    assert_eq!(stolen_of_400(0.0), 0);
}
