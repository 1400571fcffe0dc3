//! Which installation speaks for a repository, and its token.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::clock::{Timestamp, after, since};
use domain::ids::{InstallationId, Repo};
use lru::LruCache;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::Client;
use super::call::Call;
use super::error::{Context, Error};
use super::flight::Flight;
use super::operation::Operation;
use super::send::json;

/// How long a remembered installation id counts.
const KNOWN_FOR: Duration = Duration::from_secs(24 * 3600);
/// A token with less than this left is replaced.
const MARGIN: Duration = Duration::from_secs(5 * 60);
/// Life of a token whose end GitHub did not state.
const ASSUMED_LIFE: Duration = Duration::from_secs(50 * 60);
#[allow(clippy::unwrap_used, reason = "not zero")]
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

#[derive(Clone)]
struct Known {
    id: InstallationId,
    since: Timestamp,
}

#[derive(Clone)]
pub(super) struct Token {
    pub(super) installation: InstallationId,
    pub(super) secret: SecretString,
    until: Timestamp,
}

type Flights<K, T> = Mutex<LruCache<K, Arc<Flight<T>>>>;

/// What we know of installations: ids by owner, tokens by id.
pub(super) struct Installations {
    owners: Flights<String, Known>,
    tokens: Flights<InstallationId, Token>,
}

impl Installations {
    pub(super) fn new() -> Self {
        Self { owners: Mutex::new(LruCache::new(REMEMBERED)), tokens: Mutex::new(LruCache::new(REMEMBERED)) }
    }

    fn owner(&self, owner: &str) -> Arc<Flight<Known>> {
        flight(&self.owners, owner.to_ascii_lowercase())
    }

    /// Drops a token GitHub refused, unless it was replaced meanwhile.
    pub(super) fn refused(&self, token: &Token) {
        let meant = |t: &Token| t.secret.expose_secret() == token.secret.expose_secret();
        flight(&self.tokens, token.installation).drop_if(meant);
    }
}

fn flight<K: std::hash::Hash + Eq, T>(flights: &Flights<K, T>, key: K) -> Arc<Flight<T>> {
    let mut flights = flights.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(flights.get_or_insert(key, Arc::default))
}

#[derive(Deserialize)]
struct InstallationBody {
    id: InstallationId,
}

#[derive(Deserialize)]
struct TokenBody {
    token: SecretString,
    expires_at: Option<String>,
}

impl Client {
    /// Remembers the installation a webhook named for `owner`, which saves the look-up.
    pub fn remember_installation(&self, owner: &str, id: InstallationId) {
        self.installations.owner(owner).set(Known { id, since: self.clock.now() });
    }

    /// A token that is good for at least five more minutes.
    pub(super) async fn token(&self, repo: &Repo) -> Result<Token, Error> {
        let known = self.installation(repo).await?;
        match self.token_of(known.id).await {
            // The App was installed anew, under another id: what we remembered is void.
            Err(Error::NotFound(_)) => {
                self.installations.owner(repo.owner()).drop_if(|k| k.id == known.id);
                let known = self.installation(repo).await?;
                self.token_of(known.id).await
            }
            other => other,
        }
    }

    async fn installation(&self, repo: &Repo) -> Result<Known, Error> {
        let flight = self.installations.owner(repo.owner());
        let recent = |k: &Known| since(self.clock.now(), k.since) < KNOWN_FOR;
        flight.get(recent, || self.look_up_installation(repo)).await
    }

    async fn look_up_installation(&self, repo: &Repo) -> Result<Known, Error> {
        let owner = repo.owner();
        let ways = [
            Call::new(Operation::RepoInstallation, &[owner, repo.name()]),
            Call::new(Operation::OrgInstallation, &[owner]),
            Call::new(Operation::UserInstallation, &[owner]),
        ];
        let mut missing = None;
        for call in &ways {
            match self.as_app(call, json::<InstallationBody>).await {
                Ok(reply) => return Ok(Known { id: reply.value.id, since: self.clock.now() }),
                Err(error @ Error::NotFound(_)) => missing = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(missing.unwrap_or_else(|| Error::NotFound(Context::ours(Operation::UserInstallation, "no installation"))))
    }

    pub(super) async fn token_of(&self, installation: InstallationId) -> Result<Token, Error> {
        let flight = flight(&self.installations.tokens, installation);
        let fresh = |t: &Token| since(t.until, self.clock.now()) > MARGIN;
        flight
            .get(fresh, || async {
                let call = Call::new(Operation::CreateToken, &[&installation.to_string()]);
                let TokenBody { token, expires_at } = self.as_app(&call, json).await?.value;
                if let Some(metrics) = &self.metrics {
                    metrics.github_token_mints();
                }
                let stated = expires_at.and_then(|at| at.parse().ok());
                let until = stated.unwrap_or_else(|| after(self.clock.now(), ASSUMED_LIFE));
                Ok(Token { installation, secret: token, until })
            })
            .await
    }
}
