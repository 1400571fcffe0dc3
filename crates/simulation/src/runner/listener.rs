//! The program: connect, wait for a job, take its time, report, leave.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use domain::clock::{Clock, SystemClock};
use domain::gh::Conclusion;
use domain::ids::JobId;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use super::wire::{Complete, Hello, JitDocument, Poll, Word};
use crate::client::Http;

/// How long GitHub may be out of reach before the runner gives up.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRY_EVERY: Duration = Duration::from_millis(500);
/// Longer than any long poll.
const POLL_TIMEOUT: Duration = Duration::from_secs(30);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// What the real `run.sh` prints, and agents look for.
const SESSION_CONFLICT: &str = "Runner listener exit with Session Conflict error, stop the service, no retry needed.";
const TERMINATED: &str = "Runner listener exit with terminated error, stop the service, no retry needed.";

/// Why the runner stops without having finished a job.
#[derive(Debug)]
enum Stop {
    /// A signal asked for it.
    Signalled,
    /// The registration is gone while it idled: an orderly end.
    Deregistered,
    /// GitHub refuses the session: gone before it connected, or a second listener.
    Refused(&'static str),
    /// GitHub cannot be reached, or the configuration makes no sense.
    Broken(String),
}

impl<E: fmt::Display> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Broken(error.to_string())
    }
}

/// The sub-command. Exits 0 as the real `run.sh` does for nearly every end of its listener.
pub fn main() -> ExitCode {
    let started_ms = u64::try_from(SystemClock.now().as_millisecond()).ok();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.to_string()),
    };
    match runtime.block_on(listen(started_ms)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Signalled) => {
            say("Exiting...");
            ExitCode::SUCCESS
        }
        Err(Stop::Deregistered) => {
            say("Runner listener exit with 0 return code, stop the service, no retry needed.");
            ExitCode::SUCCESS
        }
        Err(Stop::Refused(line)) => {
            say(line);
            ExitCode::SUCCESS
        }
        Err(Stop::Broken(why)) => fail(&why),
    }
}

fn fail(why: &str) -> ExitCode {
    // Nothing is left to do about an unwritable stderr.
    let _ = writeln!(io::stderr(), "An error occurred: {why}");
    ExitCode::FAILURE
}

/// One line for whoever reads the runner's output. A closed pipe must not end a job.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn stamp() -> String {
    SystemClock.now().strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

async fn listen(started_ms: Option<u64>) -> Result<(), Stop> {
    let github = GitHub::from_environment()?;
    let mut signals = Signals::install()?;
    say("\n√ Connected to GitHub\n");
    let hello = Hello { pid: Some(std::process::id()), process_started_ms: started_ms };
    let Job { id, name, duration, outcome } = match signals.or(first_job(&github, &hello)).await {
        Ok(job) => job?,
        Err(stop) => {
            // A courtesy: without it GitHub finds out by the silence.
            let _ = github.call("disconnect", &(), CALL_TIMEOUT).await;
            return Err(stop);
        }
    };
    say(&format!("{}: Running job: {name}", stamp()));
    write_worker_log(&name);
    let conclusion = run(&github, &mut signals, id, duration, outcome).await;
    if let Some(conclusion) = conclusion {
        github.call("complete", &Complete { job: id, conclusion }, CALL_TIMEOUT).await?;
    }
    let result = match conclusion {
        Some(Conclusion::Success) => "Succeeded",
        Some(Conclusion::Cancelled) => "Canceled",
        _ => "Failed",
    };
    say(&format!("{}: Job {name} completed with result: {result}", stamp()));
    Ok(())
}

struct Job {
    id: JobId,
    name: String,
    duration: Duration,
    outcome: Conclusion,
}

/// Opens the session and waits for what it was opened for.
async fn first_job(github: &GitHub, hello: &Hello) -> Result<Job, Stop> {
    match github.call("connect", hello, CALL_TIMEOUT).await?.0 {
        StatusCode::OK => {}
        StatusCode::CONFLICT => return Err(Stop::Refused(SESSION_CONFLICT)),
        _ => return Err(Stop::Refused(TERMINATED)),
    }
    say(&format!("Current runner version: '{}'", env!("CARGO_PKG_VERSION")));
    say(&format!("{}: Listening for Jobs", stamp()));
    loop {
        match github.poll(None).await? {
            Word::Job { id, name, duration_ms, outcome } => {
                return Ok(Job { id, name, duration: Duration::from_millis(duration_ms), outcome });
            }
            Word::Gone => return Err(Stop::Deregistered),
            Word::Nothing | Word::Cancel => {}
        }
    }
}

/// Takes the job's time. `None` when GitHub concluded the job without us.
async fn run(
    github: &GitHub,
    signals: &mut Signals,
    id: JobId,
    duration: Duration,
    outcome: Conclusion,
) -> Option<Conclusion> {
    let done = tokio::time::sleep(duration);
    tokio::pin!(done);
    loop {
        tokio::select! {
            () = &mut done => return Some(outcome),
            () = signals.arrived() => return Some(Conclusion::Cancelled),
            word = github.poll(Some(id)) => match word {
                Ok(Word::Cancel) => return Some(Conclusion::Cancelled),
                Ok(Word::Gone) => return None,
                Ok(Word::Nothing | Word::Job { .. }) => {}
                // The job's steps need no GitHub; its end is reported if it can be reached by then.
                Err(_) => tokio::time::sleep(RETRY_EVERY).await,
            },
        }
    }
}

/// The real runner starts a log for each worker; agents take it as evidence of a job.
fn write_worker_log(job: &str) {
    let dir = Path::new("_diag");
    let name = SystemClock.now().strftime("Worker_%Y%m%d-%H%M%S-utc.log").to_string();
    let written = std::fs::create_dir_all(dir).and_then(|()| std::fs::write(dir.join(name), format!("Job: {job}\n")));
    if let Err(error) = written {
        let _ = writeln!(io::stderr(), "cannot write the worker log: {error}");
    }
}

struct Signals {
    term: Signal,
    interrupt: Signal,
}

impl Signals {
    fn install() -> io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn arrived(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// `work`, unless a signal comes first.
    async fn or<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Stop> {
        tokio::select! {
            result = work => Ok(result),
            () = self.arrived() => Err(Stop::Signalled),
        }
    }
}

/// The other side, as the just-in-time configuration names it.
struct GitHub {
    http: Http,
    server_url: String,
    headers: HeaderMap,
}

impl GitHub {
    fn from_environment() -> Result<Self, Stop> {
        let encoded = std::env::var("ACTIONS_RUNNER_INPUT_JITCONFIG")
            .map_err(|_| Stop::Broken("ACTIONS_RUNNER_INPUT_JITCONFIG is not set".to_owned()))?;
        let unreadable = || Stop::Broken("the just-in-time configuration cannot be read".to_owned());
        let json = STANDARD.decode(encoded.trim()).map_err(|_| unreadable())?;
        let JitDocument { server_url, credential } = serde_json::from_slice(&json).map_err(|_| unreadable())?;
        let mut bearer = HeaderValue::from_str(&format!("Bearer {credential}")).map_err(|_| unreadable())?;
        bearer.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, bearer);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(Self { http: Http::new(), server_url, headers })
    }

    /// One call, repeated while GitHub cannot be reached. Every call may be repeated: a second `complete` is refused
    /// and changes nothing.
    async fn call(
        &self,
        operation: &str,
        body: &impl Serialize,
        timeout: Duration,
    ) -> Result<(StatusCode, Bytes), Stop> {
        let uri: Uri = format!("{}/_sim/runner/{operation}", self.server_url).parse()?;
        let body = Bytes::from(serde_json::to_vec(body)?);
        let until = Instant::now() + PATIENCE;
        loop {
            match self.http.post(&uri, self.headers.clone(), body.clone(), timeout).await {
                Ok((status, bytes)) if !status.is_server_error() => return Ok((status, bytes)),
                Ok((status, _)) if Instant::now() >= until => {
                    return Err(Stop::Broken(format!("GitHub says {status}")));
                }
                Err(error) if Instant::now() >= until => return Err(error.into()),
                _ => tokio::time::sleep(RETRY_EVERY).await,
            }
        }
    }

    async fn poll(&self, running: Option<JobId>) -> Result<Word, Stop> {
        let (status, body) = self.call("message", &Poll { running }, POLL_TIMEOUT).await?;
        if status.is_success() { Ok(serde_json::from_slice(&body)?) } else { Ok(Word::Gone) }
    }
}
