//! Which version of the key-value engine is mounted. Pure.
//!
//! The engine's configuration tells it best, but few policies let anybody read that. Then the two places tell it where a
//! list would be: the policy allows, as a rule, the one that exists.

use serde::Deserialize;

/// Version of the key-value engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One value per path.
    V1,
    /// Values have versions, and metadata beside them.
    V2,
}

impl Version {
    /// The version of this number; `None` where it is to be found out.
    pub const fn numbered(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::V1),
            2 => Some(Self::V2),
            _ => None,
        }
    }
}

/// What the configuration of the engine says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ByConfig {
    /// The version.
    Is(Version),
    /// It may not be read: the lists have to be asked.
    Hidden,
    /// Nothing that could be understood.
    Unclear,
}

#[derive(Deserialize)]
struct Body {
    data: serde_json::Map<String, serde_json::Value>,
}

/// By the answer to a read of `{mount}/config`. Version 1 has no configuration: there it is a secret like any other.
pub(super) fn by_config(status: u16, body: &[u8]) -> ByConfig {
    const SECOND: [&str; 3] = ["max_versions", "cas_required", "delete_version_after"];
    match status {
        200 => {
            let fields = serde_json::from_slice(body).map(|body: Body| body.data).unwrap_or_default();
            let second = SECOND.iter().any(|name| fields.contains_key(*name));
            ByConfig::Is(if second { Version::V2 } else { Version::V1 })
        }
        404 => ByConfig::Is(Version::V1),
        403 => ByConfig::Hidden,
        _ => ByConfig::Unclear,
    }
}

/// By the statuses of a list where version 1 has it and of one where version 2 has it; `None` where nothing can be
/// concluded.
pub(super) fn by_lists(first: Option<u16>, second: Option<u16>) -> Option<Version> {
    match (first?, second?) {
        (200 | 403 | 404, 200) | (404, 403) => Some(Version::V2),
        (200 | 403 | 404, 403 | 404) => Some(Version::V1),
        _ => None,
    }
}
