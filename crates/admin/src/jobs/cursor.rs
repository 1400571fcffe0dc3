//! Where the next page begins: behind a row, of one filter.
//!
//! Not signed: all a forged one can say is another row to begin at, which its bearer may read anyway.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use db::JobFilter;
use domain::clock::Timestamp;
use domain::ids::JobId;
use sha2::{Digest, Sha256};

use crate::error::ApiError;

/// What a page's neighbours must have in common with it.
pub(super) fn fingerprint(filter: &JobFilter) -> String {
    let JobFilter { states, pool, repo, instance, text, since, until, after: _, limit: _, offset: _ } = filter;
    let digest = Sha256::digest(format!("{states:?}{pool:?}{repo:?}{instance:?}{text:?}{since:?}{until:?}"));
    hex::encode(&digest[..8])
}

/// The cursor of the page behind a row.
pub(super) fn encode((at, id): (Timestamp, JobId), fingerprint: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}.{id}.{fingerprint}", at.as_second()))
}

/// The row, if the cursor is one, and of this filter.
pub(super) fn decode(cursor: &str, expected: &str) -> Result<(Timestamp, JobId), ApiError> {
    let read = || {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        let mut parts = text.splitn(3, '.');
        let at = Timestamp::from_second(parts.next()?.parse().ok()?).ok()?;
        Some((at, parts.next()?.parse().ok()?, parts.next()? == expected))
    };
    match read() {
        None => Err(ApiError::parameter("cursor", "is not one of ours")),
        Some((_, _, false)) => Err(ApiError::cursor_mismatch()),
        Some((at, id, true)) => Ok((at, id)),
    }
}
