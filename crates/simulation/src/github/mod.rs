//! A GitHub for one machine: repositories, workflow runs and jobs, runner registrations, webhooks.

pub mod http;
#[cfg(feature = "world")]
pub mod line;
pub mod model;

use ::http::HeaderMap;
use ::http::header::AUTHORIZATION;
use domain::ids::InstallationId;

/// A token of an installation; it says which, as GitHub can tell of its own.
fn installation_token(installation: InstallationId, random: &str) -> String {
    format!("ghs_{installation}_{random}")
}

/// The installation whose token a request carries.
fn installation_speaking(headers: &HeaderMap) -> Option<InstallationId> {
    let (_, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    token.strip_prefix("ghs_")?.split_once('_')?.0.parse().ok()
}
