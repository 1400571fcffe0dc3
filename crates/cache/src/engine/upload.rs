//! Bytes arriving, in any order and any number of times.

use std::collections::HashMap;
use std::time::Duration;

use super::reserve::RENEWAL;
use super::{Cache, json};
use crate::layout::{Assembled, Current, Entry, Piece, Reservation, Stored, Upload, UploadId};
use crate::scope::Repository;
use crate::store::{self, Error, Incoming, When, list_all};

/// How long the answer to a list waits for what it started.
const ANSWER: Duration = Duration::from_secs(25);

/// What became of a block list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListPut {
    /// It is what the upload amounts to now.
    Accepted,
    /// It names a block that was not stored.
    UnknownBlock,
    /// All together are larger than an entry may be.
    TooLarge,
}

impl Reservation {
    /// The entry it is for.
    pub(super) fn entry<'a>(&'a self, repo: &'a Repository) -> Entry<'a> {
        Entry { repo, scope: &self.scope, version: &self.version, key: &self.key }
    }

    fn fresh(&self, nonce: &str) -> Result<crate::layout::Data, Error> {
        let repo =
            Repository::stored(&self.repo).ok_or_else(|| Error::Unavailable("a damaged reservation".to_owned()))?;
        Ok(self.entry(&repo).data(self.id, nonce))
    }
}

impl Cache {
    /// The reservation of an upload; `None`: there is no such upload (any more).
    ///
    /// # Errors
    /// When the store does not answer.
    pub(crate) async fn reservation(&self, id: UploadId) -> Result<Option<Reservation>, Error> {
        Ok(self.read(&Upload(id).reservation()).await?.map(|(reservation, _)| reservation))
    }

    /// Stores everything at once.
    ///
    /// # Errors
    /// When the store does not answer, or the body is cut; nothing is stored then.
    pub(crate) async fn put_blob(
        &self,
        reservation: &Reservation,
        length: Option<u64>,
        bytes: Incoming,
    ) -> Result<(), Error> {
        let data = reservation.fresh(&self.rng.token())?;
        let size = self.receive(reservation, &data.key(), length, bytes).await?;
        self.amounts_to(reservation, &Current::Blob(Stored { data, size })).await
    }

    /// Stores a block. One of the same id is replaced.
    ///
    /// # Errors
    /// As [`Cache::put_blob`].
    pub(crate) async fn put_block(
        &self,
        reservation: &Reservation,
        block: &[u8],
        length: Option<u64>,
        bytes: Incoming,
    ) -> Result<(), Error> {
        self.receive(reservation, &Upload(reservation.id).block(block), length, bytes).await.map(|_| ())
    }

    /// Stores the bytes from `start` to `end`, both inclusive. Those of the same range are replaced.
    ///
    /// # Errors
    /// As [`Cache::put_blob`].
    pub(crate) async fn put_chunk(
        &self,
        reservation: &Reservation,
        (start, end): (u64, u64),
        bytes: Incoming,
    ) -> Result<(), Error> {
        let chunk = Upload(reservation.id).chunk(start, end);
        self.receive(reservation, &chunk, Some(end - start + 1), bytes).await.map(|_| ())
    }

    async fn receive(
        &self,
        reservation: &Reservation,
        key: &crate::layout::Key,
        length: Option<u64>,
        bytes: Incoming,
    ) -> Result<u64, Error> {
        let _counted = self.receiving();
        self.renew(reservation).await;
        let writing = self.store.write(key, length, bytes);
        tokio::pin!(writing);
        // A large body on a slow line must not lose its lease on the way.
        loop {
            tokio::select! {
                written = &mut writing => return written,
                () = tokio::time::sleep(RENEWAL) => self.renew(reservation).await,
            }
        }
    }

    /// Puts stored blocks in order.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(crate) async fn put_list(
        self: &std::sync::Arc<Self>,
        reservation: &Reservation,
        blocks: &[Vec<u8>],
    ) -> Result<ListPut, Error> {
        let upload = Upload(reservation.id);
        let staged = list_all(&*self.store, &upload.blocks()).await?;
        let sizes: HashMap<&str, u64> = staged.iter().map(|block| (block.key.as_str(), block.size)).collect();
        let mut pieces = Vec::with_capacity(blocks.len());
        for id in blocks {
            let block = upload.block(id);
            let Some(&size) = sizes.get(block.as_str()) else { return Ok(ListPut::UnknownBlock) };
            pieces.push(Piece { name: block.as_str().to_owned(), size });
        }
        if pieces.iter().map(|piece| piece.size).sum::<u64>() > self.settings.max_entry {
            return Ok(ListPut::TooLarge);
        }
        self.renew(reservation).await;
        self.list(reservation, pieces).await?;
        Ok(ListPut::Accepted)
    }

    /// Notes a list, and starts to assemble it.
    pub(super) async fn list(
        self: &std::sync::Arc<Self>,
        reservation: &Reservation,
        pieces: Vec<Piece>,
    ) -> Result<(), Error> {
        let nonce = self.rng.token();
        self.amounts_to(reservation, &Current::List { nonce: nonce.clone(), pieces: pieces.clone() }).await?;
        // Who commits will wait for it, or start it again.
        let _ = self.assembled(reservation, nonce, pieces, ANSWER).await;
        Ok(())
    }

    async fn amounts_to(&self, reservation: &Reservation, current: &Current) -> Result<(), Error> {
        let _ = self.store.put(&Upload(reservation.id).current(), json(current)?, When::Always).await?;
        Ok(())
    }

    /// The object that a list amounts to. `None`: it is still being assembled.
    pub(super) async fn assembled(
        self: &std::sync::Arc<Self>,
        reservation: &Reservation,
        nonce: String,
        pieces: Vec<Piece>,
        patience: Duration,
    ) -> Option<Result<Stored, String>> {
        let (cache, reservation) = (std::sync::Arc::clone(self), reservation.clone());
        let key = (reservation.id, nonce.clone());
        let work = async move {
            let started = tokio::time::Instant::now();
            let done = cache.assemble(&reservation, &nonce, pieces).await;
            cache.metrics.cache_assembly(started.elapsed());
            done.map_err(|error| {
                tracing::warn!(upload = %reservation.id, %error, "an upload of the cache could not be assembled");
                error.to_string()
            })
        };
        self.assembling.run(&self.tasks, key, patience, work).await
    }

    async fn assemble(&self, reservation: &Reservation, nonce: &str, pieces: Vec<Piece>) -> Result<Stored, Error> {
        let upload = Upload(reservation.id);
        if let Some((done, _)) = self.read::<Assembled>(&upload.assembled()).await?
            && done.nonce == nonce
        {
            return Ok(done.stored);
        }
        let data = reservation.fresh(&self.rng.token())?;
        let own = upload.everything();
        let pieces: Vec<store::Piece> = pieces
            .into_iter()
            .filter(|piece| piece.name.starts_with(&own))
            .map(|piece| store::Piece { key: crate::layout::Key::listed(piece.name), size: piece.size })
            .collect();
        let size = pieces.iter().map(|piece| piece.size).sum();
        self.store.assemble(&data.key(), &pieces).await?;
        let done = Assembled { nonce: nonce.to_owned(), stored: Stored { data, size } };
        let _ = self.store.put(&upload.assembled(), json(&done)?, When::Always).await?;
        Ok(done.stored)
    }
}
