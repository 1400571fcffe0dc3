//! Counts for operators. They inform; nothing is decided by them.

use std::collections::BTreeMap;
use std::sync::Mutex;

use domain::clock::Timestamp;

use super::lock;

/// Repositories counted one by one; the rest counts in the sums only.
const REPOS: usize = 1_000;

/// One repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepoStats {
    /// Lookups that found something, since this process started.
    pub hits: u64,
    /// Lookups that did not.
    pub misses: u64,
    /// Entries at the last count, and those saved here since.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sums over all repositories.
    pub total: RepoStats,
    /// By repository.
    pub repos: BTreeMap<String, RepoStats>,
    /// When the store was last counted; `None`: not yet, and `entries` and `bytes` mean nothing.
    pub counted_at: Option<Timestamp>,
}

#[derive(Default)]
pub(super) struct Tally(Mutex<Stats>);

impl Tally {
    pub(super) fn stats(&self) -> Stats {
        lock(&self.0).clone()
    }

    pub(super) fn looked_up(&self, repo: &str, hit: bool) {
        self.add(repo, |stats| if hit { stats.hits += 1 } else { stats.misses += 1 });
    }

    pub(super) fn saved(&self, repo: &str, size: u64) {
        self.add(repo, |stats| {
            stats.entries += 1;
            stats.bytes += size;
        });
    }

    fn add(&self, repo: &str, change: impl Fn(&mut RepoStats)) {
        let mut stats = lock(&self.0);
        change(&mut stats.total);
        if let Some(known) = stats.repos.get_mut(repo) {
            change(known);
        } else if stats.repos.len() < REPOS {
            change(stats.repos.entry(repo.to_owned()).or_default());
        }
    }

    /// Replaces entries and bytes by what was counted in the store.
    pub(super) fn counted(&self, counts: &BTreeMap<String, (u64, u64)>, at: Timestamp) {
        let mut stats = lock(&self.0);
        for repo in stats.repos.values_mut() {
            (repo.entries, repo.bytes) = (0, 0);
        }
        (stats.total.entries, stats.total.bytes) = (0, 0);
        for (repo, (entries, bytes)) in counts {
            stats.total.entries += entries;
            stats.total.bytes += bytes;
            if stats.repos.contains_key(repo) || stats.repos.len() < REPOS {
                let known = stats.repos.entry(repo.clone()).or_default();
                (known.entries, known.bytes) = (*entries, *bytes);
            }
        }
        stats.counted_at = Some(at);
    }
}
