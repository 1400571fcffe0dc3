//! What goes, goes here: unused entries, entries beyond a limit, leftovers of uploads.
//!
//! Everything is told from listings. Deleting is repeatable, so two replicas at it do no harm. An entry goes before its
//! bytes, and those stay for an hour longer, for whoever is reading.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::clock::{Timestamp, since};
use telemetry::metrics::{CacheEviction, CacheRepo};
use tokio::time::Instant;

use super::{Cache, lock};
use crate::evict::{ABANDONED, READING, Reason, Usage, choose, tenth};
use crate::layout::{Data, EVICTED, Lease, Manifest, Place, Reservation, Upload, tree};
use crate::scope::Repository;
use crate::store::{Error, Listed, When, list_all};

/// Between two evictions because of a full disk.
const RELIEF: Duration = Duration::from_secs(60);
/// Repositories with a gauge of their own.
const SHOWN: usize = 50;

/// What a collection did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Entries evicted.
    pub entries: usize,
    /// Leftovers removed: bytes without an entry, leases, uploads nobody finished.
    pub leftovers: usize,
}

/// Entries and bytes of a repository or of all, from their listings.
struct Census {
    usage: Vec<Usage<Place>>,
    /// Bytes that are no entry's, and may be older than they need to be.
    loose: Vec<Listed>,
}

impl Cache {
    /// Evicts and cleans up everywhere. Meant to be run every hour.
    ///
    /// # Errors
    /// When the store does not answer; what is left is left for the next time.
    pub async fn collect(&self) -> Result<Collected, Error> {
        let census = self.census(None).await?;
        let now = self.now();
        let mut collected = Collected::default();
        for (place, reason) in choose(&census.usage, self.limits(), now) {
            self.evict(&place, reason).await?;
            collected.entries += 1;
        }
        for object in &census.loose {
            self.store.delete(&object.key).await?;
            self.metrics.cache_evictions(CacheEviction::Orphan);
            collected.leftovers += 1;
        }
        collected.leftovers += self.collect_leases(now).await?;
        collected.leftovers += self.collect_uploads(now).await?;
        collected.leftovers += self.store.clear_unfinished(ABANDONED).await?;
        let after = if collected == Collected::default() { census } else { self.census(None).await? };
        self.count(&after.usage, now);
        Ok(collected)
    }

    /// Evicts from one repository what is beyond its limit.
    pub(super) async fn trim(&self, repo: &Repository) -> Result<(), Error> {
        let census = self.census(Some(repo)).await?;
        let limits = crate::evict::Limits { ttl: None, ..self.limits() };
        for (place, reason) in choose(&census.usage, limits, self.now()) {
            self.evict(&place, reason).await?;
        }
        Ok(())
    }

    /// Makes room on a full disk, at once: bytes go with their entries.
    pub(crate) fn relieve(self: &Arc<Self>) {
        {
            let mut last = lock(&self.relieved);
            if last.is_some_and(|at| at.elapsed() < RELIEF) {
                return;
            }
            *last = Some(Instant::now());
        }
        let cache = Arc::clone(self);
        self.tasks.spawn(async move {
            let relieved = async {
                let census = cache.census(None).await?;
                for place in tenth(&census.usage) {
                    cache.evict(&place, Reason::Quota).await?;
                    let data = place.manifest().as_str().replacen("/idx/", "/dat/", 1);
                    for object in list_all(&*cache.store, &format!("{data}/")).await? {
                        cache.store.delete(&object.key).await?;
                    }
                }
                Ok::<_, Error>(())
            };
            match relieved.await {
                Ok(()) => tracing::warn!("the store of the cache is full: the least recently used tenth was evicted"),
                Err(error) => tracing::error!(%error, "the store of the cache is full and no room could be made"),
            }
        });
    }

    /// The entry first, so that nobody finds what is about to go.
    async fn evict(&self, place: &Place, reason: Reason) -> Result<(), Error> {
        self.store.delete(&place.manifest()).await?;
        let _ = self.store.put(&place.access(), Bytes::from_static(EVICTED), When::Always).await?;
        self.metrics.cache_evictions(match reason {
            Reason::Ttl => CacheEviction::Ttl,
            Reason::Quota => CacheEviction::Quota,
        });
        Ok(())
    }

    async fn census(&self, repo: Option<&Repository>) -> Result<Census, Error> {
        let now = self.now();
        let by_place = |tree: &'static str, listed: Vec<Listed>| -> HashMap<Place, Listed> {
            listed.into_iter().filter_map(|o| Place::listed(tree, o.key.as_str()).map(|place| (place, o))).collect()
        };
        // Bytes are listed first: those of an entry that is just being made are young, or have their entry listed.
        let bytes = list_all(&*self.store, &tree("dat", repo)).await?;
        let access = by_place("acc", list_all(&*self.store, &tree("acc", repo)).await?);
        let entries = by_place("idx", list_all(&*self.store, &tree("idx", repo)).await?);
        let mut data: HashMap<Place, Vec<(Data, Listed)>> = HashMap::new();
        for object in bytes {
            if let Some(parsed) = Data::listed(object.key.as_str()) {
                data.entry(parsed.place().clone()).or_default().push((parsed, object));
            }
        }
        let mut census = Census { usage: Vec::new(), loose: Vec::new() };
        for (place, mut objects) in data {
            let access = access.get(&place);
            let entry = entries.get(&place);
            if let (Some(_), 2..) = (entry, objects.len()) {
                let manifest = self.read::<Manifest>(&place.manifest()).await?;
                let current = manifest.map(|(manifest, _)| manifest.data);
                let (kept, loose): (Vec<_>, Vec<_>) =
                    objects.into_iter().partition(|(data, _)| Some(data) == current.as_ref());
                census.loose.extend(loose.into_iter().map(|(_, o)| o).filter(|o| since(now, o.modified) > ABANDONED));
                objects = kept;
            }
            if let Some(entry) = entry {
                let read = access.filter(|a| a.size == 0).map(|a| a.modified);
                census.usage.push(Usage {
                    repo: place.repo(),
                    size: objects.iter().map(|(_, o)| o.size).sum(),
                    created: entry.modified,
                    used: read.map_or(entry.modified, |read| read.max(entry.modified)),
                    place,
                });
                continue;
            }
            let evicted = access.filter(|a| a.size > 0).is_some_and(|a| since(now, a.modified) > READING);
            let read_lately = access.is_some_and(|a| since(now, a.modified) <= READING);
            let old = |o: &Listed| evicted || (since(now, o.modified) > ABANDONED && !read_lately);
            census.loose.extend(objects.into_iter().map(|(_, o)| o).filter(old));
        }
        // Notes on entries whose bytes are gone, too.
        let unused = |place: &Place| !entries.contains_key(place);
        let notes = access.iter().filter(|(place, note)| since(now, note.modified) > ABANDONED && unused(place));
        census.loose.extend(notes.map(|(_, note)| note.clone()));
        Ok(census)
    }

    async fn collect_leases(&self, now: Timestamp) -> Result<usize, Error> {
        let mut removed = 0;
        for object in list_all(&*self.store, &tree("lck", None)).await? {
            // Renewing rewrites it.
            if since(now, object.modified) <= ABANDONED {
                continue;
            }
            if self.read::<Lease>(&object.key).await?.is_none_or(|(l, _)| since(now, l.expires_at) > ABANDONED) {
                self.store.delete(&object.key).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    async fn collect_uploads(&self, now: Timestamp) -> Result<usize, Error> {
        let mut uploads: BTreeMap<_, (Timestamp, Vec<Listed>)> = BTreeMap::new();
        for object in list_all(&*self.store, &tree("up", None)).await? {
            if let Some(upload) = Upload::listed(object.key.as_str()) {
                let (latest, objects) = uploads.entry(upload.0).or_insert((Timestamp::MIN, Vec::new()));
                *latest = (*latest).max(object.modified);
                objects.push(object);
            }
        }
        let mut removed = 0;
        for (id, (latest, objects)) in uploads {
            if since(now, latest) <= ABANDONED {
                continue;
            }
            let reservation = self.read::<Reservation>(&Upload(id).reservation()).await?;
            if reservation.is_some_and(|(reservation, _)| reservation.committed.is_none()) {
                self.metrics.cache_uploads_abandoned();
            }
            for object in objects {
                self.store.delete(&object.key).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn count(&self, usage: &[Usage<Place>], now: Timestamp) {
        let mut counts: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for entry in usage {
            let (entries, bytes) = counts.entry(entry.repo.clone()).or_default();
            *entries += 1;
            *bytes += entry.size;
        }
        let mut largest: Vec<_> = counts.iter().collect();
        largest.sort_by_key(|(_, (_, bytes))| std::cmp::Reverse(*bytes));
        let now_shown: HashSet<String> = largest.iter().take(SHOWN).map(|(repo, _)| (*repo).clone()).collect();
        let mut shown = lock(&self.shown);
        for repo in shown.difference(&now_shown) {
            self.metrics.cache_repo_bytes(CacheRepo(repo), None);
        }
        for repo in &now_shown {
            self.metrics.cache_repo_bytes(CacheRepo(repo), counts.get(repo).map(|(_, bytes)| *bytes as f64));
        }
        *shown = now_shown;
        self.tally.counted(&counts, now);
    }
}
