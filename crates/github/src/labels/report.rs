//! What can be wrong with a label set, and how it is told.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Serialize, Serializer};

use super::LabelSpec;

/// Something in the label that was ignored. Ordered as its codes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Warning {
    /// A switch has a value that is neither on nor off.
    AmbiguousBool,
    /// A key is repeated; the last one counts.
    DuplicateKey,
    /// A key has no value and counts as absent.
    EmptyValue,
    /// A segment is no `key=value`.
    IgnoredSegment,
    /// The pool's name is not allowed; the job starts cold.
    InvalidPool,
    /// A second marker in the set is not read.
    MultipleMarkers,
    /// The architecture is unknown; either will do.
    UnknownArch,
    /// The environment is unknown and left out.
    UnknownEnv,
    /// Nothing reads this key.
    UnknownKey,
    /// No fixed spec has exactly this name.
    UnknownRunnerSpec,
}

impl Warning {
    /// The code used in logs, records and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AmbiguousBool => "ambiguous_bool",
            Self::DuplicateKey => "duplicate_key",
            Self::EmptyValue => "empty_value",
            Self::IgnoredSegment => "ignored_segment",
            Self::InvalidPool => "invalid_pool",
            Self::MultipleMarkers => "multiple_markers",
            Self::UnknownArch => "unknown_arch",
            Self::UnknownEnv => "unknown_env",
            Self::UnknownKey => "unknown_key",
            Self::UnknownRunnerSpec => "unknown_runner_spec",
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Warning {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Why a label set is not served. When several apply, the one declared first is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Category {
    /// No label is a marker and no alias matches: not our job.
    NoMarker,
    /// A label of the set is longer than 256 characters.
    LabelTooLong,
    /// `cpu` is no number or range, or its bounds are crossed.
    InvalidCpu,
    /// `ram` is no number or range, or its bounds are crossed.
    InvalidRam,
    /// `gen` is not a number from 1 to 10.
    InvalidGen,
    /// `disk` is not a number of GiB from 1 to 16384.
    InvalidDisk,
    /// `backend` is neither `ec2` nor `k8s`.
    InvalidBackend,
    /// A Windows runner together with flexible keys or arm64.
    OsConflict,
    /// `arch` contradicts the architecture that `runner` names.
    ArchConflict,
    /// No instance type is within the bounds.
    NoMatchingInstance,
}

impl Category {
    /// The code used in logs, metrics and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoMarker => "no_marker",
            Self::LabelTooLong => "label_too_long",
            Self::InvalidCpu => "invalid_cpu",
            Self::InvalidRam => "invalid_ram",
            Self::InvalidGen => "invalid_gen",
            Self::InvalidDisk => "invalid_disk",
            Self::InvalidBackend => "invalid_backend",
            Self::OsConflict => "os_conflict",
            Self::ArchConflict => "arch_conflict",
            Self::NoMatchingInstance => "no_matching_instance",
        }
    }

    /// One sentence for the person who wrote the label.
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::NoMarker => "no label is ours: expected runs-fleet, runs-fleet/… or a configured alias",
            Self::LabelTooLong => "a label is longer than 256 characters",
            Self::InvalidCpu => "cpu must be a number of vCPUs or a range such as 4+16, smaller bound first",
            Self::InvalidRam => "ram must be a number of GiB or a range such as 8+32, smaller bound first",
            Self::InvalidGen => "gen must be a number from 1 to 10",
            Self::InvalidDisk => "disk must be a number of GiB from 1 to 16384",
            Self::InvalidBackend => "backend must be ec2 or k8s",
            Self::OsConflict => "a Windows runner comes in fixed sizes and on amd64 only",
            Self::ArchConflict => "arch contradicts the architecture named in runner",
            Self::NoMatchingInstance => "no instance type satisfies cpu, ram, family, gen and arch together",
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A label set that is not served, with what else was noticed while reading it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{category}: {}", category.explanation())]
pub struct LabelError {
    /// Why.
    pub category: Category,
    /// What was ignored before the set was given up.
    pub warnings: BTreeSet<Warning>,
}

impl LabelError {
    /// Whether the job was meant for us, so that its rejection must be shown to the operator.
    pub fn is_ours(&self) -> bool {
        self.category != Category::NoMarker
    }
}

/// A result of [`super::parse`] as one line of JSON: the fields of [`LabelSpec`], or
/// `{"error": category, "warnings": []}`. A rejected set has no effective spec to warn about, so its warnings are
/// left to the log.
pub fn to_json(result: &Result<LabelSpec, LabelError>) -> String {
    match result {
        #[allow(clippy::expect_used, reason = "string keys and finite numbers: nothing in it can fail to serialize")]
        Ok(spec) => serde_json::to_string(spec).expect("a label spec is plain data"),
        Err(error) => format!(r#"{{"error":"{}","warnings":[]}}"#, error.category),
    }
}
