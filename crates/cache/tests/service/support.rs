//! A cache on a back end, a clock that stands where it is put, requests, and the published clients.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Request, Response, StatusCode};
use cache::scope::Grant;
use cache::store::{FsStore, Store};
use cache::token::{Claims, Keys};
use cache::{Cache, Settings};
use domain::clock::{Clock, SystemClock, SystemRng, Timestamp};
use http_body_util::BodyExt;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tower::ServiceExt;

pub(crate) const SECRET: &str = "a secret of the tests, long enough";
pub(crate) const VERSION: &str = "3ad75f27293d65a135214b8c82b296080f911dc107e52f1e7ec871a2eda46e69";
pub(crate) const TWIRP: &str = "/twirp/github.actions.results.api.v1.CacheService/";

/// The machine's time, and some.
#[derive(Default)]
pub(crate) struct Shifted(AtomicI64);

impl Shifted {
    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_secs()).unwrap(), Ordering::Relaxed);
    }
}

impl Clock for Shifted {
    fn now(&self) -> Timestamp {
        domain::clock::after(SystemClock.now(), Duration::from_secs(self.0.load(Ordering::Relaxed).unsigned_abs()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Back {
    Fs,
    #[cfg(feature = "aws")]
    S3,
}

pub(crate) const BACKS: &[Back] = &[
    Back::Fs,
    #[cfg(feature = "aws")]
    Back::S3,
];

/// A running cache.
pub(crate) struct Service {
    pub(crate) cache: Arc<Cache>,
    pub(crate) clock: Arc<Shifted>,
    pub(crate) metrics: telemetry::Metrics,
    pub(crate) dir: TempDir,
    router: Router,
    served: JoinSet<()>,
}

pub(crate) fn settings() -> Settings {
    Settings { base: None, max_entry: 1 << 30, per_repo: None, ttl: None, redirect: false }
}

/// A bucket of its own, and its name.
#[cfg(feature = "aws")]
pub(crate) async fn bucket() -> (aws_sdk_s3::Client, String) {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let name = format!("cache-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let client = aws_sdk_s3::Client::new(&emulator::shared().sdk());
    client.create_bucket().bucket(&name).send().await.expect("a bucket");
    (client, name)
}

impl Service {
    pub(crate) async fn new(back: Back) -> Self {
        Self::with(back, settings(), true).await
    }

    pub(crate) async fn with(back: Back, settings: Settings, secret: bool) -> Self {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Arc::new(Shifted::default()));
        let store: Arc<dyn Store> = match back {
            Back::Fs => Arc::new(FsStore::open(dir.path()).unwrap()),
            #[cfg(feature = "aws")]
            Back::S3 => {
                let (_, name) = bucket().await;
                let sdk = emulator::shared().sdk();
                Arc::new(cache::store::S3Store::new(&sdk, &emulator::silent(), name, clock.clone()))
            }
        };
        Self::on(store, settings, secret, dir, clock)
    }

    pub(crate) fn on(
        store: Arc<dyn Store>,
        settings: Settings,
        secret: bool,
        dir: TempDir,
        clock: Arc<Shifted>,
    ) -> Self {
        let keys = secret.then(|| Keys::new(SecretString::from(SECRET), None, true));
        let metrics = telemetry::Metrics::new();
        let cache = Cache::new(store, keys, settings, clock.clone(), Arc::new(SystemRng), metrics.clone());
        let router = cache::router(Arc::clone(&cache));
        Self { cache, clock, metrics, dir, router, served: JoinSet::new() }
    }

    /// Listens, for clients of other processes.
    pub(crate) async fn listen(&mut self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let router = self.router.clone();
        self.served.spawn(async move { axum::serve(listener, router).await.unwrap() });
        url
    }

    /// Sends a request; its answer's body has yet to be read.
    pub(crate) async fn open(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        Answer::of(self.open(request).await).await
    }

    /// Ends it; its directory and its clock stay.
    pub(crate) fn stop(self) -> (TempDir, Arc<Shifted>) {
        (self.dir, self.clock)
    }

    /// A Twirp call in JSON.
    pub(crate) async fn twirp(&self, token: &str, method: &str, body: Value) -> Answer {
        let request = Request::post(format!("{TWIRP}{method}"))
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {token}"));
        self.send(request.body(body.to_string().into()).unwrap()).await
    }

    pub(crate) async fn create(&self, token: &str, key: &str) -> String {
        let answer = self.twirp(token, "CreateCacheEntry", json!({ "key": key, "version": VERSION })).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        path(answer.json()["signed_upload_url"].as_str().expect("an address"))
    }

    pub(crate) async fn finalize(&self, token: &str, key: &str, size: usize) -> Answer {
        let body = json!({ "key": key, "version": VERSION, "size_bytes": size.to_string() });
        self.twirp(token, "FinalizeCacheEntryUpload", body).await
    }

    pub(crate) async fn lookup(&self, token: &str, key: &str, restore: &[&str]) -> Value {
        let body = json!({ "key": key, "version": VERSION, "restore_keys": restore });
        let answer = self.twirp(token, "GetCacheEntryDownloadURL", body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// The key that a lookup finds.
    pub(crate) async fn found(&self, token: &str, key: &str, restore: &[&str]) -> Option<String> {
        self.lookup(token, key, restore).await["matched_key"].as_str().map(str::to_owned)
    }

    pub(crate) async fn put(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        let body: Bytes = body.into();
        let request = Request::put(path).header("content-length", body.len()).header("x-ms-blob-type", "BlockBlob");
        self.send(request.body(body.into()).unwrap()).await
    }

    /// Saves an entry, all the way.
    pub(crate) async fn save(&self, token: &str, key: &str, bytes: impl Into<Bytes>) {
        let bytes: Bytes = bytes.into();
        let size = bytes.len();
        let path = self.create(token, key).await;
        assert_eq!(self.put(&path, bytes).await.status, 201);
        let answer = self.finalize(token, key, size).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// The bytes of an entry.
    pub(crate) async fn load(&self, token: &str, key: &str) -> Option<Bytes> {
        let url = self.lookup(token, key, &[]).await["signed_download_url"].as_str().map(path)?;
        let answer = self.send(Request::get(url).body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        Some(answer.body)
    }
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// It ended before its end.
    pub(crate) cut: bool,
}

impl Answer {
    pub(crate) async fn of(response: Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes);
        Self { status: parts.status, headers: parts.headers, cut: body.is_err(), body: body.unwrap_or_default() }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Code of an error of the blob end point.
    pub(crate) fn code(&self) -> &str {
        self.header("x-ms-error-code")
    }
}

/// Path and query of an address of ours.
pub(crate) fn path(url: &str) -> String {
    url[url.find("/_rfcache").expect("an address of ours")..].to_owned()
}

pub(crate) fn request(method: Method, path: &str, token: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri(path).header("authorization", format!("Bearer {token}"))
}

/// A token of this job, for `acme/app` and these scopes (`ref`, permission).
pub(crate) fn token_in(job: &str, repo: &str, scopes: &[(&str, u32)]) -> String {
    let now = SystemClock.now();
    let grants: Vec<Grant> = scopes
        .iter()
        .map(|(scope, permission)| Grant { scope: (*scope).to_owned(), permission: *permission })
        .collect();
    let claims = Claims {
        job,
        instance: "i-1",
        repo,
        grants: &grants,
        issued: now,
        expires: domain::clock::after(now, Duration::from_secs(400 * 86_400)),
    };
    Keys::new(SecretString::from(SECRET), None, true).mint(&claims).expose_secret().to_owned()
}

/// A token of this job on the default branch.
pub(crate) fn token(job: &str) -> String {
    token_in(job, "acme/app", &[("refs/heads/main", 3)])
}

pub(crate) fn noise(size: usize, seed: u64) -> Bytes {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

/// `tests/node`, with the packages installed exactly as the lock file says.
fn node() -> &'static Path {
    static NODE: OnceLock<PathBuf> = OnceLock::new();
    NODE.get_or_init(|| {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node");
        let lock = dir.join("package-lock.json");
        // Test programs may run at the same time; this is their mutex.
        let mutex = std::fs::File::open(&lock).unwrap();
        mutex.lock().unwrap();
        let modified = |path: &Path| -> Option<SystemTime> { std::fs::metadata(path).and_then(|m| m.modified()).ok() };
        // npm writes this file last.
        if modified(&dir.join("node_modules/.package-lock.json")) < modified(&lock) {
            let status = Command::new("npm").args(["ci", "--ignore-scripts"]).current_dir(&dir).status();
            assert!(status.expect("Node's npm in the PATH").success(), "npm ci failed in {}", dir.display());
        }
        dir
    })
}

/// A published client, on its own.
pub(crate) struct Client {
    package: &'static str,
    scratch: TempDir,
    env: Vec<(&'static str, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    V1,
    V2,
}

impl Client {
    pub(crate) fn new(package: &'static str, protocol: Protocol, url: &str, token: &str) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let here = scratch.path().to_string_lossy().into_owned();
        let mut env = vec![
            ("ACTIONS_RUNTIME_TOKEN", token.to_owned()),
            ("ACTIONS_CACHE_URL", url.to_owned()),
            ("ACTIONS_RESULTS_URL", url.to_owned()),
            ("GITHUB_WORKSPACE", here.clone()),
            ("RUNNER_TEMP", here),
        ];
        if protocol == Protocol::V2 {
            env.push(("ACTIONS_CACHE_SERVICE_V2", "true".to_owned()));
        }
        Self { package, scratch, env }
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.env.push((name, value.to_owned()));
        self
    }

    pub(crate) fn start(&self) -> tokio::process::Child {
        let mut command = tokio::process::Command::new("node");
        for name in ["GITHUB_SERVER_URL", "ACTIONS_CACHE_MODE", "ACTIONS_CACHE_SERVICE_V2", "http_proxy", "HTTP_PROXY"]
        {
            command.env_remove(name);
        }
        command
            .arg(node().join("client.mjs"))
            .arg(self.package)
            .current_dir(self.scratch.path())
            .envs(self.env.iter().map(|(name, value)| (*name, value.as_str())))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node, to run the published clients")
    }

    /// Makes these calls in one process. The results, and everything the client said.
    pub(crate) async fn run(&self, calls: &Value) -> (Vec<Value>, String) {
        use tokio::io::AsyncWriteExt;
        let mut child = self.start();
        let mut input = child.stdin.take().unwrap();
        input.write_all(calls.to_string().as_bytes()).await.unwrap();
        drop(input);
        let output = child.wait_with_output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let results = said.lines().filter_map(|line| line.strip_prefix("RESULT "));
        let results: Vec<Value> = results.map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            Some(results.len()),
            calls.as_array().map(Vec::len),
            "{}: every call returned: {said}",
            self.package
        );
        (results, said)
    }
}
