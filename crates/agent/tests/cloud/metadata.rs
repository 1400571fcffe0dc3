//! The metadata service of one instance. Version 2 only: a request without a good token is refused.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::http;

/// The role's secrets: nothing but the agent's memory may ever hold them.
pub(crate) const ROLE_SECRET: &str = "role-secret-role-secret-role-secret-0001";
pub(crate) const ROLE_TOKEN: &str = "role-token-role-token-role-token-role-01";

#[derive(Debug, Default)]
struct Known {
    paths: BTreeMap<String, String>,
    /// Tokens from this number on are good.
    oldest: u32,
    /// The latest token.
    token: u32,
    /// Requests that fail before the next one is served.
    failures: u32,
}

pub(crate) struct Metadata {
    address: SocketAddr,
    known: Arc<Mutex<Known>>,
}

impl Metadata {
    /// That of an instance with a role and without tags in its metadata.
    pub(crate) fn start(id: &str) -> Self {
        Self::serve(id, TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// The same at an address of the test's own choice.
    pub(crate) fn serve(id: &str, listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let credentials = serde_json::json!({
            "Code": "Success", "AccessKeyId": "ASIATEST", "SecretAccessKey": ROLE_SECRET, "Token": ROLE_TOKEN,
            "Expiration": "2099-01-01T00:00:00Z",
        });
        let paths = [
            ("meta-data/instance-id", id.to_owned()),
            ("meta-data/placement/region", emulator::REGION.to_owned()),
            ("meta-data/iam/security-credentials/", "runner".to_owned()),
            ("meta-data/iam/security-credentials/runner", credentials.to_string()),
        ];
        let paths = paths.into_iter().map(|(path, body)| (path.to_owned(), body)).collect();
        let known = Arc::new(Mutex::new(Known { paths, ..Known::default() }));
        let shared = Arc::clone(&known);
        http::serve(listener, move |stream| handle(stream, &shared));
        Self { address, known }
    }

    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on `path` (below `/latest/`) says this.
    pub(crate) fn say(&self, path: &str, body: &str) {
        self.known.lock().unwrap().paths.insert(path.to_owned(), body.to_owned());
    }

    /// Shows this tag.
    pub(crate) fn tag(&self, key: &str, value: &str) {
        let mut known = self.known.lock().unwrap();
        let list = known.paths.entry("meta-data/tags/instance".to_owned()).or_default();
        *list = format!("{list}\n{key}").trim().to_owned();
        known.paths.insert(format!("meta-data/tags/instance/{key}"), value.to_owned());
    }

    /// EC2 takes the instance back in this many seconds.
    pub(crate) fn reclaim_in(&self, seconds: i64) {
        let at = domain::clock::Timestamp::now() + domain::clock::SignedDuration::from_secs(seconds);
        self.say("meta-data/spot/instance-action", &format!("{{\"action\":\"terminate\",\"time\":\"{at}\"}}"));
    }

    /// The next requests are answered with 500.
    pub(crate) fn fail(&self, times: u32) {
        self.known.lock().unwrap().failures = times;
    }

    /// No token that was given out is good any more.
    pub(crate) fn forget(&self) {
        let mut known = self.known.lock().unwrap();
        known.oldest = known.token + 1;
    }
}

fn token(request: &http::Request) -> Option<u32> {
    request.header("x-aws-ec2-metadata-token")?.strip_prefix("token-")?.parse().ok()
}

fn handle(mut stream: TcpStream, known: &Mutex<Known>) {
    let Some(request) = http::read(&mut stream) else { return };
    let mut known = known.lock().unwrap();
    let (status, body) = if known.failures > 0 {
        known.failures -= 1;
        (500, String::new())
    } else if request.line.starts_with("PUT /latest/api/token ") {
        known.token += 1;
        (200, format!("token-{}", known.token))
    } else if token(&request).is_none_or(|token| token < known.oldest) {
        (401, String::new())
    } else {
        let path = request.path().trim_start_matches("/latest/");
        known.paths.get(path).map_or((404, String::new()), |body| (200, body.clone()))
    };
    drop(known);
    http::answer(&mut stream, status, &body);
}
