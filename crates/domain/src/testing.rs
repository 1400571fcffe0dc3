//! Builders for tests that read like sentences. Not part of the product's surface.

use crate::clock::Timestamp;
use crate::ids::{ClassKey, JobId, RunId};
use crate::job::apply::{Bound, Context};
use crate::job::{Job, Lease};
use crate::launch::LaunchSpec;
use crate::message::JobMessage;
use crate::runner::Runner;
use crate::timings::Timings;

/// `2026-01-01T00:00:00Z` and so many seconds.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + seconds).unwrap_or(Timestamp::MIN)
}

/// A context at that second, with production timings.
pub fn cx(seconds: i64) -> Context<'static> {
    Context { now: at(seconds), timings: &Timings::PRODUCTION, chance: 0.5, rerun_enabled: true }
}

/// A message for a plain spot job of `org/repo`.
pub fn message(job: u64) -> JobMessage {
    #[allow(clippy::expect_used, reason = "constants of the tests")]
    let (job_id, repo) = (JobId::new(job).expect("positive"), "org/repo".parse().expect("valid"));
    JobMessage {
        job_id,
        run_id: RunId::new(77),
        repo,
        spec: LaunchSpec {
            instance_type: "c8g.large".to_owned(),
            instance_types: vec!["c8g.large".to_owned()],
            cpu_min: 2,
            spot: true,
            ..LaunchSpec::default()
        },
        original_label: "runs-fleet/cpu=2".to_owned(),
        labels: vec!["runs-fleet/cpu=2".to_owned()],
        retry_count: 0,
        force_on_demand: false,
        dispatch_seq: 0,
        displaced_count: 0,
        run_attempt: 1,
        installation_id: None,
        job_name: "build".to_owned(),
        workflow_name: "ci".to_owned(),
        created_at: None,
        queued_at: None,
        traceparent: None,
        unknown: serde_json::Map::new(),
    }
}

/// A lease that lasts until that second.
pub fn lease(token: &str, until: i64) -> Lease {
    Lease { token: token.into(), owner: "test".to_owned(), until: Some(at(until)) }
}

/// A runner of `org/repo` that is about to be registered on this machine, at second 0.
pub fn runner(machine: &str) -> Runner {
    #[allow(clippy::expect_used, reason = "constants of the tests")]
    let repo = "org/repo".parse().expect("valid");
    Runner::new(machine.into(), repo, "class".into(), format!("runs-fleet-{machine}"), "d".into(), at(0))
}

/// A freshly accepted job at second 0.
pub fn accepted(job: u64) -> Job {
    Job::accepted(message(job), Vec::new(), ClassKey::new("class"), &cx(0))
}

/// A job claimed at second 1 under `token`, until second 101.
pub fn claimed(job: u64, token: &str) -> Job {
    accepted(job).claimed(false, lease(token, 101), &message(job), &cx(1))
}

/// A job bound to `machine` at second 2.
pub fn launched(job: u64, token: &str, machine: &str) -> Job {
    let to = Bound {
        key: machine.into(),
        instance_type: "c8g.large".to_owned(),
        zone: None,
        spot: true,
        warm: false,
        hot: false,
    };
    claimed(job, token).bound(&to, &cx(2))
}
