//! The page with made-up jobs, to look at while working on it: `cargo run -p admin --example preview`, then open
//! `http://127.0.0.1:8099/admin/`. With the argument `closed`, as it is where nobody may read.
#![allow(clippy::unwrap_used, clippy::print_stdout, unreachable_pub, missing_docs, reason = "made-up data")]

#[path = "../tests/api/fixture.rs"]
mod fixture;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::clock::{Clock, SignedDuration, SystemClock, Timestamp, whole_seconds};
use domain::gh;
use domain::ids::{ClassKey, RunId, RunnerId, RunnerKey};
use domain::job::apply::{Bound, Context, ServedBy};
use domain::job::transition::{Bump, RequeueReason, SettleReason, Wake};
use domain::job::{Job, Lease, Milestone, Settled, Sighting};
use domain::runner::{Runner, RunnerState};
use domain::testing::message;
use domain::timings::Timings;
use fixture::Fleet;
use provider::{Machine, MachineState};

const WORKFLOWS: [(&str, &str, &str, &str); 8] = [
    ("acme/storefront", "test (node 22, ubuntu)", "CI", "runs-fleet/cpu=4/pool=node"),
    ("acme/storefront", "e2e / checkout", "CI", "runs-fleet/cpu=8"),
    ("acme/payments-service", "build and test", "Build", "runs-fleet/cpu=4+8/arch=arm64"),
    ("acme/payments-service", "integration", "Build", "runs-fleet/cpu=4"),
    ("acme/infrastructure", "terraform plan (eu-central-1)", "Terraform", "runs-fleet"),
    ("acme/mobile-app", "android release", "Release", "runs-fleet/cpu=16/ram=32"),
    ("acme/data-pipeline", "nightly backfill", "Nightly", "runs-fleet/cpu=8/spot=false"),
    ("acme/docs", "lint", "Docs", "runs-fleet"),
];

struct Story {
    job: Job,
    at: Timestamp,
}

fn after(at: Timestamp, ms: i64) -> Timestamp {
    at.saturating_add(SignedDuration::from_millis(ms)).unwrap()
}

fn cx(at: Timestamp) -> Context<'static> {
    Context { now: at, timings: &Timings::PRODUCTION, chance: 0.5, rerun_enabled: true }
}

/// An arbitrary but fixed spread.
fn spread(n: u64, from: i64, to: i64) -> i64 {
    from + (n.wrapping_mul(2_654_435_761) >> 7) as i64 % (to - from)
}

fn key(n: u64) -> RunnerKey {
    RunnerKey::new(format!("i-{:017x}", (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 2))
}

impl Story {
    fn accepted(n: u64, at: Timestamp) -> Self {
        let (repo, name, workflow, label) = WORKFLOWS[n as usize % WORKFLOWS.len()];
        let mut message = message(41_873_900_000 + n * 17);
        message.repo = repo.parse().unwrap();
        message.run_id = RunId::new(15_200_000_000 + n / 3);
        message.job_name = name.to_owned();
        message.workflow_name = workflow.to_owned();
        message.labels = vec![label.to_owned()];
        message.spec.pool = label.contains("pool=node").then(|| "node".parse().unwrap());
        let heard = after(at, spread(n, 300, 1900));
        let mut job = Job::accepted(message, Vec::new(), ClassKey::new("class"), &cx(heard));
        job.timeline.stamp(1, Milestone::GithubCreated, whole_seconds(at));
        job.timeline.stamp(1, Milestone::WebhookReceived, heard);
        Self { job, at: heard }
    }

    fn later(mut self, ms: i64) -> Self {
        self.at = after(self.at, ms);
        self
    }

    fn to(mut self, step: impl FnOnce(&Job, &Context<'_>) -> Job) -> Self {
        self.job = step(&self.job, &cx(self.at));
        self
    }

    fn stamp(mut self, milestone: Milestone) -> Self {
        let attempt = self.job.attempt();
        self.job.timeline.stamp(attempt, milestone, self.at);
        self
    }

    fn claimed(self, n: u64) -> Self {
        let next = self.later(spread(n, 4, 15)).stamp(Milestone::Queued).later(spread(n, 3, 40));
        let until = after(next.at, 100_000);
        let lease = Lease { token: "token".into(), owner: "replica-1".to_owned(), until: Some(until) };
        let message = next.job.message.clone().unwrap();
        next.to(|job, cx| job.claimed(false, lease, &message, cx))
            .later(spread(n, 1, 9))
            .to(|job, cx| job.launching(format!("launch-{n}").into(), cx))
    }

    fn launched(self, n: u64) -> Self {
        let warm = self.job.message.as_ref().unwrap().spec.pool.is_some();
        let bound = Bound {
            key: key(n),
            instance_type: ["c8g.xlarge", "m7g.large", "c7g.2xlarge"][n as usize % 3].to_owned(),
            zone: Some("eu-central-1b".to_owned()),
            spot: n % 4 != 1,
            warm,
            hot: false,
        };
        self.claimed(n)
            .later(if warm { spread(n, 60, 190) } else { spread(n, 700, 2400) })
            .to(|job, cx| job.bound(&bound, cx))
            .later(40)
            .to(Job::prepared)
    }

    fn online(self, n: u64) -> Self {
        let warm = self.job.message.as_ref().unwrap().spec.pool.is_some();
        let next = self.launched(n).later(if warm { spread(n, 4_000, 7_000) } else { spread(n, 9_000, 17_000) });
        let next = next.stamp(Milestone::ConfigFetched).later(spread(n, 1500, 3100));
        let at = next.at;
        next.to(|job, cx| job.started(at, cx))
    }

    fn running(self, n: u64) -> Self {
        let next = self.online(n).later(spread(n, 300, 2_200));
        let by = ServedBy {
            key: key(n),
            name: format!("runs-fleet-{}", key(n)),
            id: RunnerId::new(9_000 + n),
            since: whole_seconds(next.at),
        };
        next.to(|job, cx| job.served(&by, cx))
    }

    fn over(self, n: u64, ran: i64, conclusion: &str) -> Self {
        let mut next = self.running(n).later(ran).stamp(Milestone::Completed);
        next.job.conclusion = Some(conclusion.to_owned());
        next.job.sighting = Some(Sighting {
            status: gh::Status::Completed(gh::Conclusion::parse(conclusion)),
            at: next.at,
            completed_at: Some(next.at),
        });
        next.job.exit_code = Some(0);
        next.to(|job, cx| job.settled(Settled::Completed, SettleReason::Concluded, cx))
            .later(spread(n, 900, 2600))
            .stamp(Milestone::Terminated)
    }
}

fn runner(job: &Job, state: RunnerState, now: Timestamp) -> Option<(Runner, Machine)> {
    let key = job.instance.clone()?;
    let machine = Machine {
        key: key.clone(),
        state: if job.started_at.is_some() { MachineState::Running } else { MachineState::Pending },
        instance_type: job.instance_type.clone().unwrap_or_default(),
        zone: job.availability_zone.clone(),
        spot: job.spot,
        arch: None,
        image: None,
        launched_at: job.created_at,
        ended_at: None,
        launch_id: None,
        tags: BTreeMap::new(),
    };
    let runner = Runner {
        state,
        repo: job.message.as_ref()?.repo.clone(),
        id: RunnerId::new(1),
        bound_job: Some(job.id),
        running_job: job.in_progress_at.map(|_| job.id),
        minted_at: job.created_at,
        online_at: job.started_at,
        running_since: job.in_progress_at,
        ttl: Some(after(now, 86_400_000)),
        ..domain::testing::runner(key.as_str())
    };
    Some((runner, machine))
}

async fn fill(fleet: &Fleet, now: Timestamp) {
    let ago = |seconds: i64| after(now, -1000 * seconds);
    for n in 0..64 {
        let conclusion =
            ["success", "success", "success", "success", "failure", "success", "cancelled"][n as usize % 7];
        let began = ago(260 + 190 * n as i64);
        fleet.job(Story::accepted(n, began).over(n, spread(n, 38_000, 240_000), conclusion).job).await;
    }
    for n in 100..107 {
        let job = Story::accepted(n, ago(30 + 23 * (n as i64 - 100))).running(n).job;
        let (runner, machine) = runner(&job, RunnerState::Busy, now).unwrap();
        fleet.runner(runner).await;
        fleet.machine(machine);
        fleet.job(job).await;
    }
    for n in 200..203 {
        let job = Story::accepted(n, ago(5 + 3 * (n as i64 - 200))).launched(n).job;
        let (runner, machine) = runner(&job, RunnerState::Minted, now).unwrap();
        fleet.runner(runner).await;
        fleet.machine(machine);
        fleet.job(job).await;
    }
    let claiming = Story::accepted(204, ago(2)).claimed(204);
    fleet.job(claiming.job).await;
    let mut waits = Story::accepted(300, ago(340)).claimed(300).later(1200);
    waits.job.last_error = Some("no capacity: InsufficientInstanceCapacity in 3 of 3 zones".to_owned());
    let until = Some(after(now, 41_000));
    let waits = waits.to(|job, cx| job.requeued(Bump::None, Wake::BackOff, RequeueReason::CapacityWait, until, cx));
    fleet.job(waits.job).await;
    for n in 301..305 {
        fleet.job(Story::accepted(n, ago(1 + (n as i64 - 301))).job).await;
    }
    // Stolen once, then served by another machine; its agent's milestones got lost.
    let mut stolen = Story::accepted(400, ago(520)).online(400).later(900);
    stolen = stolen.to(|job, cx| job.requeued(Bump::Displaced, Wake::Now, RequeueReason::RunnerStolen, None, cx));
    let mut again = stolen.later(60).launched(401).later(14_000);
    let by = ServedBy {
        key: key(401),
        name: format!("runs-fleet-{}", key(401)),
        id: RunnerId::new(4),
        since: whole_seconds(again.at),
    };
    again = again.to(|job, cx| job.served(&by, cx)).later(96_000).stamp(Milestone::Completed);
    again.job.conclusion = Some("success".to_owned());
    fleet.job(again.to(|job, cx| job.settled(Settled::Completed, SettleReason::Concluded, cx)).job).await;
    let mut error = Story::accepted(500, ago(4_000)).claimed(500).later(800);
    error.job.last_error = Some("GitHub refused the registration: 403 Resource not accessible".to_owned());
    fleet.job(error.to(|job, cx| job.settled(Settled::Error, SettleReason::Deadline, cx)).job).await;
    let lost = Story::accepted(600, ago(900)).running(600).later(70_000);
    let lost = lost.to(|job, cx| job.settled(Settled::Interrupted, SettleReason::RunnerLost, cx));
    fleet.job(lost.job).await;
    fleet.webhook(700, &["runs-fleet/cpu=lots", "self-hosted"]).await;
    fleet.webhook(701, &["runs-fleet/cpu=4/ram=9000"]).await;
}

/// A job that comes in after a while and lives for most of a minute.
async fn live(fleet: &Fleet, n: u64) {
    tokio::time::sleep(Duration::from_secs(n * 6)).await;
    let (n, began) = (10_000 + n, SystemClock.now());
    let jobs = &fleet.state.dispatch.ports().jobs;
    let mut job = jobs.create(&Story::accepted(n, began).job).await.unwrap().applied().unwrap();
    for (wait, story) in [
        (1, Story::accepted(n, began).claimed(n)),
        (2, Story::accepted(n, began).launched(n)),
        (20, Story::accepted(n, began).running(n)),
        (18, Story::accepted(n, began).over(n, 15_000, "success")),
    ] {
        tokio::time::sleep(Duration::from_secs(wait)).await;
        let next = Job { version: job.version, ..story.job };
        job = jobs.write(&job, next).await.unwrap().applied().unwrap();
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut fleet = Fleet::new(Arc::new(SystemClock));
    if std::env::args().any(|argument| argument == "closed") {
        fleet.state.access = admin::Access::Closed;
    }
    fill(&fleet, SystemClock.now()).await;
    let app = admin::router(fleet.state.clone()).merge(admin::root_redirect());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8099").await.unwrap();
    println!("http://127.0.0.1:8099/admin/");
    let news = futures::future::join_all((0..600).map(|n| live(&fleet, n)));
    let serve = async { axum::serve(listener, app).await.unwrap() };
    tokio::join!(news, serve);
}
