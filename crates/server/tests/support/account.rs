//! A whole AWS for one test: the emulator, what an account has (subnets, launch templates), the tables and queues that
//! `setup` makes, a gateway that writes webhooks to a queue, and machines: real agents, one for each instance that
//! appears.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use emulator::Emulator;
use fleet::aws::AwsEc2;
use fleet::ec2::{Ec2, Instance, Selection};
use queue::{Message, Queue};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::support::{self, Process, program, request};

/// Base name of the launch templates.
const TEMPLATE: &str = "runs-fleet-runner";

/// Name of an image the emulator knows.
const IMAGE: &str = "ami-12c6146b";

/// The account.
pub(crate) struct Account {
    pub(crate) emulator: Emulator,
    /// Where programs find AWS: the emulator, or something in front of it.
    pub(crate) endpoints: BTreeMap<String, String>,
    /// What `setup` printed: queues and tables, as the server's variables.
    pub(crate) names: BTreeMap<String, String>,
    pub(crate) subnets: Vec<String>,
    /// Further variables of the server.
    pub(crate) more: BTreeMap<String, String>,
}

impl Account {
    /// Starts the emulator and creates everything with `setup`.
    pub(crate) fn create() -> Self {
        let emulator = Emulator::start();
        let endpoints: BTreeMap<_, _> =
            emulator.environment().map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let output = support::run(program().envs(&endpoints).args(["setup", "--create", "--format", "json"]));
        assert!(output.status.success(), "{}", support::text(&output));
        let made: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let names = serde_json::from_value(made["variables"].clone()).expect("names and values");
        let account = Self { subnets: subnets(&emulator), emulator, endpoints, names, more: BTreeMap::new() };
        for arch in ["arm64", "amd64"] {
            account.ec2(&[
                ("Action", "CreateLaunchTemplate"),
                ("LaunchTemplateName", &format!("{TEMPLATE}-{arch}")),
                ("LaunchTemplateData.ImageId", IMAGE),
                ("LaunchTemplateData.InstanceType", "t4g.nano"),
            ]);
        }
        account
    }

    fn ec2(&self, parameters: &[(&str, &str)]) -> String {
        ec2(&self.emulator, parameters)
    }

    /// The variables of a server in this account, all but GitHub's.
    pub(crate) fn environment(&self) -> BTreeMap<String, String> {
        let mut env = self.endpoints.clone();
        env.extend(self.names.clone());
        let more = [
            ("RUNS_FLEET_MODE", "ec2"),
            ("RUNS_FLEET_VPC_ID", "vpc-0123456789abcdef0"),
            ("RUNS_FLEET_PUBLIC_SUBNET_IDS", &self.subnets.join(",")),
            ("RUNS_FLEET_SECURITY_GROUP_ID", "sg-0123456789abcdef0"),
            ("RUNS_FLEET_INSTANCE_PROFILE_ARN", "arn:aws:iam::123456789012:instance-profile/runs-fleet-runner"),
            ("RUNS_FLEET_RUNNER_IMAGE", "123456789012.dkr.ecr.us-east-1.amazonaws.com/runner:latest"),
            ("RUNS_FLEET_LAUNCH_TEMPLATE_NAME", TEMPLATE),
            ("RUNS_FLEET_SHUTDOWN_DRAIN_DELAY_SECONDS", "0"),
            ("RUNS_FLEET_INGEST_RATE_PER_REPO", "0"),
            ("RUNS_FLEET_METRICS_PROMETHEUS_ENABLED", "true"),
        ];
        env.extend(more.map(|(name, value)| (name.to_owned(), value.to_owned())));
        env.extend(self.more.clone());
        env
    }

    /// A queue by its variable.
    pub(crate) fn queue(&self, variable: &str) -> Arc<dyn Queue> {
        let url = &self.names[variable];
        Arc::new(queue::SqsQueue::new(&self.emulator.sdk(), emulator::silent(), variable, url))
    }

    /// Every queue there is, dead letters included.
    pub(crate) fn queues(&self) -> Vec<Arc<dyn Queue>> {
        let own = self.names.iter().filter(|(name, _)| name.contains("QUEUE")).map(|(_, url)| url.clone());
        let dead = own.clone().filter(|url| !url.contains("-dlq") && !url.contains("housekeeping"));
        let dead = dead.map(|url| match url.strip_suffix(".fifo") {
            Some(url) => format!("{url}-dlq.fifo"),
            None => format!("{url}-dlq"),
        });
        let urls: BTreeSet<_> = own.chain(dead).collect();
        let open = |url: &String| queue::SqsQueue::new(&self.emulator.sdk(), emulator::silent(), url, url);
        urls.iter().map(|url| Arc::new(open(url)) as Arc<dyn Queue>).collect()
    }

    pub(crate) fn instances(&self) -> AwsEc2 {
        AwsEc2::new(&self.emulator.sdk(), emulator::silent())
    }
}

fn ec2(emulator: &Emulator, parameters: &[(&str, &str)]) -> String {
    let address: SocketAddr = emulator.endpoint().trim_start_matches("http://").parse().expect("an address");
    let escaped = |text: &str| text.replace(':', "%3A").replace('/', "%2F");
    let form: Vec<_> = parameters.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
    let body = format!("{}&Version=2016-11-15", form.join("&"));
    // The emulator tells services apart by the scope of the signature, which it does not check.
    let head = format!(
        "POST / HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=testing/20260101/us-east-1/ec2/aws4_request, \
         SignedHeaders=host, Signature=0",
        body.len()
    );
    let answer = request(address, &head, body.as_bytes()).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

fn subnets(emulator: &Emulator) -> Vec<String> {
    let answer = ec2(emulator, &[("Action", "DescribeSubnets")]);
    let ids = answer.split("<subnetId>").skip(1);
    let ids: Vec<_> = ids.filter_map(|rest| rest.split_once("</subnetId>")).map(|(id, _)| id.to_owned()).collect();
    assert!(ids.len() > 1, "{answer}");
    ids.into_iter().take(3).collect()
}

/// What stands between GitHub and the server: passes every other webhook on over HTTP and writes the rest to a queue,
/// as an API Gateway does. Refuses like a gateway while the server is down, which GitHub sees.
pub(crate) struct Gateway {
    pub(crate) url: String,
    _task: JoinSet<()>,
}

struct Doors {
    server: SocketAddr,
    queue: Arc<dyn Queue>,
    count: AtomicU64,
}

impl Gateway {
    pub(crate) async fn start(server: SocketAddr, queue: Arc<dyn Queue>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let url = format!("http://{}/webhook", listener.local_addr().expect("an address"));
        let doors = Arc::new(Doors { server, queue, count: AtomicU64::new(0) });
        let app = Router::new().fallback(pass).with_state(doors);
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, app).await.expect("it serves") });
        Self { url, _task: task }
    }
}

async fn pass(State(doors): State<Arc<Doors>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let [event, signature, guid] = ["x-github-event", "x-hub-signature-256", "x-github-delivery"].map(header);
    if doors.count.fetch_add(1, Ordering::Relaxed) % 2 == 0 {
        let message = Message {
            body: String::from_utf8(body.to_vec()).expect("JSON is text"),
            group: guid.clone(),
            dedup: guid.clone(),
            attributes: BTreeMap::from([
                ("X-GitHub-Event".to_owned(), event),
                ("X-Hub-Signature-256".to_owned(), signature),
                ("X-GitHub-Delivery".to_owned(), guid),
            ]),
        };
        return match doors.queue.send(message).await {
            Ok(_) => StatusCode::OK,
            Err(_) => StatusCode::BAD_GATEWAY,
        };
    }
    let head = format!(
        "POST /webhook HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\nX-GitHub-Event: {event}\r\n\
         X-Hub-Signature-256: {signature}\r\nX-GitHub-Delivery: {guid}",
        body.len()
    );
    let server = doors.server;
    let answer = tokio::task::spawn_blocking(move || request(server, &head, &body)).await.expect("no panic");
    answer.and_then(|answer| StatusCode::from_u16(answer.status).ok()).unwrap_or(StatusCode::BAD_GATEWAY)
}

/// Plays the machines: a real agent for every instance that appears, a few at a time; none for those it has had.
pub(crate) struct Machines {
    dir: PathBuf,
    env: BTreeMap<String, String>,
    at_once: usize,
    had: BTreeSet<String>,
    running: Vec<Process>,
}

impl Machines {
    pub(crate) fn new(dir: &Path, account: &Account, at_once: usize, more: &[(&str, String)]) -> Self {
        let mut env = account.endpoints.clone();
        env.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        fs::create_dir_all(dir).expect("a directory");
        Self { dir: dir.to_owned(), env, at_once, had: BTreeSet::new(), running: Vec::new() }
    }

    /// How many there have been.
    pub(crate) fn had(&self) -> usize {
        self.had.len()
    }

    /// Boots what appeared. Never ends.
    pub(crate) async fn run(&mut self, ec2: &AwsEc2) {
        loop {
            self.running.retain_mut(|agent| agent.ended().is_none());
            if self.running.len() < self.at_once {
                for instance in up(ec2).await.unwrap_or_default() {
                    if self.running.len() < self.at_once && self.had.insert(instance.id.clone()) {
                        self.boot(&instance.id);
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn boot(&mut self, id: &str) {
        let dir = self.dir.join(id);
        fs::create_dir_all(&dir).expect("a directory");
        let log = fs::File::create(dir.join("agent.log")).expect("a log");
        let mut command: Command = program();
        command
            .arg("agent")
            .envs(&self.env)
            .env("RUNS_FLEET_BACKEND", "ec2")
            .env("RUNS_FLEET_SECRETS_BACKEND", "ssm")
            .env("RUNS_FLEET_INSTANCE_ID", id)
            .env("RUNS_FLEET_MACHINE", id)
            .env("RUNS_FLEET_STATE_DIR", &dir)
            .env("RUNS_FLEET_RUNNER_DIR", dir.join("runner"))
            .env("RUNS_FLEET_STANDBY_FAST_POLL_MS", "300")
            // This computer has no account for jobs, is no instance, and stays on.
            .env("RUNS_FLEET_RUNNER_USER", "root")
            .env("RUNS_FLEET_SHUTDOWN_COMMAND", "")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .current_dir(&dir)
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .stdin(Stdio::null());
        self.running.push(Process::start(&mut command));
    }
}

/// Instances of ours that run or will; `None` without an answer, which is not the same as none.
pub(crate) async fn up(ec2: &AwsEc2) -> Option<Vec<Instance>> {
    let filters = vec![
        ("tag:runs-fleet:managed".to_owned(), vec!["true".to_owned()]),
        ("instance-state-name".to_owned(), vec!["pending".to_owned(), "running".to_owned()]),
    ];
    ec2.describe_instances(&Selection::Filters(filters)).await.ok()
}
