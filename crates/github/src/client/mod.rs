//! The GitHub App's REST client.
//!
//! One port, [`Exchange`], carries a request to GitHub and its response back. Everything that makes the client behave
//! sits above the port, on [`Clock`], [`Rng`] and `tokio::time`, so that a simulation with an [`Exchange`] in memory
//! runs the same code:
//!
//! * **Who asks.** The App signs a token for itself (`jwt`); with it, it mints one token per installation and keeps
//!   it until five minutes before its end. A 401 drops the token and asks once more (`auth`).
//! * **How often.** Four requests per call, for failures that may pass and for calls that may be repeated (`retry`).
//!   A call that creates something is not repeated after an answer was lost: its caller decides.
//! * **How much.** Requests in flight, changes per minute, and the last fifth of the rate limit (`budget`).
//! * **What is new.** Jobs and runs are read with their entity tags: an unchanged answer is free (`etag`).
//!
//! Properties wanted: no caller waits longer than a few minutes, and a limit longer than a minute is handed back as
//! [`Error::RateLimited`] instead of being slept through; no credential reaches an error, a log or a `Debug`.
//!
//! Races survived: many callers missing a token at once (one mints, `flight`); a late 401 for a token that was
//! already replaced (only the token complained about is dropped); an installation that moved to another id (the
//! remembered id is looked up anew once); rate-limit headers that overtake each other; a caller dropped half-way.

mod auth;
mod budget;
mod call;
mod error;
mod etag;
mod exchange;
mod flight;
mod hook;
mod jobs;
mod jwt;
mod operation;
mod retry;
mod runners;
mod send;
#[cfg(test)]
pub(crate) mod tests;
mod transport;

use std::sync::Arc;

use domain::clock::{Clock, Rng};
use http::HeaderValue;
use secrecy::SecretString;
use telemetry::metrics::Metrics;
use url::{Host, Url};

pub use self::budget::{Account, RateLimit};
pub use self::error::{ConfigError, Context, Error};
pub use self::exchange::{BODY_LIMIT, Exchange, ExchangeError};
pub use self::hook::{AppView, DeliverySummary};
pub use self::jobs::{PullRequestView, RefView, RepositoryView, Rerun, RunJob, RunView};
pub use self::operation::{Operation, Priority};
pub use self::runners::{DEFAULT_GROUP, Deleted, JitConfig, JitRequest, RegistrationToken, RunnerView};
pub use self::transport::OctocrabExchange;

/// Who the App is and where GitHub is.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The App's numeric id.
    pub app_id: u64,
    /// The App's RSA private key, PEM (PKCS#1 or PKCS#8).
    pub private_key: SecretString,
    /// REST base URL: `https://api.github.com`, `https://HOST/api/v3`, or http on the loopback interface.
    pub api_url: String,
    /// Our version, for `User-Agent`.
    pub version: String,
}

/// The client. One per process; share it in an [`Arc`].
pub struct Client {
    base: String,
    user_agent: HeaderValue,
    exchange: Arc<dyn Exchange>,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    jwt: jwt::AppJwt,
    installations: auth::Installations,
    groups: runners::Groups,
    budgets: budget::Budgets,
    etags: etag::Etags,
    metrics: Option<Metrics>,
}

impl Client {
    /// Checks the configuration; sends nothing.
    ///
    /// # Errors
    /// A [`ConfigError`] that names what is wrong, never the key.
    pub fn new(
        config: &ClientConfig,
        exchange: Arc<dyn Exchange>,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
    ) -> Result<Self, ConfigError> {
        let user_agent = HeaderValue::from_str(&format!("runs-fleet/{}", config.version));
        Ok(Self {
            base: base_url(&config.api_url)?,
            user_agent: user_agent.map_err(|_| ConfigError::Version)?,
            jwt: jwt::AppJwt::new(config.app_id, &config.private_key, clock.now())?,
            exchange,
            clock,
            rng,
            installations: auth::Installations::new(),
            groups: runners::Groups::new(),
            budgets: budget::Budgets::new(),
            etags: etag::Etags::new(),
            metrics: None,
        })
    }

    /// Allows so many changes a minute instead of the 120 that GitHub's point limits allow: for a server without them.
    #[must_use]
    pub fn with_changes_per_minute(mut self, changes: usize) -> Self {
        self.budgets.changes = changes.max(1);
        self
    }

    /// Requests that change something, such as the registration of a runner, allowed per minute and installation.
    pub const fn changes_per_minute(&self) -> usize {
        self.budgets.changes
    }

    /// Counts and times every request in `metrics` from now on.
    #[must_use]
    pub fn with_metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// GitHub's rate limits as of its latest answers. Empty until something was asked.
    pub fn rate_limits(&self) -> Vec<(Account, RateLimit)> {
        self.budgets.rates()
    }
}

/// The base URL without its trailing slashes.
fn base_url(text: &str) -> Result<String, ConfigError> {
    let url = Url::parse(text).map_err(|_| ConfigError::ApiUrl("is not a URL"))?;
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    if url.scheme() != "https" && !(url.scheme() == "http" && loopback) {
        return Err(ConfigError::ApiUrl("must be https, except on the loopback interface"));
    }
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err(ConfigError::ApiUrl("must have no query, fragment or credentials"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}
