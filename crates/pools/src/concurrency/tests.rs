use domain::job::JobState;
use domain::testing::{accepted, at, launched};
use proptest::prelude::*;

use super::*;

fn job(start: i64, end: Option<i64>) -> Job {
    Job { created_at: at(start), completed_at: end.map(at), ..launched(1, "token", "i-1") }
}

fn p90_of(jobs: &[Job]) -> u32 {
    p90(jobs, at(0), at(3600))
}

#[test]
fn ninety_of_a_hundred_samples_are_at_most_that() {
    assert_eq!(p90_of(&[]), 0);
    // Running for the whole hour; the sample at its start does not see it yet.
    assert_eq!(p90_of(&[job(0, Some(3600)), job(0, None)]), 2);
    // A burst of five minutes is less than a tenth of an hour, one of ten minutes is more.
    let burst = |minutes: i64| (0..8).map(|_| job(600, Some(600 + minutes * 60))).collect::<Vec<_>>();
    assert_eq!((p90_of(&burst(5)), p90_of(&burst(10))), (0, 8));
    // One that ends when another begins makes room for it.
    assert_eq!(p90_of(&[job(0, Some(1800)), job(1800, Some(3600))]), 1);
}

#[test]
fn what_never_ran_or_lost_its_end_does_not_count() {
    let lost = Job { created_at: at(-4000), ..launched(1, "token", "i-1") };
    assert!(interval(&lost, at(3600)).is_none() && interval(&lost, at(3000)).is_some());
    assert_eq!(interval(&accepted(1), at(60)), None);
    let claiming = Job { state: JobState::Claiming, ..job(0, None) };
    assert_eq!(interval(&claiming, at(60)), None);
}

#[test]
fn the_peak_counts_one_that_begins_as_another_ends() {
    let jobs = [(at(0), at(10)), (at(10), at(20)), (at(12), at(13))];
    assert_eq!(peak(jobs.into_iter()), 2);
    assert_eq!(peak([(at(0), at(10)), (at(10), at(20))].into_iter()), 2);
    assert_eq!(peak(std::iter::empty()), 0);
}

proptest! {
    #[test]
    fn no_sample_exceeds_the_peak(spans in prop::collection::vec((0_i64..3600, 0_i64..3600), 0..30)) {
        let jobs: Vec<_> = spans.iter().map(|(start, long)| job(*start, Some(start + long))).collect();
        let most = peak(jobs.iter().filter_map(|job| interval(job, at(7200))));
        prop_assert!(p90_of(&jobs) <= most && most as usize <= jobs.len());
    }
}
