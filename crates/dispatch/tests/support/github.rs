//! GitHub: the deterministic model behind the REST paths dispatch asks, and its webhooks on their way.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use domain::clock::{Clock, Timestamp, after};
use domain::gh::Conclusion;
use domain::ids::{InstallationId, JobId, Repo, RunId};
use github::client::{Exchange, ExchangeError};
use github::webhook;
use http::{Method, Request, Response};
use secrecy::SecretString;
use serde_json::{Value, json};
use simulation::chance::SeededRng;
use simulation::github::model::{
    Attempt, Connect, JitRequest, JobSpec, Message, Model, OwnerKind, Page, Refusal, RunFilter, Settings, Status,
    Webhook, time,
};
use tokio::sync::watch;
use tower::ServiceExt;

use super::faults::{Port, Process};
use super::nap;

pub const REPO: &str = "acme/widgets";
pub const LABEL: &str = "runs-fleet/cpu=2";

pub fn secret() -> SecretString {
    SecretString::from("It's a Secret to Everybody")
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
    /// It arrives this much later.
    Late(Duration),
}

/// An answer out of turn.
pub type Scripted = Box<dyn FnMut(&str) -> Option<(u16, Vec<(&'static str, String)>)> + Send>;

/// See the module.
pub struct GitHub {
    model: Mutex<Model>,
    clock: Arc<dyn Clock>,
    changed: watch::Sender<u64>,
    fates: Mutex<VecDeque<(&'static str, Fate)>>,
    script: Mutex<Option<Scripted>>,
    /// Where webhooks go.
    site: Mutex<Option<Router>>,
    /// Jobs whose `queued` webhook was answered with 200.
    accepted: Mutex<Vec<JobId>>,
    /// `METHOD path` of every request.
    asked: Mutex<Vec<String>>,
}

pub fn repo() -> Repo {
    REPO.parse().unwrap()
}

impl GitHub {
    pub fn new(seed: u64, theft: f64, clock: Arc<dyn Clock>) -> Arc<Self> {
        let mut settings = Settings::new("https://api.github.com", InstallationId::new(1).unwrap(), 1_000_001);
        settings.theft = theft;
        // GitHub is slower than our own look at the machines: half a minute at the median, minutes in the tail.
        settings.runner_lost_after = Duration::from_secs(90);
        let mut model = Model::new(settings, Arc::new(SeededRng::new(seed)));
        model.add_repository(repo(), OwnerKind::Organization);
        Arc::new(Self {
            model: Mutex::new(model),
            clock,
            changed: watch::Sender::new(0),
            fates: Mutex::default(),
            script: Mutex::default(),
            site: Mutex::default(),
            accepted: Mutex::default(),
            asked: Mutex::default(),
        })
    }

    pub fn with<T>(&self, call: impl FnOnce(&mut Model, Timestamp) -> T) -> T {
        let result = call(&mut self.model.lock().unwrap(), self.clock.now());
        self.changed.send_modify(|n| *n += 1);
        result
    }

    /// The same, for calls that happen all the time and change nothing anybody waits for.
    pub fn with_quietly<T>(&self, call: impl FnOnce(&mut Model, Timestamp) -> T) -> T {
        call(&mut self.model.lock().unwrap(), self.clock.now())
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub fn queue_jobs(
        &self,
        labels: &[&str],
        count: usize,
        takes: Duration,
        outcome: Conclusion,
    ) -> (RunId, Vec<JobId>) {
        let labels: Vec<String> = labels.iter().map(|&l| l.to_owned()).collect();
        let spec = |n: usize| JobSpec { name: format!("build {n}"), labels: labels.clone(), duration: takes, outcome };
        self.with(|model, now| model.submit_run(&repo(), (0..count).map(spec).collect(), now)).unwrap()
    }

    /// A runner that is not ours takes what it can get.
    pub fn foreign_runner(self: &Arc<Self>, labels: &[&str]) {
        let labels = labels.iter().map(|&l| l.to_owned()).collect();
        let request = JitRequest { name: "other-1".to_owned(), runner_group_id: 1, labels };
        let jit = self.with(|model, now| model.generate_jitconfig(&repo(), request, now)).unwrap();
        let _ = self.with(|model, now| model.connect(&jit.credential, Connect::default(), now)).unwrap();
        let github = Arc::clone(self);
        tokio::spawn(async move {
            let mut running: Option<(JobId, u32)> = None;
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let heard = github.with_quietly(|model, now| {
                    model.heard(&jit.credential, now);
                    model.message(&jit.credential, running.map(|(id, _)| id))
                });
                match (heard, &mut running) {
                    (Message::Job(job), None) => {
                        running = Some((job.id, u32::try_from(job.duration.as_secs()).unwrap()));
                    }
                    (_, Some((_, left))) if *left > 0 => *left -= 1,
                    (_, Some((id, _))) => {
                        let end =
                            |model: &mut Model, now| model.complete(&jit.credential, *id, Conclusion::Success, now);
                        let _ = github.with(end);
                        return;
                    }
                    _ => {}
                }
            }
        });
    }

    pub fn cancel(&self, run: RunId) {
        self.with(|model, now| model.cancel_run(&repo(), run, now)).unwrap();
    }

    pub fn status(&self, job: JobId) -> Status {
        self.model.lock().unwrap().job_status(job).unwrap()
    }

    pub fn conclusion(&self, job: JobId) -> Option<&'static str> {
        self.reports().into_iter().find(|report| report.id == job)?.conclusion
    }

    pub fn reports(&self) -> Vec<simulation::github::model::JobReport> {
        self.model.lock().unwrap().job_reports()
    }

    pub fn counters(&self) -> simulation::github::model::Counters {
        self.model.lock().unwrap().counters()
    }

    pub fn fate(&self, action: &'static str, fate: Fate) {
        self.fates.lock().unwrap().push_back((action, fate));
    }

    /// Answers out of turn, by `METHOD path`, until the script is taken away.
    pub fn script(&self, script: Option<Scripted>) {
        *self.script.lock().unwrap() = script;
    }

    pub fn asked(&self, prefix: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|line| line.starts_with(prefix)).count()
    }

    pub fn serve(&self, site: Option<Router>) {
        *self.site.lock().unwrap() = site;
    }

    pub fn accepted(&self) -> Vec<JobId> {
        self.accepted.lock().unwrap().clone()
    }

    /// Lets the model's time pass and its webhooks go out.
    pub async fn run(self: Arc<Self>) {
        let mut changed = self.changes();
        loop {
            let (due, webhooks) = {
                let now = self.clock.now();
                let mut model = self.model.lock().unwrap();
                model.advance(now);
                (model.next_due(now), model.take_webhooks())
            };
            for webhook in webhooks {
                tokio::spawn(Arc::clone(&self).send(webhook));
            }
            let now = self.clock.now();
            let nap = due.map_or(Duration::from_secs(60), |due| domain::clock::since(due, now));
            tokio::select! {
                () = tokio::time::sleep(nap.max(Duration::from_millis(10))) => {}
                _ = changed.changed() => {}
            }
        }
    }

    async fn send(self: Arc<Self>, webhook: Webhook) {
        let action = webhook.action.clone().unwrap_or_default();
        let fate = {
            let mut fates = self.fates.lock().unwrap();
            let hit = fates.iter().position(|(wanted, _)| *wanted == action).filter(|_| !webhook.redelivery);
            hit.and_then(|hit| fates.remove(hit)).map(|(_, fate)| fate)
        };
        let status_code = match fate {
            Some(Fate::Fails) => 502,
            Some(Fate::Vanishes) => 200,
            Some(Fate::Twice) => {
                self.post(&webhook).await;
                self.post(&webhook).await
            }
            Some(Fate::Late(by)) => {
                tokio::time::sleep(by).await;
                self.post(&webhook).await
            }
            None => self.post(&webhook).await,
        };
        if status_code == 200 && action == "queued" && !matches!(fate, Some(Fate::Vanishes)) {
            let body: Value = serde_json::from_str(&webhook.body).unwrap();
            let job = &body["workflow_job"];
            let ours = |label: &Value| label.as_str().is_some_and(|label| label.starts_with("runs-fleet"));
            if job["labels"].as_array().is_some_and(|labels| labels.iter().any(ours)) {
                self.accepted.lock().unwrap().extend(job["id"].as_u64().and_then(JobId::new));
            }
        }
        let attempt = Attempt { status_code, status: String::new(), duration: 0.1 };
        self.with(|model, now| model.record_attempt(webhook, attempt, now));
    }

    async fn post(&self, webhook: &Webhook) -> u16 {
        let Some(site) = self.site.lock().unwrap().clone() else { return 502 };
        let request = Request::post("/webhook")
            .header("X-GitHub-Event", &webhook.event)
            .header("X-GitHub-Delivery", &webhook.guid)
            .header("X-Hub-Signature-256", webhook::sign(&secret(), webhook.body.as_bytes()))
            .body(Body::from(webhook.body.clone()))
            .unwrap();
        match tokio::time::timeout(Duration::from_secs(10), site.oneshot(request)).await {
            Ok(response) => response.unwrap().status().as_u16(),
            Err(_) => 504,
        }
    }

    fn answer(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let path = request.uri().path().to_owned();
        let line = format!("{} {path}", request.method());
        self.asked.lock().unwrap().push(line.clone());
        if let Some(script) = self.script.lock().unwrap().as_mut()
            && let Some((status, headers)) = script(&line)
        {
            let mut response = reply(status, &json!({"message": "scripted"}));
            for (name, value) in headers {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            return response;
        }
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let answered = self.with_quietly(|model, now| route(model, now, request.method(), &parts, request));
        if request.method() != Method::GET {
            self.changed.send_modify(|n| *n += 1);
        }
        match answered {
            Ok((status, body)) => reply(status, &body),
            Err(refusal) => {
                let status = match refusal {
                    Refusal::Forbidden(_) => 403,
                    Refusal::NotFound => 404,
                    Refusal::Conflict(_) => 409,
                    Refusal::Unprocessable(_) => 422,
                };
                reply(status, &json!({"message": refusal.to_string()}))
            }
        }
    }
}

fn reply(status: u16, body: &Value) -> Response<Bytes> {
    Response::builder().status(status).body(Bytes::from(body.to_string())).unwrap()
}

fn id<T: std::str::FromStr>(text: &str) -> Result<T, Refusal> {
    text.parse().map_err(|_| Refusal::NotFound)
}

fn query<'a>(request: &'a Request<Bytes>, key: &str) -> Option<&'a str> {
    let pairs = request.uri().query()?.split('&');
    pairs.filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == key).map(|(_, value)| value)
}

/// GitHub's paths, as far as dispatch walks them.
fn route(
    model: &mut Model,
    now: Timestamp,
    method: &Method,
    parts: &[&str],
    request: &Request<Bytes>,
) -> Result<(u16, Value), Refusal> {
    let all = Page { number: 1, size: 100 };
    match (method.as_str(), parts) {
        ("GET", ["repos", _, _, "installation"]) => Ok((200, json!({"id": 1}))),
        ("GET", ["app", "installations"]) => {
            Ok((200, model.installations().keys().map(|id| json!({"id": id, "suspended_at": null})).collect()))
        }
        ("GET", ["installation", "repositories"]) => {
            let installations: Vec<_> = model.installations().into_keys().collect();
            Ok((200, model.installed_repositories(installations[0], all).body))
        }
        ("POST", ["app", "installations", _, "access_tokens"]) => {
            let until = after(now, Duration::from_secs(3600));
            Ok((201, json!({"token": "ghs_simulated", "expires_at": time(until)})))
        }
        ("GET", ["app", "hook", "deliveries"]) => {
            Ok((200, model.deliveries(None).take(100).map(|d| model.delivery_json(d)).collect()))
        }
        ("POST", ["app", "hook", "deliveries", delivery, "attempts"]) => {
            model.redeliver(id(delivery)?).map(|()| (202, json!({})))
        }
        (_, ["repos", owner, name, "actions", rest @ ..]) => {
            let repo: Repo = id(&format!("{owner}/{name}"))?;
            match (method.as_str(), rest) {
                ("POST", ["runners", "generate-jitconfig"]) => {
                    let body: Value = serde_json::from_slice(request.body()).unwrap();
                    let labels = serde_json::from_value(body["labels"].clone()).unwrap();
                    let name = body["name"].as_str().unwrap().to_owned();
                    let jit = model.generate_jitconfig(&repo, JitRequest { name, runner_group_id: 1, labels }, now)?;
                    let runner = model.runner(&repo, jit.runner_id, now)?;
                    Ok((201, json!({"runner": runner, "encoded_jit_config": jit.credential})))
                }
                ("GET", ["runners"]) => Ok((200, model.runners(&repo, query(request, "name"), all, now)?.body)),
                ("GET", ["runners", runner]) => Ok((200, model.runner(&repo, id(runner)?, now)?)),
                ("DELETE", ["runners", runner]) => {
                    model.delete_runner(&repo, id(runner)?, now).map(|()| (204, Value::Null))
                }
                ("GET", ["jobs", job]) => Ok((200, model.job(&repo, id(job)?)?)),
                ("POST", ["jobs", job, "rerun"]) => model.rerun_job(&repo, id(job)?, now).map(|()| (201, json!({}))),
                ("GET", ["runs"]) => {
                    let status =
                        if query(request, "status") == Some("queued") { Status::Queued } else { Status::InProgress };
                    Ok((200, model.runs(&repo, RunFilter::Status(status), all)?.body))
                }
                ("GET", ["runs", run]) => Ok((200, model.run(&repo, id(run)?)?)),
                ("GET", ["runs", run, "jobs"]) => Ok((200, model.jobs_of_run(&repo, id(run)?, false, all)?.body)),
                _ => Err(Refusal::NotFound),
            }
        }
        _ => Err(Refusal::NotFound),
    }
}

/// GitHub, as one process reaches it.
pub struct Line {
    pub process: Arc<Process>,
    pub github: Arc<GitHub>,
    pub takes: Duration,
}

#[async_trait]
impl Exchange for Line {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ExchangeError> {
        let name = match (request.method().as_str(), request.uri().path()) {
            ("POST", path) if path.ends_with("/generate-jitconfig") => "github.mint",
            ("POST", path) if path.ends_with("/rerun") => "github.rerun",
            ("DELETE", _) => "github.deregister",
            ("GET", path) if path.contains("/actions/jobs/") => "github.job",
            _ => "github",
        };
        let lost = || Err(ExchangeError::Transport("the weather".to_owned()));
        let exchange = async {
            nap(self.takes).await;
            Ok(self.github.answer(&request))
        };
        self.process.call(Port::GitHub, name, lost, exchange).await
    }
}
