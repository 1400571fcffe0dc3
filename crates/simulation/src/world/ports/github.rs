//! GitHub, as one process reaches it, and as a world watches it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use domain::gh::Conclusion;
use domain::ids::{JobId, Repo, RunId};
use github::client::{Exchange, ExchangeError};
use github::mint::runner_key_candidates;
use http::{Request, Response};

use crate::github::line::{GitHub, GitHubWitness};
use crate::world::happening::{Happening, Scene};
use crate::world::mutation::Mutation;
use crate::world::process::{Port, Process};

/// GitHub's API, as one process reaches it.
pub struct Line {
    /// Whose.
    pub process: Arc<Process>,
    /// The GitHub of everybody.
    pub github: Arc<GitHub>,
    /// A deliberate bug.
    pub mutation: Option<Mutation>,
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
        let lost = || Err(ExchangeError::Transport("no answer".to_owned()));
        let exchange = async {
            let mut answer = self.github.answer(&request);
            if self.mutation == Some(Mutation::BelieveQueued) && name == "github.job" {
                let text =
                    String::from_utf8_lossy(answer.body()).replace("\"status\":\"completed\"", "\"status\":\"queued\"");
                *answer.body_mut() = Bytes::from(text);
            }
            if answer.status().is_server_error() {
                self.process.struck(name, "answered with a server error");
            }
            Ok(answer)
        };
        self.process.call(Port::GitHub, name, lost, exchange).await
    }
}

/// Tells a scene what happens at GitHub.
pub struct Told(pub Scene);

impl GitHubWitness for Told {
    fn queued(&self, job: JobId, run: RunId, repo: &Repo, attempt: u32, labels: &[String]) {
        self.0.happened(&Happening::JobQueued { job, run, repo, attempt, labels });
    }
    fn began(&self, job: JobId, runner: &str, stolen: bool) {
        let machine = runner_key_candidates(runner).into_iter().next();
        self.0.happened(&Happening::JobBegan { job, runner, machine, stolen });
    }
    fn concluded(&self, job: JobId, conclusion: Conclusion, runner_lost: bool) {
        self.0.happened(&Happening::JobConcluded { job, conclusion, runner_lost });
    }
    fn accepted(&self, job: JobId, action: &str) {
        self.0.happened(&Happening::WebhookAccepted { job, action });
    }
    fn webhook_lost(&self, job: JobId, action: &str, known: bool) {
        self.0.happened(&Happening::WebhookLost { job, action, known });
    }
}
