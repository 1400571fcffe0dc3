//! Who may save a key.

use std::time::Duration;

use domain::clock::after;
use tokio::time::Instant;

use super::{Cache, json, lock, patiently};
use crate::layout::{Entry, Lease, Reservation, Upload, UploadId};
use crate::store::{Error, Outcome, When};
use crate::token::Caller;

/// A reserver that is silent for so long may be overtaken.
pub(super) const LEASE: Duration = Duration::from_secs(600);
/// How often a lease is renewed while bytes arrive.
pub(super) const RENEWAL: Duration = Duration::from_secs(60);
/// Reservations of one job (or of a repository whose jobs are unknown) per minute.
const PER_MINUTE: u32 = 600;
/// Conditional writes tried before somebody else's is believed to have won.
const ATTEMPTS: usize = 4;

/// What became of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserved {
    /// It is the caller's to upload.
    Yes(UploadId),
    /// The entry exists, or somebody else is saving it.
    Exists,
    /// The caller may not write anywhere.
    Denied,
    /// It would be larger than an entry may be.
    TooLarge,
    /// Too many of them lately.
    TooMany,
}

impl Cache {
    /// Reserves a key for the caller. The key and the version were checked; `size` is what the client announced.
    ///
    /// # Errors
    /// When the store does not answer, after at most three seconds.
    pub async fn reserve(&self, caller: &Caller, key: &str, version: &str, size: u64) -> Result<Reserved, Error> {
        let Some(scope) = &caller.scopes.write else { return Ok(Reserved::Denied) };
        if size > self.settings.max_entry {
            return Ok(Reserved::TooLarge);
        }
        if !self.may_reserve(caller) {
            return Ok(Reserved::TooMany);
        }
        let entry = Entry { repo: &caller.repo, scope, version, key };
        patiently(self.take(caller, entry)).await
    }

    async fn take(&self, caller: &Caller, entry: Entry<'_>) -> Result<Reserved, Error> {
        let place = entry.place();
        for _ in 0..ATTEMPTS {
            if self.store.head(&place.manifest()).await?.is_some() {
                return Ok(Reserved::Exists);
            }
            let (now, held) = (self.now(), self.read::<Lease>(&place.lease()).await?);
            let when = match &held {
                None => When::Absent,
                Some((lease, object)) if caller.is(lease.owner_sub.as_deref()) || lease.expires_at <= now => {
                    When::Same(object.tag.clone())
                }
                Some(_) => return Ok(Reserved::Exists),
            };
            let reservation = Reservation {
                id: UploadId::random(self.rng.next_u64()),
                repo: entry.repo.to_string(),
                scope: entry.scope.to_owned(),
                version: entry.version.to_owned(),
                key: entry.key.to_owned(),
                sub: caller.job.clone(),
                created_at: now,
                committed: None,
            };
            // The reservation first: a lease without one would keep everybody out.
            let upload = Upload(reservation.id);
            if self.store.put(&upload.reservation(), json(&reservation)?, When::Absent).await? == Outcome::Lost {
                continue;
            }
            let lease =
                Lease { upload_id: reservation.id, owner_sub: caller.job.clone(), expires_at: after(now, LEASE) };
            match self.store.put(&place.lease(), json(&lease)?, when).await? {
                Outcome::Done => {
                    // The job's earlier upload is void from now on.
                    if let Some((old, _)) = held.filter(|(old, _)| caller.is(old.owner_sub.as_deref())) {
                        self.store.delete(&Upload(old.upload_id).reservation()).await?;
                    }
                    return Ok(Reserved::Yes(reservation.id));
                }
                Outcome::Lost => self.store.delete(&upload.reservation()).await?,
            }
        }
        Ok(Reserved::Exists)
    }

    fn may_reserve(&self, caller: &Caller) -> bool {
        const WINDOW: Duration = Duration::from_secs(60);
        let who = format!("{}\n{}", caller.repo, caller.job.as_deref().unwrap_or_default());
        let mut reserving = lock(&self.reserving);
        let (since, count) = reserving.get_or_insert_mut(who, || (Instant::now(), 0));
        if since.elapsed() >= WINDOW {
            (*since, *count) = (Instant::now(), 0);
        }
        *count += 1;
        *count <= PER_MINUTE
    }

    /// Keeps others away while bytes arrive. Failing is no reason to stop: the entry has its own condition.
    pub(super) async fn renew(&self, reservation: &Reservation) {
        {
            let mut renewed = lock(&self.renewed);
            let last = renewed.get_or_insert_mut(reservation.id, Instant::now);
            if last.elapsed() < RENEWAL {
                return;
            }
            *last = Instant::now();
        }
        let renewed = async {
            let Some(repo) = crate::scope::Repository::stored(&reservation.repo) else { return Ok(()) };
            let lease = reservation.entry(&repo).place().lease();
            if let Some((held, object)) = self.read::<Lease>(&lease).await?
                && held.upload_id == reservation.id
            {
                let until = Lease { expires_at: after(self.now(), LEASE), ..held };
                let _ = self.store.put(&lease, json(&until)?, When::Same(object.tag)).await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = patiently(renewed).await {
            tracing::warn!(upload = %reservation.id, %error, "a lease of the cache could not be renewed");
        }
    }
}
