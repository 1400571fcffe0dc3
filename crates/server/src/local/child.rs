//! The orchestrator as a child process: started, watched, killed, started again.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use provider::local::read_machines;
use provider::processes::{self, MARKER, Members};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;

use super::Layout;
use crate::cli::complain;
use crate::commands;

/// How long the first start may take, stores included.
const START: Duration = Duration::from_secs(30);
/// How long a stop may take before it is a kill.
const STOP: Duration = Duration::from_secs(15);
/// Between tries of a start that failed.
const AGAIN: Duration = Duration::from_millis(300);

/// Lines of the log to show when it does not start.
const TAIL: usize = 20;

enum Order {
    /// SIGKILL, then start again.
    Kill(oneshot::Sender<()>),
    /// SIGTERM, then no more.
    Stop(oneshot::Sender<()>),
}

/// A running orchestrator; dropping it kills it.
pub(super) struct Orchestrator {
    address: SocketAddr,
    orders: mpsc::Sender<Order>,
    _supervisor: Mutex<JoinSet<()>>,
}

impl Orchestrator {
    /// Starts it and waits until it is ready.
    pub(super) async fn start(dir: &Path, simulated: bool, env: BTreeMap<String, String>) -> anyhow::Result<Self> {
        let listen = env.get("RUNS_FLEET_LISTEN_ADDR").context("no address to listen on")?;
        let address: SocketAddr = listen.parse().context("the address to listen on is none")?;
        let spawner = Spawner { dir: dir.to_owned(), simulated, env, exe: std::env::current_exe()? };
        let mut child = spawner.spawn()?;
        let deadline = tokio::time::Instant::now() + START;
        while !is_ready(address).await {
            if let Some(status) = child.try_wait()? {
                let log = std::fs::read_to_string(spawner.log()).unwrap_or_default();
                let tail: Vec<_> = log.lines().rev().take(TAIL).collect();
                let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
                anyhow::bail!("the orchestrator ended with {status}:\n{tail}");
            }
            anyhow::ensure!(
                tokio::time::Instant::now() < deadline,
                "the orchestrator is not ready after {} s; its log: {}",
                START.as_secs(),
                spawner.log().display()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let (orders, inbox) = mpsc::channel(4);
        let mut supervisor = JoinSet::new();
        supervisor.spawn(supervise(spawner, child, inbox));
        Ok(Self { address, orders, _supervisor: Mutex::new(supervisor) })
    }

    /// Its address, as a URL.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Kills it as a power cut would; it is started again.
    pub(super) async fn kill(&self) {
        self.order(Order::Kill).await;
    }

    /// Ends it in good order.
    pub(super) async fn stop(&self) {
        self.order(Order::Stop).await;
    }

    async fn order(&self, order: impl FnOnce(oneshot::Sender<()>) -> Order) {
        let (done, finished) = oneshot::channel();
        if self.orders.send(order(done)).await.is_ok() {
            // The supervisor bounds every wait of its own.
            let _ = finished.await;
        }
    }
}

struct Spawner {
    dir: PathBuf,
    simulated: bool,
    env: BTreeMap<String, String>,
    exe: PathBuf,
}

impl Spawner {
    fn log(&self) -> PathBuf {
        Layout::new(&self.dir).log()
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut command = Command::new(&self.exe);
        command.arg("serve").arg("--local").arg(&self.dir);
        if self.simulated {
            command.arg("--simulated-github");
        }
        command
            .env_clear()
            .envs(&self.env)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A Ctrl-C in the terminal is for the parent, which ends its child in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("the orchestrator cannot be started")
    }
}

/// Owns the child: whatever ends it unasked, it is started again.
async fn supervise(spawner: Spawner, mut child: Child, mut inbox: mpsc::Receiver<Order>) {
    loop {
        tokio::select! {
            order = inbox.recv() => match order {
                Some(Order::Kill(done)) => {
                    let _ = child.kill().await;
                    let _ = done.send(());
                }
                Some(Order::Stop(done)) => {
                    terminate(&mut child).await;
                    let _ = done.send(());
                    return;
                }
                None => {
                    terminate(&mut child).await;
                    return;
                }
            },
            status = child.wait() => {
                if let Ok(status) = status {
                    complain(&format!("the orchestrator ended with {status} and is started again"));
                }
            }
        }
        child = loop {
            match spawner.spawn() {
                Ok(child) => break child,
                Err(error) => complain(&format!("{error:#}")),
            }
            tokio::time::sleep(AGAIN).await;
        };
        // One that cannot start must not spin.
        tokio::time::sleep(AGAIN).await;
    }
}

async fn terminate(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(STOP, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

async fn is_ready(address: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.ok()?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.ok()?;
        Some(answer == *b"HTTP/1.1 200")
    };
    tokio::time::timeout(Duration::from_secs(1), ask).await.ok().flatten() == Some(true)
}

/// The address to serve on: the port asked for, else the usual one, else any free one.
pub(super) fn address(port: Option<u16>) -> anyhow::Result<SocketAddr> {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).and_then(|l| l.local_addr());
    match port {
        Some(port) => free(port).with_context(|| format!("port {port} is taken; choose another with --port")),
        None => Ok(free(8080).or_else(|_| free(0))?),
    }
}

/// The variables a child gets from us. Ours would configure it twice.
pub(super) fn inherited(keep_ours: bool) -> BTreeMap<String, String> {
    commands::environment().into_iter().filter(|(name, _)| keep_ours || !name.starts_with("RUNS_FLEET_")).collect()
}

/// Ends whatever machines are still running.
pub(super) async fn end_machines(dir: &Path) {
    for record in read_machines(dir).unwrap_or_default() {
        let members = Members { session: record.process, marker: Some(record.key.to_string()) };
        if processes::end(&members, Duration::from_secs(5)).await.is_err() {
            complain(&format!("processes with {MARKER}={} are still running", record.key));
        }
    }
}
