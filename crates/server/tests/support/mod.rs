//! What the tests of the whole program share: started processes that end with the test, and HTTP by hand.
//!
//! Requests are written byte by byte, because half of what is asked here no well-behaved client would send.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(20);

/// A real RSA key of 2048 bits that opens nothing.
pub(crate) const PRIVATE_KEY: &str = include_str!("../../../config/testdata/rsa-2048-pkcs8.pem");

/// The program, knowing nothing of the environment of the tests.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_runs-fleet-server"));
    command.env_clear().stdin(Stdio::null());
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// Runs to the end.
pub(crate) fn run(command: &mut Command) -> Output {
    command.output().expect("the program starts")
}

/// Runs with this on standard input.
pub(crate) fn run_with_input(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("the program ends");
    writer.join().expect("no panic").expect("the program reads all of its input");
    output
}

/// Standard output and standard error, as one text.
pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A port of the loopback interface that nobody listens on.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr()).expect("there are free ports").port()
}

/// Waits until `found` finds something.
pub(crate) fn eventually<T>(what: &str, limit: Duration, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        sleep(LOOK);
    }
}

/// A started program; dropping it ends it in order, or else by force.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.spawn().expect("the program starts"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn terminate(&self) {
        signal(self.pid(), "TERM");
    }

    /// Its status, if it ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("the child can be asked")
    }

    /// Its status once it ended.
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        eventually("the program ends", limit, || self.ended())
    }

    /// What it wrote to its piped standard output; it has ended.
    pub(crate) fn output(&mut self) -> String {
        let mut output = String::new();
        self.0.stdout.take().expect("piped").read_to_string(&mut output).expect("UTF-8");
        output
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.terminate();
            let deadline = Instant::now() + Duration::from_secs(20);
            while self.ended().is_none() && Instant::now() < deadline {
                sleep(LOOK);
            }
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Sends a signal to a process of ours.
pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &pid.to_string()]).stderr(Stdio::null()).status();
    status.expect("kill(1) exists");
}

/// `/proc/<pid>` of every process.
fn processes() -> Vec<PathBuf> {
    let entries = fs::read_dir("/proc").expect("Linux").filter_map(Result::ok);
    let numbers = entries.filter(|e| e.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()));
    numbers.map(|e| e.path()).collect()
}

/// Strings a process has in a file of zero-terminated strings.
fn strings(process: &Path, file: &str) -> Vec<String> {
    let bytes = fs::read(process.join(file)).unwrap_or_default();
    bytes.split(|b| *b == 0).map(|s| String::from_utf8_lossy(s).into_owned()).collect()
}

/// Command lines of all processes on this machine.
pub(crate) fn command_lines() -> Vec<String> {
    processes().iter().map(|p| strings(p, "cmdline").join(" ")).collect()
}

/// A variable of a running process.
pub(crate) fn variable(pid: u32, name: &str) -> Option<String> {
    let assignments = strings(&PathBuf::from(format!("/proc/{pid}")), "environ");
    assignments.iter().find_map(|a| a.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
}

/// Processes marked as part of a machine of the local run in this directory.
pub(crate) fn machine_processes(dir: &Path) -> Vec<String> {
    let keys: Vec<String> =
        machines(dir).iter().map(|m| m.file_name().unwrap().to_string_lossy().into_owned()).collect();
    let belongs = |p: &PathBuf| {
        let marks = strings(p, "environ");
        marks.iter().any(|a| a.strip_prefix("RUNS_FLEET_MACHINE=").is_some_and(|key| keys.iter().any(|k| k == key)))
    };
    processes().iter().filter(|p| belongs(p)).map(|p| strings(p, "cmdline").join(" ")).collect()
}

/// Directories of the machines of a local run.
pub(crate) fn machines(dir: &Path) -> Vec<PathBuf> {
    files(&dir.join("machines"))
}

/// What is directly below a directory.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map(|entries| entries.filter_map(Result::ok).map(|e| e.path()).collect()).unwrap_or_default()
}

/// Every process that this one started and that still runs; zombies, which wait for their parent to look, do not.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let parent = |process: &PathBuf| {
        // "pid (name) state ppid …", where the name may contain anything.
        let stat = fs::read_to_string(process.join("stat")).ok()?;
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        let runs = fields.next() != Some("Z");
        fields.next().filter(|_| runs)?.parse::<u32>().ok()
    };
    let all = processes();
    let ours = all.iter().filter(|p| parent(p) == Some(pid));
    ours.filter_map(|p| p.file_name()?.to_str()?.parse().ok()).collect()
}

/// An answer, as far as the tests care.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// A connection that gives up after a while.
pub(crate) fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_write_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream)
}

/// Whatever the server says until it closes; `None` when that is not an answer.
pub(crate) fn answer(stream: &mut TcpStream) -> Option<Answer> {
    let mut bytes = Vec::new();
    // A server that refuses a body it did not read may reset the connection after its answer.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let head = head.to_ascii_lowercase();
    let body = if head.contains("transfer-encoding: chunked") { unchunked(body) } else { body.to_owned() };
    Some(Answer { status, head, body })
}

fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a chunk's size");
        let Some(chunk) = after.get(..size).filter(|c| !c.is_empty()) else { break };
        body.push_str(chunk);
        rest = &after[size + 2..];
    }
    body
}

/// One request on a connection of its own.
pub(crate) fn request(address: SocketAddr, head: &str, body: &[u8]) -> Option<Answer> {
    let mut stream = connect(address).ok()?;
    let head = format!("{head}\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    // The server may have answered and closed before it was told everything.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    answer(&mut stream)
}

/// A request without a body.
pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, &format!("GET {path} HTTP/1.1"), b"").unwrap_or_else(|| panic!("no answer to GET {path}"))
}
