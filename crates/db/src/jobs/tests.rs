use domain::clock::Timestamp;
use domain::gh;
use domain::ids::{ClassKey, InstallationId, RunnerId};
use domain::job::{Job, JobState, Lease, Milestone, RerunState, Settled, Sighting};
use domain::testing::{accepted, at, launched};
use proptest::prelude::*;

use super::codec::{OWNED, decode, encode};
use crate::attrs;
use crate::table::{Item, Value};

/// A record in which every attribute is present.
fn full() -> Job {
    let mut job = launched(7, "token", "i-1");
    job.availability_zone = Some("eu-west-1a".into());
    job.warm_pool_hit = true;
    job.hot_pool_hit = true;
    job.retry_count = 1;
    job.displaced_count = 2;
    job.dispatch_seq = 3;
    job.force_on_demand = true;
    job.requeued_at = Some(at(3));
    job.not_before = Some(at(4));
    job.redrive_at = Some(at(5));
    job.requeue_reason = Some("spot_interruption".into());
    job.launch_id = Some("launch".into());
    job.prepared_at = Some(at(6));
    job.started_at = Some(at(7));
    job.completed_at = Some(at(8));
    job.exit_code = Some(-1);
    job.duration_seconds = Some(9);
    job.conclusion = Some("timed_out".into());
    job.label_warnings = vec!["unknown key x".into()];
    job.class = Some(ClassKey::new("class"));
    job.runner_name = Some("runs-fleet-i-1".into());
    job.runner_id = RunnerId::new(5);
    job.in_progress_at = Some(at(7));
    job.sighting =
        Some(Sighting { status: gh::Status::Completed(gh::Conclusion::Other), at: at(9), completed_at: Some(at(8)) });
    job.rerun = Some(RerunState::Pending);
    job.timeline.stamp(1, Milestone::Queued, at(0));
    job.timeline.stamp(12, Milestone::GithubCreated, at(1));
    job.last_error = Some("capacity: none".into());
    job.settled_reason = Some("deadline".into());
    job.ttl = Some(at(100));
    let message = job.message.as_mut().expect("a message");
    message.spec.pool = "cpu".parse().ok();
    message.spec.private = true;
    message.spec.runner_spec = "2cpu-linux-arm64".into();
    message.spec.backend = "ec2".into();
    message.installation_id = InstallationId::new(3);
    message.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
    job
}

#[test]
fn every_attribute_survives_the_row() {
    let job = full();
    let row = encode(&job);
    assert_eq!(decode(&row), Ok(Job { version: 0, ..job.clone() }));
    let named: Vec<_> = row.keys().filter(|name| *name != "job_id" && !name.starts_with("tl_")).collect();
    assert_eq!(named, OWNED.iter().collect::<Vec<_>>(), "the full record has exactly the owned attributes");
    assert_eq!(attrs::text(&row, "trace_id"), Some("0af7651916cd43dd8448eb211c80319c"));
    assert_eq!(row["tl_12_github_created"], Value::N(at(1).as_millisecond()));
    assert_eq!(attrs::whole(&row, "lease_expires_at"), job.lease.and_then(|l| l.until).map(Timestamp::as_millisecond));
}

#[test]
fn every_state_and_sighting_survives_the_row() {
    for state in JobState::all() {
        let job = Job { state, ..accepted(1) };
        assert_eq!(decode(&encode(&job)).map(|job| job.state), Ok(state));
    }
    let conclusions =
        [gh::Conclusion::Success, gh::Conclusion::Failure, gh::Conclusion::Cancelled, gh::Conclusion::Other];
    let statuses = conclusions.map(gh::Status::Completed).into_iter().chain([
        gh::Status::Queued,
        gh::Status::InProgress,
        gh::Status::Missing,
        gh::Status::Unknown,
    ]);
    for status in statuses {
        let sighting = Some(Sighting { status, at: at(1), completed_at: None });
        let job = Job { sighting, ..accepted(1) };
        assert_eq!(decode(&encode(&job)).map(|job| job.sighting), Ok(sighting));
    }
}

#[test]
fn an_unknown_status_is_refused_with_its_word() {
    let mut row = encode(&accepted(1));
    row.insert("status".into(), "hibernating".into());
    assert!(decode(&row).is_err_and(|reason| reason.contains("hibernating")));
    row.remove("status");
    assert!(decode(&row).is_err());
}

fn instants() -> impl Strategy<Value = Option<Timestamp>> {
    prop::option::of((0_i64..4_000_000_000).prop_map(|s| Timestamp::from_second(s).expect("in range")))
}

proptest! {
    /// Whatever the decisions make of a record, the store gives it back.
    #[test]
    fn records_survive_the_row(
        state in prop::sample::select(JobState::all().collect::<Vec<_>>()),
        times in prop::collection::vec(instants(), 8),
        counts in prop::collection::vec(0_u32..1000, 4),
        words in prop::collection::vec(prop::option::of("[a-z]{1,8}"), 5),
        lease in prop::option::of(("[0-9a-f]{32}", "[a-z]{0,4}", instants())),
        bits in prop::collection::vec(any::<bool>(), 4),
    ) {
        let mut job = Job {
            state,
            requeued_at: times[0],
            not_before: times[1],
            redrive_at: times[2],
            started_at: times[4],
            completed_at: times[5],
            in_progress_at: times[6],
            ttl: times[7],
            retry_count: counts[0],
            claim_attempts: counts[1],
            displaced_count: counts[2],
            dispatch_seq: counts[3],
            instance: words[0].as_deref().map(Into::into),
            instance_type: words[1].clone(),
            requeue_reason: words[2].clone(),
            runner_name: words[3].clone(),
            last_error: words[4].clone(),
            lease: lease.map(|(token, owner, until)| Lease { token: token.into(), owner, until }),
            spot: bits[0],
            warm_pool_hit: bits[1],
            force_on_demand: bits[2],
            ..accepted(7)
        };
        // Bound without lease and preparation, and leased without a token, are the Go implementation's words for
        // something else; ours always has the one or the other.
        job.prepared_at = if state == JobState::Launched { times[3].or(Some(at(1))) } else { times[3] };
        if state == JobState::Claiming && job.lease.is_none() {
            job.state = JobState::Requeued;
        }
        prop_assert_eq!(decode(&encode(&job)), Ok(job));
    }

    /// No row, however strange, makes the reader panic; and what it reads it can write back.
    #[test]
    fn strange_rows_do_not_panic(
        attribute in prop::sample::select(OWNED),
        value in prop_oneof![
            any::<i64>().prop_map(Value::N),
            ".{0,12}".prop_map(Value::S),
            any::<bool>().prop_map(Value::Bool),
            Just(Value::L(vec![Value::N(1)])),
            Just(Value::M(Item::new())),
        ],
    ) {
        let mut row = encode(&full());
        row.insert((*attribute).to_owned(), value);
        if let Ok(job) = decode(&row) {
            prop_assert_eq!(decode(&encode(&job)), Ok(job));
        }
    }
}

#[test]
fn settled_words_are_those_of_the_contract() {
    let job = Job { state: JobState::Settled(Settled::Interrupted), ..accepted(1) };
    assert_eq!(attrs::text(&encode(&job), "status"), Some("interrupted"));
}
