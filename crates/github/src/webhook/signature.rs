//! `X-Hub-Signature-256`: HMAC-SHA-256 of the body (GitHub docs, "Validating webhook deliveries").

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

const PREFIX: &str = "sha256=";

/// The webhook secrets. An empty one signs nothing.
#[derive(Debug, Clone)]
pub struct Secrets {
    /// The secret GitHub signs with.
    pub current: SecretString,
    /// The one it signed with before a rotation.
    pub previous: Option<SecretString>,
}

/// Why a signature is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// No `sha256=` and 64 lower-case hex digits: not from GitHub, and never going to be. Reject it.
    #[error("the signature header is missing or malformed")]
    Format,
    /// Another secret, or another body. May be good once the right secret is configured.
    #[error("the signature does not match")]
    Mismatch,
}

/// Checks `header`, the value of `X-Hub-Signature-256`, against the raw body. Takes the same time wherever the first
/// difference is and whichever secret fits.
///
/// # Errors
/// See [`SignatureError`]. Without any secret nothing is good.
pub fn verify(secrets: &Secrets, header: &str, body: &[u8]) -> Result<(), SignatureError> {
    let given = parse(header).ok_or(SignatureError::Format)?;
    let mut good = Choice::from(0);
    for secret in std::iter::once(&secrets.current).chain(&secrets.previous) {
        let secret = secret.expose_secret();
        let matches = digest(secret, body).ct_eq(&given);
        good |= matches & Choice::from(u8::from(!secret.is_empty()));
    }
    if good.into() { Ok(()) } else { Err(SignatureError::Mismatch) }
}

/// The header value GitHub would send for `body`.
pub fn sign(secret: &SecretString, body: &[u8]) -> String {
    format!("{PREFIX}{}", hex::encode(digest(secret.expose_secret(), body)))
}

fn parse(header: &str) -> Option<[u8; 32]> {
    let digits = header.strip_prefix(PREFIX)?;
    if digits.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    let mut bytes = [0; 32];
    hex::decode_to_slice(digits, &mut bytes).ok()?;
    Some(bytes)
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
fn digest(secret: &str, body: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length");
    mac.update(body);
    mac.finalize().into_bytes().into()
}
