//! The App's JSON Web Token: RS256, valid from a minute ago for nine minutes.
//!
//! GitHub judges `iat` and `exp` by its own clock and refuses more than ten minutes. A machine whose clock is off is
//! told so by a 401; the `Date` header of that answer corrects it from then on.

use std::sync::{Mutex, PoisonError};

use domain::clock::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::error::ConfigError;

const BACKDATED: SignedDuration = SignedDuration::from_secs(60);
const VALID: SignedDuration = SignedDuration::from_secs(540);
const MARGIN: SignedDuration = SignedDuration::from_secs(60);

#[derive(Serialize)]
struct Claims {
    iat: i64,
    exp: i64,
    iss: String,
}

struct Signed {
    token: SecretString,
    from: Timestamp,
    until: Timestamp,
}

#[derive(Default)]
struct State {
    /// GitHub's clock minus ours.
    skew: SignedDuration,
    signed: Option<Signed>,
}

pub(super) struct AppJwt {
    app_id: u64,
    key: EncodingKey,
    state: Mutex<State>,
}

impl AppJwt {
    /// Reads the key and signs once with it, so that an unusable key is found at start-up.
    pub(super) fn new(app_id: u64, pem: &SecretString, now: Timestamp) -> Result<Self, ConfigError> {
        let unusable = |e: jsonwebtoken::errors::Error| ConfigError::PrivateKey(e.to_string());
        let key = EncodingKey::from_rsa_pem(pem.expose_secret().as_bytes()).map_err(unusable)?;
        let jwt = Self { app_id, key, state: Mutex::default() };
        jwt.bearer(now).map_err(unusable)?;
        Ok(jwt)
    }

    /// A token that is valid for at least another minute.
    pub(super) fn bearer(&self, now: Timestamp) -> Result<SecretString, jsonwebtoken::errors::Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = plus(now, state.skew);
        if let Some(signed) = state.signed.as_ref().filter(|s| s.from <= now && plus(now, MARGIN) < s.until) {
            return Ok(signed.token.clone());
        }
        let (from, until) = (plus(now, -BACKDATED), plus(now, VALID));
        let claims = Claims { iat: from.as_second(), exp: until.as_second(), iss: self.app_id.to_string() };
        let token = SecretString::from(jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &self.key)?);
        state.signed = Some(Signed { token: token.clone(), from, until });
        Ok(token)
    }

    /// Takes GitHub's clock as the right one.
    pub(super) fn correct(&self, now: Timestamp, theirs: Timestamp) {
        let skew = theirs.duration_since(now);
        tracing::warn!(skew_seconds = skew.as_secs(), "GitHub's clock differs from ours; correcting App tokens");
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State { skew, signed: None };
    }
}

fn plus(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.saturating_add(by).unwrap_or(at)
}
