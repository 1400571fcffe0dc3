//! The hand-over: the document an agent reads to become a runner.
//!
//! Wire names are frozen (`jit_token` is, for historic reasons, the *registration* token). Readers ignore unknown
//! fields; new fields are optional and left out when empty.

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::clock::Timestamp;

#[cfg(test)]
mod tests;

/// A credential on its way to the agent. Written only to the hand-over store; never printed.
#[derive(Clone, Default)]
pub struct Credential(SecretString);

impl Credential {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(SecretString::from(secret.into()))
    }
    /// The secret itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.expose().is_empty()
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_empty() { "<none>" } else { "<redacted>" })
    }
}

impl PartialEq for Credential {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Serialize for Credential {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for Credential {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Self::new(Option::<String>::deserialize(d)?.unwrap_or_default()))
    }
}

/// Go writes an empty list as `null`.
fn null_is_empty<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// The document. Serialises to the wire form of the combined layout.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HandOver {
    /// Owner part of `repo`.
    pub org: String,
    /// `owner/name`.
    pub repo: String,
    /// Workflow run, decimal.
    pub run_id: String,
    /// Registration token (historic name). Always written, even empty.
    pub jit_token: Credential,
    /// Just-in-time runner configuration, base64. Supersedes `jit_token`.
    #[serde(skip_serializing_if = "Credential::is_empty")]
    pub jit_config: Credential,
    /// The labels the runner is registered with.
    #[serde(deserialize_with = "null_is_empty")]
    pub labels: Vec<String>,
    /// Runner group (registration-token path).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub runner_group: String,
    /// The exact runner name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub runner_name: String,
    /// The job the runner was minted for. Informative: GitHub may give it another one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub job_id: String,
    /// Actions cache credential.
    #[serde(skip_serializing_if = "Credential::is_empty")]
    pub cache_token: Credential,
    /// Actions cache base URL.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cache_url: String,
    /// Where reports go.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub termination_queue_url: String,
    /// Sent back as `token` of every report.
    #[serde(skip_serializing_if = "Credential::is_empty")]
    pub telemetry_token: Credential,
    /// Always false: runners are registered with the repository.
    #[serde(skip_serializing_if = "is_false")]
    pub is_org: bool,
    /// When it was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// The machine it is meant for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub instance_id: String,
    /// This assignment.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub dispatch_id: String,
    /// Web base for registration (GitHub Enterprise Server).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub server_url: String,
    /// Runtime ceiling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_runtime_minutes: Option<u32>,
    /// The agent exits when no job arrived this long after the listener came up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_exit_seconds: Option<u32>,
    /// Layer cache.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub buildkit_cache_bucket: String,
    /// Layer cache.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub buildkit_cache_region: String,
    /// Layer cache.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub buildkit_cache_prefix: String,
    /// Log upload.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub runner_logs_bucket: String,
    /// Log upload.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub runner_logs_prefix: String,
}
