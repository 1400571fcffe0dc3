//! What this process is, and whether what it leans on answers.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::{RawQuery, State};
use domain::clock::{Timestamp, since};
use domain::ids::JobId;
use futures::future::{join, join_all};
use serde::Serialize;

use crate::error::ApiError;
use crate::params::Params;
use crate::state::{Access, AdminState, ConfigWarning};

/// Bound on each probe.
const PROBE: Duration = Duration::from_secs(2);

/// `GET /api/auth/config`.
#[derive(Serialize)]
pub(crate) struct AuthConfig {
    auth_enabled: bool,
    mode: &'static str,
}

impl AuthConfig {
    pub(crate) const fn of(access: Access) -> Self {
        Self { auth_enabled: false, mode: access.mode() }
    }
}

#[derive(Serialize)]
pub(crate) struct Status {
    version: String,
    mode: String,
    replica: String,
    /// Nobody counts them yet.
    replicas: Option<u32>,
    started_at: Timestamp,
    now: Timestamp,
    uptime_seconds: u64,
    features: BTreeMap<String, bool>,
    warnings: Vec<ConfigWarning>,
    dependencies: Vec<Dependency>,
}

#[derive(Serialize)]
struct Dependency {
    name: String,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// `GET /api/status`.
pub(crate) async fn status(
    State(state): State<AdminState>,
    RawQuery(query): RawQuery,
) -> Result<Json<Status>, ApiError> {
    Params::read(query.as_deref(), &[])?;
    let now = state.dispatch.ports().clock.now();
    let (store, queues) = join(
        store(&state),
        join_all(state.queues.iter().map(|watched| async {
            let name = format!("queue {}", watched.queue.name());
            probe(name, watched.queue.ping()).await
        })),
    )
    .await;
    Ok(Json(Status {
        version: state.about.version,
        mode: state.about.mode,
        replica: state.dispatch.settings().owner.clone(),
        replicas: None,
        started_at: state.about.started_at,
        now,
        uptime_seconds: since(now, state.about.started_at).as_secs(),
        features: state.about.features,
        warnings: state.about.warnings,
        dependencies: std::iter::once(store).chain(queues).collect(),
    }))
}

/// Any read will do.
async fn store(state: &AdminState) -> Dependency {
    let read = async {
        match JobId::new(1) {
            Some(id) => state.dispatch.ports().jobs.get(id).await.map(|_| ()),
            None => Ok(()),
        }
    };
    probe("store".to_owned(), read).await
}

async fn probe<E: std::fmt::Display>(name: String, asked: impl Future<Output = Result<(), E>>) -> Dependency {
    let error = match tokio::time::timeout(PROBE, asked).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("no answer in two seconds".to_owned()),
    };
    Dependency { name, ok: error.is_none(), error }
}
