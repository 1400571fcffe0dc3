//! What the Actions cache holds, and how often it helps.

use std::cmp::Reverse;

use axum::Json;
use axum::extract::{RawQuery, State};
use cache::{RepoStats, Stats};
use domain::clock::Timestamp;
use serde::Serialize;

use crate::error::ApiError;
use crate::params::Params;
use crate::state::AdminState;

/// Repositories shown.
const SHOWN: usize = 20;

/// `null` is a number that nobody counted yet.
#[derive(Debug, Serialize)]
pub(crate) struct View {
    #[serde(flatten)]
    total: Numbers,
    /// When the store was last counted.
    counted_at: Option<Timestamp>,
    repos: Vec<Repo>,
}

#[derive(Debug, Serialize)]
struct Repo {
    repo: String,
    #[serde(flatten)]
    numbers: Numbers,
}

#[derive(Debug, Serialize)]
struct Numbers {
    hits: u64,
    misses: u64,
    /// Hits of all lookups, 0 to 1.
    hit_rate: Option<f64>,
    entries: Option<u64>,
    bytes: Option<u64>,
}

impl Numbers {
    fn of(stats: &RepoStats, counted: bool) -> Self {
        let lookups = stats.hits + stats.misses;
        Self {
            hits: stats.hits,
            misses: stats.misses,
            hit_rate: (lookups > 0).then(|| stats.hits as f64 / lookups as f64),
            entries: counted.then_some(stats.entries),
            bytes: counted.then_some(stats.bytes),
        }
    }
}

/// `GET /api/cache/stats`; 404 when there is no cache.
pub(crate) async fn stats(State(state): State<AdminState>, RawQuery(query): RawQuery) -> Result<Json<View>, ApiError> {
    Params::read(query.as_deref(), &[])?;
    let cache = state.cache.as_ref().ok_or_else(ApiError::not_found)?;
    Ok(Json(view(&cache.stats())))
}

fn view(stats: &Stats) -> View {
    let counted = stats.counted_at.is_some();
    let mut repos: Vec<_> = stats.repos.iter().collect();
    repos.sort_by_key(|(_, stats)| Reverse((stats.bytes, stats.hits + stats.misses)));
    let shown = repos.into_iter().take(SHOWN);
    View {
        total: Numbers::of(&stats.total, counted),
        counted_at: stats.counted_at,
        repos: shown.map(|(repo, stats)| Repo { repo: repo.clone(), numbers: Numbers::of(stats, counted) }).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_nobody_counted_is_not_zero_and_the_largest_come_first() {
        let of = |hits, misses, entries, bytes| RepoStats { hits, misses, entries, bytes };
        let mut stats = Stats { total: of(3, 1, 2, 30), ..Stats::default() };
        stats.repos.insert("a/small".into(), of(0, 0, 1, 10));
        stats.repos.insert("b/large".into(), of(3, 1, 1, 20));
        let shown = serde_json::to_value(view(&stats)).expect("JSON");
        assert_eq!((&shown["hits"], &shown["hit_rate"]), (&json!(3), &json!(0.75)));
        assert_eq!((&shown["entries"], &shown["bytes"]), (&json!(null), &json!(null)));
        stats.counted_at = Some(Timestamp::UNIX_EPOCH);
        let shown = serde_json::to_value(view(&stats)).expect("JSON");
        assert_eq!((&shown["entries"], &shown["bytes"]), (&json!(2), &json!(30)));
        assert_eq!((&shown["repos"][0]["repo"], &shown["repos"][1]["hit_rate"]), (&json!("b/large"), &json!(null)));
    }
}
