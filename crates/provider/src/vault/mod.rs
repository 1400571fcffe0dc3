//! Hand-overs in HashiCorp Vault's key-value engine, version 1 or 2, one secret per machine.
//!
//! Desired: a machine finds a whole hand-over or none, and nothing of it outlives a delete; a program that runs for
//! months never loses its access for good; Vault that is away, or refuses, is not flooded with logins; no token, no
//! document and no word of Vault, which may quote them, is in an error or a log line.
//!
//! Races survived:
//!
//! * *A token that ends while it is used.* A request that is refused is sent once more with a new one. Many that are
//!   refused at once log in once: whoever comes second finds the new token.
//! * *A version that was found out with a token that had ended.* It is found out again with the new one.
//! * *A caller that is dropped in the middle of a login.* Nothing is remembered of it; the next one begins anew.
//! * *An answer that is lost.* Every request says the same when it is repeated.
//!
//! Facts: "KV secrets engine version 1 (API)", "KV secrets engine version 2 (API)", "AWS auth method (API)", "JWT/OIDC
//! auth method (API)", "AppRole auth method (API)" and "Token auth method (API)" of Vault's documentation.

mod backoff;
mod client;
mod detect;
mod http;
mod login;
#[cfg(feature = "aws")]
mod sdk;

use std::sync::Arc;

use async_trait::async_trait;
use domain::clock::Rng;
use domain::handover::HandOver as Document;
use domain::ids::RunnerKey;
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::handover::{Error, HandOver};
use client::Client;
use http::{Answer, Http, Request};

pub use detect::Version;
pub use login::{CALLER_IDENTITY, Identity, Login, Unsigned};
#[cfg(feature = "aws")]
pub use sdk::SdkIdentity;

#[cfg(test)]
#[allow(dead_code, reason = "shared with the agent's tests")]
mod double;
#[cfg(test)]
mod tests;

/// Where Vault is, and how to get in.
pub struct Settings {
    /// Its address, such as `https://vault.example:8200`.
    pub address: String,
    /// The namespace, in editions that have some.
    pub namespace: Option<String>,
    /// Mount of the key-value engine.
    pub mount: String,
    /// Path below the mount that hand-overs are under.
    pub base: String,
    /// Version of the engine; `None`: find out.
    pub version: Option<Version>,
    /// How to log in.
    pub login: Login,
}

/// Is told every secret before it is used, so that it can be kept out of the log.
pub type Learnt = Arc<dyn Fn(&str) + Send + Sync>;

/// The Vault back end of the hand-over port.
///
/// A request ends within 30 s and is made four times at most, within a minute; callers may wait for as long again for a
/// login. A login or a detection that fails is [`Error::Transient`], and so is every call until the next one is due, one
/// second to one minute later. A refusal that a new token does not change is [`Error::Deployment`].
pub struct VaultHandOver {
    client: Client,
    mount: String,
    base: String,
}

impl VaultHandOver {
    /// A store. Nothing is sent before it is used.
    ///
    /// # Errors
    /// [`Error::Deployment`] when the address is no URL, a name cannot be a header, or the TLS library finds no usable
    /// root certificates.
    pub fn new(settings: Settings, rng: Arc<dyn Rng>, learnt: Learnt) -> Result<Self, Error> {
        let Settings { address, namespace, mount, base, version, login } = settings;
        let http = Http::new(&address, namespace.as_deref(), Arc::clone(&rng))?;
        let (mount, base) = (trimmed(&mount), trimmed(&base));
        let probes = client::Probes {
            config: Request::new(Method::GET, [mount.as_str(), "config"]),
            first: Request::list([mount.as_str(), &base]),
            second: Request::list([mount.as_str(), "metadata", &base]),
        };
        Ok(Self { client: Client::new(http, login, version, probes, rng, learnt), mount, base })
    }

    /// The machine's path below `kind` of the engine. Only keys that are plain names have one, so that none can address
    /// another's.
    fn path<'a>(&'a self, version: Version, kind: &'a str, key: &'a RunnerKey) -> Vec<&'a str> {
        match version {
            Version::V1 => vec![&self.mount, &self.base, key.as_str()],
            Version::V2 => vec![&self.mount, kind, &self.base, key.as_str()],
        }
    }
}

fn trimmed(path: &str) -> String {
    path.trim_matches('/').to_owned()
}

fn plain(key: &RunnerKey) -> Result<(), Error> {
    let name = key.as_str();
    let plain = (1..=128).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if plain { Ok(()) } else { Err(Error::Invalid("the machine's key is not a plain name".to_owned())) }
}

/// What Vault wraps everything in, and version 2 of the engine once more.
#[derive(Serialize, Deserialize)]
struct Wrapped<T> {
    data: T,
}

#[derive(Deserialize)]
struct Keys {
    keys: Vec<String>,
}

#[async_trait]
impl HandOver for VaultHandOver {
    async fn put(&self, key: &RunnerKey, document: &Document) -> Result<(), Error> {
        plain(key)?;
        let (bare, wrapped) = (json(document)?, json(&Wrapped { data: document })?);
        let request = |version| {
            let body = if version == Version::V1 { &bare } else { &wrapped };
            Request::new(Method::POST, self.path(version, "data", key)).with_body(body.clone())
        };
        match self.client.call(request).await?.0 {
            Answer { status: 200 | 204, .. } => Ok(()),
            answer => Err(unexpected("write", &answer)),
        }
    }

    async fn get(&self, key: &RunnerKey) -> Result<Option<Document>, Error> {
        plain(key)?;
        let request = |version| Request::new(Method::GET, self.path(version, "data", key));
        match self.client.call(request).await? {
            (Answer { status: 404, .. }, _) => Ok(None),
            (Answer { status: 200, body }, Version::V1) => Ok(Some(read::<Wrapped<Document>>(&body)?.data)),
            // Deleted, but not destroyed: only its metadata are left.
            (Answer { status: 200, body }, Version::V2) => {
                Ok(read::<Wrapped<Wrapped<Option<Document>>>>(&body)?.data.data)
            }
            (answer, _) => Err(unexpected("read", &answer)),
        }
    }

    async fn delete(&self, key: &RunnerKey) -> Result<(), Error> {
        plain(key)?;
        // Of the metadata, because deleting the data would leave every older version where it is.
        let request = |version| Request::new(Method::DELETE, self.path(version, "metadata", key));
        match self.client.call(request).await?.0 {
            Answer { status: 200 | 204 | 404, .. } => Ok(()),
            answer => Err(unexpected("delete", &answer)),
        }
    }

    async fn list(&self) -> Result<Vec<RunnerKey>, Error> {
        let request = |version| match version {
            Version::V1 => Request::list([self.mount.as_str(), &self.base]),
            Version::V2 => Request::list([self.mount.as_str(), "metadata", &self.base]),
        };
        match self.client.call(request).await?.0 {
            Answer { status: 404, .. } => Ok(Vec::new()),
            Answer { status: 200, body } => {
                let keys = read::<Wrapped<Keys>>(&body)?.data.keys;
                // A slash at the end is a folder: not a hand-over.
                Ok(keys.into_iter().filter(|key| !key.ends_with('/')).map(RunnerKey::from).collect())
            }
            answer => Err(unexpected("list", &answer)),
        }
    }
}

fn unexpected(what: &str, answer: &Answer) -> Error {
    Error::Deployment(format!("Vault answers a {what} with status {}", answer.status))
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| unreadable(&error))
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|error| unreadable(&error))
}

/// Where the reader stumbled. Not the error's own text: it can quote a piece of the document, which holds secrets.
fn unreadable(error: &serde_json::Error) -> Error {
    Error::Invalid(format!("line {}, column {}", error.line(), error.column()))
}
