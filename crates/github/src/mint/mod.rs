//! Minting: a runner's name, its credential, and the hand-over that carries it.
//!
//! Wanted: every registration that can exist at GitHub has a name from which its machine can be read back, so that a
//! mint whose answer was lost is found and swept. Names tried and left behind are returned to the caller, in success
//! and in failure, for the runner record.
//!
//! Races survived: the answer to a mint is lost (the next try uses another name; the first registration is swept); a
//! crash between mint and hand-over (the next attempt finds its name taken and moves on); a name taken by a runner
//! that may be online (it is never deleted here).

mod document;
mod name;
#[cfg(test)]
mod tests;

use std::time::Duration;

use domain::handover::Credential;
use domain::ids::{Repo, RunnerId};

use crate::client::{Client, Error, JitRequest};

pub use self::document::{Assignment, Settings, hand_over};
pub use self::name::{Naming, runner_key_candidates, runner_name};

/// Names tried in one call.
const TRIES: usize = 3;

/// How a machine becomes a runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Registration {
    /// By a just-in-time configuration.
    #[default]
    Jit,
    /// By a registration token, for agents that know nothing else.
    Token,
}

/// What to mint.
#[derive(Debug, Clone, Copy)]
pub struct MintRequest<'a> {
    /// Where the runner is registered.
    pub repo: &'a Repo,
    /// What it is called; the first name, unless that was left behind before.
    pub naming: Naming<'a>,
    /// Names that earlier mints for the same assignment left behind. They are not tried again.
    pub abandoned: &'a [String],
    /// The labels it has, all of them.
    pub labels: &'a [String],
    /// Its runner group's name; empty for the default group.
    pub group: &'a str,
    /// The credential wanted.
    pub registration: Registration,
}

/// The credential of a runner-to-be.
#[derive(Debug, Clone, PartialEq)]
pub enum Minted {
    /// Registered already; the listener only has to connect.
    Jit {
        /// The registration.
        runner_id: RunnerId,
        /// The configuration.
        config: Credential,
    },
    /// The machine registers itself, under the name given.
    Token(Credential),
}

/// A successful mint.
#[derive(Debug, Clone, PartialEq)]
pub struct Mint {
    /// The name the runner has or is to take.
    pub name: String,
    /// Its credential.
    pub credential: Minted,
    /// Names this call left behind: to be added to the runner record.
    pub abandoned: Vec<String>,
}

impl Mint {
    /// The registration, if there is one yet.
    pub fn runner_id(&self) -> Option<RunnerId> {
        match &self.credential {
            Minted::Jit { runner_id, .. } => Some(*runner_id),
            Minted::Token(_) => None,
        }
    }
}

/// Why no credential could be minted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MintFailure {
    /// GitHub's answer to the last try.
    #[error(transparent)]
    GitHub(#[from] Error),
    /// A machine that registers itself separates labels with commas.
    #[error("label {0:?} contains a comma and cannot be registered with a token")]
    Comma(String),
}

/// A failed mint. The registrations of the abandoned names may exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no runner credential: {cause}")]
pub struct MintError {
    /// Why.
    #[source]
    pub cause: MintFailure,
    /// Names this call left behind: to be added to the runner record.
    pub abandoned: Vec<String>,
}

/// Mints a credential, moving on to the next name when one is taken or its fate is unknown.
///
/// # Errors
/// A [`MintError`] with the last cause. `Forbidden`, `NotFound` and `Unprocessable` end it at once.
pub async fn mint(client: &Client, request: &MintRequest<'_>) -> Result<Mint, MintError> {
    match request.registration {
        Registration::Jit => mint_jit(client, request).await,
        Registration::Token => mint_token(client, request).await,
    }
}

async fn mint_jit(client: &Client, request: &MintRequest<'_>) -> Result<Mint, MintError> {
    let group_id = client.runner_group_id(request.repo, request.group).await;
    let mut abandoned = Vec::new();
    let mut waits = 0;
    let mut names = names(request);
    loop {
        let name = names.next().unwrap_or_default();
        let jit = JitRequest { name: &name, group_id, labels: request.labels };
        let error = match client.jit_config(request.repo, &jit).await {
            Ok(jit) => {
                let credential = Minted::Jit { runner_id: jit.runner_id, config: jit.encoded };
                return Ok(Mint { name, credential, abandoned });
            }
            Err(error) => error,
        };
        let taken = matches!(error, Error::Conflict(_));
        if !taken && !error.is_ambiguous() {
            return Err(MintError { cause: error.into(), abandoned });
        }
        tracing::warn!(repo = %request.repo, runner_name = name, %error, "runner name abandoned");
        abandoned.push(name);
        if abandoned.len() >= TRIES {
            return Err(MintError { cause: error.into(), abandoned });
        }
        if !taken {
            client.back_off(waits, Duration::ZERO).await;
            waits += 1;
        }
    }
}

async fn mint_token(client: &Client, request: &MintRequest<'_>) -> Result<Mint, MintError> {
    let failed = |cause| MintError { cause, abandoned: Vec::new() };
    if let Some(label) = request.labels.iter().find(|l| l.contains(',')) {
        return Err(failed(MintFailure::Comma(label.clone())));
    }
    let token = client.registration_token(request.repo).await.map_err(|e| failed(e.into()))?;
    let name = names(request).next().unwrap_or_default();
    Ok(Mint { name, credential: Minted::Token(token.token), abandoned: Vec::new() })
}

/// The names of an assignment in order, without those left behind. Endless.
fn names<'a>(request: &'a MintRequest<'_>) -> impl Iterator<Item = String> + 'a {
    (0..).map(|n| runner_name(&request.naming, n)).filter(|name| !request.abandoned.contains(name))
}
