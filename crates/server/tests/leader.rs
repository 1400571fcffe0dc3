//! Who leads: two servers on one emulated AWS, with the timings of production.
//!
//! The stories take a minute each, nearly all of it waiting, and run side by side. What they come to is printed.

#![cfg(all(feature = "aws", feature = "local"))]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::disallowed_methods, reason = "tests, against a real clock")]
#![allow(clippy::print_stdout, reason = "what a run came to is worth a line")]

#[allow(dead_code, reason = "nobody runs a job here")]
#[path = "support/account.rs"]
mod account;
mod support;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use account::Account;
use serde_json::Value;
use support::{PRIVATE_KEY, Process, eventually, free_port, program, request, signal};

/// A term, and how much longer nothing must have moved, and what a busy machine adds.
const GONE: Duration = Duration::from_secs(65);
const SECOND: Duration = Duration::from_secs(1);

/// One after the other: an emulator takes all of a small machine while it starts.
fn account() -> Account {
    static STARTING: Mutex<()> = Mutex::new(());
    let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    Account::create()
}

/// A server, and when it was kept from acting.
struct Server {
    name: &'static str,
    process: Process,
    address: SocketAddr,
    log: PathBuf,
    /// Epoch seconds: it was stopped or killed then.
    silent_from: Option<f64>,
}

impl Server {
    fn start(account: &Account, dir: &Path, name: &'static str) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let path = dir.join(format!("{name}.log"));
        let log = File::create(&path).expect("a log");
        let mut command = program();
        command
            .arg("serve")
            .envs(account.environment())
            .env("RUNS_FLEET_COORDINATOR_ENABLED", "true")
            // A task definition gives all replicas the same.
            .env("RUNS_FLEET_INSTANCE_ID", "runs-fleet")
            .env("RUNS_FLEET_LISTEN_ADDR", address.to_string())
            .env("RUNS_FLEET_GITHUB_APP_ID", "1")
            .env("RUNS_FLEET_GITHUB_APP_PRIVATE_KEY", PRIVATE_KEY)
            .env("RUNS_FLEET_GITHUB_WEBHOOK_SECRET", "webhook-secret-0123456789")
            // Nobody answers there, and nothing here depends on an answer.
            .env("RUNS_FLEET_GITHUB_API_URL", "http://127.0.0.1:9")
            .arg("--simulated-github")
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        let server = Self { name, process: Process::start(&mut command), address, log: path, silent_from: None };
        eventually("it is ready", Duration::from_secs(90), || server.leads());
        server
    }

    /// What it says of itself; `None`: it says nothing.
    fn leads(&self) -> Option<bool> {
        let answer = request(self.address, "GET /ready?verbose=1 HTTP/1.1", b"")?;
        answer.json()["leader"].as_bool()
    }

    fn signal(&mut self, name: &str) {
        if name != "CONT" {
            self.silent_from = Some(epoch());
        }
        signal(self.process.pid(), name);
    }

    /// Waits until it leads; how long that took.
    fn takes_over(&self, limit: Duration) -> Duration {
        let start = Instant::now();
        eventually(&format!("{} leads", self.name), limit, || self.leads().filter(|leads| *leads));
        start.elapsed()
    }

    fn ends_well(&mut self) {
        let status = self.process.wait(Duration::from_secs(60));
        assert!(status.success(), "{}: {status}", self.name);
    }

    /// Its terms: token, and from when to when it led, in epoch seconds; and the reasons why they ended.
    fn terms(&self) -> (Vec<(i64, f64, f64)>, Vec<String>) {
        let (mut terms, mut reasons) = (Vec::new(), Vec::new());
        for line in fs::read_to_string(&self.log).expect("a log").lines() {
            let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
            let at = || {
                let time: jiff::Timestamp = line["time"].as_str().expect("a time").parse().expect("RFC 3339");
                time.as_millisecond() as f64 / 1000.0
            };
            match line["event"].as_str() {
                Some("leader.acquired") => {
                    let silent = self.silent_from.filter(|silent| *silent > at()).unwrap_or(f64::INFINITY);
                    terms.push((line["token"].as_i64().expect("a token"), at(), silent));
                }
                Some("leader.lost") => {
                    let (_, _, until) = terms.last_mut().expect("a term");
                    // One that slept notes the end late.
                    *until = until.min(at());
                    reasons.push(line["reason"].as_str().expect("a reason").to_owned());
                }
                _ => {}
            }
        }
        (terms, reasons)
    }
}

fn epoch() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// From the logs: terms have growing tokens, and each begins after the one before has ended.
fn one_led_at_a_time(servers: &[&Server], wanted: usize) {
    let mut terms: Vec<_> = servers.iter().flat_map(|s| s.terms().0.into_iter().map(|t| (s.name, t))).collect();
    terms.sort_by(|(_, a), (_, b)| a.1.total_cmp(&b.1));
    assert_eq!(terms.len(), wanted, "{terms:?}");
    for pair in terms.windows(2) {
        let [(_, before), (_, after)] = pair else { continue };
        assert!(after.0 > before.0, "tokens grow: {terms:?}");
        assert!(after.1 >= before.2, "one at a time: {terms:?}");
    }
}

#[test]
fn a_leader_that_is_stopped_or_killed_is_followed_by_the_other() {
    let (account, dir) = (account(), tempfile::tempdir().unwrap());
    let mut first = Server::start(&account, dir.path(), "first");
    println!("the first leads after {:?}", first.takes_over(5 * SECOND));
    let mut second = Server::start(&account, dir.path(), "second");
    sleep(2 * SECOND);
    assert_eq!((first.leads(), second.leads()), (Some(true), Some(false)));

    first.process.terminate();
    let took = second.takes_over(3 * SECOND);
    println!("SIGTERM of the leader: the other leads after {took:?}");
    first.ends_well();
    assert_eq!(first.terms().1, ["released"]);

    let third = Server::start(&account, dir.path(), "third");
    sleep(SECOND);
    assert_eq!((second.leads(), third.leads()), (Some(true), Some(false)));
    second.signal("KILL");
    let took = third.takes_over(GONE);
    println!("SIGKILL of the leader: the other leads after {took:?}");
    one_led_at_a_time(&[&first, &second, &third], 3);
}

#[test]
fn a_leader_that_slept_follows_when_it_wakes() {
    let (account, dir) = (account(), tempfile::tempdir().unwrap());
    let mut first = Server::start(&account, dir.path(), "sleeper");
    first.takes_over(5 * SECOND);
    let mut second = Server::start(&account, dir.path(), "waker");
    sleep(SECOND);
    first.signal("STOP");
    let took = second.takes_over(GONE);
    println!("SIGSTOP of the leader: the other leads after {took:?}");
    sleep(5 * SECOND);
    first.signal("CONT");
    for _ in 0..30 {
        assert_eq!(first.leads(), Some(false), "not even in its first answer");
        assert_eq!(second.leads(), Some(true));
        sleep(SECOND / 10);
    }
    assert_eq!(first.terms().1.len(), 1, "it knows that its term is over");
    for server in [&mut second, &mut first] {
        server.process.terminate();
        server.ends_well();
    }
    one_led_at_a_time(&[&first, &second], first.terms().0.len() + 1);
    assert_eq!(second.terms().1, ["released"], "its term was never in doubt");
}

/// Falling back to no election would make every replica a leader.
#[test]
fn a_server_that_cannot_elect_does_not_start() {
    let (account, dir) = (account(), tempfile::tempdir().unwrap());
    let mut names = account.environment();
    names.insert("RUNS_FLEET_LOCKS_TABLE".to_owned(), "no-such-table".to_owned());
    let mut command = program();
    command.arg("serve").envs(names).current_dir(dir.path());
    for (name, value) in [
        ("RUNS_FLEET_COORDINATOR_ENABLED", "true"),
        ("RUNS_FLEET_LISTEN_ADDR", "127.0.0.1:0"),
        ("RUNS_FLEET_GITHUB_APP_ID", "1"),
        ("RUNS_FLEET_GITHUB_APP_PRIVATE_KEY", PRIVATE_KEY),
        ("RUNS_FLEET_GITHUB_WEBHOOK_SECRET", "webhook-secret-0123456789"),
    ] {
        command.env(name, value);
    }
    let output = support::run(&mut command);
    let said = support::text(&output);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("RUNS_FLEET_LOCKS_TABLE") && said.contains("no-such-table"), "{said}");
}
