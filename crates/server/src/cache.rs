//! The Actions cache: from the configuration to a service, and what keeps it tidy.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use cache::store::{FsStore, Store};
use cache::token::Keys;
use cache::{Cache, Settings};
use config::Config;
use dispatch::CacheAccess;
use domain::clock::{Clock, Rng};
use telemetry::Metrics;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often leftovers are collected, give or take.
const COLLECT: Duration = Duration::from_secs(3600);
/// A start is no time for it, and replicas start together.
const FIRST: Duration = Duration::from_secs(60);

fn keys(config: &Config) -> Option<Keys> {
    let cache = &config.cache;
    let current = cache.secret.clone()?;
    Some(Keys::new(current, cache.secret_previous.clone(), cache.accept_legacy_tokens))
}

/// How hand-overs let jobs in.
pub(crate) fn access(config: &Config) -> Option<Arc<CacheAccess>> {
    let here = || config.local.then(|| format!("http://{}", config.core.listen_addr));
    let url = config.cache.url.clone().or_else(here).filter(|_| config.cache.served)?;
    Some(Arc::new(CacheAccess::new(keys(config), &url, config.cache.token_ttl)))
}

/// The store in a directory, if that is what the configuration names.
pub(crate) fn directory(config: &Config) -> anyhow::Result<Option<Arc<dyn Store>>> {
    let Some(dir) = config.cache.dir.as_deref().filter(|_| config.cache.served) else { return Ok(None) };
    let store = FsStore::open(Path::new(dir)).with_context(|| format!("the cache cannot use {dir}"))?;
    Ok(Some(Arc::new(store)))
}

/// The service on a store.
pub(crate) fn open(
    config: &Config,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    metrics: Metrics,
) -> Arc<Cache> {
    let cache = &config.cache;
    let settings = Settings {
        base: cache.url.clone(),
        max_entry: cache.max_entry_bytes,
        per_repo: cache.repo_limit_bytes,
        ttl: cache.ttl_days.map(|days| Duration::from_secs(u64::from(days) * 86_400)),
        redirect: !cache.proxy_downloads,
    };
    Cache::new(store, keys(config), settings, clock, rng, metrics)
}

/// Evicts and collects every hour. Two replicas at it do no harm.
pub(crate) async fn keep(cache: Arc<Cache>, rng: Arc<dyn Rng>, stop: CancellationToken) {
    let mut pause = rng.jitter(FIRST, 0.5);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
        pause = rng.jitter(COLLECT, 0.1);
        let collected = tokio::select! {
            () = stop.cancelled() => break,
            collected = cache.collect() => collected,
        };
        match collected {
            Ok(done) if done == cache::Collected::default() => {}
            Ok(done) => info!(entries = done.entries, leftovers = done.leftovers, "the cache was tidied"),
            Err(error) => warn!(%error, "the cache could not be tidied"),
        }
    }
    cache.finish().await;
}
