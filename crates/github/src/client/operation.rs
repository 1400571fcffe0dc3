//! Every request this client can make, as one table.
//!
//! The rest of the client asks the table instead of remembering: what may be repeated, what is worth a conditional
//! request, what still goes out when the rate limit is nearly spent.

use http::Method;

/// One endpoint of GitHub's REST API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// The App itself: permissions and events.
    App,
    /// Which installation covers a repository.
    RepoInstallation,
    /// Which installation covers an organisation.
    OrgInstallation,
    /// Which installation covers a user.
    UserInstallation,
    /// Every installation of the App.
    Installations,
    /// The repositories of an installation.
    InstalledRepos,
    /// Mint an installation token.
    CreateToken,
    /// One job.
    Job,
    /// Re-run one job.
    RerunJob,
    /// Mint a just-in-time runner.
    JitConfig,
    /// Mint a registration token.
    RegistrationToken,
    /// The repository's runners.
    Runners,
    /// One runner.
    Runner,
    /// Deregister a runner.
    DeleteRunner,
    /// One workflow run.
    Run,
    /// One repository.
    Repository,
    /// The repository's runs of one status.
    Runs,
    /// The jobs of a run.
    JobsOfRun,
    /// The organisation's runner groups a repository may use.
    RunnerGroups,
    /// The App's webhook deliveries.
    Deliveries,
    /// Deliver a webhook again.
    Redeliver,
}

/// A row of the table.
pub(super) struct Traits {
    pub(super) name: &'static str,
    pub(super) method: Method,
    pub(super) template: &'static str,
    /// Repeating it after an answer was lost changes nothing at GitHub that matters.
    pub(super) repeatable: bool,
    /// Read again and again: worth remembering its entity tag.
    pub(super) etag: bool,
    /// Goes out even with less than 5 % of the rate limit left: without it no runner starts or ends.
    pub(super) critical: bool,
    /// The answer is a credential: no part of it may reach an error or a log.
    pub(super) secret: bool,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 21] = [
        Self::App,
        Self::RepoInstallation,
        Self::OrgInstallation,
        Self::UserInstallation,
        Self::Installations,
        Self::InstalledRepos,
        Self::CreateToken,
        Self::Job,
        Self::RerunJob,
        Self::JitConfig,
        Self::RegistrationToken,
        Self::Runners,
        Self::Runner,
        Self::DeleteRunner,
        Self::Run,
        Self::Repository,
        Self::Runs,
        Self::JobsOfRun,
        Self::RunnerGroups,
        Self::Deliveries,
        Self::Redeliver,
    ];

    pub(super) fn traits(self) -> Traits {
        let get = |name, template| Traits {
            name,
            method: Method::GET,
            template,
            repeatable: true,
            etag: false,
            critical: false,
            secret: false,
        };
        let post = |name, template| Traits { method: Method::POST, repeatable: false, ..get(name, template) };
        let etag = |traits| Traits { etag: true, ..traits };
        let critical = |traits| Traits { critical: true, ..traits };
        let secret = |traits| Traits { secret: true, critical: true, ..traits };
        let repeatable = |traits| Traits { repeatable: true, ..traits };
        match self {
            Self::App => get("app", "/app"),
            Self::RepoInstallation => critical(get("repo_installation", "/repos/{owner}/{repo}/installation")),
            Self::OrgInstallation => critical(get("org_installation", "/orgs/{org}/installation")),
            Self::UserInstallation => critical(get("user_installation", "/users/{username}/installation")),
            Self::Installations => get("installations", "/app/installations"),
            Self::InstalledRepos => etag(get("installed_repos", "/installation/repositories")),
            Self::CreateToken => {
                repeatable(secret(post("create_token", "/app/installations/{installation_id}/access_tokens")))
            }
            Self::Job => etag(get("job", "/repos/{owner}/{repo}/actions/jobs/{job_id}")),
            Self::RerunJob => post("rerun_job", "/repos/{owner}/{repo}/actions/jobs/{job_id}/rerun"),
            Self::JitConfig => secret(post("jit_config", "/repos/{owner}/{repo}/actions/runners/generate-jitconfig")),
            Self::RegistrationToken => repeatable(secret(post(
                "registration_token",
                "/repos/{owner}/{repo}/actions/runners/registration-token",
            ))),
            Self::Runners => get("runners", "/repos/{owner}/{repo}/actions/runners"),
            Self::Runner => get("runner", "/repos/{owner}/{repo}/actions/runners/{runner_id}"),
            Self::DeleteRunner => critical(Traits {
                method: Method::DELETE,
                ..get("delete_runner", "/repos/{owner}/{repo}/actions/runners/{runner_id}")
            }),
            Self::Run => etag(get("run", "/repos/{owner}/{repo}/actions/runs/{run_id}")),
            Self::Repository => etag(get("repository", "/repos/{owner}/{repo}")),
            Self::Runs => etag(get("runs", "/repos/{owner}/{repo}/actions/runs")),
            Self::JobsOfRun => etag(get("jobs_of_run", "/repos/{owner}/{repo}/actions/runs/{run_id}/jobs")),
            Self::RunnerGroups => get("runner_groups", "/orgs/{org}/actions/runner-groups"),
            Self::Deliveries => get("deliveries", "/app/hook/deliveries"),
            Self::Redeliver => post("redeliver", "/app/hook/deliveries/{delivery_id}/attempts"),
        }
    }

    /// The name used in metrics and logs.
    pub fn as_str(self) -> &'static str {
        self.traits().name
    }
    /// HTTP method.
    pub fn method(self) -> Method {
        self.traits().method
    }
    /// The path as GitHub's OpenAPI description writes it.
    pub fn template(self) -> &'static str {
        self.traits().template
    }
}

/// How urgent a question is, when the rate limit runs low.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// A job or a machine is waiting for the answer. Held back only below 5 % of the limit.
    Dispatch,
    /// A sweep or scan that can go on in its next round. Held back below 20 %, and paced at all times.
    Sweep,
}
