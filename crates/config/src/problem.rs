//! What is wrong with a configuration.

use serde::{Serialize, Serializer};

/// The kind of a problem: errors prevent the start, warnings do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// Two variables contradict each other.
    Conflict,
    /// Wrong type or format.
    Invalid,
    /// Outside its bounds.
    Range,
    /// A required value is missing.
    Required,
    /// Both forms of a secret are set, or its file cannot be used.
    SecretSource,
    /// A reference to a secret could not be resolved.
    Unresolved,
    /// Two variables overlap and one of them wins.
    WarnConflict,
    /// Works, but costs money that need not be spent.
    WarnCost,
    /// A value was replaced by the default, or a default was used that is often wrong.
    WarnDefaulted,
    /// A variable that no longer does anything.
    WarnDeprecated,
    /// A value that does not look like what it should be.
    WarnFormat,
    /// Something stays off or unseen for want of a value.
    WarnPartial,
    /// A variable nobody reads.
    WarnUnknown,
    /// Works, but nobody should run it so.
    WarnUnsafe,
    /// A secret that can be guessed.
    WarnWeakSecret,
}

impl Code {
    /// The stable word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Conflict => "E_CONFLICT",
            Self::Invalid => "E_INVALID",
            Self::Range => "E_RANGE",
            Self::Required => "E_REQUIRED",
            Self::SecretSource => "E_SECRET_SOURCE",
            Self::Unresolved => "E_UNRESOLVED",
            Self::WarnConflict => "W_CONFLICT",
            Self::WarnCost => "W_COST",
            Self::WarnDefaulted => "W_DEFAULTED",
            Self::WarnDeprecated => "W_DEPRECATED",
            Self::WarnFormat => "W_FORMAT",
            Self::WarnPartial => "W_PARTIAL",
            Self::WarnUnknown => "W_UNKNOWN",
            Self::WarnUnsafe => "W_UNSAFE",
            Self::WarnWeakSecret => "W_WEAK_SECRET",
        }
    }

    /// Whether it prevents the start.
    pub const fn is_error(self) -> bool {
        matches!(
            self,
            Self::Conflict | Self::Invalid | Self::Range | Self::Required | Self::SecretSource | Self::Unresolved
        )
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// One problem, with the variables it is about. Never holds a secret or a part of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Its kind.
    pub code: Code,
    /// The variables concerned, the one to look at first.
    pub variables: Vec<String>,
    /// The rule, and for values that are not secret the offending value, shortened.
    pub message: String,
}

impl Problem {
    /// A problem with these variables.
    pub fn new(code: Code, variables: &[&str], message: impl Into<String>) -> Self {
        Self { code, variables: variables.iter().map(|v| (*v).to_owned()).collect(), message: message.into() }
    }

    /// Problems are listed by variable, then by code.
    pub(crate) fn order(&self) -> (&[String], &'static str, &str) {
        (&self.variables, self.code.as_str(), &self.message)
    }
}
