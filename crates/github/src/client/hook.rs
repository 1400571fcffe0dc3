//! The App: what it may do, where it is installed, and how its webhooks fared.

use std::collections::BTreeMap;

use domain::clock::Timestamp;
use domain::ids::{InstallationId, Repo};
use serde::Deserialize;

use super::Client;
use super::call::Call;
use super::error::Error;
use super::operation::{Operation, Priority};
use super::send::{Speaker, json, nothing};

/// The App as GitHub has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct AppView {
    /// Its short name.
    #[serde(default)]
    pub slug: String,
    /// Permission → `read`, `write` or `admin`.
    #[serde(default)]
    pub permissions: BTreeMap<String, String>,
    /// Webhook events it receives.
    #[serde(default)]
    pub events: Vec<String>,
}

impl AppView {
    /// Permissions and events we need and the App lacks, in words for the operator.
    pub fn missing(&self) -> Vec<String> {
        const NEEDED: [(&str, &str, &str); 4] = [
            ("administration", "write", "Repository permission Administration: write (runners cannot be registered)"),
            ("actions", "read", "Repository permission Actions: read (jobs cannot be followed)"),
            ("actions", "write", "Repository permission Actions: write (interrupted jobs cannot be re-run)"),
            ("metadata", "read", "Repository permission Metadata: read"),
        ];
        let has = |permission: &str, level: &str| match self.permissions.get(permission).map(String::as_str) {
            Some("write" | "admin") => true,
            Some("read") => level == "read",
            _ => false,
        };
        let permissions = NEEDED.iter().filter(|(p, level, _)| !has(p, level)).map(|(_, _, words)| (*words).to_owned());
        let event = (!self.events.iter().any(|e| e == "workflow_job"))
            .then(|| "Event Workflow job (no job will be noticed)".to_owned());
        permissions.chain(event).collect()
    }

    /// Whether interrupted jobs can be re-run.
    pub fn may_rerun(&self) -> bool {
        self.permissions.get("actions").is_some_and(|level| level == "write")
    }
}

/// One attempt to deliver a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliverySummary {
    /// This attempt.
    pub id: u64,
    /// The event; every attempt to deliver it has the same.
    pub guid: String,
    /// Event name, such as `workflow_job`.
    pub event: String,
    /// Our answer's status; 0 when there was none.
    pub status_code: u16,
    /// When it was tried, GitHub's clock.
    pub delivered_at: Timestamp,
    /// Whether somebody asked for it again.
    pub redelivery: bool,
}

#[derive(Deserialize)]
struct DeliveryBody {
    id: u64,
    guid: String,
    delivered_at: String,
    #[serde(default)]
    redelivery: bool,
    #[serde(default)]
    status_code: u16,
    event: String,
}

#[derive(Deserialize)]
struct InstallationBody {
    id: InstallationId,
    suspended_at: Option<String>,
}

#[derive(Deserialize)]
struct ReposPage {
    repositories: Vec<RepoBody>,
}

#[derive(Deserialize)]
struct RepoBody {
    full_name: String,
    #[serde(default)]
    archived: bool,
    #[serde(default)]
    disabled: bool,
}

impl Client {
    /// The App itself.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn app(&self) -> Result<AppView, Error> {
        Ok(self.as_app(&Call::new(Operation::App, &[]), json).await?.value)
    }

    /// The installations of the App, without suspended ones, at most 2,000. A sweep's question.
    ///
    /// # Errors
    /// Any [`Error`]; no partial list.
    pub async fn installations(&self) -> Result<Vec<InstallationId>, Error> {
        let call = Call::new(Operation::Installations, &[]).at(Priority::Sweep);
        let all = self.list(Speaker::App, &call, |page: Vec<InstallationBody>| page).await?;
        Ok(all.into_iter().filter(|i| i.suspended_at.is_none()).map(|i| i.id).collect())
    }

    /// The repositories of an installation that can have workflow runs, at most 2,000. A sweep's question.
    ///
    /// # Errors
    /// Any [`Error`]; no partial list.
    pub async fn installed_repos(&self, installation: InstallationId) -> Result<Vec<Repo>, Error> {
        let call = Call::new(Operation::InstalledRepos, &[]).at(Priority::Sweep);
        let bodies = |page: ReposPage| page.repositories;
        let repos = self.list(Speaker::Installation(installation), &call, bodies).await?;
        Ok(repos.into_iter().filter(|r| !r.archived && !r.disabled).filter_map(|r| r.full_name.parse().ok()).collect())
    }

    /// Delivery attempts since `since`, newest first, at most 2,000. `None` when the App has no webhook of its own (it
    /// is a repository's or an organisation's), so that there is nothing to ask for.
    ///
    /// # Errors
    /// Any [`Error`] except `NotFound`.
    pub async fn deliveries(&self, since: Timestamp) -> Result<Option<Vec<DeliverySummary>>, Error> {
        let mut all = Vec::new();
        let enough = |page: Vec<DeliveryBody>| {
            for d in page {
                // An unreadable time cannot show that the page is old enough.
                let Ok(delivered_at) = d.delivered_at.parse::<Timestamp>() else { continue };
                if delivered_at < since {
                    return true;
                }
                all.push(DeliverySummary {
                    id: d.id,
                    guid: d.guid,
                    event: d.event,
                    status_code: d.status_code,
                    delivered_at,
                    redelivery: d.redelivery,
                });
            }
            false
        };
        match self.cursor(&Call::new(Operation::Deliveries, &[]), enough).await {
            Ok(()) => Ok(Some(all)),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks GitHub to deliver a webhook again.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn redeliver(&self, delivery: u64) -> Result<(), Error> {
        let call = Call::new(Operation::Redeliver, &[&delivery.to_string()]);
        self.as_app(&call, nothing).await.map(drop)
    }
}
