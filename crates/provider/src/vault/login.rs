//! The ways to a token.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use super::Learnt;
use super::http::{Http, Request};

/// Tokens of service accounts end here.
const LONGEST_FILE: u64 = 64 * 1024;

/// How to log in.
#[derive(Clone)]
pub enum Login {
    /// With an identity of AWS.
    Aws {
        /// Vault's role.
        role: String,
        /// Whose identity.
        identity: Arc<dyn Identity>,
    },
    /// With a token that somebody else signed, such as a service account's.
    Jwt {
        /// Mount of the auth method.
        mount: String,
        /// Vault's role.
        role: String,
        /// Where the token is. It is read anew at every login, because it is replaced before it expires.
        path: PathBuf,
    },
    /// With an application role.
    AppRole {
        /// Its id.
        role_id: String,
        /// Its secret id.
        secret_id: SecretString,
    },
    /// With a token of Vault's own, as it is.
    Token(SecretString),
}

/// Somebody whom AWS knows.
#[async_trait]
pub trait Identity: Send + Sync + 'static {
    /// The headers that have to be added to the request to sign it with Signature Version 4.
    ///
    /// # Errors
    /// Why it cannot be signed, in words without secrets.
    async fn sign(&self, request: &Unsigned) -> Result<Vec<(String, String)>, String>;
}

/// A POST that is to be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsigned {
    /// Where it would go.
    pub url: &'static str,
    /// The region of the signature.
    pub region: &'static str,
    /// The service's name in the signature.
    pub service: &'static str,
    /// Headers to be signed, besides the host.
    pub headers: &'static [(&'static str, &'static str)],
    /// Its body.
    pub body: &'static str,
}

/// "Who am I?" Vault sends it in our place and believes the answer. For the global endpoint, whatever the region: that is
/// the one Vault asks unless it is told otherwise.
pub const CALLER_IDENTITY: Unsigned = Unsigned {
    url: "https://sts.amazonaws.com/",
    region: "us-east-1",
    service: "sts",
    headers: &[("content-type", "application/x-www-form-urlencoded; charset=utf-8")],
    body: "Action=GetCallerIdentity&Version=2011-06-15",
};

/// A token and how long it lasts.
pub(super) struct Grant {
    pub(super) token: SecretString,
    /// Zero: for ever.
    pub(super) lease: Duration,
    pub(super) renewable: bool,
}

#[derive(Deserialize)]
struct Granted {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    client_token: SecretString,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

#[derive(Deserialize)]
struct LookedUp {
    data: Facts,
}

#[derive(Deserialize)]
struct Facts {
    #[serde(default)]
    ttl: u64,
    #[serde(default)]
    renewable: bool,
}

impl Login {
    /// Logs in. The error is in words without secrets, and without Vault's own: it quotes what it was given.
    pub(super) async fn grant(&self, http: &Http, learnt: &Learnt) -> Result<Grant, String> {
        let (mount, body) = match self {
            Self::Aws { role, identity } => ("aws", aws(role, &**identity).await?),
            Self::Jwt { mount, role, path } => {
                let jwt = file(path).await.map_err(|error| format!("the token for Vault: {}", error.kind()))?;
                learnt(&jwt);
                (mount.as_str(), json!({"role": role, "jwt": jwt}))
            }
            Self::AppRole { role_id, secret_id } => {
                ("approle", json!({"role_id": role_id, "secret_id": secret_id.expose_secret()}))
            }
            Self::Token(token) => return given(token, http).await,
        };
        let request = Request::new(Method::POST, ["auth", mount, "login"]).with_body(body.to_string().into_bytes());
        let grant = granted(http, &request, None).await.map_err(|why| format!("login at auth/{mount}: {why}"))?;
        learnt(grant.token.expose_secret());
        Ok(grant)
    }
}

/// The same token for another while.
pub(super) async fn renew(token: &SecretString, http: &Http) -> Result<Grant, String> {
    let request = Request::new(Method::POST, ["auth", "token", "renew-self"]).with_body(b"{}".to_vec());
    granted(http, &request, Some(token)).await
}

async fn granted(http: &Http, request: &Request, token: Option<&SecretString>) -> Result<Grant, String> {
    let answer = http.ask(request, token).await.map_err(|error| error.to_string())?;
    if answer.status != 200 {
        return Err(format!("status {}", answer.status));
    }
    let unreadable = |_| "an answer without a token".to_owned();
    let Auth { client_token, lease_duration, renewable } =
        serde_json::from_slice::<Granted>(&answer.body).map_err(unreadable)?.auth;
    Ok(Grant { token: client_token, lease: Duration::from_secs(lease_duration), renewable })
}

/// A token that was given: Vault knows how long it lasts. Whoever may not ask uses it without knowing.
async fn given(token: &SecretString, http: &Http) -> Result<Grant, String> {
    let request = Request::new(Method::GET, ["auth", "token", "lookup-self"]);
    let answer = http.ask(&request, Some(token)).await.map_err(|error| error.to_string())?;
    let facts = match answer.status {
        200 => serde_json::from_slice::<LookedUp>(&answer.body).map_err(|_| "an unreadable look-up".to_owned())?.data,
        403 => Facts { ttl: 0, renewable: false },
        status => return Err(format!("status {status} for the look-up of the token")),
    };
    Ok(Grant { token: token.clone(), lease: Duration::from_secs(facts.ttl), renewable: facts.renewable })
}

/// The body of a login that forwards a signed request.
async fn aws(role: &str, identity: &dyn Identity) -> Result<Value, String> {
    let signed = identity.sign(&CALLER_IDENTITY).await?;
    let host = CALLER_IDENTITY.url.trim_start_matches("https://").trim_end_matches('/');
    let mut headers = serde_json::Map::from_iter([("host".to_owned(), json!([host]))]);
    let given = CALLER_IDENTITY.headers.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    headers.extend(given.chain(signed).map(|(name, value)| (name, json!([value]))));
    Ok(json!({
        "role": role,
        "iam_http_request_method": "POST",
        "iam_request_url": STANDARD.encode(CALLER_IDENTITY.url),
        "iam_request_body": STANDARD.encode(CALLER_IDENTITY.body),
        "iam_request_headers": STANDARD.encode(Value::Object(headers).to_string()),
    }))
}

async fn file(path: &std::path::Path) -> std::io::Result<String> {
    let mut text = String::new();
    tokio::fs::File::open(path).await?.take(LONGEST_FILE).read_to_string(&mut text).await?;
    Ok(text.trim().to_owned())
}
