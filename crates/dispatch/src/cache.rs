//! The Actions cache's part of a hand-over: where it is, and a token for what the job may see there.
//!
//! What that is follows from the workflow run, as GitHub tells it. When GitHub cannot be asked in time, the job gets
//! less: it saves where only its own run looks, and reads the default branch if that is known. A cache is never worth a
//! job's waiting.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::time::Duration;

use cache::scope::{self, Run};
use cache::token::{Claims, Keys};
use domain::clock::after;
use domain::handover::{Credential, HandOver};
use domain::ids::{Repo, RunId, RunnerKey};
use domain::message::JobMessage;
use github::client::RunView;
use lru::LruCache;
use secrecy::ExposeSecret;
use tokio::time::{Instant, timeout};

use crate::context::{Dispatch, lock};

/// How long GitHub is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// Default branches are remembered for so long.
const BRANCH: Duration = Duration::from_secs(3600);
/// Runs and repositories remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1_000).expect("not zero");

/// How hand-overs let jobs into the cache.
pub struct CacheAccess {
    keys: Option<Keys>,
    url: String,
    life: Duration,
    runs: Mutex<LruCache<(Repo, RunId), RunView>>,
    branches: Mutex<LruCache<Repo, (String, Instant)>>,
}

impl std::fmt::Debug for CacheAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CacheAccess").field("url", &self.url).finish_non_exhaustive()
    }
}

impl CacheAccess {
    /// Tokens under these keys, for the cache at this address, good for so long. Without keys nobody needs one.
    pub fn new(keys: Option<Keys>, url: &str, life: Duration) -> Self {
        let url = format!("{}/", url.trim_end_matches('/'));
        let runs = Mutex::new(LruCache::new(REMEMBERED));
        Self { keys, url, life, runs, branches: Mutex::new(LruCache::new(REMEMBERED)) }
    }
}

impl Dispatch {
    /// Adds the cache to a hand-over, where there is one.
    pub(crate) async fn let_into_cache(&self, document: &mut HandOver, message: &JobMessage, key: &RunnerKey) {
        let Some(access) = &self.settings.cache else { return };
        document.cache_url.clone_from(&access.url);
        let Some(keys) = &access.keys else { return };
        let grants = scope::grants(&self.run_of(access, message).await);
        let issued = self.now();
        let token = keys.mint(&Claims {
            job: &message.job_id.to_string(),
            instance: key.as_str(),
            repo: message.repo.as_str(),
            grants: &grants,
            issued,
            expires: after(issued, access.life),
        });
        document.cache_token = Credential::new(token.expose_secret());
    }

    async fn run_of(&self, access: &CacheAccess, message: &JobMessage) -> Run {
        let view = timeout(PATIENCE, self.run_view(access, message));
        let branch = timeout(PATIENCE, self.default_branch(access, &message.repo));
        // Who is late has said nothing.
        let (view, branch) = tokio::join!(view, branch);
        described(message, view.unwrap_or_default(), branch.unwrap_or_default())
    }

    async fn run_view(&self, access: &CacheAccess, message: &JobMessage) -> Option<RunView> {
        let key = (message.repo.clone(), message.run_id?);
        if let Some(known) = lock(&access.runs).get(&key) {
            return Some(known.clone());
        }
        let view = self.ports.github.run(&message.repo, key.1).await.ok().flatten()?;
        lock(&access.runs).put(key, view.clone());
        Some(view)
    }

    async fn default_branch(&self, access: &CacheAccess, repo: &Repo) -> Option<String> {
        if let Some((branch, _)) = lock(&access.branches).get(repo).filter(|(_, at)| at.elapsed() < BRANCH) {
            return Some(branch.clone());
        }
        let branch = self.ports.github.repository(repo).await.ok().flatten()?.default_branch?;
        lock(&access.branches).put(repo.clone(), (branch.clone(), Instant::now()));
        Some(branch)
    }
}

/// What the cache's rule looks at. A pull request is told by its list alone, because the head's branch of a fork may
/// have any name, that of the default branch included.
fn described(message: &JobMessage, view: Option<RunView>, default_branch: Option<String>) -> Run {
    let id = message.run_id.map(|id| id.to_string()).unwrap_or_else(|| format!("job-{}", message.job_id));
    let Some(view) = view else { return Run { id, default_branch, ..Run::default() } };
    let head = view.head_repository.map(|repository| repository.full_name).unwrap_or_default();
    let pull_request = view.pull_requests.as_deref().and_then(<[_]>::first);
    Run {
        id,
        event: view.event,
        head_branch: view.head_branch.unwrap_or_default(),
        tag: false,
        pull_request: pull_request.map(|pull_request| pull_request.number),
        base_branch: pull_request.map(|pull_request| pull_request.base.name.clone()),
        same_repository: head.eq_ignore_ascii_case(message.repo.as_str()),
        default_branch,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(view: serde_json::Value) -> Vec<(String, u32)> {
        let view: RunView = serde_json::from_value(view).expect("a run");
        let run = described(&domain::testing::message(1), Some(view), Some("main".into()));
        scope::grants(&run).into_iter().map(|grant| (grant.scope, grant.permission)).collect()
    }

    #[test]
    fn a_fork_never_writes_where_the_default_branch_reads() {
        let fork = json!({ "id": 77, "event": "pull_request", "head_branch": "main", "pull_requests": [],
            "head_repository": { "full_name": "somebody/fork" } });
        assert_eq!(shown(fork), [("refs/run/77".into(), 3), ("refs/heads/main".into(), 1)]);
        let odd = json!({ "id": 77, "event": "push", "head_branch": "main", "pull_requests": null });
        assert_eq!(shown(odd), [("refs/run/77".into(), 3), ("refs/heads/main".into(), 1)], "nobody says whose branch");
    }

    #[test]
    fn a_run_of_the_repository_itself_writes_its_branch_or_its_pull_request() {
        let own = json!({ "full_name": "Org/Repo" });
        let push = json!({ "id": 77, "event": "push", "head_branch": "topic", "head_repository": own });
        assert_eq!(shown(push), [("refs/heads/topic".into(), 3), ("refs/heads/main".into(), 1)]);
        let request = json!({ "id": 77, "event": "pull_request", "head_branch": "topic", "head_repository": own,
            "pull_requests": [{ "number": 5, "base": { "ref": "next" } }] });
        let expected =
            [("refs/pull/5/merge", 3), ("refs/heads/topic", 1), ("refs/heads/next", 1), ("refs/heads/main", 1)];
        assert_eq!(shown(request), expected.map(|(scope, permission)| (scope.to_owned(), permission)));
    }
}
