//! What has to go: entries that nobody used, the least recently used beyond a limit, and leftovers. Pure.

use std::collections::HashMap;
use std::time::Duration;

use domain::clock::{Timestamp, since};

/// Entries this young are never evicted for space.
const YOUNG: Duration = Duration::from_secs(600);
/// Bytes without an entry, staging and leases live so long: somebody may still be at it.
pub(crate) const ABANDONED: Duration = Duration::from_secs(24 * 3600);
/// Bytes of an evicted entry live so long: somebody may still be reading them.
pub(crate) const READING: Duration = Duration::from_secs(3600);

/// An entry, as listings show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Usage<P> {
    pub(crate) place: P,
    /// Whose limit it counts against.
    pub(crate) repo: String,
    pub(crate) size: u64,
    pub(crate) created: Timestamp,
    /// The last read, or the creation.
    pub(crate) used: Timestamp,
}

/// Why an entry goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    Ttl,
    Quota,
}

/// What operators decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes per repository.
    pub(crate) per_repo: Option<u64>,
    /// Entries not used for so long go.
    pub(crate) ttl: Option<Duration>,
}

/// Chooses the entries to evict.
pub(crate) fn choose<P: Clone + Ord>(entries: &[Usage<P>], limits: Limits, now: Timestamp) -> Vec<(P, Reason)> {
    let stale = |entry: &&Usage<P>| limits.ttl.is_some_and(|ttl| since(now, entry.used) > ttl);
    let mut gone: Vec<(P, Reason)> = entries.iter().filter(stale).map(|e| (e.place.clone(), Reason::Ttl)).collect();
    let Some(limit) = limits.per_repo else { return gone };
    let mut repos: HashMap<&str, Vec<&Usage<P>>> = HashMap::new();
    for entry in entries.iter().filter(|entry| !stale(entry)) {
        repos.entry(&entry.repo).or_default().push(entry);
    }
    for kept in repos.values_mut() {
        let mut total: u64 = kept.iter().map(|entry| entry.size).sum();
        kept.sort_by(|a, b| (a.used, &a.place).cmp(&(b.used, &b.place)));
        for entry in kept.iter().filter(|entry| since(now, entry.created) >= YOUNG) {
            if total <= limit {
                break;
            }
            total -= entry.size;
            gone.push((entry.place.clone(), Reason::Quota));
        }
    }
    gone
}

/// The least recently used tenth of all bytes: what makes room on a full disk.
pub(crate) fn tenth<P: Clone + Ord>(entries: &[Usage<P>]) -> Vec<P> {
    let wanted = entries.iter().map(|entry| entry.size).sum::<u64>().div_ceil(10);
    let mut oldest: Vec<_> = entries.iter().collect();
    oldest.sort_by(|a, b| (a.used, &a.place).cmp(&(b.used, &b.place)));
    let mut freed = 0;
    let enough = |entry: &&&Usage<P>| {
        let more = freed < wanted;
        freed += entry.size;
        more
    };
    oldest.iter().take_while(enough).map(|entry| entry.place.clone()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 10_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn entry(place: u32, repo: &str, size: u64, created: i64, used: i64) -> Usage<u32> {
        Usage { place, repo: repo.into(), size, created: at(NOW - created), used: at(NOW - used) }
    }

    fn limits(per_repo: Option<u64>, days: Option<u64>) -> Limits {
        Limits { per_repo, ttl: days.map(|days| Duration::from_secs(days * 86_400)) }
    }

    #[test]
    fn unused_entries_go_first_and_then_the_least_recently_used() {
        let day = 86_400;
        let entries = [
            entry(1, "a/a", 50, 20 * day, 8 * day),
            entry(2, "a/a", 50, 20 * day, 3 * day),
            entry(3, "a/a", 50, 9 * day, 5 * day),
            entry(4, "a/a", 50, 60, 60),
            entry(5, "b/b", 50, 2 * day, 2 * day),
        ];
        let chosen = |limits| {
            let mut chosen = choose(&entries, limits, at(NOW));
            chosen.sort_by_key(|(place, _)| *place);
            chosen
        };
        assert_eq!(chosen(limits(None, None)), []);
        assert_eq!(chosen(limits(None, Some(7))), [(1, Reason::Ttl)]);
        assert_eq!(chosen(limits(Some(100), Some(7))), [(1, Reason::Ttl), (3, Reason::Quota)]);
        assert_eq!(chosen(limits(Some(0), None)).len(), 4, "never the one of a minute ago");
    }

    proptest! {
        #[test]
        fn a_repository_ends_within_its_limit_or_with_young_entries(
            sizes in prop::collection::vec((0..100u64, 0..5_000i64, 0..5_000i64), 0..40), limit in 0..2_000u64
        ) {
            let entries: Vec<_> = (0..).zip(&sizes).map(|(n, (size, created, used))| entry(n, "a/a", *size, *created, *used)).collect();
            let gone = choose(&entries, limits(Some(limit), None), at(NOW));
            let gone: Vec<_> = gone.iter().map(|(place, _)| *place).collect();
            let left: Vec<_> = entries.iter().filter(|entry| !gone.contains(&entry.place)).collect();
            let bytes: u64 = left.iter().map(|entry| entry.size).sum();
            prop_assert!(bytes <= limit || left.iter().all(|entry| entry.created > at(NOW - 600)));
            // Nothing goes that was used later than something old enough that stays.
            for gone in entries.iter().filter(|entry| gone.contains(&entry.place)) {
                prop_assert!(left.iter().all(|left| left.created > at(NOW - 600) || left.used >= gone.used));
            }
        }
    }
}
