//! Runner registrations and the credentials that make them.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::clock::{Timestamp, since};
use domain::handover::Credential;
use domain::ids::{Repo, RunnerId};
use lru::LruCache;
use serde::{Deserialize, Serialize};

use super::Client;
use super::call::Call;
use super::error::Error;
use super::flight::Flight;
use super::operation::{Operation, Priority};
use super::send::{Speaker, found, json, nothing};

/// The runner group every organisation and every repository has.
pub const DEFAULT_GROUP: u64 = 1;

/// How long a group's id counts.
const GROUP_KNOWN_FOR: Duration = Duration::from_secs(30 * 60);
/// How long a failed look-up counts.
const GROUP_UNKNOWN_FOR: Duration = Duration::from_secs(60);
#[allow(clippy::unwrap_used, reason = "not zero")]
const GROUPS: NonZeroUsize = NonZeroUsize::new(1000).unwrap();

/// What a just-in-time runner is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JitRequest<'a> {
    /// Its name; unique in the repository, at most 64 characters.
    pub name: &'a str,
    /// Its group; see [`Client::runner_group_id`].
    pub group_id: u64,
    /// Exactly the labels it will have.
    pub labels: &'a [String],
}

/// A registered runner that waits for its listener.
#[derive(Debug, Clone, PartialEq)]
pub struct JitConfig {
    /// Its registration.
    pub runner_id: RunnerId,
    /// What the listener needs, base64. Whoever has it is the runner.
    pub encoded: Credential,
}

/// A token with which a machine registers itself.
#[derive(Debug, Clone, PartialEq)]
pub struct RegistrationToken {
    /// The token.
    pub token: Credential,
    /// When it stops working; an hour after it was made.
    pub expires_at: Option<Timestamp>,
}

/// One registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunnerView {
    /// Its id.
    pub id: RunnerId,
    /// Its name.
    pub name: String,
    /// Whether its listener is connected. Advisory, and false from mint to first connection.
    pub online: bool,
    /// Whether GitHub believes it runs a job. Advisory: it has been seen false while a job ran.
    pub busy: bool,
    /// Its labels.
    pub labels: Vec<String>,
}

/// GitHub's answer to a deregistration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone, or was.
    Gone,
    /// It has a job; nothing was done.
    Busy,
}

/// Group ids by (organisation, repository, group name), lower case.
pub(super) struct Groups {
    known: Mutex<LruCache<[String; 3], Arc<Flight<Group>>>>,
}

#[derive(Clone)]
struct Group {
    /// `None`: the look-up failed.
    id: Option<u64>,
    since: Timestamp,
}

impl Groups {
    pub(super) fn new() -> Self {
        Self { known: Mutex::new(LruCache::new(GROUPS)) }
    }
}

#[derive(Serialize)]
struct JitBody<'a> {
    name: &'a str,
    runner_group_id: u64,
    labels: &'a [String],
}

#[derive(Deserialize)]
struct JitReply {
    runner: JitRunner,
    encoded_jit_config: Credential,
}

#[derive(Deserialize)]
struct JitRunner {
    id: RunnerId,
}

#[derive(Deserialize)]
struct TokenReply {
    token: Credential,
    expires_at: Option<String>,
}

#[derive(Deserialize)]
struct RunnerBody {
    id: RunnerId,
    name: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    busy: bool,
    #[serde(default)]
    labels: Vec<Label>,
}

#[derive(Deserialize)]
struct Label {
    name: String,
}

#[derive(Deserialize)]
struct RunnersPage {
    runners: Vec<RunnerBody>,
}

#[derive(Deserialize)]
struct GroupsPage {
    runner_groups: Vec<GroupBody>,
}

#[derive(Deserialize)]
struct GroupBody {
    id: u64,
    name: String,
}

impl From<RunnerBody> for RunnerView {
    fn from(body: RunnerBody) -> Self {
        Self {
            id: body.id,
            name: body.name,
            online: body.status == "online",
            busy: body.busy,
            labels: body.labels.into_iter().map(|l| l.name).collect(),
        }
    }
}

impl Client {
    /// Registers a just-in-time runner. Never repeated by itself: after `Network`, `Server` or `Decode` the runner may
    /// exist, and the next try needs another name.
    ///
    /// # Errors
    /// `Conflict` when the name is taken; any other [`Error`].
    pub async fn jit_config(&self, repo: &Repo, request: &JitRequest<'_>) -> Result<JitConfig, Error> {
        let body = JitBody { name: request.name, runner_group_id: request.group_id.max(1), labels: request.labels };
        let call = Call::new(Operation::JitConfig, &[repo.owner(), repo.name()]).json(&body);
        let usable = |bytes: &_| json::<JitReply>(bytes).filter(|r| !r.encoded_jit_config.is_empty());
        let reply = self.in_repo(repo, &call, usable).await?.value;
        Ok(JitConfig { runner_id: reply.runner.id, encoded: reply.encoded_jit_config })
    }

    /// Mints a registration token for the repository.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn registration_token(&self, repo: &Repo) -> Result<RegistrationToken, Error> {
        let call = Call::new(Operation::RegistrationToken, &[repo.owner(), repo.name()]);
        let usable = |bytes: &_| json::<TokenReply>(bytes).filter(|r| !r.token.is_empty());
        let reply = self.in_repo(repo, &call, usable).await?.value;
        Ok(RegistrationToken { token: reply.token, expires_at: reply.expires_at.and_then(|at| at.parse().ok()) })
    }

    /// One registration; `None` when there is none.
    ///
    /// # Errors
    /// Any [`Error`]; `NotFound` means that the App is not installed there.
    pub async fn runner(&self, repo: &Repo, runner: RunnerId) -> Result<Option<RunnerView>, Error> {
        let call = Call::new(Operation::Runner, &[repo.owner(), repo.name(), &runner.to_string()]);
        Ok(found(&call, self.in_repo(repo, &call, json::<RunnerBody>).await)?.map(RunnerView::from))
    }

    /// The registration of that exact name; `None` when there is none.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn runner_by_name(&self, repo: &Repo, name: &str) -> Result<Option<RunnerView>, Error> {
        let call = Call::new(Operation::Runners, &[repo.owner(), repo.name()]).query("name", name);
        // Servers that do not know the filter answer with everybody.
        Ok(self.runners_of(repo, &call).await?.into_iter().find(|r| r.name == name))
    }

    /// All registrations of the repository, up to 2,000. A sweep's question.
    ///
    /// # Errors
    /// Any [`Error`]; no partial list.
    pub async fn runners(&self, repo: &Repo) -> Result<Vec<RunnerView>, Error> {
        let call = Call::new(Operation::Runners, &[repo.owner(), repo.name()]).at(Priority::Sweep);
        self.runners_of(repo, &call).await
    }

    async fn runners_of(&self, repo: &Repo, call: &Call) -> Result<Vec<RunnerView>, Error> {
        self.list(Speaker::Repo(repo), call, |page: RunnersPage| {
            page.runners.into_iter().map(RunnerView::from).collect()
        })
        .await
    }

    /// Deregisters a runner: its listener exits when idle, and a job it already has goes on.
    ///
    /// # Errors
    /// Any [`Error`]; `NotFound` means that the App is not installed there.
    pub async fn delete_runner(&self, repo: &Repo, runner: RunnerId) -> Result<Deleted, Error> {
        let call = Call::new(Operation::DeleteRunner, &[repo.owner(), repo.name(), &runner.to_string()]);
        match found(&call, self.in_repo(repo, &call, nothing).await) {
            Ok(_) => Ok(Deleted::Gone),
            Err(Error::Unprocessable(context)) if context.status == Some(422) => Ok(Deleted::Busy),
            Err(error) => Err(error),
        }
    }

    /// The id of the runner group called `name` (any case) that `repo` may use; [`DEFAULT_GROUP`] when the name is
    /// empty or `default`, or when the look-up fails: a job must not lose its runner over where it is filed.
    pub async fn runner_group_id(&self, repo: &Repo, name: &str) -> u64 {
        if name.is_empty() || name.eq_ignore_ascii_case("default") {
            return DEFAULT_GROUP;
        }
        let key = [repo.owner(), repo.name(), name].map(str::to_lowercase);
        let flight = {
            let mut known = self.groups.known.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(known.get_or_insert(key, Arc::default))
        };
        let current = |group: &Group| {
            let kept = if group.id.is_some() { GROUP_KNOWN_FOR } else { GROUP_UNKNOWN_FOR };
            since(self.clock.now(), group.since) < kept
        };
        let look_up = || async {
            let id = self.look_up_group(repo, name).await;
            Ok(Group { id, since: self.clock.now() })
        };
        flight.get(current, look_up).await.ok().and_then(|group| group.id).unwrap_or(DEFAULT_GROUP)
    }

    async fn look_up_group(&self, repo: &Repo, name: &str) -> Option<u64> {
        let call = Call::new(Operation::RunnerGroups, &[repo.owner()]).query("visible_to_repository", repo.name());
        let groups = self.list(Speaker::Repo(repo), &call, |page: GroupsPage| page.runner_groups).await;
        let wanted = name.to_lowercase();
        let why = match groups {
            Ok(groups) => match groups.into_iter().find(|g| g.id > 0 && g.name.to_lowercase() == wanted) {
                Some(group) => return Some(group.id),
                None => "no such group is visible to the repository".to_owned(),
            },
            Err(error) => error.to_string(),
        };
        tracing::warn!(repo = %repo, runner_group = name, why, "runner group unresolved; using the default group");
        None
    }
}
