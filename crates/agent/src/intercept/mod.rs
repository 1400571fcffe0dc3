//! Leading a job's cache traffic to our cache.
//!
//! The runner itself tells its actions where the cache is, after everything we can set; so the host that it names is made
//! to be this machine. A listener answers for it with a certificate that the machine trusts, sends the cache's calls to
//! our server, and passes everything else (artifacts, logs, summaries) on to the real host.
//!
//! Properties wanted, in this order: nothing in here fails a job or holds it up; the name leads here only while somebody
//! answers, and never after the agent's end; what is not the cache's arrives unchanged. Containers have hosts files and
//! trust of their own, so they talk to the real host.
//!
//! Races survived: the agent is killed (a guardian, which hears a pipe close, undoes everything; so do the unit and the
//! next boot); the listener dies (the name is freed at once); a handler panics (from then on everything is passed on); a
//! predecessor's line is still there (the real address is asked of name servers, which read no hosts file).

mod authority;
mod gateway;
mod machine;
mod names;

use std::ffi::OsString;
use std::io::Read;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domain::clock::{Rng, Timestamp};
use domain::handover::HandOver;
use futures::FutureExt;
use hyper_rustls::ConfigBuilderExt;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use self::gateway::{Gateway, Server};
pub use self::machine::release;
use self::names::Names;
use crate::environment::{Backend, Environment};
use crate::log::Log;

/// The host that the runner's actions ask for their cache (`ACTIONS_RESULTS_URL`), on github.com.
const HOST: &str = "results-receiver.actions.githubusercontent.com";
/// The hidden mode's word.
pub const OFF_MODE: &str = "cache-off";
/// Everything before the job.
const WITHIN: Duration = Duration::from_secs(30);
/// Looking whether the machine trusts the listener.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How it stands, as reports say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The host leads to our cache.
    Engaged,
    /// It was meant to.
    Failed,
    /// There is no cache, or this is no machine of ours alone.
    Disabled,
}

impl Status {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Engaged => "engaged",
            Self::Failed => "failed",
            Self::Disabled => "disabled",
        }
    }
}

/// A listener that answers for the host. Dropped, it undoes what was done to the machine.
pub struct Interception {
    certificate: String,
    listen: SocketAddr,
    lost: Arc<AtomicBool>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    /// Ends, and undoes everything, when this process no longer holds its input.
    guardian: Child,
}

impl Interception {
    /// Starts a listener whose certificate the machine trusts. `None`: there is nothing to intercept for.
    ///
    /// # Errors
    /// A sentence; nothing stays behind.
    pub async fn begin(
        environment: &Environment,
        document: &HandOver,
        prefix: &[OsString],
        now: Timestamp,
        rng: Arc<dyn Rng>,
        log: &Log,
    ) -> Option<Result<Self, String>> {
        let url = environment.cache_url(document).filter(|_| environment.backend == Backend::Ec2)?;
        let server = Server { url: url.trim_end_matches('/').to_owned(), token: document.cache_token.clone() };
        let listen = environment.cache_listen;
        let begun = tokio::time::timeout(WITHIN, Self::listen(listen, server, prefix, now, rng, log));
        Some(begun.await.unwrap_or_else(|_| Err("it took too long".to_owned())))
    }

    async fn listen(
        listen: SocketAddr,
        server: Server,
        prefix: &[OsString],
        now: Timestamp,
        rng: Arc<dyn Rng>,
        log: &Log,
    ) -> Result<Self, String> {
        // A second installation is refused and changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let names = Names::new(HOST, rng);
        names.real().await.map_err(|error| error.to_string())?;
        let authority = authority::make(HOST, now)?;
        let gateway = Gateway::new(format!("https://{HOST}"), names, server, log.clone());
        let gateway = gateway.map_err(|error| format!("root certificates: {error}"))?;
        let listener = TcpListener::bind(listen).await.map_err(|error| format!("{listen}: {error}"))?;
        let guardian = guardian(prefix).map_err(|error| format!("no guardian: {error}"))?;
        let (stop, lost) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
        let mut tasks = JoinSet::new();
        let served = gateway::serve(listener, TlsAcceptor::from(authority.server), Arc::new(gateway), stop.clone());
        tasks.spawn(supervised(served, Arc::clone(&lost), log.clone()));
        let certificate = authority.certificate;
        let interception = Self { certificate, listen, lost, stop, tasks, guardian };
        machine::trust(&interception.certificate).await?;
        trusted(listen).await?;
        Ok(interception)
    }

    /// Lets the host lead to the listener, and writes the authority's certificate to `file` for programs that bring their
    /// own roots.
    ///
    /// # Errors
    /// A sentence; the host leads where it did.
    pub async fn engage(&self, file: &Path) -> Result<(), String> {
        machine::public(file, &self.certificate).map_err(|error| format!("{}: {error}", file.display()))?;
        machine::pin(HOST, self.listen.ip()).map_err(|error| format!("the hosts file: {error}"))?;
        if self.lost.load(Ordering::Relaxed) {
            // It died while the name was on its way to it.
            let _ = release().await;
            return Err("the listener ended".to_owned());
        }
        Ok(())
    }

    /// Whether it still answers.
    pub fn status(&self) -> Status {
        if self.lost.load(Ordering::Relaxed) { Status::Failed } else { Status::Engaged }
    }

    /// Undoes everything.
    pub async fn end(mut self, log: &Log) {
        if let Err(error) = release().await {
            log.warn("cleanup_failed", &[("what", "cache".into()), ("error", Value::from(error))]);
        }
        self.stop.cancel();
        self.tasks.shutdown().await;
        drop(self.guardian.stdin.take());
    }
}

/// Serves, and frees the name when that ends by itself.
async fn supervised(served: impl Future<Output = std::io::Result<()>>, lost: Arc<AtomicBool>, log: Log) {
    let reason = match AssertUnwindSafe(served).catch_unwind().await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "panic".to_owned(),
    };
    lost.store(true, Ordering::Relaxed);
    log.error("cache_interception_lost", &[("error", Value::from(reason))]);
    let _ = release().await;
}

/// Whether programs that look at the system's roots alone trust the listener. The runner is one.
async fn trusted(listen: SocketAddr) -> Result<(), String> {
    let config = || Ok::<_, std::io::Error>(ClientConfig::builder().with_native_roots()?.with_no_client_auth());
    let config = tokio::task::spawn_blocking(config).await.map_err(|error| error.to_string())?;
    let connector = TlsConnector::from(Arc::new(config.map_err(|error| error.to_string())?));
    let name = ServerName::try_from(HOST).map_err(|error| error.to_string())?;
    let shaken = async { connector.connect(name, TcpStream::connect(listen).await?).await };
    match tokio::time::timeout(HANDSHAKE, shaken).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("the machine does not trust the listener: {error}")),
        Err(_) => Err("the listener does not answer".to_owned()),
    }
}

/// A process that lives as long as its input: whatever ends the agent closes that.
fn guardian(prefix: &[OsString]) -> std::io::Result<Child> {
    // Without the machine's marker: it outlives what ends the job's processes.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut command = Command::new("/proc/self/exe");
    command.arg0("runs-fleet-agent").args(prefix).arg(OFF_MODE).env_clear().env("PATH", path);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

/// The hidden mode: waits for the end of its input and undoes what an agent did to the machine.
pub fn off() -> ExitCode {
    // What ends the agent's group must not end this.
    let _ = rustix::process::setsid();
    let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return ExitCode::FAILURE;
    };
    match runtime.block_on(release()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
