//! Typed names. A function that takes two of them in the wrong order does not compile.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// A value that does not have the form its type requires.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {rule}")]
pub struct InvalidId {
    /// What was being read.
    pub what: &'static str,
    /// The rule it broke.
    pub rule: &'static str,
}

macro_rules! numeric_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "u64", into = "u64")]
        pub struct $name(u64);

        impl $name {
            /// The id, if it is positive and fits the signed 64 bits GitHub uses.
            pub const fn new(value: u64) -> Option<Self> {
                if value == 0 || value > i64::MAX as u64 { None } else { Some(Self(value)) }
            }
            /// The number.
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl TryFrom<u64> for $name {
            type Error = InvalidId;
            fn try_from(value: u64) -> Result<Self, InvalidId> {
                Self::new(value).ok_or(InvalidId { what: $what, rule: "a positive 64-bit integer" })
            }
        }

        impl From<$name> for u64 {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(s: &str) -> Result<Self, InvalidId> {
                s.parse().ok().and_then(Self::new).ok_or(InvalidId { what: $what, rule: "a positive 64-bit integer" })
            }
        }
    };
}

numeric_id!(
    /// GitHub's workflow job id: the identity of a job. A re-run gets a new one.
    JobId, "job id"
);
numeric_id!(
    /// GitHub's workflow run id.
    RunId, "run id"
);
numeric_id!(
    /// GitHub's numeric id of a runner registration. Not the machine: that is [`RunnerKey`].
    RunnerId, "runner id"
);
numeric_id!(
    /// GitHub's id of an App installation.
    InstallationId, "installation id"
);

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(SmolStr);

        impl $name {
            /// Wraps the text as it is.
            pub fn new(text: impl Into<SmolStr>) -> Self {
                Self(text.into())
            }
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }
    };
}

text_id!(
    /// The provider's id of the machine: EC2 instance id or pod name. Stored as `instance_id` in every record.
    RunnerKey
);
text_id!(
    /// The fencing token of one dispatch attempt: 128 random bits, 32 hex digits.
    LeaseToken
);
text_id!(
    /// Names one launch request: EC2 client token and instance tag (`runs-fleet:launch-id`).
    LaunchId
);
text_id!(
    /// Names one assignment of a machine to a job; in the hand-over and on the runner record.
    DispatchId
);
text_id!(
    /// Jobs with equal class keys are interchangeable to GitHub: same repository, same label set.
    ClassKey
);

/// A repository's full name, `owner/name`, both over `[A-Za-z0-9._-]`: safe in URLs and paths.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Repo {
    full: SmolStr,
    slash: usize,
}

impl Repo {
    /// `owner/name`.
    pub fn as_str(&self) -> &str {
        &self.full
    }
    /// The part before the slash.
    pub fn owner(&self) -> &str {
        &self.full[..self.slash]
    }
    /// The part behind the slash.
    pub fn name(&self) -> &str {
        &self.full[self.slash + 1..]
    }
}

impl FromStr for Repo {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        let part = |p: &str| {
            !p.is_empty()
                && p != "."
                && p != ".."
                && p.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        match s.split_once('/') {
            Some((owner, name)) if part(owner) && part(name) => Ok(Self { full: s.into(), slash: owner.len() }),
            _ => Err(InvalidId { what: "repository", rule: "owner/name over letters, digits, '.', '_' and '-'" }),
        }
    }
}

impl TryFrom<String> for Repo {
    type Error = InvalidId;
    fn try_from(s: String) -> Result<Self, InvalidId> {
        s.parse()
    }
}

impl From<Repo> for String {
    fn from(repo: Repo) -> Self {
        repo.full.into()
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

/// A warm pool's name: `^[a-zA-Z0-9][a-zA-Z0-9_-]{0,62}$`, so it can never address a reserved row (`__…`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PoolName(SmolStr);

impl PoolName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PoolName {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        let valid = (1..=63).contains(&s.len())
            && s.starts_with(|c: char| c.is_ascii_alphanumeric())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        if valid {
            Ok(Self(s.into()))
        } else {
            Err(InvalidId {
                what: "pool name",
                rule: "1 to 63 letters, digits, '_' or '-', not starting with a symbol",
            })
        }
    }
}

impl TryFrom<String> for PoolName {
    type Error = InvalidId;
    fn try_from(s: String) -> Result<Self, InvalidId> {
        s.parse()
    }
}

impl From<PoolName> for String {
    fn from(name: PoolName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
