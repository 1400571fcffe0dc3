//! A serving orchestrator as the network meets it: GitHub, probes, and those who mean no good.

#![cfg(feature = "local")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::disallowed_methods, reason = "tests, against a real clock")]

mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use github::webhook::sign;
use serde_json::{Value, json};
use support::{Answer, Process, connect, eventually, free_port, get, program, request};
use tempfile::TempDir;

const SECRET: &str = "webhook-secret-0123456789";
const LIMIT: usize = 1 << 20;

/// A server of its own for each test, without a GitHub behind it.
struct Server {
    // Dropped in this order: the process still writes to the directory.
    process: Process,
    address: SocketAddr,
    dir: TempDir,
}

impl Server {
    fn start() -> Self {
        Self::with(|_| {})
    }

    fn with(more: impl FnOnce(&mut Command)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let nowhere = format!("http://127.0.0.1:{}", free_port());
        let log = File::create(dir.path().join("log")).expect("a log");
        let mut command = program();
        command
            .args(["serve", "--simulated-github", "--local"])
            .arg(dir.path().join("data"))
            .env("RUNS_FLEET_LISTEN_ADDR", address.to_string())
            .env("RUNS_FLEET_GITHUB_APP_ID", "1")
            .env("RUNS_FLEET_GITHUB_APP_PRIVATE_KEY", support::PRIVATE_KEY)
            .env("RUNS_FLEET_GITHUB_WEBHOOK_SECRET", SECRET)
            .env("RUNS_FLEET_GITHUB_API_URL", &nowhere)
            .env("RUNS_FLEET_GITHUB_SERVER_URL", &nowhere)
            .env("RUNS_FLEET_SHUTDOWN_DRAIN_DELAY_SECONDS", "0")
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        more(&mut command);
        fs::create_dir(dir.path().join("data")).expect("a directory");
        let mut server = Self { process: Process::start(&mut command), address, dir };
        eventually("the server is ready", Duration::from_secs(30), || {
            assert!(server.process.ended().is_none(), "it ended at once: {}", server.log());
            request(address, "GET /ready HTTP/1.1", b"").filter(|a| a.status == 200)
        });
        server
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn get(&self, path: &str) -> Answer {
        get(self.address, path)
    }

    /// Posts with these headers and the body's true length.
    fn post(&self, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let length = body.len().to_string();
        let head = head(headers.iter().copied().chain([("Content-Length", length.as_str())]));
        request(self.address, &head, body).expect("an answer")
    }

    /// Posts as GitHub does.
    fn deliver(&self, event: &str, body: &[u8]) -> Answer {
        self.post(&[("X-GitHub-Event", event), ("X-Hub-Signature-256", &signature(body))], body)
    }

    /// The value of a metric with this label; absent is zero.
    fn metric(&self, name: &str, label: &str) -> f64 {
        let metrics = self.get("/metrics").body;
        let name = format!("runs_fleet_{name}{{");
        let line = metrics.lines().find(|l| l.strip_prefix(&name).is_some_and(|labels| labels.contains(label)));
        line.and_then(|l| l.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    }

    /// Ends it, which must work and take no longer than this.
    fn stop(mut self, limit: Duration) {
        self.process.terminate();
        let status = self.process.wait(limit);
        assert_eq!(status.code(), Some(0), "{}", self.log());
    }
}

fn head<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let lines: String = headers.map(|(name, value)| format!("\r\n{name}: {value}")).collect();
    format!("POST /webhook HTTP/1.1{lines}")
}

fn signature(body: &[u8]) -> String {
    sign(&SECRET.into(), body)
}

fn queued(id: u64, labels: &[&str]) -> Vec<u8> {
    let event = json!({
        "action": "queued",
        "workflow_job": {
            "id": id, "run_id": 7, "run_attempt": 1, "name": "build", "status": "queued", "labels": labels,
            "created_at": "2026-01-02T03:04:05Z",
        },
        "repository": { "full_name": "acme/widgets" },
        "installation": { "id": 5 },
    });
    event.to_string().into_bytes()
}

fn is(answer: &Answer, status: u16, body: &str) -> bool {
    (answer.status, answer.body.as_str()) == (status, body)
}

#[test]
fn bad_webhooks_get_the_documented_answers() {
    let server = Server::start();
    let body = queued(1, &["runs-fleet/cpu=2"]);
    let good = signature(&body);
    let refused = |answer: &Answer| is(answer, 400, "Bad request\n");

    // Nothing about a refusal says what was wrong.
    let no_event = server.post(&[("X-Hub-Signature-256", &good)], &body);
    assert!(refused(&no_event), "{no_event:?}");
    let upper = format!("sha256={}", good["sha256=".len()..].to_uppercase());
    let other_secret = sign(&"another-secret-0123456789".into(), &body);
    let of_other_body = signature(b"{}");
    for bad in ["", "sha256=", "sha1=00", "sha256", &good[7..], &good[..70], &upper, &other_secret, &of_other_body] {
        let answer = server.post(&[("X-GitHub-Event", "workflow_job"), ("X-Hub-Signature-256", bad)], &body);
        assert!(refused(&answer), "{bad:?}: {answer:?}");
    }
    let unsigned = server.post(&[("X-GitHub-Event", "workflow_job")], &body);
    assert!(refused(&unsigned), "{unsigned:?}");

    // Signed, but no event.
    let shapes: [&[u8]; 7] = [
        b"",
        b"not json",
        b"{}",
        b"[]",
        b"\xff\xfe",
        b"payload=%7B%7D",
        br#"{"action":"queued","workflow_job":{"id":"x"}}"#,
    ];
    for shape in shapes {
        let answer = server.deliver("workflow_job", shape);
        assert!(refused(&answer), "{:?}: {answer:?}", String::from_utf8_lossy(shape));
    }
    let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    assert!(refused(&server.deliver("workflow_job", &deep)), "nested beyond reason");

    // Whatever we do not know is acknowledged, and so is what does not concern us.
    for event in ["ping", "push", "meteor_strike"] {
        let answer = server.deliver(event, b"anything");
        assert!(is(&answer, 200, "Event acknowledged\n"), "{event}: {answer:?}");
    }
    let foreign = server.deliver("workflow_job", &queued(2, &["ubuntu-latest"]));
    assert!(is(&foreign, 200, "Event acknowledged\n"), "{foreign:?}");

    for method in ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"] {
        let answer = request(server.address, &format!("{method} /webhook HTTP/1.1"), b"").expect("an answer");
        assert_eq!(answer.status, 405, "{method}: {answer:?}");
        assert!(answer.head.contains("allow: post"), "{method}: {answer:?}");
    }

    assert_eq!(server.get("/health").status, 200);
    assert!(server.metric("webhook_rejected_total", "signature_mismatch") >= 3.0, "refusals are counted by reason");
    assert!(server.metric("webhook_rejected_total", "payload") >= 7.0);
    let log = server.log();
    assert!(!log.contains(SECRET) && !log.contains(&good) && !log.contains("PRIVATE KEY"), "{log}");
    server.stop(Duration::from_secs(10));
}

#[test]
fn a_body_may_be_a_mebibyte_and_no_more() {
    let server = Server::start();
    let exact = vec![b'x'; LIMIT];
    assert!(is(&server.deliver("push", &exact), 200, "Event acknowledged\n"), "exactly the limit");
    let over = vec![b'x'; LIMIT + 1];
    assert!(is(&server.deliver("push", &over), 400, "Bad request\n"), "one byte more");

    // The size is that of the body, whoever says otherwise.
    let chunks = |size: usize| {
        let mut body = Vec::new();
        for chunk in vec![b'x'; size].chunks(4096) {
            body.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            body.extend(chunk);
            body.extend(b"\r\n");
        }
        body.extend(b"0\r\n\r\n");
        body
    };
    for (size, status) in [(LIMIT, 200), (LIMIT + 1, 400), (8 * LIMIT, 400)] {
        let signature = signature(&vec![b'x'; size]);
        let headers =
            [("X-GitHub-Event", "push"), ("X-Hub-Signature-256", signature.as_str()), ("Transfer-Encoding", "chunked")];
        let answer = request(server.address, &head(headers.into_iter()), &chunks(size)).expect("an answer");
        assert_eq!(answer.status, status, "{size} bytes in chunks: {answer:?}");
    }
    // A length that is promised and never sent is not waited for longer than a body may take.
    let headers = [("X-GitHub-Event", "push"), ("X-Hub-Signature-256", "sha256=0"), ("Content-Length", "999999999999")];
    let started = Instant::now();
    let answer = request(server.address, &head(headers.into_iter()), b"x").expect("an answer");
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(started.elapsed() < Duration::from_secs(20));
    server.stop(Duration::from_secs(10));
}

#[test]
fn a_slow_body_is_answered_or_closed_in_time() {
    let server = Server::start();
    let body = queued(1, &["runs-fleet/cpu=2"]);
    let (signature, length) = (signature(&body), body.len().to_string());
    let headers =
        [("X-GitHub-Event", "workflow_job"), ("X-Hub-Signature-256", signature.as_str()), ("Content-Length", &length)];
    let mut stream = connect(server.address).unwrap();
    write!(stream, "{}\r\nHost: localhost\r\n\r\n", head(headers.into_iter())).unwrap();
    let mut reader = stream.try_clone().unwrap();
    let started = Instant::now();
    let answer = thread::spawn(move || {
        let mut first = [0; 12];
        reader.read_exact(&mut first).map(|()| String::from_utf8_lossy(&first).into_owned())
    });
    // A byte at a time: at this pace the body takes minutes.
    for byte in &body {
        if answer.is_finished() || stream.write_all(&[*byte]).is_err() {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "the server waits for ever");
        thread::sleep(Duration::from_millis(500));
    }
    if let Ok(first) = answer.join().unwrap() {
        assert_eq!(first, "HTTP/1.1 400");
    }
    assert_eq!(server.get("/health").status, 200);
    server.stop(Duration::from_secs(15));
}

#[test]
fn garbage_in_parallel_hurts_nobody_else() {
    let server = Server::start();
    let address = server.address;
    let garbage: [&[u8]; 6] = [
        b"",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /%%%%\xff HTTP/9.9\r\n\r\n\r\n",
        b"POST /webhook HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /webhook HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX-GitHub-Event: push\r\nX-Hub-Signature-256: sha256=0\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    // Some stay open and silent, or end in the middle of a head.
    let held: Vec<TcpStream> = (0..100)
        .map(|n| {
            let mut stream = connect(address).expect("accepted");
            if n % 2 == 0 {
                stream.write_all(b"POST /webhook HTTP/1.1\r\nX-Git").unwrap();
            }
            stream
        })
        .collect();
    let floods: Vec<_> = (0..8)
        .map(|n| {
            thread::spawn(move || {
                for round in 0..40 {
                    let Ok(mut stream) = connect(address) else { continue };
                    let _ = stream.write_all(garbage[(n + round) % garbage.len()]);
                    let _ = stream.shutdown(std::net::Shutdown::Write);
                    let _ = stream.read_to_end(&mut Vec::new());
                }
            })
        })
        .collect();
    for _ in 0..50 {
        assert_eq!(server.get("/health").status, 200);
        assert!(is(&server.deliver("ping", b"{}"), 200, "Event acknowledged\n"));
    }
    for flood in floods {
        flood.join().unwrap();
    }
    assert_eq!(server.get("/ready").status, 200);
    assert!(!server.log().contains("panicked"), "{}", server.log());
    // Nor does anybody who never finishes his request hold up the end.
    server.stop(Duration::from_secs(20));
    drop(held);
}

#[test]
fn probes_and_metrics_say_how_it_is() {
    let server = Server::start();
    assert!(is(&server.get("/health"), 200, "OK\n"));
    assert!(is(&server.get("/ready"), 200, "OK\n"));
    for path in ["/health", "/ready"] {
        let answer = request(server.address, &format!("HEAD {path} HTTP/1.1"), b"").expect("an answer");
        assert!(is(&answer, 200, ""), "{answer:?}");
    }
    let verbose = server.get("/ready?verbose=1");
    assert_eq!(verbose.status, 200);
    for dependency in verbose.json()["dependencies"].as_array().expect("a list") {
        assert!(dependency["name"].is_string() && dependency["ok"] == json!(true), "{dependency}");
        assert!(dependency["age_ms"].is_number(), "{dependency}");
    }
    assert!(!verbose.body.contains('/') && !verbose.body.contains("http"), "no addresses: {}", verbose.body);
    assert_eq!(server.get("/nowhere").status, 404);
    let root = server.get("/");
    assert!(root.status == 307 && root.head.contains("location: /admin/\r\n"), "local mode has a page: {root:?}");
    let page = server.get("/admin/");
    assert!(page.status == 200 && page.head.contains("content-type: text/html"), "{page:?}");

    let metrics = server.get("/metrics");
    assert_eq!(metrics.status, 200);
    assert!(metrics.head.contains("content-type: text/plain"), "{}", metrics.head);
    assert_exposition(&metrics.body);
    assert!(metrics.body.contains("runs_fleet_build_info{"), "{}", metrics.body);
    let healthy = program()
        .arg("healthcheck")
        .env("RUNS_FLEET_LISTEN_ADDR", server.address.to_string())
        .output()
        .expect("the program starts");
    assert_eq!(healthy.status.code(), Some(0), "{}", support::text(&healthy));
    server.stop(Duration::from_secs(10));
}

/// Prometheus' text format, version 0.0.4, as strictly as a scraper reads it.
fn assert_exposition(text: &str) {
    let mut typed: Vec<(&str, &str)> = Vec::new();
    let mut samples = 0;
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            assert!(["counter", "gauge", "histogram", "summary", "untyped"].contains(&kind), "{line}");
            assert!(!typed.iter().any(|(known, _)| *known == name), "one type per metric: {line}");
            typed.push((name, kind));
            continue;
        }
        if line.starts_with('#') {
            assert!(line.starts_with("# HELP "), "{line}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a value");
        assert!(value.parse::<f64>().is_ok() || value == "+Inf", "{line}");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        assert!(labels.ends_with('}') && labels.matches('"').count() % 2 == 0, "{line}");
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':'), "{line}");
        let (last, kind) = typed.last().expect("samples follow their type");
        let suffix = name.strip_prefix(last).unwrap_or_else(|| panic!("{name} is not of {last}"));
        let suffixes: &[&str] = if *kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        assert!(suffixes.contains(&suffix), "{line}");
        samples += 1;
    }
    assert!(samples > 10, "{text}");
    assert!(text.ends_with('\n'));
}

#[test]
fn a_malformed_label_set_is_reported_where_the_operator_looks() {
    let server = Server::start();
    let answer = server.deliver("workflow_job", &queued(4711, &["self-hosted", "runs-fleet/cpu=many"]));
    assert!(is(&answer, 200, "Event acknowledged\n"), "GitHub is not to blame: {answer:?}");
    assert_eq!(server.metric("label_rejected_total", r#"category="invalid_cpu""#), 1.0);
    assert_exposition(&server.get("/metrics").body);

    let rejected = server.get("/api/jobs/rejected").json();
    let job = &rejected["jobs"][0];
    assert_eq!((&job["job_id"], &job["repo"]), (&json!(4711), &json!("acme/widgets")), "{rejected}");
    assert_eq!(job["labels"], json!(["self-hosted", "runs-fleet/cpu=many"]));
    assert_eq!(job["category"], json!("invalid_cpu"));
    assert!(job["rejected_at"].is_string(), "{job}");

    let log = eventually("it is in the log", Duration::from_secs(5), || {
        let log = server.log();
        let line = log.lines().find(|line| line.contains("4711"))?;
        serde_json::from_str::<Value>(line).ok()
    });
    assert_eq!(log["level"], json!("WARN"), "{log}");
    for (field, value) in [("repo", "acme/widgets"), ("category", "invalid_cpu")] {
        assert_eq!(log[field], json!(value), "{log}");
    }
    assert!(log.to_string().contains("runs-fleet/cpu=many"), "{log}");
    let output = program().args(["why", "4711", "--dir"]).arg(server.dir.path().join("data")).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "nothing was launched for it: {}", support::text(&output));
    server.stop(Duration::from_secs(10));
}

#[test]
fn an_accepted_job_is_on_record_before_the_answer() {
    let server = Server::start();
    let body = queued(99, &["runs-fleet/cpu=2"]);
    for _ in 0..2 {
        let answer = server.deliver("workflow_job", &body);
        assert!(is(&answer, 200, "Job queued\n"), "also the second time: {answer:?}");
    }
    // No GitHub behind it: the job waits, and the record says for what.
    let output = program().args(["why", "99", "--json", "--dir"]).arg(server.dir.path().join("data")).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", support::text(&output));
    let why: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(why["job_id"], json!(99));
    let names: Vec<_> = why["timeline"].as_array().unwrap().iter().filter_map(|m| m["name"].as_str()).collect();
    assert!(names.contains(&"webhook_received"), "{why}");
    let listed = server.get("/api/jobs").json();
    assert_eq!(listed["jobs"].as_array().map(Vec::len), Some(1), "delivered twice, one job: {listed}");
    server.stop(Duration::from_secs(30));
}

#[test]
fn a_rotated_secret_is_good_until_it_is_taken_away() {
    let server = Server::with(|command| {
        command.env("RUNS_FLEET_GITHUB_WEBHOOK_SECRET", "the-new-webhook-secret");
        command.env("RUNS_FLEET_GITHUB_WEBHOOK_SECRET_PREVIOUS", SECRET);
    });
    assert_eq!(server.deliver("ping", b"{}").status, 200, "the previous one");
    for (secret, status) in [("the-new-webhook-secret", 200), ("neither-of-the-two-secrets", 400)] {
        let signature = sign(&secret.into(), b"{}");
        let answer = server.post(&[("X-GitHub-Event", "ping"), ("X-Hub-Signature-256", &signature)], b"{}");
        assert_eq!(answer.status, status, "{secret}: {answer:?}");
    }
    server.stop(Duration::from_secs(10));
}

#[test]
fn the_balancer_is_told_before_the_door_closes() {
    let mut server = Server::with(|command| {
        command.env("RUNS_FLEET_SHUTDOWN_DRAIN_DELAY_SECONDS", "4");
    });
    // Half a request and somebody who watches, both kept until everything is over.
    let mut half = connect(server.address).unwrap();
    half.write_all(b"GET /health HT").unwrap();
    let mut watcher = connect(server.address).unwrap();
    watcher.write_all(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut first = [0; 12];
    watcher.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    server.process.terminate();
    let not_ready = eventually("readiness is off", Duration::from_secs(3), || {
        Some(server.get("/ready")).filter(|answer| answer.status == 503)
    });
    assert_eq!(not_ready.body, "Shutting down\n");
    assert_eq!(server.get("/ready?verbose=1").json()["draining"], json!(true));
    assert_eq!(server.get("/health").status, 200, "it is alive");
    let late = server.deliver("workflow_job", &queued(5, &["runs-fleet/cpu=2"]));
    assert!(is(&late, 200, "Job queued\n"), "webhooks are taken until the end: {late:?}");
    assert_eq!(server.process.wait(Duration::from_secs(30)).code(), Some(0), "{}", server.log());
    assert!(request(server.address, "GET /health HTTP/1.1", b"").is_none(), "the door is closed");
    let output = program().args(["why", "5", "--dir"]).arg(server.dir.path().join("data")).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "nothing taken is lost: {}", support::text(&output));
}
