//! Finding an entry, and reading it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::clock::since;
use telemetry::metrics::{CacheEviction, CacheResult};
use tokio::time::Instant;

use super::{Cache, lock, patiently};
use crate::layout::{Data, Entry, Key, Manifest, Place, UploadId, entries, tree};
use crate::name;
use crate::scope::Repository;
use crate::store::{Error, Listed, Outgoing, When, list_all};
use crate::token::Caller;

/// Reads of an entry are noted this often at most.
const TOUCH: Duration = Duration::from_secs(6 * 3600);
/// Entries shown by the list for debugging.
const SHOWN: usize = 100;

/// What there is to download.
pub(crate) struct Download {
    pub(crate) data: Data,
    pub(crate) object: Listed,
}

impl Cache {
    /// The entry that a client gets for its primary key and its restore keys, in this order.
    ///
    /// Scope by scope: for each key the entry of exactly this key, else the newest whose key begins so.
    ///
    /// # Errors
    /// When the store does not answer, after at most three seconds.
    pub(crate) async fn lookup(
        self: &Arc<Self>,
        caller: &Caller,
        keys: &[String],
        version: &str,
    ) -> Result<Option<Manifest>, Error> {
        let found = patiently(async {
            for scope in &caller.scopes.read {
                for (at, key) in keys.iter().enumerate() {
                    if keys[..at].contains(key) {
                        continue;
                    }
                    if let Some(entry) = self.find(&caller.repo, scope, version, key).await? {
                        return Ok(Some(entry));
                    }
                }
            }
            Ok(None)
        })
        .await?;
        let repo = caller.repo.to_string();
        tracing::debug!(
            event = "cache_looked_up",
            repo,
            version = version.get(..12).unwrap_or(version),
            key = keys.first(),
            found = found.as_ref().map(|entry| &entry.key),
            "a cache entry was looked up"
        );
        self.tally.looked_up(&repo, found.is_some());
        if found.is_some() {
            self.metrics.cache_requests(CacheResult::Hit);
            self.metrics.cache_hits();
        } else {
            self.metrics.cache_requests(CacheResult::Miss);
            self.metrics.cache_misses();
        }
        if let Some(entry) = &found {
            self.touch(entry.data.place());
        }
        Ok(found)
    }

    async fn find(&self, repo: &Repository, scope: &str, version: &str, key: &str) -> Result<Option<Manifest>, Error> {
        let place = Entry { repo, scope, version, key }.place();
        if let Some((entry, _)) = self.read::<Manifest>(&place.manifest()).await?
            && entry.key == key
            && self.is_there(&entry).await?
        {
            return Ok(Some(entry));
        }
        let prefix = name::prefix(key);
        let mut found = list_all(&*self.store, &entries(repo, scope, version, &prefix.text)).await?;
        found.sort_unstable_by(|a, b| b.modified.cmp(&a.modified).then_with(|| b.key.cmp(&a.key)));
        let mut gone = HashSet::new();
        while let Some(entry) = self.newest(&found, key, &gone).await? {
            if self.is_there(&entry).await? {
                return Ok(Some(entry));
            }
            gone.insert(entry.entry_id);
        }
        Ok(None)
    }

    /// The newest of the listed entries whose key begins so. Stores know ages only so exactly; among those of about the
    /// same age, what they say themselves decides.
    async fn newest(&self, listed: &[Listed], key: &str, gone: &HashSet<UploadId>) -> Result<Option<Manifest>, Error> {
        let mut best: Option<(Manifest, &Listed)> = None;
        for object in listed {
            if best
                .as_ref()
                .is_some_and(|(_, first)| since(first.modified, object.modified) >= self.store.granularity())
            {
                break;
            }
            let Some((entry, _)) = self.read::<Manifest>(&object.key).await? else { continue };
            if !entry.key.starts_with(key) || gone.contains(&entry.entry_id) {
                continue;
            }
            let newer = |best: &Manifest| (entry.created_at, &entry.key) > (best.created_at, &best.key);
            match &mut best {
                Some((best, _)) if newer(best) => *best = entry,
                Some(_) => {}
                None => best = Some((entry, object)),
            }
        }
        Ok(best.map(|(entry, _)| entry))
    }

    /// Whether an entry still has its bytes. One that lost them is removed: its client would fail.
    async fn is_there(&self, entry: &Manifest) -> Result<bool, Error> {
        if self.store.head(&entry.data.key()).await?.is_some_and(|object| object.size == entry.size) {
            return Ok(true);
        }
        self.store.delete(&entry.data.place().manifest()).await?;
        self.metrics.cache_evictions(CacheEviction::Stale);
        tracing::warn!(repo = entry.repo, key = entry.key, "a cache entry lost its bytes and is forgotten");
        Ok(false)
    }

    /// Notes that an entry was read, behind the answer.
    fn touch(self: &Arc<Self>, place: &Place) {
        {
            let mut touched = lock(&self.touched);
            if touched.get(place).is_some_and(|at| at.elapsed() < TOUCH) {
                return;
            }
            touched.put(place.clone(), Instant::now());
        }
        let (cache, access) = (Arc::clone(self), place.access());
        self.tasks.spawn(async move {
            let noted = async {
                let last = cache.store.head(&access).await?;
                if last.is_none_or(|last| last.size > 0 || since(cache.now(), last.modified) >= TOUCH) {
                    let _ = cache.store.put(&access, Bytes::new(), When::Always).await?;
                }
                Ok::<_, Error>(())
            };
            if let Err(error) = noted.await {
                tracing::debug!(%error, "the read of a cache entry was not noted");
            }
        });
    }

    /// Entries whose keys begin so, in the order of the caller's scopes. For people who debug.
    pub(crate) async fn similar(&self, caller: &Caller, key: &str) -> Result<Vec<Manifest>, Error> {
        let prefix = name::prefix(key).text;
        let listed = list_all(&*self.store, &tree("idx", Some(&caller.repo))).await?;
        let mut similar = Vec::new();
        for object in listed {
            if object.key.as_str().rsplit('/').next().is_some_and(|name| name.starts_with(&prefix))
                && let Some((entry, _)) = self.read::<Manifest>(&object.key).await?
                && entry.key.starts_with(key)
                && caller.scopes.read.contains(&entry.scope)
            {
                similar.push(entry);
                if similar.len() == SHOWN {
                    break;
                }
            }
        }
        similar.sort_by_key(|entry| caller.scopes.read.iter().position(|scope| *scope == entry.scope));
        Ok(similar)
    }

    /// The entry of this id, if the caller may read it.
    pub(crate) async fn entry(&self, caller: &Caller, id: UploadId) -> Result<Option<Manifest>, Error> {
        let ours = tree("dat", Some(&caller.repo));
        for object in list_all(&*self.store, &ours).await? {
            if let Some(data) = Data::listed(object.key.as_str()).filter(|data| data.id() == id)
                && let Some((entry, _)) = self.read::<Manifest>(&data.place().manifest()).await?
            {
                return Ok(Some(entry).filter(|e| e.entry_id == id && caller.scopes.read.contains(&e.scope)));
            }
        }
        Ok(None)
    }

    /// What an address leads to; `None`: it is gone.
    pub(crate) async fn download(&self, data: Data) -> Result<Option<Download>, Error> {
        Ok(self.store.head(&data.key()).await?.map(|object| Download { data, object }))
    }

    pub(crate) async fn open(&self, key: &Key, start: u64, length: u64) -> Result<Option<Outgoing>, Error> {
        self.store.read(key, start, length).await
    }

    /// Where else the bytes can be had, if downloads are not to go through this process.
    pub(crate) async fn elsewhere(&self, data: &Data) -> Result<Option<String>, Error> {
        if self.settings.redirect { self.store.presign(&data.key()).await } else { Ok(None) }
    }
}
