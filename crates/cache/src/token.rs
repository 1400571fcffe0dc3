//! Tokens: who calls. Made for a job when its machine is prepared, checked with every request. Pure.
//!
//! A token is a JWT under HS256, so that clients which insist on reading their token can. The older form,
//! `base64url(job:instance:scope).hex(mac)`, is still accepted where configured; it has one dot, a JWT has two.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use domain::clock::Timestamp;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::Sha256;

use crate::scope::{Grant, Repository, Scopes};

/// How far two clocks may differ, in seconds.
const LEEWAY: f64 = 60.0;
/// Longest token looked at.
const LONGEST: usize = 16 * 1024;
const ISSUER: &str = "runs-fleet";
const AUDIENCE: &str = "runs-fleet-cache";

/// Who a request is from, as its token proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Whose entries it sees.
    pub repo: Repository,
    /// Which of them.
    pub scopes: Scopes,
    /// The job. `None`: nobody knows, and two requests are never the same job's.
    pub job: Option<String>,
}

impl Caller {
    /// Everybody, where no tokens are asked for.
    pub fn anonymous() -> Self {
        Self { repo: Repository::anonymous(), scopes: Scopes::whole_repository(), job: None }
    }

    /// Whether something that `job` made is this caller's own.
    pub fn is(&self, job: Option<&str>) -> bool {
        self.job.is_some() && self.job.as_deref() == job
    }
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// There is none.
    Missing,
    /// It is not a token.
    Malformed,
    /// Somebody else made it, or it was changed.
    Signature,
    /// It is too old, or not valid yet.
    Expired,
    /// It names no repository or no scopes.
    Scope,
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims<'a> {
    /// Job id.
    pub job: &'a str,
    /// The machine's key.
    pub instance: &'a str,
    /// `owner/name`.
    pub repo: &'a str,
    /// Scopes and permissions.
    pub grants: &'a [Grant],
    /// When it was made.
    pub issued: Timestamp,
    /// From when on it is refused.
    pub expires: Timestamp,
}

/// The secrets that tokens are made and checked with.
#[derive(Debug, Clone)]
pub struct Keys {
    current: SecretString,
    previous: Option<SecretString>,
    legacy: bool,
}

#[derive(Serialize)]
struct Body<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    inst: &'a str,
    repo: &'a str,
    ac: String,
    iat: i64,
    nbf: i64,
    exp: i64,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
}

#[derive(Deserialize)]
struct Read {
    #[serde(default)]
    sub: Option<String>,
    #[serde(default)]
    aud: Option<Value>,
    #[serde(default)]
    repo: Option<String>,
    #[serde(default)]
    ac: Option<Value>,
    #[serde(default)]
    nbf: Option<f64>,
    exp: f64,
}

impl Keys {
    /// `previous` is accepted as well, during a rotation; `legacy`: so are two-part tokens.
    pub fn new(current: SecretString, previous: Option<SecretString>, legacy: bool) -> Self {
        Self { current, previous, legacy }
    }

    /// Makes a token.
    pub fn mint(&self, claims: &Claims<'_>) -> SecretString {
        let body = Body {
            iss: ISSUER,
            aud: AUDIENCE,
            sub: claims.job,
            inst: claims.instance,
            repo: claims.repo,
            ac: serde_json::to_string(claims.grants).unwrap_or_default(),
            iat: claims.issued.as_second(),
            nbf: claims.issued.as_second(),
            exp: claims.expires.as_second(),
        };
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let signed = format!("{}.{}", BASE64URL.encode(br#"{"alg":"HS256","typ":"JWT"}"#), BASE64URL.encode(body));
        let signature = BASE64URL.encode(mac(&self.current, signed.as_bytes()).finalize().into_bytes());
        SecretString::from(format!("{signed}.{signature}"))
    }

    /// Checks a token.
    ///
    /// # Errors
    /// Why it is refused; never anything of its content.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Caller, Refused> {
        let parts: Vec<&str> = token.splitn(4, '.').collect();
        match (token.len(), &parts[..]) {
            (0, _) => Err(Refused::Missing),
            (..=LONGEST, [header, body, signature]) => {
                let signed = &token[..header.len() + 1 + body.len()];
                self.jwt(header, body, signed, signature, now)
            }
            (..=LONGEST, [payload, signature]) if self.legacy => self.two_parts(payload, signature),
            _ => Err(Refused::Malformed),
        }
    }

    fn jwt(&self, header: &str, body: &str, signed: &str, signature: &str, now: Timestamp) -> Result<Caller, Refused> {
        let decode = |part: &str| BASE64URL.decode(part).map_err(|_| Refused::Malformed);
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| Refused::Malformed)?;
        if header.alg != "HS256" || !self.signed(signed.as_bytes(), &decode(signature)?) {
            return Err(Refused::Signature);
        }
        let claims: Read = serde_json::from_slice(&decode(body)?).map_err(|_| Refused::Malformed)?;
        if claims.aud.is_some_and(|aud| aud != AUDIENCE) {
            return Err(Refused::Malformed);
        }
        let now = now.as_second() as f64;
        if claims.exp + LEEWAY <= now || claims.nbf.is_some_and(|nbf| nbf - LEEWAY > now) {
            return Err(Refused::Expired);
        }
        let repo = claims.repo.as_deref().and_then(Repository::parse).ok_or(Refused::Scope)?;
        let scopes = match claims.ac {
            None => Scopes::whole_repository(),
            Some(Value::String(list)) => {
                let grants: Vec<Grant> = serde_json::from_str(&list).map_err(|_| Refused::Scope)?;
                Scopes::of(&grants)
            }
            Some(_) => return Err(Refused::Scope),
        };
        Ok(Caller { repo, scopes, job: claims.sub.filter(|job| !job.is_empty()) })
    }

    fn two_parts(&self, payload: &str, signature: &str) -> Result<Caller, Refused> {
        let payload = BASE64URL.decode(payload).map_err(|_| Refused::Malformed)?;
        let signature = hex::decode(signature).map_err(|_| Refused::Malformed)?;
        if !self.signed(&payload, &signature) {
            return Err(Refused::Signature);
        }
        let payload = String::from_utf8(payload).map_err(|_| Refused::Malformed)?;
        let mut parts = payload.splitn(3, ':');
        let (job, _instance) = parts.next().zip(parts.next()).ok_or(Refused::Malformed)?;
        let scope = parts.next().unwrap_or_default();
        let repo = Repository::parse(scope).or_else(|| Repository::of_owner(scope)).ok_or(Refused::Scope)?;
        Ok(Caller { repo, scopes: Scopes::whole_repository(), job: Some(job.to_owned()).filter(|job| !job.is_empty()) })
    }

    /// Whether one of the secrets made this signature. In constant time.
    fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let secrets = [Some(&self.current), self.previous.as_ref()];
        secrets.into_iter().flatten().any(|secret| mac(secret, message).verify_slice(signature).is_ok())
    }

    /// Keys of signatures in addresses, which are no tokens: the one to make them with, and all to check them with.
    pub(crate) fn derived(&self) -> Vec<[u8; 32]> {
        let secrets = [Some(&self.current), self.previous.as_ref()];
        secrets
            .into_iter()
            .flatten()
            .map(|secret| mac(secret, b"runs-fleet cache address").finalize().into_bytes().into())
            .collect()
    }
}

fn mac(secret: &SecretString, message: &[u8]) -> Hmac<Sha256> {
    keyed(secret.expose_secret().as_bytes(), message)
}

/// HMAC-SHA256.
pub(crate) fn keyed(key: &[u8], message: &[u8]) -> Hmac<Sha256> {
    #[allow(clippy::expect_used, reason = "HMAC takes keys of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    mac.update(message);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn keys(legacy: bool) -> Keys {
        Keys::new("0123456789abcdef".to_owned().into(), Some("the one before it".to_owned().into()), legacy)
    }

    fn grants() -> Vec<Grant> {
        vec![Grant { scope: "refs/heads/main".into(), permission: 3 }]
    }

    fn claims(grants: &[Grant]) -> Claims<'_> {
        Claims { job: "7", instance: "i-1", repo: "Octo/App", grants, issued: at(1_000), expires: at(2_000) }
    }

    fn jwt(secret: &str, header: &str, body: &str) -> String {
        let signed = format!("{}.{}", BASE64URL.encode(header), BASE64URL.encode(body));
        let signature = mac(&secret.to_owned().into(), signed.as_bytes()).finalize().into_bytes();
        format!("{signed}.{}", BASE64URL.encode(signature))
    }

    fn legacy(payload: &str) -> String {
        let signature = hex::encode(mac(&keys(true).current, payload.as_bytes()).finalize().into_bytes());
        format!("{}.{signature}", BASE64URL.encode(payload))
    }

    #[test]
    fn a_token_says_who_calls() {
        let grants = grants();
        let token = keys(true).mint(&claims(&grants));
        let caller = keys(true).verify(token.expose_secret(), at(1_500)).expect("good");
        assert_eq!(caller.repo, Repository::parse("octo/app").expect("good"));
        assert_eq!(caller.scopes.write.as_deref(), Some("refs/heads/main"));
        assert_eq!(caller.job.as_deref(), Some("7"));
        // Clients that read their token want these.
        let body = BASE64URL.decode(token.expose_secret().split('.').nth(1).expect("a body")).expect("base64");
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        assert!(body["ac"].is_string() && body["exp"].is_number() && body["nbf"].is_number());
    }

    #[test]
    fn time_and_secrets_count() {
        let grants = grants();
        let token = keys(true).mint(&claims(&grants));
        let token = token.expose_secret();
        for (second, expected) in [(939, false), (940, true), (2_059, true), (2_060, false)] {
            assert_eq!(keys(true).verify(token, at(second)).is_ok(), expected, "{second}");
        }
        let rotated =
            Keys::new("a new one, 16 characters".to_owned().into(), Some("0123456789abcdef".to_owned().into()), true);
        assert!(rotated.verify(token, at(1_500)).is_ok());
        let other = Keys::new("a new one, 16 characters".to_owned().into(), None, true);
        assert_eq!(other.verify(token, at(1_500)), Err(Refused::Signature));
    }

    #[test]
    fn everything_else_is_refused() {
        const SECRET: &str = "0123456789abcdef";
        const HS: &str = r#"{"alg":"HS256"}"#;
        let body = r#"{"repo":"a/b","exp":2000}"#;
        let good = jwt(SECRET, HS, body);
        assert_eq!(keys(true).verify(&good, at(1)).map(|c| c.scopes), Ok(Scopes::whole_repository()));
        let tampered = good.replacen('e', "f", 1);
        for (what, token, expected) in [
            ("nothing", String::new(), Refused::Missing),
            ("one part", "abc".into(), Refused::Malformed),
            ("four parts", format!("{good}.x"), Refused::Malformed),
            ("no base64", "a!.b!.c!".into(), Refused::Malformed),
            ("enormous", "a".repeat(20_000), Refused::Malformed),
            ("none", jwt(SECRET, r#"{"alg":"none"}"#, body), Refused::Signature),
            ("RS256", jwt(SECRET, r#"{"alg":"RS256"}"#, body), Refused::Signature),
            ("another secret", jwt("x", HS, body), Refused::Signature),
            ("no end", jwt(SECRET, HS, r#"{"repo":"a/b"}"#), Refused::Malformed),
            ("for others", jwt(SECRET, HS, r#"{"repo":"a/b","exp":2000,"aud":"x"}"#), Refused::Malformed),
            ("no repository", jwt(SECRET, HS, r#"{"exp":2000}"#), Refused::Scope),
            ("a climbing one", jwt(SECRET, HS, r#"{"repo":"../b","exp":2000}"#), Refused::Scope),
            ("scopes as a list", jwt(SECRET, HS, r#"{"repo":"a/b","exp":2000,"ac":[]}"#), Refused::Scope),
            ("scopes as nonsense", jwt(SECRET, HS, r#"{"repo":"a/b","exp":2000,"ac":"x"}"#), Refused::Scope),
        ] {
            assert_eq!(keys(true).verify(&token, at(1)), Err(expected), "{what}");
        }
        assert!(keys(true).verify(&tampered, at(1)).is_err());
    }

    #[test]
    fn two_part_tokens_of_before() {
        let caller = keys(true).verify(&legacy("7:i-1:Octo/App"), at(1)).expect("good");
        assert_eq!((caller.repo.to_string(), caller.job.as_deref()), ("octo/app".to_owned(), Some("7")));
        assert_eq!(keys(true).verify(&legacy("7:i-1:octo"), at(1)).map(|c| c.repo.to_string()), Ok("octo/~org".into()));
        for scope in ["a/b/c", "../etc", ""] {
            assert_eq!(keys(true).verify(&legacy(&format!("7:i-1:{scope}")), at(1)), Err(Refused::Scope), "{scope}");
        }
        assert_eq!(keys(true).verify(&legacy("7"), at(1)), Err(Refused::Malformed));
        assert_eq!(keys(false).verify(&legacy("7:i-1:octo/app"), at(1)), Err(Refused::Malformed), "turned off");
    }
}
