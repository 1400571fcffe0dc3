//! From an upload to an entry.

use std::sync::Arc;
use std::time::Duration;

use super::{Cache, json, lock};
use crate::layout::{Current, Entry, Lease, Manifest, Piece, Reservation, Stored, Upload, UploadId, chunk_range};
use crate::range::tiled;
use crate::scope::Repository;
use crate::store::{Error, Outcome, When, list_all};
use crate::token::Caller;

/// How long a commit is waited for. Balancers give up after a minute; the work goes on, and the client's next try
/// joins it.
const ANSWER: Duration = Duration::from_secs(45);

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// It is an entry, perhaps since an earlier try.
    Yes(UploadId),
    /// There is no such upload, or it is another job's.
    Unknown,
    /// Somebody else's upload became the entry, or is about to.
    Taken,
    /// Nothing was uploaded.
    Nothing,
    /// What was uploaded has another size.
    Size {
        /// What the client says.
        declared: u64,
        /// What is stored.
        stored: u64,
    },
    /// The chunks do not make up the declared size.
    Holes,
    /// The caller may not write anywhere.
    Denied,
    /// It goes on, but longer than a client waits.
    Pending,
}

impl Cache {
    /// Commits what the caller uploaded for a key.
    ///
    /// # Errors
    /// When the store does not answer. Another try goes on from there.
    pub async fn finalize(
        self: &Arc<Self>,
        caller: &Caller,
        key: &str,
        version: &str,
        size: u64,
    ) -> Result<Committed, Error> {
        let Some(scope) = &caller.scopes.write else { return Ok(Committed::Denied) };
        let entry = Entry { repo: &caller.repo, scope, version, key };
        let place = entry.place();
        let same = |owner: Option<&str>| caller.job.is_none() || caller.is(owner);
        if let Some((lease, _)) = self.read::<Lease>(&place.lease()).await? {
            if !same(lease.owner_sub.as_deref()) {
                return Ok(Committed::Taken);
            }
            if let Some(reservation) = self.reservation(lease.upload_id).await? {
                return self.commit(reservation, size).await;
            }
        }
        // No lease: it is over. The answer to an earlier try may have been lost.
        Ok(match self.read::<Manifest>(&place.manifest()).await? {
            Some((entry, _)) if same(entry.sub.as_deref()) && entry.size == size => Committed::Yes(entry.entry_id),
            Some((entry, _)) if same(entry.sub.as_deref()) => Committed::Size { declared: size, stored: entry.size },
            Some(_) => Committed::Taken,
            None => Committed::Unknown,
        })
    }

    /// Commits what was uploaded in chunks.
    ///
    /// # Errors
    /// As [`Cache::finalize`].
    pub(crate) async fn commit_chunks(
        self: &Arc<Self>,
        reservation: Reservation,
        size: u64,
    ) -> Result<Committed, Error> {
        if reservation.committed.is_none() {
            let upload = Upload(reservation.id);
            let stored = list_all(&*self.store, &upload.chunks()).await?;
            // A chunk's name says its length; one that lost its end with the machine's power says too much.
            let whole = |(start, end): &(u64, u64), bytes: u64| end - start + 1 == bytes;
            let chunks: Option<Vec<_>> = stored
                .iter()
                .map(|chunk| chunk_range(chunk.key.as_str()).filter(|range| whole(range, chunk.size)))
                .collect();
            let Some(chunks) = chunks.and_then(|chunks| tiled(chunks, size)) else { return Ok(Committed::Holes) };
            let pieces: Vec<Piece> = chunks
                .into_iter()
                .map(|(start, end)| Piece { name: upload.chunk(start, end).as_str().to_owned(), size: end - start + 1 })
                .collect();
            // A repeated commit joins the assembly of the first instead of starting over.
            let current = self.read::<Current>(&upload.current()).await?;
            if !matches!(current, Some((Current::List { pieces: ref listed, .. }, _)) if *listed == pieces) {
                self.list(&reservation, pieces).await?;
            }
        }
        self.commit(reservation, size).await
    }

    async fn commit(self: &Arc<Self>, reservation: Reservation, size: u64) -> Result<Committed, Error> {
        match reservation.committed {
            Some(stored) if stored == size => return Ok(Committed::Yes(reservation.id)),
            Some(stored) => return Ok(Committed::Size { declared: size, stored }),
            None => {}
        }
        let key = (reservation.id, size);
        let cache = Arc::clone(self);
        let work = async move { cache.publish(&reservation, size).await.map_err(|error| error.to_string()) };
        match self.finishing.run(&self.tasks, key, ANSWER, work).await {
            Some(Ok(committed)) => Ok(committed),
            Some(Err(error)) => Err(Error::Unavailable(error)),
            None => Ok(Committed::Pending),
        }
    }

    async fn publish(self: &Arc<Self>, reservation: &Reservation, size: u64) -> Result<Committed, Error> {
        let upload = Upload(reservation.id);
        // A commit that was waited for may have been another try's.
        let Some(latest) = self.reservation(reservation.id).await? else { return Ok(Committed::Unknown) };
        if latest.committed == Some(size) {
            return Ok(Committed::Yes(reservation.id));
        }
        let Stored { data, size: stored } = match self.read::<Current>(&upload.current()).await? {
            None => return Ok(Committed::Nothing),
            Some((Current::Blob(stored), _)) => stored,
            Some((Current::List { nonce, pieces }, _)) => {
                let declared: u64 = pieces.iter().map(|piece| piece.size).sum();
                if declared != size {
                    return Ok(Committed::Size { declared: size, stored: declared });
                }
                let forever = Duration::from_secs(3600);
                match self.assembled(reservation, nonce, pieces, forever).await {
                    Some(done) => done.map_err(Error::Unavailable)?,
                    None => return Ok(Committed::Pending),
                }
            }
        };
        if stored != size {
            return Ok(Committed::Size { declared: size, stored });
        }
        match self.store.head(&data.key()).await? {
            Some(object) if object.size == size => {}
            Some(object) => return Ok(Committed::Size { declared: size, stored: object.size }),
            None => return Ok(Committed::Nothing),
        }
        let Some(repo) = Repository::stored(&reservation.repo) else { return Ok(Committed::Unknown) };
        let place = reservation.entry(&repo).place();
        let manifest = Manifest {
            entry_id: reservation.id,
            repo: reservation.repo.clone(),
            scope: reservation.scope.clone(),
            version: reservation.version.clone(),
            key: reservation.key.clone(),
            size,
            data: data.clone(),
            created_at: self.now(),
            sub: reservation.sub.clone(),
        };
        let outcome = self.store.publish(&place.manifest(), json(&manifest)?, &data.key()).await?;
        if outcome == Outcome::Lost {
            let winner = self.read::<Manifest>(&place.manifest()).await?;
            if winner.is_none_or(|(winner, _)| winner.entry_id != reservation.id) {
                self.store.delete(&data.key()).await?;
                self.store.delete(&upload.reservation()).await?;
                return Ok(Committed::Taken);
            }
        } else {
            self.metrics.cache_bytes_stored(size);
            self.tally.saved(&reservation.repo, size);
            tracing::info!(
                event = "cache_saved",
                repo = reservation.repo,
                scope = reservation.scope,
                version = reservation.version.get(..12).unwrap_or(&reservation.version),
                key = reservation.key,
                size,
                "a cache entry was saved"
            );
        }
        // A repeated commit finds this, long after everything else of the upload is gone.
        let done = Reservation { committed: Some(size), ..reservation.clone() };
        let _ = self.store.put(&upload.reservation(), json(&done)?, When::Always).await?;
        if self.read::<Lease>(&place.lease()).await?.is_some_and(|(lease, _)| lease.upload_id == reservation.id) {
            self.store.delete(&place.lease()).await?;
        }
        let cache = Arc::clone(self);
        self.tasks.spawn(async move { cache.tidy(&done, &data, &repo).await });
        Ok(Committed::Yes(reservation.id))
    }

    /// Removes what the upload left besides its entry, and makes room. What fails here is collected later.
    async fn tidy(&self, reservation: &Reservation, kept: &crate::layout::Data, repo: &Repository) {
        let upload = Upload(reservation.id);
        let removed = async {
            let keep = upload.reservation();
            for object in list_all(&*self.store, &upload.everything()).await? {
                if object.key != keep {
                    self.store.delete(&object.key).await?;
                }
            }
            let all = kept.key();
            let attempts = all.as_str().rsplit_once('-').map_or("", |(attempts, _)| attempts);
            for object in list_all(&*self.store, &format!("{attempts}-")).await? {
                if object.key != all {
                    self.store.delete(&object.key).await?;
                }
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = removed.await {
            tracing::debug!(upload = %reservation.id, %error, "leftovers of an upload stay until they are collected");
        }
        if self.settings.per_repo.is_none() || !lock(&self.trimming).insert(reservation.repo.clone()) {
            return;
        }
        let trimmed = self.trim(repo).await;
        lock(&self.trimming).remove(&reservation.repo);
        if let Err(error) = trimmed {
            tracing::warn!(repo = reservation.repo, %error, "the cache of a repository could not be kept within its limit");
        }
    }
}
