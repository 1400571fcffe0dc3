//! How many jobs of one repository are dispatched per minute.
//!
//! Whoever may push a workflow can queue any number of jobs, and each is a machine. Jobs beyond the limit are accepted
//! like any other and wait their turn: the first minute's worth at once, the next a minute later, and so on. Counted per
//! process: a limit on abuse, not an account.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::clock::{Timestamp, since};
use domain::ids::Repo;

const WINDOW: Duration = Duration::from_secs(60);

/// The minutes under way, by repository.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    windows: BTreeMap<Repo, (Timestamp, u32)>,
}

impl Pace {
    /// Counts a job in; how long it has to wait. `limit` jobs a minute start at once; zero is no limit.
    pub(crate) fn wait(&mut self, repo: &Repo, limit: u32, now: Timestamp) -> Duration {
        if limit == 0 {
            return Duration::ZERO;
        }
        // A repository that is quiet for its backlog's minutes starts anew, and is forgotten.
        self.windows.retain(|_, (began, jobs)| since(now, *began) < WINDOW * (1 + *jobs / limit));
        let (began, jobs) = self.windows.entry(repo.clone()).or_insert((now, 0));
        let turn = WINDOW * (*jobs / limit);
        *jobs = jobs.saturating_add(1);
        turn.saturating_sub(since(now, *began))
    }
}

#[cfg(test)]
mod tests {
    use domain::testing::at;

    use super::*;

    fn waits(pace: &mut Pace, jobs: usize, limit: u32, second: i64) -> Vec<u64> {
        let repo: Repo = "org/repo".parse().expect("valid");
        (0..jobs).map(|_| pace.wait(&repo, limit, at(second)).as_secs()).collect()
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
        let other: Repo = "org/other".parse().expect("valid");
        assert_eq!(pace.wait(&other, 1, at(0)), Duration::ZERO);
    }
}
