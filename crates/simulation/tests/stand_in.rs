//! The stand-in runner as the processes it really is, against a simulated GitHub in this one.
//!
//! Not a libtest binary: the executable in the tarball is this very file, which becomes the runner when it is called
//! with the sub-command.
#![allow(clippy::disallowed_methods, clippy::expect_used, clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::path::Path;
use std::process::{ExitCode, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use domain::clock::Rng;
use domain::gh::Conclusion;
use domain::ids::{InstallationId, JobId, Repo};
use flate2::read::GzDecoder;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::Client;
use secrecy::SecretString;
use serde_json::{Value, json};
use simulation::chance::SeededRng;
use simulation::github::http::{APP_PRIVATE_KEY, SimConfig, SimulatedGitHub};
use simulation::github::model::{Counters, JobSpec, OwnerKind, Settings};
use simulation::load::{self, End, Load};
use simulation::runner::{self, SUB_COMMAND};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const LABEL: &str = "runs-fleet/cpu=2";

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(SUB_COMMAND) {
        return runner::main();
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        serves_one_job_and_leaves().await;
        says_goodbye_on_a_signal().await;
        is_cancelled_with_its_run().await;
        leaves_when_deregistered().await;
        is_missed_when_killed().await;
        serves_a_load_with_theft().await;
    });
    println!("6 stories told");
    ExitCode::SUCCESS
}

fn repo() -> Repo {
    "acme/shop".parse().unwrap()
}

struct World {
    github: SimulatedGitHub,
    client: Client,
    token: String,
    dir: TempDir,
}

impl World {
    async fn start(theft: f64) -> Self {
        let repositories = vec![(repo(), OwnerKind::Organization)];
        let mut config = SimConfig::new(3, repositories, SecretString::from("shh"));
        let lost_after = Duration::from_secs(3);
        let settings = Settings::new("", InstallationId::new(1).unwrap(), 0);
        config.settings = Settings { theft, runner_lost_after: lost_after, ..settings };
        config.runner_exe = Some(std::env::current_exe().unwrap());
        let github = SimulatedGitHub::start(config).await.unwrap();
        let client = Client::builder().user_agent("test").build().unwrap();
        let now = domain::clock::Timestamp::now().as_second();
        let claims = json!({ "iss": "1", "iat": now - 60, "exp": now + 500 });
        let key = EncodingKey::from_rsa_pem(APP_PRIVATE_KEY.as_bytes()).unwrap();
        let jwt = encode(&Header::new(Algorithm::RS256), &claims, &key).unwrap();
        let url = format!("{}/app/installations/1/access_tokens", github.api_url());
        let answer: Value = client.post(url).bearer_auth(jwt).send().await.unwrap().json().await.unwrap();
        let token = answer["token"].as_str().unwrap().to_owned();
        let dir = TempDir::new().unwrap();
        let (url, sha256) = github.runner_package().unwrap();
        let bytes = client.get(url).send().await.unwrap().bytes().await.unwrap();
        assert_eq!(hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&bytes)), sha256);
        tar::Archive::new(GzDecoder::new(&bytes[..])).unpack(dir.path()).unwrap();
        assert!(dir.path().join("config.sh").exists() && dir.path().join("bin/Runner.Listener").exists());
        Self { github, client, token, dir }
    }

    fn submit(&self, duration: Duration) -> JobId {
        let (name, labels, outcome) = ("build it".to_owned(), vec![LABEL.to_owned()], Conclusion::Success);
        self.github.submit_job(&repo(), JobSpec { name, labels, duration, outcome }).unwrap()
    }

    async fn mint(&self, name: &str, labels: &[String]) -> (u64, String) {
        let url = format!("{}/repos/acme/shop/actions/runners/generate-jitconfig", self.github.api_url());
        let body = json!({ "name": name, "runner_group_id": 1, "labels": labels }).to_string();
        let answer = self.client.post(url).bearer_auth(&self.token).body(body).send().await.unwrap();
        let minted: Value = answer.json().await.unwrap();
        (minted["runner"]["id"].as_u64().unwrap(), minted["encoded_jit_config"].as_str().unwrap().to_owned())
    }

    async fn runner(&self) -> (u64, Child) {
        let (id, jit) = self.mint("runs-fleet-runner-pool-0123456789abcdef0", &[LABEL.to_owned()]).await;
        (id, spawn(self.dir.path(), &jit))
    }

    async fn until(&self, what: &str, reached: impl Fn(&Counters) -> bool) {
        let mut changes = self.github.changes();
        let wait = async {
            while !reached(&self.github.counters()) {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    /// GitHub hands the job out a moment before the runner knows of it.
    async fn until_worker(&self) {
        let diag = self.dir.path().join("_diag");
        let wait = async {
            while std::fs::read_dir(&diag).map_or(0, Iterator::count) == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await.expect("no worker");
    }

    async fn until_online(&self) {
        let mut changes = self.github.changes();
        let wait = async {
            while !self.github.runners().iter().any(|r| r.online) {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await.expect("never online");
    }
}

fn spawn(dir: &Path, jit: &str) -> Child {
    Command::new(dir.join("run.sh"))
        .env("ACTIONS_RUNNER_INPUT_JITCONFIG", jit)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn end(child: Child) -> (String, Output) {
    let output = tokio::time::timeout(Duration::from_secs(30), child.wait_with_output()).await.unwrap().unwrap();
    (String::from_utf8_lossy(&output.stdout).into_owned(), output)
}

async fn signal(child: &Child, name: &str) {
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-s", name, &pid]).status().await.unwrap().success());
}

async fn serves_one_job_and_leaves() {
    let world = World::start(0.0).await;
    let job = world.submit(Duration::from_millis(50));
    let (_, child) = world.runner().await;
    let (said, output) = end(child).await;
    assert!(output.status.success());
    let lines =
        ["√ Connected to GitHub", "Listening for Jobs", ": Running job: build it", "completed with result: Succeeded"];
    let places: Vec<_> = lines.iter().map(|line| said.find(line).unwrap_or_else(|| panic!("{line}: {said}"))).collect();
    assert!(places.is_sorted());
    let report = world.github.jobs().into_iter().find(|j| j.id == job).unwrap();
    assert_eq!(report.conclusion, Some("success"));
    assert!(report.runner_process_started_ms.unwrap() > 1_000_000_000_000);
    let logs = std::fs::read_dir(world.dir.path().join("_diag")).unwrap();
    assert!(logs.flatten().any(|l| l.file_name().to_string_lossy().starts_with("Worker_")));
    world.github.stop().await;
}

async fn says_goodbye_on_a_signal() {
    let world = World::start(0.0).await;
    world.submit(Duration::from_secs(600));
    let (_, child) = world.runner().await;
    world.until_worker().await;
    signal(&child, "TERM").await;
    let (said, output) = end(child).await;
    assert!(output.status.success() && said.contains("completed with result: Canceled"), "{said}");
    assert_eq!((world.github.counters().cancelled, world.github.counters().runner_lost), (1, 0));
    let (_, idle) = world.runner().await;
    world.until_online().await;
    signal(&idle, "INT").await;
    let (said, output) = end(idle).await;
    assert!(output.status.success() && said.contains("Exiting..."), "{said}");
    assert!(world.github.runners().iter().all(|r| !r.online));
}

async fn is_cancelled_with_its_run() {
    let world = World::start(0.0).await;
    world.submit(Duration::from_secs(600));
    let (_, child) = world.runner().await;
    world.until("in progress", |c| c.in_progress == 1).await;
    let run = world.github.jobs()[0].run;
    world.github.cancel_run(&repo(), run).unwrap();
    let (said, _) = end(child).await;
    assert!(said.contains("completed with result: Canceled"), "{said}");
    assert_eq!(world.github.jobs()[0].conclusion, Some("cancelled"));
}

async fn leaves_when_deregistered() {
    let world = World::start(0.0).await;
    let (id, child) = world.runner().await;
    world.until_online().await;
    let url = format!("{}/repos/acme/shop/actions/runners/{id}", world.github.api_url());
    assert_eq!(world.client.delete(&url).bearer_auth(&world.token).send().await.unwrap().status(), 204);
    let (said, output) = end(child).await;
    assert!(output.status.success() && said.contains("exit with 0 return code"), "{said}");
    let (id, jit) = world.mint("too-late", &[LABEL.to_owned()]).await;
    let url = format!("{}/repos/acme/shop/actions/runners/{id}", world.github.api_url());
    assert_eq!(world.client.delete(&url).bearer_auth(&world.token).send().await.unwrap().status(), 204);
    let (said, _) = end(spawn(world.dir.path(), &jit)).await;
    assert!(said.contains("Runner listener exit with terminated error") && !said.contains("Listening"), "{said}");
}

async fn is_missed_when_killed() {
    let world = World::start(0.0).await;
    let job = world.submit(Duration::from_secs(600));
    let (_, mut child) = world.runner().await;
    world.until("in progress", |c| c.in_progress == 1).await;
    child.kill().await.unwrap();
    world.until("concluded", |c| c.runner_lost == 1).await;
    let report = world.github.jobs().into_iter().find(|j| j.id == job).unwrap();
    assert_eq!(report.conclusion, Some("failure"));
}

/// The plainest orchestrator there can be: a runner for every queued job, once.
async fn serves_a_load_with_theft() {
    let world = World::start(0.3).await;
    let rng: Arc<dyn Rng> = Arc::new(SeededRng::new(9));
    let mut load = Load::new(repo(), 8, Arc::clone(&rng));
    load.jobs = Some(40);
    load.duration = (Duration::from_millis(50), Duration::from_millis(200));
    load.deadline = Some(Duration::from_secs(120));
    let stop = CancellationToken::new();
    let orchestrate = async {
        let mut runners = JoinSet::new();
        let mut served = std::collections::BTreeSet::new();
        let mut changes = world.github.changes();
        while !stop.is_cancelled() {
            for job in world.github.jobs() {
                if served.insert(job.id) {
                    let id = job.id.to_string();
                    let name = format!("runs-fleet-runner-shop-{}-{:017x}", &id[id.len() - 6..], served.len());
                    let (_, jit) = world.mint(&name, &job.labels).await;
                    let child = spawn(world.dir.path(), &jit);
                    runners.spawn(async move { end(child).await.1.status.success() });
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                _ = changes.changed() => {}
            }
        }
        runners.join_all().await
    };
    let generate = async {
        let result = load::run(&world.github, &load, &stop).await.unwrap();
        stop.cancel();
        result
    };
    let ((ended, counters), exits) = tokio::join!(generate, orchestrate);
    assert_eq!((ended, counters.success, counters.unsettled()), (End::Settled, 40, 0), "{counters:?}");
    assert_eq!((counters.registered, counters.never_run), (40, 0));
    assert!(counters.stolen > 0, "{counters:?}");
    assert!(exits.iter().all(|green| *green));
}
