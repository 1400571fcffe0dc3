//! A stand-in for Vault over HTTP: both versions of the key-value engine, logins, tokens that end, and bad weather.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What it knows.
pub(crate) struct Model {
    /// Of the engine that is mounted at `secret`.
    pub(crate) version: u8,
    /// By their path below the mount.
    pub(crate) secrets: BTreeMap<String, Value>,
    /// When each ends, if it does.
    pub(crate) tokens: BTreeMap<String, Option<Instant>>,
    /// What logins and renewals grant; zero: for ever.
    pub(crate) lease: Duration,
    /// Whether tokens are renewable.
    pub(crate) renewable: bool,
    /// Paths that no token may use, by their beginnings.
    pub(crate) forbidden: Vec<&'static str>,
    /// Statuses of the next answers, instead of what they would be.
    pub(crate) weather: VecDeque<u16>,
    /// Everything that was asked.
    pub(crate) seen: Vec<Seen>,
    /// Answer of a read, instead of what it would be.
    pub(crate) garbled: Option<&'static str>,
    logins: u32,
}

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// `GET /v1/secret/config`.
    pub(crate) line: String,
    pub(crate) token: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) body: Value,
}

/// The server; it ends when this is dropped.
pub(crate) struct Double {
    pub(crate) address: String,
    model: Arc<Mutex<Model>>,
    _server: JoinSet<()>,
}

impl Double {
    /// One with this version of the engine.
    pub(crate) async fn start(version: u8) -> Self {
        let model = Arc::new(Mutex::new(Model {
            version,
            secrets: BTreeMap::new(),
            tokens: BTreeMap::new(),
            lease: Duration::from_secs(3600),
            renewable: true,
            forbidden: Vec::new(),
            weather: VecDeque::new(),
            seen: Vec::new(),
            garbled: None,
            logins: 0,
        }));
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let known = Arc::clone(&model);
        let app = Router::new().fallback(move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let answer = known.lock().unwrap().answer(&method, &uri, &headers, &body);
            async move { answer }
        });
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, model, _server: server }
    }

    pub(crate) fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }

    /// The lines of what was asked since the last time.
    pub(crate) fn lines(&self) -> Vec<String> {
        std::mem::take(&mut self.model().seen).into_iter().map(|seen| seen.line).collect()
    }
}

type Answer = (StatusCode, String);

fn status(code: u16) -> Answer {
    (StatusCode::from_u16(code).unwrap(), json!({"errors": ["words that may quote a secret"]}).to_string())
}

fn good(body: &Value) -> Answer {
    (StatusCode::OK, body.to_string())
}

impl Model {
    fn answer(&mut self, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Answer {
        let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let list = uri.query() == Some("list=true");
        let word = if list { "LIST" } else { method.as_str() };
        let path = uri.path().strip_prefix("/v1/").unwrap().to_owned();
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let (token, namespace) = (header("x-vault-token"), header("x-vault-namespace"));
        self.seen.push(Seen { line: format!("{word} {path}"), token: token.clone(), namespace, body: body.clone() });
        if let Some(code) = self.weather.pop_front() {
            return status(code);
        }
        if path.starts_with("auth/") && path.ends_with("/login") {
            return self.log_in(&path, &body);
        }
        let valid = |ends: &Option<Instant>| ends.is_none_or(|ends| Instant::now() < ends);
        let Some(token) = token.filter(|token| self.tokens.get(token).is_some_and(valid)) else { return status(403) };
        if self.forbidden.iter().any(|beginning| path.starts_with(beginning)) {
            return status(403);
        }
        match path.as_str() {
            "auth/token/renew-self" if self.renewable => self.grant(token),
            "auth/token/renew-self" => status(400),
            "auth/token/lookup-self" => {
                let left = self.tokens[&token].map_or(Duration::ZERO, |ends| ends.duration_since(Instant::now()));
                good(&json!({"data": {"ttl": left.as_secs_f64().round() as u64, "renewable": self.renewable}}))
            }
            _ => self.engine(word, path.strip_prefix("secret/").unwrap_or_default(), &body),
        }
    }

    fn log_in(&mut self, path: &str, body: &Value) -> Answer {
        let complete = match path {
            "auth/aws/login" => body["iam_request_headers"].is_string() && body["role"].is_string(),
            "auth/approle/login" => body["role_id"].is_string() && body["secret_id"] == "the-secret-id",
            _ => body["jwt"].is_string() && body["role"].is_string(),
        };
        if !complete {
            return status(400);
        }
        self.logins += 1;
        self.grant(format!("hvs.login-{}", self.logins))
    }

    fn grant(&mut self, token: String) -> Answer {
        let ends = (!self.lease.is_zero()).then(|| Instant::now() + self.lease);
        let auth = json!({"client_token": token, "lease_duration": self.lease.as_secs(), "renewable": self.renewable});
        self.tokens.insert(token, ends);
        good(&json!({"auth": auth}))
    }

    fn engine(&mut self, word: &str, path: &str, body: &Value) -> Answer {
        if self.version == 1 {
            return self.stored(word, path, body, |value| json!({"data": value}));
        }
        if path == "config" {
            let data = json!({"max_versions": 0, "cas_required": false, "delete_version_after": "0s"});
            return good(&json!({"data": data}));
        }
        match (word, path.split_once('/')) {
            ("GET", Some(("data", path))) => {
                self.stored(word, path, body, |value| json!({"data": {"data": value, "metadata": {"version": 1}}}))
            }
            ("POST", Some(("data", path))) if body["data"].is_object() => {
                self.stored(word, path, &body["data"], Value::clone)
            }
            ("POST", Some(("data", _))) => status(400),
            ("LIST" | "DELETE", Some(("metadata", path))) => self.stored(word, path, body, Value::clone),
            _ => status(404),
        }
    }

    fn stored(&mut self, word: &str, path: &str, body: &Value, wrap: impl Fn(&Value) -> Value) -> Answer {
        match word {
            "GET" => match (self.garbled, self.secrets.get(path)) {
                (Some(text), _) => (StatusCode::OK, text.to_owned()),
                (None, Some(value)) => good(&wrap(value)),
                (None, None) => status(404),
            },
            "POST" => {
                self.secrets.insert(path.to_owned(), body.clone());
                (StatusCode::NO_CONTENT, String::new())
            }
            "DELETE" => {
                self.secrets.remove(path);
                (StatusCode::NO_CONTENT, String::new())
            }
            _ => {
                let below = |known: &String| {
                    let rest = known.strip_prefix(path)?.strip_prefix('/')?;
                    Some(rest.split_once('/').map_or(rest.to_owned(), |(folder, _)| format!("{folder}/")))
                };
                let mut keys: Vec<String> = self.secrets.keys().filter_map(below).collect();
                keys.dedup();
                if keys.is_empty() { status(404) } else { good(&json!({"data": {"keys": keys}})) }
            }
        }
    }
}
