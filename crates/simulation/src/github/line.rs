//! The same GitHub without sockets: for a world in one process, on any clock.
//!
//! Requests are answered by [`GitHub::answer`], webhooks are posted to the routers of whoever receives them, and
//! runners listen through a [`Listener`]. What goes wrong on the way is chance's, or a test's.
//!
//! Nothing here polls: a listener is woken when there is news for its runner, and [`GitHub::run`] when something is due.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use domain::clock::{Clock, Rng, Timestamp, after, since};
use domain::gh::Conclusion;
use domain::ids::{InstallationId, JobId, Repo, RunId, RunnerId};
use hmac::{Hmac, KeyInit, Mac};
use http::{Method, Request, Response};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

use super::model::{
    Attempt, Connect, JitRequest, Message, Model, News, Page, Refusal, RunFilter, Settings, Status, Webhook, time,
};
use super::{installation_speaking, installation_token};

/// How long GitHub waits for an answer to a webhook.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who watches; told in order, after the model was changed.
pub trait GitHubWitness: Send + Sync {
    /// A job waits for a runner.
    fn queued(&self, _job: JobId, _run: RunId, _repo: &Repo, _attempt: u32, _labels: &[String]) {}
    /// A runner has it.
    fn began(&self, _job: JobId, _runner: &str, _stolen: bool) {}
    /// It ended.
    fn concluded(&self, _job: JobId, _conclusion: Conclusion, _runner_lost: bool) {}
    /// A webhook about it was answered with 200.
    fn accepted(&self, _job: JobId, _action: &str) {}
    /// A webhook about it did not arrive, or its answer did not; whether GitHub's log says so.
    fn webhook_lost(&self, _job: JobId, _action: &str, _known: bool) {}
}

/// What goes wrong with webhooks and answers, as chances.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Trouble {
    /// A webhook does not arrive, and GitHub knows.
    pub fails: f64,
    /// It arrives twice.
    pub doubled: f64,
    /// It arrives seconds to minutes late.
    pub late: f64,
    /// It arrives, and GitHub does not hear so.
    pub answer_lost: f64,
    /// A request is answered with a 5xx.
    pub errors: f64,
}

/// What becomes of the next webhook of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It arrives twice.
    Twice,
    /// It does not arrive, and GitHub knows.
    Fails,
    /// It does not arrive, and GitHub thinks it did.
    Vanishes,
    /// It arrives, and GitHub thinks it did not.
    AnswerLost,
    /// It arrives this much later.
    Late(Duration),
}

/// Answers out of turn, by `METHOD path`.
pub type Scripted = Box<dyn FnMut(&str) -> Option<(u16, Vec<(&'static str, String)>)> + Send>;

/// How much an installation asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Most requests in one hour of the clock.
    pub requests_per_hour: u64,
    /// Most requests that change something in one minute of the clock.
    pub changes_per_minute: u64,
}

#[derive(Default)]
struct Meter {
    hour: (i64, u64),
    minute: (i64, u64),
    peak: Usage,
}

impl Meter {
    fn count(&mut self, second: i64, changes: bool) {
        let bump = |window: &mut (i64, u64), now: i64| {
            if window.0 != now {
                *window = (now, 0);
            }
            window.1 += 1;
            window.1
        };
        self.peak.requests_per_hour = self.peak.requests_per_hour.max(bump(&mut self.hour, second / 3600));
        if changes {
            self.peak.changes_per_minute = self.peak.changes_per_minute.max(bump(&mut self.minute, second / 60));
        }
    }
}

#[derive(Default)]
struct Line {
    receivers: Vec<Router>,
    trouble: Trouble,
    fates: VecDeque<(&'static str, Fate)>,
    script: Option<Scripted>,
    asked: Vec<String>,
    keeps_asked: bool,
    meters: BTreeMap<InstallationId, Meter>,
}

/// See the module.
pub struct GitHub {
    model: Mutex<Model>,
    line: Mutex<Line>,
    waiting: Mutex<BTreeMap<RunnerId, Arc<Notify>>>,
    changed: Notify,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    secret: SecretString,
    witness: Mutex<Option<Arc<dyn GitHubWitness>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GitHub {
    /// A GitHub with nothing in it. `secret` signs webhooks.
    pub fn new(mut settings: Settings, rng: Arc<dyn Rng>, clock: Arc<dyn Clock>, secret: SecretString) -> Arc<Self> {
        settings.observed = true;
        Arc::new(Self {
            model: Mutex::new(Model::new(settings, Arc::clone(&rng))),
            line: Mutex::default(),
            waiting: Mutex::default(),
            changed: Notify::new(),
            clock,
            rng,
            secret,
            witness: Mutex::default(),
        })
    }

    /// From here on somebody watches.
    pub fn watched(&self, witness: Arc<dyn GitHubWitness>) {
        *lock(&self.witness) = Some(witness);
    }

    /// Reads or changes the model, and sees to the consequences.
    pub fn with<T>(&self, call: impl FnOnce(&mut Model, Timestamp) -> T) -> T {
        let mut model = lock(&self.model);
        let before = model.revision();
        let result = call(&mut model, self.clock.now());
        if model.revision() != before {
            let (woken, news) = (model.take_woken(), model.take_news());
            self.tell(&model, news);
            drop(model);
            let mut waiting = lock(&self.waiting);
            for runner in woken {
                if let Some(listener) = waiting.get_mut(&runner) {
                    listener.notify_one();
                }
            }
            self.changed.notify_one();
        }
        result
    }

    fn tell(&self, model: &Model, news: Vec<News>) {
        let Some(witness) = lock(&self.witness).clone() else { return };
        for news in news {
            match news {
                News::Queued(id) => {
                    if let (Some(job), Some(repo)) = (model.job_report(id), model.repo_of(id)) {
                        witness.queued(id, job.run, repo, job.attempt, &job.labels);
                    }
                }
                News::Began(id, runner, stolen) => {
                    witness.began(id, model.runner_name(runner).unwrap_or_default(), stolen);
                }
                News::Concluded(id, conclusion, lost) => witness.concluded(id, conclusion, lost),
            }
        }
    }

    /// Those who receive webhooks; each goes to one of them.
    pub fn set_receivers(&self, receivers: Vec<Router>) {
        lock(&self.line).receivers = receivers;
    }

    /// What goes wrong from now on.
    pub fn trouble(&self, trouble: Trouble) {
        lock(&self.line).trouble = trouble;
    }

    /// The fate of the next webhook of an action.
    pub fn fate(&self, action: &'static str, fate: Fate) {
        lock(&self.line).fates.push_back((action, fate));
    }

    /// Answers out of turn, until the script is taken away.
    pub fn script(&self, script: Option<Scripted>) {
        lock(&self.line).script = script;
    }

    /// From here on every request is noted for [`GitHub::asked`].
    pub fn note_requests(&self) {
        lock(&self.line).keeps_asked = true;
    }

    /// How many requests so far began so (`METHOD path`).
    pub fn asked(&self, prefix: &str) -> usize {
        lock(&self.line).asked.iter().filter(|line| line.starts_with(prefix)).count()
    }

    /// What each installation asked for at most.
    pub fn usage(&self) -> BTreeMap<InstallationId, Usage> {
        lock(&self.line).meters.iter().map(|(id, meter)| (*id, meter.peak)).collect()
    }

    /// A runner's listener connects.
    ///
    /// # Errors
    /// As [`Model::connect`].
    pub fn listener(self: &Arc<Self>, credential: &str) -> Result<Listener, Refusal> {
        let notify = Arc::new(Notify::new());
        let hello = Connect { attended: true, ..Connect::default() };
        let holder = self.with(|model, _| model.holder(credential)).ok_or(Refusal::NotFound)?;
        lock(&self.waiting).insert(holder, Arc::clone(&notify));
        let connected = self.with(|model, now| model.connect(credential, hello, now));
        if let Err(refusal) = connected {
            lock(&self.waiting).remove(&holder);
            return Err(refusal);
        }
        Ok(Listener {
            github: Arc::clone(self),
            credential: credential.to_owned(),
            runner: holder,
            notify,
            over: false,
        })
    }

    /// Lets the model's time pass and its webhooks go out; never returns.
    pub async fn run(self: Arc<Self>) {
        let mut sending = JoinSet::new();
        loop {
            let (due, webhooks) = self.with(|model, now| {
                model.advance(now);
                (model.next_due(now), model.take_webhooks())
            });
            for webhook in webhooks {
                sending.spawn(Arc::clone(&self).send(webhook));
            }
            while sending.try_join_next().is_some() {}
            let nap = due.map_or(Duration::from_secs(60), |due| since(due, self.clock.now()));
            tokio::select! {
                biased;
                () = self.changed.notified() => {}
                () = sleep(nap.max(Duration::from_millis(1))) => {}
            }
        }
    }

    fn fate_of(&self, webhook: &Webhook) -> Option<Fate> {
        let mut line = lock(&self.line);
        let action = webhook.action.as_deref().unwrap_or_default();
        let planned = line.fates.iter().position(|(wanted, _)| *wanted == action).filter(|_| !webhook.redelivery);
        if let Some((_, fate)) = planned.and_then(|place| line.fates.remove(place)) {
            return Some(fate);
        }
        let trouble = line.trouble;
        drop(line);
        if trouble == Trouble::default() {
            return None;
        }
        let mut dice = self.rng.unit();
        // Most that are late are seconds late, some ten minutes.
        let late = Duration::from_secs_f64(600.0 * self.rng.unit().powi(4));
        for (odds, fate) in [
            (trouble.fails, Fate::Fails),
            (trouble.doubled, Fate::Twice),
            (trouble.late, Fate::Late(late)),
            (trouble.answer_lost, Fate::AnswerLost),
        ] {
            if dice < odds {
                return Some(fate);
            }
            dice -= odds;
        }
        None
    }

    async fn send(self: Arc<Self>, webhook: Webhook) {
        let action = webhook.action.clone().unwrap_or_default();
        let fate = self.fate_of(&webhook);
        let status_code = match fate {
            Some(Fate::Fails) => 502,
            Some(Fate::Vanishes) => 200,
            Some(Fate::Twice) => {
                self.post(&webhook).await;
                self.post(&webhook).await
            }
            Some(Fate::Late(by)) => {
                sleep(by).await;
                self.post(&webhook).await
            }
            Some(Fate::AnswerLost) => {
                self.post(&webhook).await;
                504
            }
            None => self.post(&webhook).await,
        };
        if let (Some(job), Some(witness)) = (webhook.job, lock(&self.witness).clone()) {
            match status_code {
                200 if !matches!(fate, Some(Fate::Vanishes)) => witness.accepted(job, &action),
                200 => witness.webhook_lost(job, &action, false),
                _ => witness.webhook_lost(job, &action, true),
            }
        }
        let attempt = Attempt { status_code, status: String::new(), duration: 0.1 };
        self.with(|model, now| model.record_attempt(webhook, attempt, now));
    }

    async fn post(&self, webhook: &Webhook) -> u16 {
        let site = {
            let line = lock(&self.line);
            let count = line.receivers.len() as u64;
            let place = if count > 1 { self.rng.next_u64() % count } else { 0 };
            line.receivers.get(usize::try_from(place).unwrap_or(0)).cloned()
        };
        let Some(site) = site else { return 502 };
        let request = Request::post("/webhook")
            .header("X-GitHub-Event", &webhook.event)
            .header("X-GitHub-Delivery", &webhook.guid)
            .header("X-Hub-Signature-256", signature(&self.secret, webhook.body.as_bytes()))
            .body(Body::from(webhook.body.clone()));
        let Ok(request) = request else { return 502 };
        match timeout(PATIENCE, site.oneshot(request)).await {
            Ok(Ok(response)) => response.status().as_u16(),
            Ok(Err(never)) => match never {},
            Err(_) => 504,
        }
    }

    /// Answers a request to the REST API.
    pub fn answer(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let path = request.uri().path();
        {
            let mut line = lock(&self.line);
            if line.keeps_asked || line.script.is_some() {
                let asked = format!("{} {path}", request.method());
                let scripted = line.script.as_mut().and_then(|script| script(&asked));
                line.asked.push(asked);
                if let Some((status, headers)) = scripted {
                    return reply(status, &json!({"message": "scripted"}), headers);
                }
            }
            let errors = line.trouble.errors;
            if errors > 0.0 && self.rng.unit() < errors {
                return reply(502, &json!({"message": "Server Error"}), Vec::new());
            }
        }
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let metered = match parts[..] {
            ["repos", owner, ..] => Some(lock(&self.model).installation_of(owner)),
            ["installation", ..] => installation_speaking(request.headers()),
            _ => None,
        };
        if let Some(installation) = metered {
            self.meter(installation, request.method() != Method::GET);
        }
        match self.with(|model, now| route(model, now, &*self.rng, request, &parts)) {
            Ok((status, body)) => reply(status, &body, Vec::new()),
            Err(refusal) => {
                let status = match refusal {
                    Refusal::Forbidden(_) => 403,
                    Refusal::NotFound => 404,
                    Refusal::Conflict(_) => 409,
                    Refusal::Unprocessable(_) => 422,
                };
                reply(status, &json!({"message": refusal.to_string()}), Vec::new())
            }
        }
    }

    fn meter(&self, installation: InstallationId, changes: bool) {
        let second = self.clock.now().as_second();
        lock(&self.line).meters.entry(installation).or_default().count(second, changes);
    }
}

/// The header GitHub signs a body with.
fn signature(secret: &SecretString, body: &[u8]) -> String {
    // A key of any length is fine.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()) else { return String::new() };
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

fn reply(status: u16, body: &Value, headers: Vec<(&'static str, String)>) -> Response<Bytes> {
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(name, value);
    }
    builder.body(Bytes::from(body.to_string())).unwrap_or_default()
}

fn id<T: std::str::FromStr>(text: &str) -> Result<T, Refusal> {
    text.parse().map_err(|_| Refusal::NotFound)
}

fn query<'a>(request: &'a Request<Bytes>, key: &str) -> Option<&'a str> {
    let pairs = request.uri().query()?.split('&');
    pairs.filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == key).map(|(_, value)| value)
}

/// GitHub's paths, as far as the orchestrator walks them.
fn route(
    model: &mut Model,
    now: Timestamp,
    rng: &dyn Rng,
    request: &Request<Bytes>,
    parts: &[&str],
) -> Result<(u16, Value), Refusal> {
    let all = Page { number: 1, size: 100 };
    match (request.method().as_str(), parts) {
        ("GET", ["repos", owner, _, "installation"]) => Ok((200, json!({"id": model.installation_of(owner)}))),
        ("GET", ["app", "installations"]) => {
            Ok((200, model.installations().keys().map(|id| json!({"id": id, "suspended_at": null})).collect()))
        }
        ("POST", ["app", "installations", installation, "access_tokens"]) => {
            let token = installation_token(id(installation)?, &rng.token());
            Ok((201, json!({"token": token, "expires_at": time(after(now, Duration::from_secs(3600)))})))
        }
        ("GET", ["installation", "repositories"]) => {
            let installation = installation_speaking(request.headers()).ok_or(Refusal::NotFound)?;
            Ok((200, model.installed_repositories(installation, all).body))
        }
        ("GET", ["app", "hook", "deliveries"]) => {
            let before = query(request, "cursor").and_then(|cursor| cursor.parse().ok());
            Ok((200, model.deliveries(before).take(100).map(|d| model.delivery_json(d)).collect()))
        }
        ("POST", ["app", "hook", "deliveries", delivery, "attempts"]) => {
            model.redeliver(id(delivery)?).map(|()| (202, json!({})))
        }
        (_, ["repos", owner, name, "actions", rest @ ..]) => {
            let repo: Repo = id(&format!("{owner}/{name}"))?;
            actions(model, now, request, &repo, rest, all)
        }
        _ => Err(Refusal::NotFound),
    }
}

fn actions(
    model: &mut Model,
    now: Timestamp,
    request: &Request<Bytes>,
    repo: &Repo,
    rest: &[&str],
    all: Page,
) -> Result<(u16, Value), Refusal> {
    match (request.method().as_str(), rest) {
        ("POST", ["runners", "generate-jitconfig"]) => {
            let invalid = |_| Refusal::Unprocessable("Invalid request.");
            let body: Value = serde_json::from_slice(request.body()).map_err(invalid)?;
            let labels = serde_json::from_value(body["labels"].clone()).map_err(invalid)?;
            let name = body["name"].as_str().unwrap_or_default().to_owned();
            let jit = model.generate_jitconfig(repo, JitRequest { name, runner_group_id: 1, labels }, now)?;
            let runner = model.runner(repo, jit.runner_id, now)?;
            Ok((201, json!({"runner": runner, "encoded_jit_config": jit.credential})))
        }
        ("GET", ["runners"]) => Ok((200, model.runners(repo, query(request, "name"), all, now)?.body)),
        ("GET", ["runners", runner]) => Ok((200, model.runner(repo, id(runner)?, now)?)),
        ("DELETE", ["runners", runner]) => model.delete_runner(repo, id(runner)?, now).map(|()| (204, Value::Null)),
        ("GET", ["jobs", job]) => Ok((200, model.job(repo, id(job)?)?)),
        ("POST", ["jobs", job, "rerun"]) => model.rerun_job(repo, id(job)?, now).map(|()| (201, json!({}))),
        ("GET", ["runs"]) => {
            let queued = query(request, "status") == Some("queued");
            let status = if queued { Status::Queued } else { Status::InProgress };
            Ok((200, model.runs(repo, RunFilter::Status(status), all)?.body))
        }
        ("GET", ["runs", run]) => Ok((200, model.run(repo, id(run)?)?)),
        ("GET", ["runs", run, "jobs"]) => Ok((200, model.jobs_of_run(repo, id(run)?, false, all)?.body)),
        _ => Err(Refusal::NotFound),
    }
}

/// A connected listener. Dropped without a word, its machine is gone, and GitHub notices after a while.
pub struct Listener {
    github: Arc<GitHub>,
    credential: String,
    runner: RunnerId,
    notify: Arc<Notify>,
    over: bool,
}

impl Listener {
    /// Waits until GitHub has something to say to a runner that says it is running this job. May be dropped.
    pub async fn next(&mut self, running: Option<JobId>) -> Message {
        loop {
            match lock(&self.github.model).message(&self.credential, running) {
                Message::Nothing => {}
                message => return message,
            }
            self.notify.notified().await;
        }
    }

    /// The job has ended; with it the registration.
    pub fn complete(&mut self, job: JobId, conclusion: Conclusion) {
        // Refused when GitHub has given up on us meanwhile.
        let _ = self.github.with(|model, now| model.complete(&self.credential, job, conclusion, now));
    }

    /// Disconnects properly.
    pub fn goodbye(mut self) {
        self.over = true;
        self.github.with(|model, now| model.disconnect(&self.credential, now));
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        lock(&self.github.waiting).remove(&self.runner);
        if !self.over {
            self.github.with(|model, now| model.falls_silent(&self.credential, now));
        }
    }
}
