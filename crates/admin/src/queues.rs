//! How full the queues are.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use futures::future::join_all;
use queue::{Depth, Error, Queue};
use serde::Serialize;

use crate::error::ApiError;
use crate::params::Params;
use crate::state::{AdminState, WatchedQueue};

/// Bound on asking one queue.
const ASK: Duration = Duration::from_secs(5);

#[derive(Serialize)]
pub(crate) struct Queues {
    queues: Vec<QueueView>,
}

/// `null` is a number the back end does not know. Queues here have no address.
#[derive(Serialize)]
pub(crate) struct QueueView {
    name: String,
    url: Option<String>,
    messages_visible: Option<u64>,
    messages_in_flight: Option<u64>,
    messages_delayed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dlq_messages: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_message_age_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// `GET /api/queues`.
pub(crate) async fn list(State(state): State<AdminState>, RawQuery(query): RawQuery) -> Result<Json<Queues>, ApiError> {
    Params::read(query.as_deref(), &[])?;
    let queues = join_all(state.queues.iter().map(QueueView::of)).await;
    if !queues.is_empty() && queues.iter().all(|queue| queue.error.is_some()) {
        return Err(ApiError::queues());
    }
    Ok(Json(Queues { queues }))
}

/// `GET /api/queues/{name}`.
pub(crate) async fn one(
    State(state): State<AdminState>,
    Path(name): Path<String>,
) -> Result<Json<QueueView>, ApiError> {
    let found = state.queues.iter().find(|watched| watched.queue.name() == name);
    Ok(Json(QueueView::of(found.ok_or_else(ApiError::not_found)?).await))
}

async fn depth(queue: &dyn Queue) -> Result<Depth, Error> {
    tokio::time::timeout(ASK, queue.depth()).await.unwrap_or(Err(Error::Timeout))
}

impl QueueView {
    async fn of(watched: &WatchedQueue) -> Self {
        let (full, error) = match depth(&*watched.queue).await {
            Ok(depth) => (depth, None),
            Err(error) => (Depth::default(), Some(error.to_string())),
        };
        let dead = match &watched.dead_letters {
            Some(dead) => depth(&**dead).await.ok(),
            None => None,
        };
        Self {
            name: watched.queue.name().to_owned(),
            url: None,
            messages_visible: full.visible,
            messages_in_flight: full.in_flight,
            messages_delayed: None,
            dlq_messages: dead.and_then(|depth| depth.visible),
            oldest_message_age_seconds: full.oldest.map(|age| age.as_secs()),
            error,
        }
    }
}
