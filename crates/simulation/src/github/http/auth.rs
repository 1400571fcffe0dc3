//! The App's JWT, checked as GitHub checks it ("Generating a JSON Web Token (JWT) for a GitHub App").

use axum::http::StatusCode;
use domain::clock::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::Deserialize;
use serde_json::Value;

use super::answer::Answer;

/// The private key of the simulated App, PKCS#1 PEM. It protects nothing: every copy of the source has it.
pub const APP_PRIVATE_KEY: &str = include_str!("../../../testdata/app-key.pem");

const APP_PUBLIC_KEY: &str = include_str!("../../../testdata/app-key.pub.pem");

/// The furthest `exp` may lie ahead.
const LONGEST_LIFE_SECONDS: i64 = 600;

#[derive(Deserialize)]
struct Claims {
    iss: Value,
    iat: Option<i64>,
    exp: Option<i64>,
}

/// Whether `token` speaks for the App at `now`.
pub(super) fn check_app(token: &str, app_id: u64, now: Timestamp) -> Result<(), Answer> {
    let refuse = |why: &str| Err(Answer::error(StatusCode::UNAUTHORIZED, why));
    let mut validation = Validation::new(Algorithm::RS256);
    // The times are checked below, against our clock and with GitHub's rules.
    validation.validate_exp = false;
    validation.required_spec_claims.clear();
    let key = DecodingKey::from_rsa_pem(APP_PUBLIC_KEY.as_bytes());
    let Some(claims) = key.ok().and_then(|key| decode::<Claims>(token, &key, &validation).ok()).map(|d| d.claims)
    else {
        return refuse("A JSON web token could not be decoded");
    };
    let now = now.as_second();
    match claims.exp {
        Some(exp) if exp > now + LONGEST_LIFE_SECONDS => {
            return refuse("'Expiration time' claim ('exp') is too far in the future");
        }
        Some(exp) if exp > now => {}
        _ => {
            return refuse(
                "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the \
                 assertion expires",
            );
        }
    }
    if claims.iat.is_none_or(|iat| iat > now) {
        return refuse(
            "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued",
        );
    }
    let issuer = match claims.iss {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.as_u64(),
        _ => None,
    };
    if issuer == Some(app_id) { Ok(()) } else { Err(Answer::error(StatusCode::NOT_FOUND, "Integration not found")) }
}
