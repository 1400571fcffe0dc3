//! How many jobs of one repository, and of one account, are dispatched per minute.
//!
//! Whoever may push a workflow can queue any number of jobs, and each is a machine. Jobs beyond the limit are accepted
//! like any other and wait their turn: in no sixty seconds do more of them start than the limit. Counted per process: a
//! limit on abuse, not an account.
//!
//! Of an account, GitHub lets us register only so many runners a minute. A job that waits here costs nothing; one that
//! waited for its registration would keep a machine, and a place that jobs of other accounts could use.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use domain::clock::{Timestamp, after, since};

const WINDOW: Duration = Duration::from_secs(60);

/// The starts of the last minute, and those to come, by what is limited. At most as many as the limit, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    starts: BTreeMap<String, VecDeque<Timestamp>>,
}

impl Pace {
    /// Counts a job in; how long it has to wait. `limit` jobs a minute start; zero is no limit.
    pub(crate) fn wait(&mut self, of: &str, limit: usize, now: Timestamp) -> Duration {
        if limit == 0 {
            return Duration::ZERO;
        }
        self.starts.retain(|_, starts| starts.back().is_some_and(|last| after(*last, WINDOW) > now));
        let starts = self.starts.entry(of.to_ascii_lowercase()).or_default();
        while starts.front().is_some_and(|first| after(*first, WINDOW) <= now) {
            starts.pop_front();
        }
        let first = if starts.len() < limit { None } else { starts.pop_front() };
        let start = first.map_or(now, |first| after(first, WINDOW));
        starts.push_back(start);
        since(start, now)
    }
}

#[cfg(test)]
mod tests {
    use domain::testing::at;

    use super::*;

    fn waits(pace: &mut Pace, jobs: usize, limit: usize, second: i64) -> Vec<u64> {
        (0..jobs).map(|_| pace.wait("org/repo", limit, at(second)).as_secs()).collect()
    }

    #[test]
    fn a_burst_is_spread_over_the_minutes_that_follow() {
        let mut pace = Pace::default();
        assert_eq!(waits(&mut pace, 7, 3, 0), [0, 0, 0, 60, 60, 60, 120]);
        assert_eq!(waits(&mut pace, 1, 3, 30), [90], "later jobs stand behind the backlog");
    }

    #[test]
    fn a_quiet_repository_starts_anew() {
        let mut pace = Pace::default();
        waits(&mut pace, 3, 3, 0);
        assert_eq!(waits(&mut pace, 4, 3, 121), [0, 0, 0, 60]);
    }

    #[test]
    fn repositories_do_not_share_and_zero_is_no_limit() {
        let mut pace = Pace::default();
        assert_eq!(waits(&mut pace, 9, 0, 0), [0; 9]);
        waits(&mut pace, 2, 1, 0);
        assert_eq!(pace.wait("org/other", 1, at(0)), Duration::ZERO);
        assert!(pace.wait("Org/Repo", 1, at(0)) > Duration::ZERO, "names are compared without case");
    }

    #[test]
    fn no_minute_sees_more_than_the_limit() {
        let mut pace = Pace::default();
        // One job, a crowd just before its minute is over, and another one just after.
        let arrivals = std::iter::once(0).chain(std::iter::repeat_n(59, 10)).chain(std::iter::repeat_n(61, 10));
        let mut starts: Vec<i64> = Vec::new();
        for second in arrivals {
            let wait = pace.wait("org", 10, at(second));
            starts.push(second + i64::try_from(wait.as_secs()).expect("short"));
        }
        starts.sort_unstable();
        assert!(starts.windows(11).all(|eleven| eleven[10] - eleven[0] >= 60), "{starts:?}");
        assert_eq!(starts.last(), Some(&120), "and none waits longer than it must");
    }

    #[test]
    fn what_started_a_minute_ago_is_forgotten() {
        let mut pace = Pace::default();
        for second in 0..600 {
            assert_eq!(pace.wait("org", usize::MAX, at(second)), Duration::ZERO);
        }
        assert_eq!(pace.starts["org"].len(), 60);
    }
}
