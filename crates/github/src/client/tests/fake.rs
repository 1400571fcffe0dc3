//! GitHub in memory: a function from request to response, a record of what was asked, and one clock for everything.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use domain::clock::{Clock, Rng, Timestamp, after};
use domain::ids::{InstallationId, Repo};
use http::{Request, Response};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client::{Client, ClientConfig, Exchange, ExchangeError};

pub(crate) const KEY_PKCS8: &str = include_str!("../../../tests/fixtures/app-key.pkcs8.pem");
pub(crate) const KEY_PKCS1: &str = include_str!("../../../tests/fixtures/app-key.pkcs1.pem");
pub(crate) const PUBLIC_KEY: &str = include_str!("../../../tests/fixtures/app-key.pub.pem");

/// 2025-01-01T00:00:00Z
pub(crate) const START: i64 = 1_735_689_600;

/// Wall time that follows Tokio's paused clock.
pub(crate) struct PausedClock(Instant);

impl PausedClock {
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        after(Timestamp::from_second(START).unwrap(), self.0.elapsed())
    }
}

/// Always in the middle.
pub(crate) struct HalfRng;

impl Rng for HalfRng {
    fn next_u64(&self) -> u64 {
        1 << 63
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Value,
    /// Since the start.
    pub(crate) at: Duration,
}

impl Asked {
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }
    pub(crate) fn bearer(&self) -> &str {
        self.headers["authorization"].to_str().unwrap().strip_prefix("Bearer ").unwrap()
    }
}

pub(crate) type Answer = Result<Response<Bytes>, ExchangeError>;
type Script = dyn FnMut(&Asked) -> Option<Answer> + Send;

/// Answers token calls by itself (`token-1`, `token-2`, …, good for an hour) and leaves the rest to the script.
pub(crate) struct Fake {
    script: Mutex<Box<Script>>,
    asked: Mutex<Vec<Asked>>,
    started: Instant,
    takes: Duration,
    running: Mutex<(usize, usize)>,
}

#[async_trait]
impl Exchange for Fake {
    async fn send(&self, request: Request<Bytes>) -> Answer {
        let target = request.uri().path_and_query().unwrap().to_string();
        let asked = Asked {
            method: request.method().to_string(),
            target,
            headers: request.headers().clone(),
            body: serde_json::from_slice(request.body()).unwrap_or(Value::Null),
            at: self.started.elapsed(),
        };
        self.asked.lock().unwrap().push(asked.clone());
        {
            let mut running = self.running.lock().unwrap();
            running.0 += 1;
            running.1 = running.1.max(running.0);
        }
        tokio::time::sleep(self.takes).await;
        self.running.lock().unwrap().0 -= 1;
        let scripted = (self.script.lock().unwrap())(&asked);
        scripted.unwrap_or_else(|| self.tokens(&asked))
    }
}

impl Fake {
    pub(crate) fn new(script: impl FnMut(&Asked) -> Option<Answer> + Send + 'static) -> Arc<Self> {
        Self::slow(Duration::ZERO, script)
    }

    pub(crate) fn slow(takes: Duration, script: impl FnMut(&Asked) -> Option<Answer> + Send + 'static) -> Arc<Self> {
        Arc::new(Self {
            script: Mutex::new(Box::new(script)),
            asked: Mutex::default(),
            started: Instant::now(),
            takes,
            running: Mutex::default(),
        })
    }

    fn tokens(&self, asked: &Asked) -> Answer {
        if asked.target.ends_with("/access_tokens") {
            let minted = self.count("POST /app/installations/");
            let until = after(Timestamp::from_second(START).unwrap(), asked.at + Duration::from_secs(3600));
            ok(201, json!({"token": format!("token-{minted}"), "expires_at": until.to_string()}))
        } else if asked.target.ends_with("/installation") {
            ok(200, json!({"id": 77}))
        } else {
            panic!("unexpected {}", asked.line())
        }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Requests whose line begins so.
    pub(crate) fn count(&self, line: &str) -> usize {
        self.asked().iter().filter(|a| a.line().starts_with(line)).count()
    }

    /// The most requests that were under way at one moment.
    pub(crate) fn most_at_once(&self) -> usize {
        self.running.lock().unwrap().1
    }
}

pub(crate) fn config() -> ClientConfig {
    ClientConfig {
        app_id: 4711,
        private_key: SecretString::from(KEY_PKCS8.to_owned()),
        api_url: "https://api.github.com/".to_owned(),
        version: "1.2.3".to_owned(),
    }
}

/// A client that has to look up its installation.
pub(crate) fn stranger(fake: &Arc<Fake>) -> Client {
    Client::new(&config(), Arc::<Fake>::clone(fake), Arc::new(PausedClock::new()), Arc::new(HalfRng)).unwrap()
}

/// A client that knows the installation of `acme`.
pub(crate) fn client(fake: &Arc<Fake>) -> Client {
    let client = stranger(fake);
    client.remember_installation("Acme", InstallationId::new(77).unwrap());
    client
}

pub(crate) fn repo() -> Repo {
    "acme/widgets".parse().unwrap()
}

#[allow(clippy::needless_pass_by_value, reason = "reads better with json! at the call")]
pub(crate) fn ok(status: u16, body: Value) -> Answer {
    Ok(Response::builder().status(status).body(Bytes::from(body.to_string())).unwrap())
}

pub(crate) fn empty(status: u16) -> Answer {
    Ok(Response::builder().status(status).body(Bytes::new()).unwrap())
}

pub(crate) fn with(mut answer: Answer, headers: &[(&'static str, &str)]) -> Answer {
    if let Ok(response) = &mut answer {
        for (name, value) in headers {
            response.headers_mut().insert(*name, value.parse().unwrap());
        }
    }
    answer
}

pub(crate) fn message(status: u16, text: &str) -> Answer {
    ok(status, json!({"message": text}))
}

pub(crate) fn unreachable() -> Answer {
    Err(ExchangeError::Transport("connection reset".to_owned()))
}

pub(crate) fn a_job() -> Value {
    json!({
        "id": 5, "run_id": 9, "run_attempt": 2, "name": "build", "workflow_name": "CI", "head_branch": "main",
        "html_url": "https://github.com/acme/widgets/actions/runs/9/job/5",
        "status": "in_progress", "conclusion": null, "runner_id": 31, "runner_name": "runs-fleet-runner-x",
        "labels": ["runs-fleet"], "created_at": "2025-01-01T00:00:00Z", "started_at": "2025-01-01T00:00:10Z",
        "completed_at": null,
    })
}
