//! From a call to its answer: credential, budget, conditional request, retries.

use std::time::Duration;

use bytes::Bytes;
use domain::ids::{InstallationId, Repo};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LINK, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use telemetry::metrics::StatusClass;
use tokio::time::Instant;

use super::Client;
use super::budget::Account;
use super::call::Call;
use super::error::{Context, Error};
use super::operation::Operation;
use super::retry::{self, ATTEMPTS, Failure, LONGEST_WAIT, backoff, judge};

/// Bound of one exchange, body included.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Pages read of any list.
const MAX_PAGES: u32 = 20;
/// Items per page; GitHub's maximum.
pub(super) const PER_PAGE: usize = 100;

/// A success.
pub(super) struct Reply<T> {
    pub(super) value: T,
    /// GitHub's `Link` header.
    pub(super) link: Option<String>,
}

/// With whose token a call goes out.
#[derive(Debug, Clone, Copy)]
pub(super) enum Speaker<'a> {
    /// The App's own.
    App,
    /// An installation's.
    Installation(InstallationId),
    /// That of the installation that covers the repository.
    Repo(&'a Repo),
}

/// Reads a JSON body.
pub(super) fn json<T: DeserializeOwned>(body: &Bytes) -> Option<T> {
    serde_json::from_slice(body).ok()
}

/// Ignores the body.
pub(super) fn nothing(_: &Bytes) -> Option<()> {
    Some(())
}

/// A 404 is an answer to this very question, not a failure. A 404 on the way to it is one: when the App's installation
/// is not found, nothing is known about what was asked for.
pub(super) fn found<T>(call: &Call, result: Result<Reply<T>, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(reply) => Ok(Some(reply.value)),
        Err(Error::NotFound(context)) if context.operation == call.operation => Ok(None),
        Err(error) => Err(error),
    }
}

impl Client {
    /// Sends a call with the App's own token.
    pub(super) async fn as_app<T>(&self, call: &Call, decode: impl Fn(&Bytes) -> Option<T>) -> Result<Reply<T>, Error> {
        let mut tries = 0;
        let mut corrected = false;
        loop {
            let unsigned = |e: jsonwebtoken::errors::Error| {
                Error::Unauthorized(Context::ours(call.operation, format!("cannot sign: {e}")))
            };
            let bearer = self.jwt.bearer(self.clock.now()).map_err(unsigned)?;
            match self.once(Account::App, &bearer, call, &decode).await {
                Ok(reply) => return Ok(reply),
                Err(Failure { their_clock: Some(theirs), .. }) if !corrected => {
                    corrected = true;
                    self.jwt.correct(self.clock.now(), theirs);
                }
                Err(failure) => self.pause(&mut tries, failure).await?,
            }
        }
    }

    /// Sends a call with the token of the installation that covers `repo`.
    pub(super) async fn in_repo<T>(
        &self,
        repo: &Repo,
        call: &Call,
        decode: impl Fn(&Bytes) -> Option<T>,
    ) -> Result<Reply<T>, Error> {
        self.ask(Speaker::Repo(repo), call, decode).await
    }

    async fn ask<T>(
        &self,
        speaker: Speaker<'_>,
        call: &Call,
        decode: impl Fn(&Bytes) -> Option<T>,
    ) -> Result<Reply<T>, Error> {
        let mut tries = 0;
        let mut replaced = false;
        loop {
            let token = match speaker {
                Speaker::App => return self.as_app(call, decode).await,
                Speaker::Installation(id) => self.token_of(id).await?,
                Speaker::Repo(repo) => self.token(repo).await?,
            };
            let account = Account::Installation(token.installation);
            match self.once(account, &token.secret, call, &decode).await {
                Ok(reply) => return Ok(reply),
                Err(Failure { error: Error::Unauthorized(context), .. }) => {
                    self.installations.refused(&token);
                    if std::mem::replace(&mut replaced, true) {
                        return Err(Error::Unauthorized(context));
                    }
                }
                Err(failure) => self.pause(&mut tries, failure).await?,
            }
        }
    }

    /// Reads a list page by page. One failing page fails the whole: nobody acts on part of a list.
    pub(super) async fn list<P: DeserializeOwned, T>(
        &self,
        speaker: Speaker<'_>,
        call: &Call,
        items: impl Fn(P) -> Vec<T>,
    ) -> Result<Vec<T>, Error> {
        let mut all = Vec::new();
        for page in 1..=MAX_PAGES {
            let call = call.clone().query("per_page", &PER_PAGE.to_string()).query("page", &page.to_string());
            let page = items(self.ask(speaker, &call, json).await?.value);
            let full = page.len() >= PER_PAGE;
            all.extend(page);
            if !full {
                return Ok(all);
            }
        }
        tracing::warn!(?speaker, endpoint = call.operation.as_str(), items = all.len(), "list cut at 20 pages");
        Ok(all)
    }

    /// Follows `Link` cursors of an App-level list until `enough` says so.
    pub(super) async fn cursor<P: DeserializeOwned>(
        &self,
        call: &Call,
        mut enough: impl FnMut(P) -> bool,
    ) -> Result<(), Error> {
        let first = call.clone().query("per_page", &PER_PAGE.to_string());
        let mut next = first.clone();
        for _ in 0..MAX_PAGES {
            let reply = self.as_app(&next, json).await?;
            let cursor = reply.link.as_deref().and_then(next_cursor);
            let done = enough(reply.value);
            match cursor {
                Some(cursor) if !done => next = first.clone().query("cursor", &cursor),
                _ => return Ok(()),
            }
        }
        tracing::warn!(endpoint = call.operation.as_str(), "list cut at 20 pages");
        Ok(())
    }

    /// Waits before the next try, or says why there is none.
    async fn pause(&self, tries: &mut u32, failure: Failure) -> Result<(), Error> {
        let Failure { error, hint, again, .. } = failure;
        if !again {
            return Err(error);
        }
        if let Some(hint) = hint.filter(|h| *h > LONGEST_WAIT) {
            let until = domain::clock::after(self.clock.now(), hint);
            return Err(Error::RateLimited { until, context: Box::new(error.context().clone()) });
        }
        *tries += 1;
        if *tries >= ATTEMPTS {
            return Err(error);
        }
        tracing::debug!(%error, tries, "GitHub call is repeated");
        self.back_off(*tries - 1, hint.unwrap_or_default()).await;
        Ok(())
    }

    /// Sleeps the `n`-th back-off, at least `least`.
    pub(crate) async fn back_off(&self, n: u32, least: Duration) {
        tokio::time::sleep(backoff(n, self.rng.unit()).max(least)).await;
    }

    async fn once<T>(
        &self,
        account: Account,
        secret: &SecretString,
        call: &Call,
        decode: &impl Fn(&Bytes) -> Option<T>,
    ) -> Result<Reply<T>, Failure> {
        let operation = call.operation;
        let held = |h: super::budget::Held| Failure::held(operation, h.until, h.why);
        let admission = self.budgets.admit(account, operation, call.priority, self.clock.now()).await.map_err(held)?;
        let url = format!("{}{}", self.base, call.target);
        let known = if operation.traits().etag { self.etags.get(account, &url) } else { None };
        let request = self.request(&url, secret, call, known.as_ref().map(|k| &k.tag))?;
        let started = Instant::now();
        let sent = tokio::time::timeout(EXCHANGE_TIMEOUT, self.exchange.send(request)).await;
        let status = sent.as_ref().ok().and_then(|s| s.as_ref().ok()).map(|r| r.status());
        self.measure(operation, status, started.elapsed());
        let (head, body) = match sent {
            Ok(Ok(response)) => response.into_parts(),
            Ok(Err(error)) => return Err(Failure::network(operation, error.to_string())),
            Err(_) => return Err(Failure::network(operation, "no answer within 30 s".to_owned())),
        };
        self.observe(account, &head.headers);
        let body = match (head.status, known) {
            (StatusCode::NOT_MODIFIED, Some(known)) => {
                admission.refund();
                known.body.clone()
            }
            (status, _) if status.is_success() => body,
            (status, _) => return Err(judge(operation, status, &head.headers, &body, self.clock.now())),
        };
        let value = decode(&body).ok_or_else(|| Failure::unreadable(operation, head.status, &head.headers))?;
        if let Some(tag) = head.headers.get(ETAG).filter(|_| operation.traits().etag && head.status.is_success()) {
            self.etags.put(account, &url, tag.clone(), body);
        }
        Ok(Reply { value, link: retry::text(&head.headers, LINK.as_str()).map(str::to_owned) })
    }

    fn measure(&self, operation: Operation, status: Option<StatusCode>, took: Duration) {
        if let Some(metrics) = &self.metrics {
            metrics.github_api(operation.as_str(), took);
            let class = status.map_or(StatusClass::NoAnswer, |s| StatusClass::from(s.as_u16()));
            metrics.github_api_requests(operation.as_str(), class);
        }
    }

    fn observe(&self, account: Account, headers: &HeaderMap) {
        let rate = self.budgets.observe(account, headers);
        if let (Some(metrics), Account::Installation(id), Some(rate)) = (&self.metrics, account, rate) {
            metrics.github_rate_limit_remaining(id, Some(rate.remaining as f64));
        }
    }

    fn request(
        &self,
        url: &str,
        secret: &SecretString,
        call: &Call,
        tag: Option<&HeaderValue>,
    ) -> Result<Request<Bytes>, Failure> {
        let malformed = |operation: Operation| {
            Failure::last(Error::Unprocessable(Context::ours(operation, "the request cannot be built")))
        };
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", secret.expose_secret()))
            .map_err(|_| malformed(call.operation))?;
        bearer.set_sensitive(true);
        let mut request = Request::builder()
            .method(call.operation.method())
            .uri(url)
            .header(AUTHORIZATION, bearer)
            .header(USER_AGENT, &self.user_agent)
            .header(ACCEPT, "application/vnd.github+json")
            .header("x-github-api-version", "2022-11-28");
        if let Some(tag) = tag {
            request = request.header(IF_NONE_MATCH, tag);
        }
        if call.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request.body(call.body.clone().unwrap_or_default()).map_err(|_| malformed(call.operation))
    }
}

/// The cursor of `Link: <…?cursor=v1_…>; rel="next"`. Only the cursor is taken: requests go to our own base URL.
fn next_cursor(link: &str) -> Option<String> {
    let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    let url = url::Url::parse(next.split_once('<')?.1.split_once('>')?.0).ok()?;
    url.query_pairs().find(|(name, _)| name == "cursor").map(|(_, value)| value.into_owned())
}
