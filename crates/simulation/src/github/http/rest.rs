//! What an installation asks about a repository's Actions: runners, jobs, runs.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use domain::clock::after;
use domain::gh::Conclusion;
use domain::ids::{JobId, Repo, RunId, RunnerId};
use serde::Deserialize;
use serde_json::json;

use super::Shared;
use super::answer::{Answer, Reply};
use super::gate::{Speaker, pass};
use crate::github::installation_speaking;
use crate::github::model::{JitRequest, Page, Refusal, RunFilter, Status, time};
use crate::runner::wire::JitDocument;

pub(super) fn routes(shared: &Arc<Shared>) -> Router {
    let actions = |tail: &str| format!("/repos/{{owner}}/{{repo}}/actions{tail}");
    Router::new()
        .route("/installation/repositories", get(repositories))
        .route(&actions("/runners"), get(runners))
        .route(&actions("/runners/generate-jitconfig"), post(generate_jitconfig))
        .route(&actions("/runners/registration-token"), post(registration_token))
        .route(&actions("/runners/{id}"), get(runner).delete(delete_runner))
        .route(&actions("/jobs/{id}"), get(job))
        .route(&actions("/jobs/{id}/rerun"), post(rerun_job))
        .route(&actions("/runs"), get(runs))
        .route(&actions("/runs/{id}"), get(run))
        .route(&actions("/runs/{id}/jobs"), get(jobs_of_run))
        .route(&actions("/runs/{id}/rerun"), post(rerun_run))
        .route(&actions("/runs/{id}/cancel"), post(cancel_run))
        .layer(from_fn_with_state((Arc::clone(shared), Speaker::Installation), pass))
        .with_state(Arc::clone(shared))
}

type RepoPath = Path<(String, String)>;
type ItemPath = Path<(String, String, String)>;

/// A repository's name from the path; anything else does not exist.
pub(super) fn repo_of(owner: &str, name: &str) -> Result<Repo, Answer> {
    parsed(&format!("{owner}/{name}"))
}

/// An id from the path; anything else does not exist.
pub(super) fn parsed<T: FromStr>(text: &str) -> Result<T, Answer> {
    text.parse().map_err(|_| Refusal::NotFound.into())
}

#[derive(Deserialize)]
struct ListQuery {
    page: Option<usize>,
    per_page: Option<usize>,
    name: Option<String>,
    status: Option<String>,
    filter: Option<String>,
}

impl ListQuery {
    fn page(&self) -> Page {
        Page { number: self.page.unwrap_or(1).max(1), size: self.per_page.unwrap_or(30).clamp(1, 100) }
    }
}

async fn repositories(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    uri: Uri,
    Query(query): Query<ListQuery>,
) -> Reply {
    let (id, page) = (installation_speaking(&headers).ok_or(Refusal::NotFound)?, query.page());
    let listing = shared.with(|model, _| model.installed_repositories(id, page));
    Ok(Answer::page(listing, &shared.api_url, &uri, page.number))
}

async fn generate_jitconfig(State(shared): State<Arc<Shared>>, Path((o, r)): RepoPath, body: Bytes) -> Reply {
    #[derive(Deserialize)]
    struct Body {
        name: String,
        runner_group_id: u64,
        labels: Vec<String>,
    }
    let repo = repo_of(&o, &r)?;
    let body: serde_json::Value =
        serde_json::from_slice(&body).map_err(|_| Answer::error(StatusCode::BAD_REQUEST, "Problems parsing JSON"))?;
    let Body { name, runner_group_id, labels } = serde_json::from_value(body)
        .map_err(|_| Answer::error(StatusCode::UNPROCESSABLE_ENTITY, "Invalid request."))?;
    let request = JitRequest { name, runner_group_id, labels };
    let (runner, credential) = shared.with(|model, now| {
        let minted = model.generate_jitconfig(&repo, request, now)?;
        Ok::<_, Refusal>((model.runner(&repo, minted.runner_id, now)?, minted.credential))
    })?;
    let document = JitDocument { server_url: shared.api_url.clone(), credential };
    let encoded = STANDARD.encode(serde_json::to_vec(&document).unwrap_or_default());
    Ok(Answer::created(json!({ "runner": runner, "encoded_jit_config": encoded })))
}

async fn registration_token(State(shared): State<Arc<Shared>>, Path((o, r)): RepoPath) -> Reply {
    let repo = repo_of(&o, &r)?;
    if !shared.with(|model, _| model.has_repository(&repo)) {
        return Err(Refusal::NotFound.into());
    }
    let expires_at = after(shared.clock.now(), Duration::from_secs(3_600));
    Ok(Answer::created(json!({ "token": shared.rng.token().to_uppercase(), "expires_at": time(expires_at) })))
}

async fn runners(
    State(shared): State<Arc<Shared>>,
    Path((o, r)): RepoPath,
    uri: Uri,
    Query(query): Query<ListQuery>,
) -> Reply {
    let (repo, page) = (repo_of(&o, &r)?, query.page());
    let listing = shared.with(|model, now| model.runners(&repo, query.name.as_deref(), page, now))?;
    Ok(Answer::page(listing, &shared.api_url, &uri, page.number))
}

async fn runner(State(shared): State<Arc<Shared>>, Path((o, r, id)): ItemPath) -> Reply {
    let (repo, id) = (repo_of(&o, &r)?, parsed::<RunnerId>(&id)?);
    Ok(Answer::ok(shared.with(|model, now| model.runner(&repo, id, now))?))
}

async fn delete_runner(State(shared): State<Arc<Shared>>, Path((o, r, id)): ItemPath) -> Reply {
    let (repo, id) = (repo_of(&o, &r)?, parsed::<RunnerId>(&id)?);
    shared.with(|model, now| model.delete_runner(&repo, id, now))?;
    Ok(Answer::empty(StatusCode::NO_CONTENT))
}

async fn job(State(shared): State<Arc<Shared>>, Path((o, r, id)): ItemPath) -> Reply {
    let (repo, id) = (repo_of(&o, &r)?, parsed::<JobId>(&id)?);
    Ok(Answer::ok(shared.with(|model, _| model.job(&repo, id))?))
}

async fn rerun_job(State(shared): State<Arc<Shared>>, Path((o, r, id)): ItemPath) -> Reply {
    let (repo, id) = (repo_of(&o, &r)?, parsed::<JobId>(&id)?);
    shared.with(|model, now| model.rerun_job(&repo, id, now))?;
    Ok(Answer::created(json!({})))
}

async fn runs(
    State(shared): State<Arc<Shared>>,
    Path((o, r)): RepoPath,
    uri: Uri,
    Query(query): Query<ListQuery>,
) -> Reply {
    let (repo, page) = (repo_of(&o, &r)?, query.page());
    let filter = match query.status.as_deref() {
        None => RunFilter::All,
        Some("queued" | "waiting" | "requested" | "pending") => RunFilter::Status(Status::Queued),
        Some("in_progress") => RunFilter::Status(Status::InProgress),
        Some("completed") => RunFilter::Status(Status::Completed),
        Some(conclusion) => RunFilter::Conclusion(Conclusion::parse(conclusion)),
    };
    let listing = shared.with(|model, _| model.runs(&repo, filter, page))?;
    Ok(Answer::page(listing, &shared.api_url, &uri, page.number))
}

async fn run(State(shared): State<Arc<Shared>>, Path((o, r, id)): ItemPath) -> Reply {
    let (repo, id) = (repo_of(&o, &r)?, parsed::<RunId>(&id)?);
    Ok(Answer::ok(shared.with(|model, _| model.run(&repo, id))?))
}

async fn jobs_of_run(
    State(shared): State<Arc<Shared>>,
    Path((o, r, id)): ItemPath,
    uri: Uri,
    Query(query): Query<ListQuery>,
) -> Reply {
    let (repo, id, page) = (repo_of(&o, &r)?, parsed::<RunId>(&id)?, query.page());
    let all = query.filter.as_deref() == Some("all");
    let listing = shared.with(|model, _| model.jobs_of_run(&repo, id, all, page))?;
    Ok(Answer::page(listing, &shared.api_url, &uri, page.number))
}

async fn rerun_run(State(shared): State<Arc<Shared>>, Path((o, r, id)): ItemPath) -> Reply {
    let (repo, id) = (repo_of(&o, &r)?, parsed::<RunId>(&id)?);
    shared.with(|model, now| model.rerun_run(&repo, id, now))?;
    Ok(Answer::created(json!({})))
}

async fn cancel_run(State(shared): State<Arc<Shared>>, Path((o, r, id)): ItemPath) -> Reply {
    let (repo, id) = (repo_of(&o, &r)?, parsed::<RunId>(&id)?);
    shared.with(|model, now| model.cancel_run(&repo, id, now))?;
    Ok(Answer::accepted())
}
