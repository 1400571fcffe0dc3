//! What the cache does, whatever protocol asks for it.
//!
//! Properties wanted:
//!
//! * **An entry is whole, final and unique.** It becomes visible by one conditional write, after its bytes are complete
//!   and their number is the announced one; nothing ever changes or replaces it.
//! * **Nothing here is remembered that matters.** Any replica can take any request; a restart forgets nothing but
//!   counters. What is kept in memory saves work (shared assemblies, renewals) or only informs.
//! * **One winner, told apart from losers.** Of those who want to save one key, one gets the lease, and of those who
//!   finish nevertheless, one gets the entry.
//!
//! Races survived: two reservations of one key; a job that reserves again after a crash (its old upload is void); a
//! reserver that falls silent and comes back after somebody else took over; a blob or a list still on its way when the
//! upload is committed (it went to an object of its own); an answer that is lost (every step can be repeated); bytes
//! removed by somebody else's rule (the entry goes, the search goes on); an eviction during a download.

mod collect;
mod commit;
mod join;
mod lookup;
mod reserve;
mod stats;
mod upload;

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use domain::clock::{Clock, Rng, Timestamp};
use lru::LruCache;
use serde::Serialize;
use serde::de::DeserializeOwned;
use telemetry::Metrics;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

pub use self::collect::Collected;
pub use self::commit::Committed;
use self::join::Joining;
pub use self::reserve::Reserved;
use self::stats::Tally;
pub use self::stats::{RepoStats, Stats};
pub(crate) use self::upload::ListPut;
use crate::address::Signer;
use crate::evict::Limits;
use crate::layout::{Key, Place, Stored, UploadId};
use crate::store::{Error, Object, Store};
use crate::token::Keys;

/// How long a lookup or a reservation may take before the job goes on without.
const PATIENCE: Duration = Duration::from_secs(3);
/// Things remembered to save work.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");

/// What operators decide.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address given to clients; `None`: the one they came to.
    pub base: Option<String>,
    /// Largest entry in bytes.
    pub max_entry: u64,
    /// Bytes per repository; `None`: no limit.
    pub per_repo: Option<u64>,
    /// Entries not used for so long go; `None`: never.
    pub ttl: Option<Duration>,
    /// Send clients to the bucket for downloads.
    pub redirect: bool,
}

/// The cache. Cheap to share; every method may run any number of times at once.
pub struct Cache {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    pub(crate) metrics: Metrics,
    pub(crate) keys: Option<Keys>,
    pub(crate) signer: Signer,
    pub(crate) settings: Settings,
    tally: Tally,
    assembling: Joining<(UploadId, String), Result<Stored, String>>,
    finishing: Joining<(UploadId, u64), Result<Committed, String>>,
    renewed: Mutex<LruCache<UploadId, Instant>>,
    touched: Mutex<LruCache<Place, Instant>>,
    reserving: Mutex<LruCache<String, (Instant, u32)>>,
    relieved: Mutex<Option<Instant>>,
    trimming: Mutex<HashSet<String>>,
    shown: Mutex<HashSet<String>>,
    uploads: AtomicUsize,
    tasks: TaskTracker,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cache {
    /// A cache in this store. Without `keys` everybody may use it.
    pub fn new(
        store: Arc<dyn Store>,
        keys: Option<Keys>,
        settings: Settings,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
        metrics: Metrics,
    ) -> Arc<Self> {
        // Without a secret, addresses are good as long as this process: others cannot make them either.
        let own = || std::array::from_fn(|_| rng.next_u64().to_le_bytes()[0]);
        let signer = Signer::new(keys.as_ref().map_or_else(|| vec![own()], Keys::derived));
        let remember = || Mutex::new(LruCache::new(REMEMBERED));
        Arc::new(Self {
            store,
            clock,
            metrics,
            keys,
            signer,
            settings,
            tally: Tally::default(),
            assembling: Joining::default(),
            finishing: Joining::default(),
            renewed: remember(),
            touched: Mutex::new(LruCache::new(REMEMBERED)),
            reserving: Mutex::new(LruCache::new(REMEMBERED)),
            relieved: Mutex::new(None),
            trimming: Mutex::default(),
            shown: Mutex::default(),
            uploads: AtomicUsize::new(0),
            tasks: TaskTracker::new(),
            rng,
        })
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn limits(&self) -> Limits {
        Limits { per_repo: self.settings.per_repo, ttl: self.settings.ttl }
    }

    /// Names an answer, or what was stored with it.
    pub(crate) fn request_id(&self) -> String {
        self.rng.token()
    }

    /// Counts, for operators.
    pub fn stats(&self) -> Stats {
        self.tally.stats()
    }

    /// Waits for what goes on behind answered requests.
    pub async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn read<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<(T, Object)>, Error> {
        let Some(object) = self.store.get(key).await? else { return Ok(None) };
        match serde_json::from_slice(&object.bytes) {
            Ok(value) => Ok(Some((value, object))),
            // A release of the future, or a hand in the store. It is not an entry of ours.
            Err(error) => {
                tracing::warn!(object = key.as_str(), %error, "an object of the cache cannot be read");
                Ok(None)
            }
        }
    }

    /// Counts a body that is being received, until the value is dropped.
    fn receiving(&self) -> Receiving<'_> {
        let count = self.uploads.fetch_add(1, Ordering::Relaxed) + 1;
        self.metrics.cache_uploads_in_progress(Some(count as f64));
        Receiving(self)
    }
}

struct Receiving<'a>(&'a Cache);

impl Drop for Receiving<'_> {
    fn drop(&mut self) {
        let count = self.0.uploads.fetch_sub(1, Ordering::Relaxed).saturating_sub(1);
        self.0.metrics.cache_uploads_in_progress(Some(count as f64));
    }
}

fn json<T: Serialize>(value: &T) -> Result<Bytes, Error> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| Error::Unavailable(error.to_string()))
}

/// Bounds a wait for the store.
async fn patiently<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| Err(Error::Unavailable("no answer in time".to_owned())))
}
