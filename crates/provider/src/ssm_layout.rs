//! How a hand-over lies in SSM parameters. Pure: the server writes and the agent reads through the same functions, each
//! with a client of its own.
//!
//! Two layouts. *Combined*: one parameter with the whole document, for documents that carry only a registration token,
//! because agents in old images read nothing else. *Split*: the document without its credentials in one parameter and
//! the credentials in another, compressed, because a just-in-time configuration alone is larger than a standard
//! parameter may be.
//!
//! Properties:
//!
//! * What [`unpack`] returns is what [`pack`] was given, or nothing. Credentials are taken over whole, after every step
//!   has succeeded, so that no half of one is ever paired with a half of another.
//! * A reader that comes between the writes of the two halves finds nothing yet: there is no hand-over without a
//!   credential, and halves of two assignments (a reused machine) do not match.
//! * No input makes a reader allocate without bound.

use std::io::{Read as _, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::handover::{Credential, HandOver};
use domain::ids::RunnerKey;
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// A standard parameter holds at most this many bytes; larger ones are billed ("Managing parameter tiers").
pub const STANDARD_TIER: usize = 4096;

/// A compressed configuration inflates to at most this many bytes.
pub const INFLATED_LIMIT: usize = 1 << 20;

const CONFIG: &str = "/config";
const CREDENTIAL: &str = "/credential";

/// The parameters of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The document, with its credential in the combined layout, without in the split one.
    pub config: String,
    /// The credential of the split layout.
    pub credential: String,
}

/// Where a machine's hand-over lies: `{prefix}/{key}/config` and `{prefix}/{key}/credential`.
pub fn names(prefix: &str, key: &RunnerKey) -> Names {
    let path = format!("{}/{key}", prefix.trim_end_matches('/'));
    Names { config: format!("{path}{CONFIG}"), credential: format!("{path}{CREDENTIAL}") }
}

/// The parameter of the credential that belongs to a document's parameter; `None` when that is not called `…/config`,
/// so that there is no second half.
pub fn credential_name(config: &str) -> Option<String> {
    config.strip_suffix(CONFIG).map(|path| format!("{path}{CREDENTIAL}"))
}

/// The machine that a parameter belongs to; `None` when it is not one of ours.
pub fn key_of(prefix: &str, name: &str) -> Option<RunnerKey> {
    let path = name.strip_prefix(prefix.trim_end_matches('/'))?.strip_prefix('/')?;
    let key = path.strip_suffix(CONFIG).or_else(|| path.strip_suffix(CREDENTIAL))?;
    (!key.is_empty() && !key.contains('/')).then(|| RunnerKey::from(key))
}

/// Tags of both parameters. They identify, they never hold anything secret. The ARN of the instance is what IAM compares
/// with the one of the caller, so that a machine can read its own parameters only.
pub fn tags(document: &HandOver, instance_arn: Option<&str>) -> Vec<(&'static str, String)> {
    let mut tags = vec![("runs-fleet:managed", "true".to_owned())];
    if !document.job_id.is_empty() {
        tags.push(("runs-fleet:job-id", document.job_id.clone()));
    }
    tags.extend(instance_arn.map(|arn| ("runs-fleet:instance-arn", arn.to_owned())));
    tags
}

/// A hand-over as parameter values. Both are secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Packed {
    /// Value of [`Names::config`].
    pub config: String,
    /// Value of [`Names::credential`]; absent in the combined layout.
    pub credential: Option<String>,
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let credential = self.credential.as_ref().map(String::len);
        f.debug_struct("Packed").field("config", &self.config.len()).field("credential", &credential).finish()
    }
}

/// Why parameters are not a hand-over. Never quotes them: they hold secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The document is not JSON of the right shape.
    #[error("the document, line {line}, column {column}")]
    Config {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// The credential is not JSON of the right shape.
    #[error("the credential, line {line}, column {column}")]
    Credential {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// The compressed configuration is not base64.
    #[error("the compressed configuration is not base64")]
    Base64,
    /// The compressed configuration is not a whole gzip stream.
    #[error("the compressed configuration is not whole")]
    Gzip,
    /// The compressed configuration inflates to more than [`INFLATED_LIMIT`].
    #[error("the compressed configuration is too large")]
    TooLarge,
}

/// The credential half.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct CredentialHalf {
    #[serde(skip_serializing_if = "Credential::is_empty")]
    jit_config: Credential,
    #[serde(skip_serializing_if = "Credential::is_empty")]
    jit_token: Credential,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    compressed: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    dispatch_id: String,
}

/// The parameter values of a hand-over: two when it carries a just-in-time configuration, else one.
pub fn pack(document: &HandOver) -> Packed {
    if document.jit_config.is_empty() {
        return Packed { config: text(document), credential: None };
    }
    let shorter = compressed(document.jit_config.expose());
    let half = CredentialHalf {
        compressed: shorter.is_some(),
        jit_config: shorter.map_or_else(|| document.jit_config.clone(), Credential::new),
        jit_token: document.jit_token.clone(),
        dispatch_id: document.dispatch_id.clone(),
    };
    let mut config = serde_json::to_value(document).unwrap_or_default();
    if let Some(fields) = config.as_object_mut() {
        fields.remove("jit_config");
        fields.remove("jit_token");
    }
    Packed { config: text(&config), credential: Some(text(&half)) }
}

/// The hand-over in parameter values; `None` while it is not complete: no credential yet, or halves of two assignments.
/// A credential half supersedes what the document says, also where it says nothing.
pub fn unpack(config: &str, credential: Option<&str>) -> Result<Option<HandOver>, Unreadable> {
    let mut document: HandOver = serde_json::from_str(config)
        .map_err(|error| Unreadable::Config { line: error.line(), column: error.column() })?;
    if let Some(credential) = credential {
        let half: CredentialHalf = serde_json::from_str(credential)
            .map_err(|error| Unreadable::Credential { line: error.line(), column: error.column() })?;
        let jit_config = if half.compressed { inflated(half.jit_config.expose())? } else { half.jit_config };
        let both_named = !half.dispatch_id.is_empty() && !document.dispatch_id.is_empty();
        if both_named && half.dispatch_id != document.dispatch_id {
            return Ok(None);
        }
        document.jit_config = jit_config;
        document.jit_token = half.jit_token;
    }
    let complete = !document.jit_config.is_empty() || !document.jit_token.is_empty();
    Ok(complete.then_some(document))
}

#[allow(clippy::expect_used, reason = "strings, numbers and lists under string keys always have a JSON form")]
fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain data is JSON")
}

/// Base64 of the gzip of what the base64 text stands for, when that is shorter and gives back the same text.
fn compressed(text: &str) -> Option<String> {
    // The decoder takes the canonical form only, so that encoding again restores the text to the letter.
    let bytes = STANDARD.decode(text).ok().filter(|bytes| bytes.len() <= INFLATED_LIMIT)?;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&bytes).ok()?;
    let shorter = STANDARD.encode(encoder.finish().ok()?);
    (shorter.len() < text.len()).then_some(shorter)
}

fn inflated(text: &str) -> Result<Credential, Unreadable> {
    let bytes = STANDARD.decode(text).map_err(|_| Unreadable::Base64)?;
    let mut inflated = Vec::new();
    // One byte more than allowed tells too much from just enough.
    MultiGzDecoder::new(&bytes[..])
        .take(INFLATED_LIMIT as u64 + 1)
        .read_to_end(&mut inflated)
        .map_err(|_| Unreadable::Gzip)?;
    if inflated.len() > INFLATED_LIMIT {
        return Err(Unreadable::TooLarge);
    }
    Ok(Credential::new(STANDARD.encode(inflated)))
}
