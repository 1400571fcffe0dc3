use domain::testing::accepted;

use super::*;

const STAMPS: [i64; 11] = [0, 400, 410, 430, 431, 500, 900, 1_400, 2_000, 9_000, 9_500];

fn full() -> Timeline {
    let mut timeline = Timeline::default();
    for (milestone, at) in Milestone::ALL.into_iter().zip(STAMPS) {
        timeline.stamp_ms(1, milestone, at);
    }
    timeline
}

fn named(segments: &[Segment], name: &str) -> (Option<i64>, Option<Anomaly>) {
    let segment = segments.iter().find(|s| s.name == name).expect("a segment of that name");
    (segment.ms, segment.anomaly)
}

#[test]
fn the_steps_of_a_complete_attempt_add_up() {
    let segments = segments(&full(), 1);
    let lengths: Vec<_> = segments.iter().map(|s| s.ms.expect("measured")).collect();
    assert_eq!(lengths, [400, 10, 20, 1, 69, 400, 500, 600, 7_000, 500, 2_000, 2_500]);
    assert_eq!(lengths[..8].iter().sum::<i64>(), lengths[10], "the steps before the start are the start-up");
    assert!(segments.iter().all(|s| s.anomaly.is_none()));
}

#[test]
fn a_missing_milestone_takes_both_its_segments_and_no_other() {
    for (missing, _) in Milestone::ALL.into_iter().zip(0..) {
        let mut timeline = Timeline::default();
        for (attempt, milestone, at) in full().iter().filter(|(_, m, _)| *m != missing) {
            timeline.stamp_ms(attempt, milestone, at);
        }
        for (n, segment) in segments(&timeline, 1).iter().take(10).enumerate() {
            let ends = [Milestone::ALL[n], Milestone::ALL[n + 1]];
            assert_eq!(segment.ms.is_none(), ends.contains(&missing), "{missing:?} {segment:?}");
            assert_eq!(segment.anomaly, None, "absent is not odd");
        }
    }
}

#[test]
fn only_a_stamp_in_whole_seconds_excuses_going_backwards() {
    let pickup = |started: i64| {
        let mut timeline = Timeline::default();
        timeline.stamp_ms(1, Milestone::RunnerRegistered, 10_000);
        timeline.stamp_ms(1, Milestone::JobStarted, 10_000 + started);
        named(&segments(&timeline, 1), "pickup")
    };
    assert_eq!(pickup(0), (Some(0), None));
    assert_eq!(pickup(-1), (Some(0), Some(Anomaly::Clamped)));
    assert_eq!(pickup(-1000), (Some(0), Some(Anomaly::Clamped)));
    assert_eq!(pickup(-1001), (None, Some(Anomaly::Negative)));

    let mut timeline = Timeline::default();
    timeline.stamp_ms(1, Milestone::InstanceLaunched, 10_000);
    timeline.stamp_ms(1, Milestone::ConfigFetched, 9_999);
    assert_eq!(named(&segments(&timeline, 1), "boot"), (None, Some(Anomaly::Negative)));
}

#[test]
fn attempts_are_apart_and_the_start_up_spans_them() {
    let mut job = accepted(7);
    job.timeline = Timeline::default();
    job.timeline.stamp_ms(1, Milestone::GithubCreated, 1_000);
    job.timeline.stamp_ms(1, Milestone::Claimed, 2_000);
    assert_eq!(startup_ms(&job), None);
    job.displaced_count = 1;
    job.timeline.stamp_ms(2, Milestone::Claimed, 60_000);
    job.timeline.stamp_ms(2, Milestone::FleetRequested, 60_005);
    job.timeline.stamp_ms(2, Milestone::JobStarted, 70_000);
    assert_eq!(named(&segments(&job.timeline, 2), "dispatch"), (Some(5), None));
    assert_eq!(named(&segments(&job.timeline, 2), "startup_total"), (None, None));
    assert_eq!(startup_ms(&job), Some(69_000));

    let view = TimelineView::of(&job);
    let results: Vec<_> = view.attempts.iter().map(|a| a.result).collect();
    assert_eq!(results, [Some("requeued"), None], "the one under way has no result yet");
}
