//! Jobs: the list, the numbers, one job, its timeline, and why it waits.

mod cursor;
mod view;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use db::JobFilter;
use dispatch::why::{Fact, Next, Why, why};
use domain::clock::Timestamp;
use domain::ids::{JobId, Repo};
use domain::job::{Job, JobState};
use github::labels::Category;
use serde::Serialize;

use self::view::JobView;
use crate::error::ApiError;
use crate::params::Params;
use crate::snapshot::{self, States};
use crate::state::AdminState;
use crate::timeline::TimelineView;

const LIMIT: usize = 50;
const MAX_LIMIT: usize = 100;
const MAX_OFFSET: usize = 10_000;
const MAX_TEXT: usize = 200;

/// A page of jobs.
#[derive(Serialize)]
pub(crate) struct Page {
    jobs: Vec<JobView>,
    total: usize,
    limit: usize,
    offset: usize,
    next_cursor: Option<String>,
}

/// `GET /api/jobs`.
pub(crate) async fn list(State(state): State<AdminState>, RawQuery(query): RawQuery) -> Result<Json<Page>, ApiError> {
    let known = ["status", "pool", "repo", "instance_id", "q", "since", "until", "limit", "offset", "cursor"];
    let params = Params::read(query.as_deref(), &known)?;
    let limit = params.number("limit", 1, MAX_LIMIT)?.unwrap_or(LIMIT);
    let offset = params.number("offset", 0, MAX_OFFSET)?;
    let text = params.text("q").map(str::trim).filter(|text| !text.is_empty());
    if text.is_some_and(|text| text.chars().count() > MAX_TEXT) {
        return Err(ApiError::parameter("q", format!("must be at most {MAX_TEXT} characters long")));
    }
    let words = || JobState::all().map(JobState::as_str).collect();
    let mut filter = JobFilter {
        states: params.words("status", words, JobState::parse)?,
        pool: params.parsed("pool")?,
        repo: params.parsed("repo")?,
        instance: params.text("instance_id").map(Into::into),
        text: text.map(str::to_owned),
        since: params.time("since")?,
        until: params.time("until")?,
        after: None,
        // One more than asked for tells whether there is a next page.
        limit: limit + 1,
        offset: offset.unwrap_or(0),
    };
    let bound_to = cursor::fingerprint(&filter);
    if let Some(cursor) = params.text("cursor") {
        if offset.is_some() {
            return Err(ApiError::parameter("offset", "give either cursor or offset"));
        }
        filter.after = Some(cursor::decode(cursor, &bound_to)?);
    }
    let listing = state.dispatch.ports().jobs.list(&filter).await.map_err(|error| state.failed(&error))?;
    let mut jobs = listing.jobs;
    let more = jobs.len() > limit;
    jobs.truncate(limit);
    let last = jobs.last().filter(|_| more);
    let next_cursor = last.map(|job| cursor::encode((job.created_at, job.id), &bound_to));
    let jobs = jobs.iter().map(|job| state.view(job)).collect();
    Ok(Json(Page { jobs, total: listing.total, limit, offset: filter.offset, next_cursor }))
}

/// The numbers of the last day, or since another time.
#[derive(Serialize)]
pub(crate) struct Stats {
    since: Timestamp,
    total: usize,
    completed: usize,
    failed: usize,
    running: usize,
    requeued: usize,
    stalled: usize,
    warm_pool_hit: usize,
    hit_rate: Option<f64>,
    states: States,
    rejected: usize,
}

/// `GET /api/jobs/stats`.
pub(crate) async fn stats(State(state): State<AdminState>, RawQuery(query): RawQuery) -> Result<Json<Stats>, ApiError> {
    let params = Params::read(query.as_deref(), &["since"])?;
    let now = state.dispatch.ports().clock.now();
    let since = params.time("since")?.unwrap_or_else(|| snapshot::a_day_before(now));
    let filter = JobFilter { since: Some(since), ..JobFilter::default() };
    let jobs = state.dispatch.ports().jobs.list(&filter).await.map_err(|error| state.failed(&error))?.jobs;
    let count = |keep: &dyn Fn(&Job) -> bool| jobs.iter().filter(|job| keep(job)).count();
    let over = |job: &Job| job.state.is_settled() && !snapshot::failed(job.state);
    let completed = count(&over);
    let warm_pool_hit = count(&|job| over(job) && job.warm_pool_hit);
    Ok(Json(Stats {
        since,
        total: jobs.len(),
        completed,
        failed: count(&|job| snapshot::failed(job.state)),
        running: count(&|job| job.state == JobState::Running),
        requeued: count(&|job| job.state == JobState::Requeued),
        stalled: count(&|job| view::stalled(job, now) == Some(true)),
        warm_pool_hit,
        hit_rate: (completed > 0).then(|| warm_pool_hit as f64 / completed as f64),
        states: States::of(jobs.iter().map(|job| job.state)),
        rejected: state.dispatch.rejected().len(),
    }))
}

/// `GET /api/jobs/{id}`.
pub(crate) async fn one(
    State(state): State<AdminState>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<JobView>, ApiError> {
    let job = state.job(id).await?;
    Ok(Json(state.view(&job)))
}

/// `GET /api/jobs/{id}/timeline`.
pub(crate) async fn timeline(
    State(state): State<AdminState>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<TimelineView>, ApiError> {
    Ok(Json(TimelineView::of(&state.job(id).await?)))
}

/// Why a job is where it is.
#[derive(Serialize)]
pub(crate) struct WhyView {
    job_id: JobId,
    status: &'static str,
    sentence: String,
    facts: Vec<Fact>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Next>,
}

/// `GET /api/jobs/{id}/why`.
pub(crate) async fn explain(
    State(state): State<AdminState>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<WhyView>, ApiError> {
    let job = state.job(id).await?;
    let ports = state.dispatch.ports();
    let runner = match &job.instance {
        Some(key) => ports.runners.get(key).await.map_err(|error| state.failed(&error))?,
        None => None,
    };
    let timings = &state.dispatch.settings().timings;
    let Why { sentence, facts, next } = why(&job, runner.as_ref(), ports.clock.now(), timings);
    Ok(Json(WhyView { job_id: job.id, status: job.state.as_str(), sentence, facts, next }))
}

/// Jobs refused for their labels.
#[derive(Serialize)]
pub(crate) struct RejectedPage {
    jobs: Vec<RejectedView>,
}

#[derive(Serialize)]
struct RejectedView {
    job_id: JobId,
    repo: Repo,
    labels: Vec<String>,
    category: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    explanation: Option<&'static str>,
    rejected_at: Timestamp,
}

/// `GET /api/jobs/rejected`: those of the last day that this process saw, newest first.
pub(crate) async fn rejected(
    State(state): State<AdminState>,
    RawQuery(query): RawQuery,
) -> Result<Json<RejectedPage>, ApiError> {
    Params::read(query.as_deref(), &[])?;
    let jobs = state.dispatch.rejected().into_iter().map(|job| RejectedView {
        job_id: job.id,
        repo: job.repo,
        labels: job.labels,
        category: job.category,
        explanation: explanation(job.category),
        rejected_at: job.at,
    });
    Ok(Json(RejectedPage { jobs: jobs.collect() }))
}

fn explanation(category: &str) -> Option<&'static str> {
    use Category as C;
    let all = [
        C::LabelTooLong,
        C::InvalidCpu,
        C::InvalidRam,
        C::InvalidGen,
        C::InvalidDisk,
        C::InvalidBackend,
        C::OsConflict,
        C::ArchConflict,
        C::NoMatchingInstance,
    ];
    all.into_iter().find(|c| c.as_str() == category).map(C::explanation)
}

impl AdminState {
    async fn job(&self, id: Result<Path<String>, PathRejection>) -> Result<Job, ApiError> {
        let id = id.ok().and_then(|Path(id)| id.parse::<JobId>().ok());
        let id = id.ok_or_else(|| ApiError::parameter("id", "must be a positive number"))?;
        let job = self.dispatch.ports().jobs.get(id).await.map_err(|error| self.failed(&error))?;
        job.ok_or_else(ApiError::not_found)
    }

    fn view(&self, job: &Job) -> JobView {
        JobView::of(job, self.dispatch.ports().clock.now(), &self.dispatch.settings().hand_over.server_url)
    }
}
