//! moto, an emulator of AWS, for tests. Nothing else depends on this crate.
//!
//! [`shared`] starts it for a test process, [`Emulator::start`] for one test. It ends with whoever started it. Python
//! and a package index are all it needs: the pinned packages of `requirements.txt` are installed once, outside of the
//! clone.
//!
//! What it does differently from AWS is a fact that tests have to name; `docs/TESTING.md` lists what we met.
//!
//! DynamoDB is served by a process of its own that answers one request at a time, because moto's tables lose writes
//! under threads.

#![allow(clippy::expect_used, clippy::panic, reason = "only tests use this crate")]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_async::rt::sleep::{SharedAsyncSleep, TokioSleep};
use aws_smithy_runtime_api::client::behavior_version::BehaviorVersion;
use aws_smithy_runtime_api::client::interceptors::{Intercept, SharedInterceptor};
use aws_smithy_types::retry::RetryConfig;
use aws_types::SdkConfig;
use aws_types::region::Region;
use serde::Deserialize;

/// The region that everything is in.
pub const REGION: &str = "us-east-1";
/// The account that everything belongs to.
pub const ACCOUNT: &str = "123456789012";

/// A running emulator. Dropping it ends it.
#[derive(Debug)]
pub struct Emulator {
    process: Child,
    endpoints: Endpoints,
}

#[derive(Debug, Deserialize)]
struct Endpoints {
    aws: String,
    dynamodb: String,
}

/// The emulator of this test process. Names of tables and queues keep tests apart.
pub fn shared() -> &'static Emulator {
    static SHARED: OnceLock<Emulator> = OnceLock::new();
    SHARED.get_or_init(Emulator::start)
}

impl Emulator {
    /// Starts one. The first start on a machine installs it.
    ///
    /// # Panics
    /// When it does not start; its own words are on standard error.
    pub fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/serve.py");
        let mut process = Command::new("python3")
            .args([script.into(), cache()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3, to run the emulator");
        let mut line = String::new();
        let mut output = BufReader::new(process.stdout.take().expect("its output"));
        output.read_line(&mut line).expect("its first line");
        let endpoints = serde_json::from_str(&line).expect("the addresses of the emulator; its errors stand above");
        Self { process, endpoints }
    }

    /// Address of everything but DynamoDB; the value of `AWS_ENDPOINT_URL`.
    pub fn endpoint(&self) -> &str {
        &self.endpoints.aws
    }

    /// Address of DynamoDB; the value of `AWS_ENDPOINT_URL_DYNAMODB`.
    pub fn dynamodb_endpoint(&self) -> &str {
        &self.endpoints.dynamodb
    }

    /// The variables under which a program finds it.
    pub fn environment(&self) -> [(&'static str, &str); 5] {
        [
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ENDPOINT_URL_DYNAMODB", self.dynamodb_endpoint()),
            ("AWS_REGION", REGION),
            ("AWS_ACCESS_KEY_ID", "testing"),
            ("AWS_SECRET_ACCESS_KEY", "testing"),
        ]
    }

    /// What clients of everything but DynamoDB are made from.
    pub fn sdk(&self) -> SdkConfig {
        sdk(self.endpoint())
    }

    /// What DynamoDB clients are made from.
    pub fn dynamodb_sdk(&self) -> SdkConfig {
        sdk(self.dynamodb_endpoint())
    }
}

/// What clients of a server on this machine are made from: no retries, as in production.
pub fn sdk(endpoint: &str) -> SdkConfig {
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::from_static(REGION))
        .credentials_provider(SharedCredentialsProvider::new(Credentials::from_keys("testing", "testing", None)))
        .endpoint_url(endpoint)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .sleep_impl(SharedAsyncSleep::new(TokioSleep::new()))
        .retry_config(RetryConfig::disabled())
        .build()
}

fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("runs-fleet")
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // Its input closes, and it ends with its servers.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// An interceptor of calls that does nothing.
pub fn silent() -> SharedInterceptor {
    #[derive(Debug)]
    struct Silent;
    impl Intercept for Silent {
        fn name(&self) -> &'static str {
            "Silent"
        }
    }
    SharedInterceptor::new(Silent)
}
