//! What the App asks as itself: who it is, where it is installed, tokens, and the log of its webhook.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::Uri;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Answer, Reply, next_link};
use super::gate::{Speaker, pass};
use super::rest::{parsed, repo_of};
use super::{Shared, lock};
use crate::github::installation_token;
use crate::github::model::{OwnerKind, Refusal, time};

pub(super) fn routes(shared: &Arc<Shared>) -> Router {
    Router::new()
        .route("/app", get(app))
        .route("/repos/{owner}/{repo}/installation", get(repo_installation))
        .route("/orgs/{org}/installation", get(org_installation))
        .route("/users/{user}/installation", get(user_installation))
        .route("/app/installations", get(installations))
        .route("/app/installations/{id}/access_tokens", post(access_token))
        .route("/app/hook/deliveries", get(deliveries))
        .route("/app/hook/deliveries/{id}", get(delivery))
        .route("/app/hook/deliveries/{id}/attempts", post(redeliver))
        .layer(from_fn_with_state((Arc::clone(shared), Speaker::App), pass))
        .with_state(Arc::clone(shared))
}

fn permissions() -> Value {
    json!({
        "actions": "write",
        "administration": "write",
        "contents": "read",
        "metadata": "read",
        "organization_self_hosted_runners": "read",
    })
}

async fn app(State(shared): State<Arc<Shared>>) -> Answer {
    Answer::ok(json!({
        "id": shared.app_id,
        "slug": "runs-fleet-simulated",
        "node_id": "QVBQ",
        "name": "runs-fleet (simulated)",
        "description": null,
        "external_url": shared.api_url,
        "html_url": format!("{}/apps/runs-fleet-simulated", shared.api_url),
        "created_at": "2024-01-01T00:00:00Z",
        "updated_at": "2024-01-01T00:00:00Z",
        "permissions": permissions(),
        "events": ["workflow_job"],
        "installations_count": 1,
    }))
}

fn installation(shared: &Shared, login: &str, kind: OwnerKind) -> Value {
    let id = shared.with(|model, _| model.installation_of(login));
    json!({
        "id": id,
        "account": shared.with(|model, _| model.account_json(login, kind)),
        "repository_selection": "all",
        "access_tokens_url": format!("{}/app/installations/{id}/access_tokens", shared.api_url),
        "repositories_url": format!("{}/installation/repositories", shared.api_url),
        "html_url": format!("{}/settings/installations/{id}", shared.api_url),
        "app_id": shared.app_id,
        "app_slug": "runs-fleet-simulated",
        "target_id": 1,
        "target_type": kind.as_str(),
        "permissions": permissions(),
        "events": ["workflow_job"],
        "created_at": "2024-01-01T00:00:00Z",
        "updated_at": "2024-01-01T00:00:00Z",
        "single_file_name": null,
        "suspended_by": null,
        "suspended_at": null,
    })
}

async fn installations(State(shared): State<Arc<Shared>>) -> Answer {
    let all: Vec<_> = shared
        .with(|model, _| model.installations().into_values().map(|(login, kind)| (login.to_owned(), kind)).collect());
    Answer::ok(all.iter().map(|(login, kind)| installation(&shared, login, *kind)).collect())
}

async fn repo_installation(State(shared): State<Arc<Shared>>, Path((owner, name)): Path<(String, String)>) -> Reply {
    let repo = repo_of(&owner, &name)?;
    let kind = shared.with(|model, _| model.owner_kind(&owner).filter(|_| model.has_repository(&repo)));
    kind.map(|kind| Answer::ok(installation(&shared, &owner, kind))).ok_or_else(|| Refusal::NotFound.into())
}

async fn org_installation(State(shared): State<Arc<Shared>>, Path(login): Path<String>) -> Reply {
    account_installation(&shared, &login, OwnerKind::Organization)
}

async fn user_installation(State(shared): State<Arc<Shared>>, Path(login): Path<String>) -> Reply {
    account_installation(&shared, &login, OwnerKind::User)
}

fn account_installation(shared: &Shared, login: &str, kind: OwnerKind) -> Reply {
    if shared.with(|model, _| model.owner_kind(login)) == Some(kind) {
        Ok(Answer::ok(installation(shared, login, kind)))
    } else {
        Err(Refusal::NotFound.into())
    }
}

async fn access_token(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Reply {
    let id = parsed(&id)?;
    if !shared.with(|model, _| model.has_installation(id)) {
        return Err(Refusal::NotFound.into());
    }
    let token = installation_token(id, &shared.rng.token());
    let expires_at = lock(&shared.gate).issue(&token, shared.clock.now());
    Ok(Answer::created(json!({
        "token": token,
        "expires_at": time(expires_at),
        "permissions": permissions(),
        "repository_selection": "all",
    })))
}

#[derive(Deserialize)]
struct DeliveryList {
    per_page: Option<usize>,
    cursor: Option<String>,
}

async fn deliveries(State(shared): State<Arc<Shared>>, uri: Uri, Query(query): Query<DeliveryList>) -> Reply {
    let size = query.per_page.unwrap_or(30).clamp(1, 100);
    let before = query.cursor.as_deref().map(|c| parsed::<u64>(c.trim_start_matches("v1_"))).transpose()?;
    let (shown, next) = shared.with(|model, _| {
        let mut rest = model.deliveries(before).peekable();
        let shown: Vec<_> = rest.by_ref().take(size).collect();
        // The cursor names the last one shown; the next page begins behind it.
        let next = rest.peek().and_then(|_| shown.last()).map(|d| d.id);
        (shown.iter().map(|d| model.delivery_json(d)).collect::<Vec<_>>(), next)
    });
    let link = next.map(|id| next_link(&shared.api_url, &uri, "cursor", &format!("v1_{id}")));
    Ok(Answer::ok(Value::Array(shown)).linked(link))
}

async fn delivery(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Reply {
    let id = parsed(&id)?;
    let body = shared.with(|model, _| {
        let delivery = model.delivery(id)?;
        let mut body = model.delivery_json(delivery);
        let payload = serde_json::from_str(&delivery.webhook.body).unwrap_or(Value::Null);
        body["url"] = shared.hooks.url().into();
        body["request"] = json!({ "headers": { "X-GitHub-Delivery": delivery.webhook.guid }, "payload": payload });
        body["response"] = json!({ "headers": {}, "payload": "" });
        Ok::<_, Refusal>(body)
    })?;
    Ok(Answer::ok(body))
}

async fn redeliver(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Reply {
    let id = parsed(&id)?;
    shared.with(|model, _| model.redeliver(id))?;
    Ok(Answer::accepted())
}
