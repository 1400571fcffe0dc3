use std::sync::Arc;

use domain::clock::Timestamp;
use domain::gh;
use domain::ids::{ClassKey, InstallationId, RunnerId};
use domain::job::{Job, JobState, Lease, Milestone, RerunState, Settled, Sighting};
use domain::testing::{accepted, at, launched};
use proptest::prelude::*;

use super::codec::{self, OWNED, difference, encode};
use super::messages::Messages;
use crate::attrs;
use crate::table::{Item, Value};

fn decode(row: &Item) -> Result<Job, String> {
    codec::decode(row, &Messages::default())
}

fn after(old: &Job, new: Job, version: u64) -> Result<Job, String> {
    codec::after(old, new, version, &Messages::default())
}

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
    let message = Arc::make_mut(job.message.as_mut().expect("a message"));
    message.spec.pool = "cpu".parse().ok();
    message.spec.private = true;
    message.spec.runner_spec = "2cpu-linux-arm64".into();
    message.spec.backend = "ec2".into();
    message.installation_id = InstallationId::new(3);
    message.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
    job
}

#[test]
fn a_message_is_read_once_and_a_changed_one_anew() {
    let (messages, first) = (Messages::default(), full());
    let read = |job: &Job| codec::decode(&encode(job), &messages).expect("a record").message.expect("a message");
    let message = read(&first);
    assert!(Arc::ptr_eq(&message, &read(&first)));
    let mut second = first.clone();
    Arc::make_mut(second.message.as_mut().expect("a message")).job_name = "another".into();
    assert_eq!(Some(read(&second)), second.message);
    assert_eq!(Some(read(&first)), first.message);
}

#[test]
fn every_attribute_survives_the_row() {
    let job = full();
    let row = encode(&job);
    assert_eq!(decode(&row), Ok(Job { version: 0, ..job.clone() }));
    let named: Vec<_> = row.keys().filter(|name| *name != "job_id" && !name.starts_with("tl_")).collect();
    assert_eq!(named, OWNED, "the full record has exactly the owned attributes");
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
    row.insert("status", "hibernating".into());
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

    /// A step writes what differs, and answers what a read of its row shows.
    #[test]
    fn a_step_turns_the_row_of_the_old_record_into_that_of_the_new(
        states in prop::collection::vec(prop::sample::select(JobState::all().collect::<Vec<_>>()), 2),
        instants in prop::collection::vec(prop::option::of(0_i64..4_000_000_000_000), 26),
        words in prop::collection::vec(prop::option::of("[a-z]{0,3}"), 16),
        counts in prop::collection::vec(0_u32..3, 8),
        bits in prop::collection::vec(any::<bool>(), 8),
    ) {
        let ms = |place: usize| instants[place].and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let record = |side: usize| {
            let at = |place: usize| ms(13 * side + place);
            let word = |place: usize| words[8 * side + place].clone();
            let (count, bit) = (|place: usize| counts[4 * side + place], |place: usize| bits[4 * side + place]);
            let mut job = Job {
                version: 4,
                state: states[side],
                requeued_at: at(0),
                not_before: at(1),
                redrive_at: at(2),
                prepared_at: at(3),
                started_at: at(4),
                completed_at: at(5),
                in_progress_at: at(6),
                ttl: at(7),
                created_at: at(8).unwrap_or(Timestamp::UNIX_EPOCH),
                retry_count: count(0),
                claim_attempts: count(1),
                displaced_count: count(2),
                duration_seconds: word(0).map(|_| 5),
                instance: word(0).as_deref().map(Into::into),
                instance_type: word(1),
                requeue_reason: word(2),
                runner_name: word(3),
                last_error: word(4),
                conclusion: word(5),
                launch_id: word(6).as_deref().map(Into::into),
                lease: word(7).map(|token| Lease { token: token.as_str().into(), owner: token, until: at(9) }),
                sighting: at(10).map(|seen| Sighting { status: gh::Status::Queued, at: seen, completed_at: at(11) }),
                spot: bit(0),
                warm_pool_hit: bit(1),
                label_warnings: word(0).into_iter().collect(),
                ..accepted(7)
            };
            if bit(2) {
                job.timeline.stamp(1, Milestone::Claimed, at(12).unwrap_or(Timestamp::UNIX_EPOCH));
            }
            if bit(3) && side == 1 {
                Arc::make_mut(job.message.as_mut().expect("a message")).job_name = "another".into();
            }
            job
        };
        let (old, new) = (record(0), record(1));
        let mut row = encode(&old);
        let mut update = difference(&old, &new);
        update.remove.sort_unstable();
        prop_assert_eq!(&update, &attrs::difference(&row, &encode(&new)));
        for name in &update.remove {
            row.remove(name);
        }
        row.extend(update.set);
        row.insert("version", Value::N(5));
        prop_assert_eq!(after(&old, new, 5), decode(&row));
    }

    /// No row, however strange, makes the reader panic; and what it reads it can write back.
    #[test]
    fn strange_rows_do_not_panic(
        attribute in prop::sample::select(OWNED),
        value in prop_oneof![
            any::<i64>().prop_map(Value::N),
            ".{0,12}".prop_map(Value::from),
            any::<bool>().prop_map(Value::Bool),
            Just(Value::L(Box::new([Value::N(1)]))),
            Just(Value::M(Item::new())),
        ],
    ) {
        let mut row = encode(&full());
        row.insert(attribute, value);
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
