//! The whole system on an emulated AWS: the server in `ec2` mode, a simulated GitHub, and real agents that play the
//! instances.

#![cfg(all(feature = "aws", feature = "local"))]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::disallowed_methods, reason = "tests, against a real clock")]
#![allow(clippy::print_stdout, reason = "what a run came to is worth a line")]

#[path = "support/account.rs"]
mod account;
#[path = "support/faults.rs"]
mod faults;
mod support;

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use account::{Account, Gateway, Machines, up};
use faults::{BadAws, Weather};
use provider::HandOver;
use secrecy::SecretString;
use simulation::chance::SeededRng;
use simulation::github::http::{APP_PRIVATE_KEY, SimConfig, SimulatedGitHub};
use simulation::github::model::OwnerKind;
use simulation::load::{self, End, Load};
use support::{Process, free_port, get, program, request, signal};
use tokio_util::sync::CancellationToken;

const SECRET: &str = "webhook-secret-0123456789";
const PREFIX: &str = "/runs-fleet/runners";

/// A server of the account.
struct Server {
    process: Process,
    address: SocketAddr,
}

impl Server {
    fn start(account: &Account, github: &SimulatedGitHub, dir: &Path, address: SocketAddr) -> Self {
        let log = File::options().create(true).append(true).open(dir.join("server.log")).expect("a log");
        let mut command = configured(account, github);
        command
            .args(["serve", "--simulated-github"])
            .env("RUNS_FLEET_LISTEN_ADDR", address.to_string())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        Self { process: Process::start(&mut command), address }
    }
}

/// The program, with everything it has to know.
fn configured(account: &Account, github: &SimulatedGitHub) -> Command {
    let mut command = program();
    command
        .envs(account.environment())
        .env("RUNS_FLEET_GITHUB_APP_ID", github.app_id().to_string())
        .env("RUNS_FLEET_GITHUB_APP_PRIVATE_KEY", APP_PRIVATE_KEY)
        .env("RUNS_FLEET_GITHUB_WEBHOOK_SECRET", SECRET)
        .env("RUNS_FLEET_GITHUB_API_URL", github.api_url())
        .env("RUNS_FLEET_GITHUB_SERVER_URL", github.api_url());
    command
}

async fn github(seed: u64) -> SimulatedGitHub {
    let repo = "acme/widgets".parse().unwrap();
    let mut config = SimConfig::new(seed, vec![(repo, OwnerKind::Organization)], SecretString::from(SECRET));
    config.runner_exe = Some(env!("CARGO_BIN_EXE_runs-fleet-server").into());
    // The emulator is slow; a webhook that waits for it is not lost.
    config.webhook_timeout = Duration::from_secs(60);
    SimulatedGitHub::start(config).await.expect("the simulated GitHub")
}

/// How many jobs; fewer while developing.
fn jobs(default: u64) -> u64 {
    std::env::var("RUNS_FLEET_TEST_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

async fn eventually<F: AsyncFnMut() -> Option<String>>(limit: Duration, mut complaint: F) {
    let deadline = tokio::time::Instant::now() + limit;
    while let Some(complaint) = complaint().await {
        assert!(tokio::time::Instant::now() < deadline, "{complaint}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Waits until nothing is left of something. How long a slow emulator needs for all of it says nothing, so what is
/// refused is that it does not get less.
async fn empties<T: std::fmt::Debug>(what: &str, mut left: impl AsyncFnMut() -> Vec<T>) {
    // An agent nobody hands a job to gives up after ten minutes.
    const STANDSTILL: Duration = Duration::from_secs(660);
    let started = tokio::time::Instant::now();
    let (mut fewest, mut since) = (usize::MAX, started);
    loop {
        let left = left().await;
        if left.is_empty() {
            println!("no {what} left after {:?}", started.elapsed());
            return;
        }
        if left.len() < fewest {
            (fewest, since) = (left.len(), tokio::time::Instant::now());
        }
        assert!(since.elapsed() < STANDSTILL, "{what} left: {left:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Nothing of a finished load is left anywhere in the account.
async fn nothing_is_left(account: &Account) {
    let ec2 = account.instances();
    empties("instances", async || match up(&ec2).await {
        Some(instances) => instances.into_iter().map(|i| i.id).collect(),
        None => vec!["nobody knows how many".to_owned()],
    })
    .await;
    let store = provider::ssm::SsmHandOver::new(&account.emulator.sdk(), emulator::silent(), PREFIX, None);
    empties("hand-overs", async || store.list().await.expect("an answer")).await;
    for queue in account.queues() {
        empties(queue.name(), async || {
            let depth = queue.depth().await.expect("an answer");
            let left = depth.visible.unwrap_or(0) + depth.in_flight.unwrap_or(0);
            (0..left).collect()
        })
        .await;
    }
}

/// How a test differs from the quiet one.
struct Trouble {
    weather: Option<Weather>,
    /// The server is killed so often, and started again.
    kills: u32,
    /// Every wait is so many times shorter.
    divisor: u32,
}

/// One at a time: each is as much as a small machine can bear.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Runs `jobs` jobs to their end, then looks whether anything is left.
async fn whole_system(jobs: u64, trouble: Trouble) {
    let _alone = ALONE.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let mut account = tokio::task::spawn_blocking(Account::create).await.unwrap();
    let bad = match trouble.weather {
        Some(weather) => Some(BadAws::start(&account.emulator, 1, weather).await),
        None => None,
    };
    if let Some(bad) = &bad {
        for name in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_DYNAMODB"] {
            account.endpoints.insert(name.to_owned(), bad.url.clone());
        }
    }
    account.more.insert("RUNS_FLEET_TEST_TIME_DIVISOR".to_owned(), trouble.divisor.to_string());
    let github = github(1).await;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let server = Mutex::new(Server::start(&account, &github, dir.path(), address));
    ready(&server, dir.path()).await;
    let gateway = Gateway::start(address, account.queue("RUNS_FLEET_WEBHOOK_QUEUE_URL")).await;
    github.set_webhook_url(&gateway.url).unwrap();

    let (url, sha256) = github.runner_package().expect("a runner");
    let runner = [("RUNS_FLEET_RUNNER_URL", url.clone()), ("RUNS_FLEET_RUNNER_SHA256", sha256.to_owned())];
    let mut machines = Machines::new(&dir.path().join("machines"), &account, 20, &runner);
    let ec2 = account.instances();
    let mut load = Load::new("acme/widgets".parse().unwrap(), 40, Arc::new(SeededRng::new(1)));
    load.jobs = Some(jobs);
    load.deadline = Some(Duration::from_secs(1500));
    let stop = CancellationToken::new();
    let started = tokio::time::Instant::now();
    let kill = async {
        for _ in 0..trouble.kills {
            tokio::time::sleep(Duration::from_secs(15)).await;
            let pid = server.lock().unwrap().process.pid();
            signal(pid, "KILL");
            tokio::time::sleep(Duration::from_secs(1)).await;
            *server.lock().unwrap() = Server::start(&account, &github, dir.path(), address);
        }
        std::future::pending::<()>().await;
    };
    let (end, counters) = tokio::select! {
        ended = load::run(&github, &load, &stop) => ended.unwrap(),
        () = machines.run(&ec2) => unreachable!("it runs until it is dropped"),
        () = kill => unreachable!("it never ends"),
    };
    println!("{jobs} jobs, {} machines, {:?}: {counters:?}", machines.had(), started.elapsed());
    println!("weather: {:?}", bad.as_ref().map(BadAws::tally));
    assert_eq!(end, End::Settled, "{}", log(dir.path()));
    let red: Vec<_> = github.jobs().into_iter().filter(|job| job.conclusion != Some("success")).collect();
    assert!(red.is_empty(), "{red:?}");
    tokio::select! {
        () = nothing_is_left(&account) => {}
        () = machines.run(&ec2) => {}
    }
    let metrics = tokio::task::spawn_blocking(move || get(address, "/metrics").body).await.unwrap();
    // One that was killed and started again has perhaps not needed them all.
    let services: &[&str] =
        if trouble.weather.is_none() { &["SQS", "DynamoDB", "EC2", "SSM"] } else { &["SQS", "DynamoDB"] };
    for service in services {
        assert!(metrics.contains(&format!("service=\"{service}\"")), "calls of {service} are counted: {metrics}");
    }
    let mut server = server.into_inner().unwrap();
    server.process.terminate();
    let status = tokio::task::spawn_blocking(move || server.process.wait(Duration::from_secs(60))).await.unwrap();
    assert!(status.success(), "{status}: {}", log(dir.path()));
}

fn log(dir: &Path) -> String {
    let log = std::fs::read_to_string(dir.join("server.log")).unwrap_or_default();
    let lines: Vec<_> = log.lines().rev().take(40).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

async fn ready(server: &Mutex<Server>, dir: &Path) {
    let address = server.lock().unwrap().address;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let asked = move || request(address, "GET /ready HTTP/1.1", b"");
        let answer = tokio::task::spawn_blocking(asked).await.expect("no panic");
        if answer.is_some_and(|answer| answer.status == 200) {
            return;
        }
        assert!(server.lock().unwrap().process.ended().is_none(), "it ended: {}", log(dir));
        assert!(tokio::time::Instant::now() < deadline, "not ready: {}", log(dir));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_job_is_served_and_nothing_is_left() {
    whole_system(jobs(300), Trouble { weather: None, kills: 0, divisor: 1 }).await;
}

/// Throttling, lost answers, fleets that launch a part or nothing, a server that is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bad_weather_loses_no_job_and_leaks_no_machine() {
    let weather = Weather { throttled: 0.02, lost: 0.01, partial: 0.2, no_capacity: 0.15 };
    whole_system(jobs(300), Trouble { weather: Some(weather), kills: 4, divisor: 2 }).await;
}

/// A job of a pool with running spares takes one of them: no machine is asked for, and every step is short. Prints how
/// long each took.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_warm_start_asks_for_no_machine() {
    const JOBS: usize = 12;
    let _alone = ALONE.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let account = tokio::task::spawn_blocking(Account::create).await.unwrap();
    let spares = ["pools", "set", "web", "--arch", "arm64", "--cpu", "2", "--running", &JOBS.to_string()];
    let github = github(1).await;
    let set = support::run(configured(&account, &github).args(spares));
    assert!(set.status.success(), "{}", support::text(&set));
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let server = Mutex::new(Server::start(&account, &github, dir.path(), address));
    ready(&server, dir.path()).await;
    github.set_webhook_url(&format!("http://{address}/webhook")).unwrap();

    let (url, sha256) = github.runner_package().expect("a runner");
    let runner = [("RUNS_FLEET_RUNNER_URL", url.clone()), ("RUNS_FLEET_RUNNER_SHA256", sha256.to_owned())];
    let mut machines = Machines::new(&dir.path().join("machines"), &account, 2 * JOBS, &runner);
    let ec2 = account.instances();
    let waiting = async {
        eventually(Duration::from_secs(300), async || {
            let waits = |dir: &PathBuf| {
                std::fs::read_to_string(dir.join("agent.log")).is_ok_and(|log| log.contains("agent_start"))
            };
            let count = agents(dir.path()).iter().filter(|dir| waits(dir)).count();
            (count < JOBS).then(|| format!("{count} of {JOBS} spares wait: {}", log(dir.path())))
        })
        .await;
    };
    tokio::select! {
        () = waiting => {}
        () = machines.run(&ec2) => unreachable!("it runs until it is dropped"),
    }
    let mut load = Load::new("acme/widgets".parse().unwrap(), 1, Arc::new(SeededRng::new(1)));
    load.classes = vec![vec!["runs-fleet/cpu=2/arch=arm64/pool=web".to_owned()]];
    load.jobs = Some(JOBS as u64);
    load.deadline = Some(Duration::from_secs(300));
    let stop = CancellationToken::new();
    let (end, _) = tokio::select! {
        ended = load::run(&github, &load, &stop) => ended.unwrap(),
        () = machines.run(&ec2) => unreachable!("it runs until it is dropped"),
    };
    assert_eq!(end, End::Settled, "{}", log(dir.path()));

    let text = std::fs::read_to_string(dir.path().join("server.log")).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of = |event: &str| lines.iter().filter(|line| line["event"] == event).collect::<Vec<_>>();
    let mut steps = std::collections::BTreeMap::<String, Vec<f64>>::new();
    for line in of("job_assigned") {
        assert_eq!(line["source"], "hot_pool", "{line}");
        for step in line["steps"].as_str().expect("text").split(' ') {
            let (name, took) = step.split_once('=').expect("a step and its time");
            steps.entry(name.to_owned()).or_default().push(took.trim_end_matches("ms").parse().expect("a number"));
        }
    }
    assert_eq!(steps["hand_over"].len(), JOBS);
    assert!(!steps.contains_key("launch") && !steps.contains_key("start"), "{steps:?}");
    let stamp = |value: &serde_json::Value| value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    for written in of("config_stored") {
        let machine = dir.path().join("machines").join(written["instance_id"].as_str().expect("its machine"));
        let Ok(state) = std::fs::read(machine.join("state.json")) else { continue };
        let state: serde_json::Value = serde_json::from_slice(&state).expect("JSON");
        let (written, found) = (stamp(&written["time"]), stamp(&state["claimed_at"]));
        let (Some(written), Some(found)) = (written, found) else { continue };
        let found_ms = found.as_millisecond();
        let mut note = |name: &str, ms: i64| steps.entry(name.to_owned()).or_default().push(ms as f64);
        note("found", found_ms - written.as_millisecond());
        if let Some(started) = state["run_started_at_ms"].as_i64() {
            note("run.sh", started - found_ms);
        }
    }
    for (name, took) in &mut steps {
        took.sort_unstable_by(f64::total_cmp);
        let last = took.len() - 1;
        println!("{name}: {} times, p50 {:.1} ms, p95 {:.1} ms", took.len(), took[last / 2], took[last * 19 / 20]);
    }
    let metrics = tokio::task::spawn_blocking(move || get(address, "/metrics").body).await.unwrap();
    for line in metrics.lines().filter(|line| line.starts_with("runs_fleet_webhook_handler_seconds_")) {
        println!("{line}");
    }
}

fn agents(dir: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(dir.join("machines")).into_iter().flatten().flatten();
    all.map(|entry| entry.path()).collect()
}
