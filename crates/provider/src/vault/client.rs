//! Requests with a token: which one, until when, and what becomes of it when it is refused.
//!
//! No task renews anything. A token that is past half of its lease is renewed by the next request that needs one, or
//! replaced where that cannot be or fails. When neither works it is used until its end.

use std::sync::Arc;
use std::time::Duration;

use domain::clock::Rng;
use secrecy::SecretString;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Learnt;
use super::backoff::Backoff;
use super::detect::{self, ByConfig, Version};
use super::http::{Answer, Http, Request};
use super::login::{self, Grant, Login};
use crate::handover::Error;

/// A token is not renewed more often than that, however short its lease.
const SHORTEST_HALF: Duration = Duration::from_secs(1);

/// Requests whose answers tell the engine's version.
pub(super) struct Probes {
    /// Its configuration.
    pub(super) config: Request,
    /// A list where version 1 has it.
    pub(super) first: Request,
    /// A list where version 2 has it.
    pub(super) second: Request,
}

/// Somebody who is logged in, as a rule.
pub(super) struct Client {
    http: Http,
    login: Login,
    configured: Option<Version>,
    probes: Probes,
    rng: Arc<dyn Rng>,
    learnt: Learnt,
    /// Held over a login, so that there is one at a time.
    state: Mutex<State>,
    /// Logins, and looks for the version, that failed.
    failed: Backoff,
    /// New tokens that were refused like the ones before them.
    refused: Backoff,
}

#[derive(Default)]
struct State {
    lease: Option<Lease>,
    /// Of the token: counts logins.
    generation: u64,
    version: Option<Version>,
}

struct Lease {
    token: SecretString,
    renewable: bool,
    /// What the login granted.
    granted: Duration,
    /// When to care about the next one; `None`: never.
    half: Option<Instant>,
    end: Option<Instant>,
}

impl Lease {
    fn new(grant: Grant) -> Self {
        let mut lease =
            Self { token: grant.token, renewable: grant.renewable, granted: grant.lease, half: None, end: None };
        lease.runs(grant.lease);
        lease
    }

    fn runs(&mut self, lease: Duration) {
        let now = Instant::now();
        let limited = !lease.is_zero();
        self.half = limited.then(|| now + (lease / 2).max(SHORTEST_HALF));
        self.end = limited.then(|| now + lease);
    }

    /// The token itself stays. A lease that shrinks by half is near the token's longest life: renewing again would only
    /// bring shorter and shorter ones.
    fn renewed(&mut self, grant: &Grant) {
        self.renewable = grant.renewable && grant.lease * 2 >= self.granted;
        self.runs(grant.lease);
    }

    fn is_due(&self) -> bool {
        self.half.is_some_and(|half| Instant::now() >= half)
    }

    fn is_over(&self) -> bool {
        self.end.is_some_and(|end| Instant::now() >= end)
    }
}

/// What a request needs.
struct Pass {
    token: SecretString,
    generation: u64,
    version: Version,
}

impl Client {
    pub(super) fn new(
        http: Http,
        login: Login,
        configured: Option<Version>,
        probes: Probes,
        rng: Arc<dyn Rng>,
        learnt: Learnt,
    ) -> Self {
        let state = State { version: configured, ..State::default() };
        let (failed, refused) = (Backoff::default(), Backoff::default());
        Self { http, login, configured, probes, rng, learnt, state: Mutex::new(state), failed, refused }
    }

    /// The answer to a request, and the version that it was made for.
    ///
    /// # Errors
    /// [`Error::Transient`] without an answer or a token, [`Error::Deployment`] when a new token is refused as well.
    pub(super) async fn call(&self, request: impl Fn(Version) -> Request) -> Result<(Answer, Version), Error> {
        let mut refused = None;
        loop {
            let pass = self.pass(refused).await?;
            let answer = self.http.ask(&request(pass.version), Some(&pass.token)).await?;
            if answer.status != 403 {
                self.refused.over();
                return Ok((answer, pass.version));
            }
            let denied = "Vault refuses the request (status 403)".to_owned();
            if refused.is_some() {
                self.refused.again(denied.clone(), &*self.rng);
            }
            if self.refused.closed().or_else(|| self.failed.closed()).is_some() {
                return Err(Error::Deployment(denied));
            }
            refused = Some(pass.generation);
        }
    }

    /// A token that is not the `refused` one, and the version.
    async fn pass(&self, refused: Option<u64>) -> Result<Pass, Error> {
        let mut state = self.state.lock().await;
        if refused == Some(state.generation) {
            state.lease = None;
            // What was found out with a token that is none may be wrong.
            state.version = self.configured;
        }
        self.have_token(&mut state).await?;
        let State { lease: Some(lease), generation, version } = &mut *state else {
            return Err(Error::Transient("there is no token for Vault".to_owned()));
        };
        let version = match *version {
            Some(version) => version,
            None => *version.insert(self.detected(&lease.token).await?),
        };
        Ok(Pass { token: lease.token.clone(), generation: *generation, version })
    }

    async fn have_token(&self, state: &mut State) -> Result<(), Error> {
        if state.lease.as_ref().is_some_and(Lease::is_over) {
            state.lease = None;
        }
        if state.lease.as_ref().is_some_and(|lease| !lease.is_due()) {
            return Ok(());
        }
        let failed = match self.failed.closed() {
            Some(why) => why,
            None => match self.another_lease(state).await {
                Ok(()) => {
                    self.failed.over();
                    return Ok(());
                }
                Err(why) => {
                    tracing::warn!(error = why, "no new token from Vault");
                    self.failed.again(why.clone(), &*self.rng);
                    why
                }
            },
        };
        // Its lease may have ended meanwhile.
        if state.lease.as_ref().is_some_and(|lease| !lease.is_over()) { Ok(()) } else { Err(Error::Transient(failed)) }
    }

    async fn another_lease(&self, state: &mut State) -> Result<(), String> {
        if let Some(lease) = state.lease.as_mut().filter(|lease| lease.renewable) {
            match login::renew(&lease.token, &self.http).await {
                Ok(grant) => {
                    lease.renewed(&grant);
                    return Ok(());
                }
                Err(error) => tracing::info!(error, "a token of Vault is not renewed; another login follows"),
            }
        }
        let grant = self.login.grant(&self.http, &self.learnt).await?;
        state.lease = Some(Lease::new(grant));
        state.generation += 1;
        Ok(())
    }

    async fn detected(&self, token: &SecretString) -> Result<Version, Error> {
        if let Some(why) = self.failed.closed() {
            return Err(Error::Transient(why));
        }
        match self.detect(token).await {
            Ok(version) => {
                self.failed.over();
                Ok(version)
            }
            Err(why) => {
                let why = format!("the version of Vault's engine: {why}");
                self.failed.again(why.clone(), &*self.rng);
                Err(Error::Transient(why))
            }
        }
    }

    async fn detect(&self, token: &SecretString) -> Result<Version, String> {
        let answer = self.http.ask(&self.probes.config, Some(token)).await.map_err(|error| error.to_string())?;
        match detect::by_config(answer.status, &answer.body) {
            ByConfig::Is(version) => return Ok(version),
            ByConfig::Unclear => return Err(format!("status {} for its configuration", answer.status)),
            ByConfig::Hidden => {}
        }
        let status = async |probe| self.http.ask(probe, Some(token)).await.ok().map(|answer| answer.status);
        let (first, second) = (status(&self.probes.first).await, status(&self.probes.second).await);
        detect::by_lists(first, second).ok_or_else(|| {
            let told = |status: Option<u16>| status.map_or("no answer".to_owned(), |status| status.to_string());
            format!("its lists answer with {} and {}", told(first), told(second))
        })
    }
}
