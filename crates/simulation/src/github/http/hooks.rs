//! Sending webhooks: signed, once, and badly if so configured.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Shared, lock};
use crate::client::{Http, PostError};
use crate::github::model::{Attempt, Webhook};

/// Attempts under way at once.
const CONCURRENCY: usize = 64;

/// What goes wrong between GitHub and the receiver.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Faults {
    /// Probability that an attempt is not made. It appears in the delivery log as timed out (504).
    pub drop: f64,
    /// Probability that an attempt is made twice.
    pub duplicate: f64,
    /// Each attempt is held back by a uniform part of this.
    pub reorder: Duration,
}

/// Where webhooks go, and how.
pub(super) struct Hooks {
    target: Mutex<(Option<Uri>, Faults)>,
    secret: SecretString,
    timeout: Duration,
    http: Http,
}

impl Hooks {
    pub(super) fn new(url: Option<&str>, secret: SecretString, faults: Faults, timeout: Duration) -> io::Result<Self> {
        let hooks = Self { target: Mutex::new((None, faults)), secret, timeout, http: Http::new() };
        hooks.set_url(url)?;
        Ok(hooks)
    }

    pub(super) fn set_url(&self, url: Option<&str>) -> io::Result<()> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "the webhook URL must begin with http://");
        let uri = url.map(|url| url.parse::<Uri>().map_err(|_| invalid())).transpose()?;
        if uri.as_ref().is_some_and(|uri| uri.scheme_str() != Some("http")) {
            return Err(invalid());
        }
        lock(&self.target).0 = uri;
        Ok(())
    }

    pub(super) fn url(&self) -> String {
        lock(&self.target).0.as_ref().map(Uri::to_string).unwrap_or_default()
    }

    pub(super) fn set_faults(&self, faults: Faults) {
        lock(&self.target).1 = faults;
    }

    fn headers(&self, webhook: &Webhook, app_id: u64) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut put = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        put("accept", "*/*");
        put("content-type", "application/json");
        put("user-agent", "GitHub-Hookshot/simulated");
        put("x-github-delivery", &webhook.guid);
        put("x-github-event", &webhook.event);
        put("x-github-hook-id", "1");
        put("x-github-hook-installation-target-id", &app_id.to_string());
        put("x-github-hook-installation-target-type", "integration");
        put("x-hub-signature-256", &sign(&self.secret, webhook.body.as_bytes()));
        headers
    }
}

fn sign(secret: &SecretString, body: &[u8]) -> String {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()) else { return String::new() };
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

/// The sender: takes the model's webhooks as they come.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut changed = shared.changed.subscribe();
    let mut attempts = JoinSet::new();
    loop {
        changed.mark_unchanged();
        for webhook in shared.with(|model, _| model.take_webhooks()) {
            while attempts.len() >= CONCURRENCY {
                attempts.join_next().await;
            }
            attempts.spawn(deliver(Arc::clone(&shared), webhook));
        }
        tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = changed.changed() => {}
            Some(_) = attempts.join_next() => {}
        }
    }
}

async fn deliver(shared: Arc<Shared>, webhook: Webhook) {
    let (url, faults) = lock(&shared.hooks.target).clone();
    let chance = |probability: f64| probability > 0.0 && shared.rng.unit() < probability;
    let Some(url) = url.filter(|_| !chance(faults.drop)) else {
        let attempt =
            Attempt { status_code: 504, status: "timed out".to_owned(), duration: shared.hooks.timeout.as_secs_f64() };
        shared.with(|model, now| model.record_attempt(webhook, attempt, now));
        return;
    };
    let times = 1 + usize::from(chance(faults.duplicate));
    for repetition in 0..times {
        if !faults.reorder.is_zero() {
            tokio::time::sleep(faults.reorder.mul_f64(shared.rng.unit())).await;
        }
        let attempt = attempt(&shared, &url, &webhook).await;
        let webhook = Webhook { redelivery: webhook.redelivery || repetition > 0, ..webhook.clone() };
        shared.with(|model, now| model.record_attempt(webhook, attempt, now));
    }
}

async fn attempt(shared: &Shared, url: &Uri, webhook: &Webhook) -> Attempt {
    let hooks = &shared.hooks;
    let began = Instant::now();
    let headers = hooks.headers(webhook, shared.app_id);
    let body = Bytes::from(webhook.body.clone());
    let (status_code, status) = match hooks.http.post(url, headers, body, hooks.timeout).await {
        Ok((status, _)) if status.is_success() => (status.as_u16(), "OK".to_owned()),
        Ok((status, _)) => (status.as_u16(), format!("Invalid HTTP Response: {}", status.as_u16())),
        Err(PostError::TimedOut) => (504, "timed out".to_owned()),
        Err(PostError::Unreachable(_)) => (502, "failed to connect to host".to_owned()),
    };
    Attempt { status_code, status, duration: began.elapsed().as_secs_f64() }
}
