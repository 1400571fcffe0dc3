//! `GET /api/events`: changes as they happen.
//!
//! Events are hints: a client that hears of a job reads the job. So the stream may double or reorder them, but must
//! not keep quiet about a loss: a stream begins with `reset`, and a reader that fell behind gets another. What other
//! replicas did is noticed by counting every five seconds.
//!
//! Races survived: news between a client's read and its stream (the stream is subscribed before `reset` is sent, and
//! the client reads after it); more streams than the process wants (the twenty-first is refused); a draining server
//! (the stream ends with its token); a client that went away (its place is freed with the stream).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use dispatch::{Dispatch, News};
use futures::stream;
use serde::Serialize;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use crate::error::ApiError;
use crate::params::Params;
use crate::snapshot::{Snapshot, Snapshots};
use crate::state::AdminState;

/// Streams of one process.
const STREAMS: usize = 20;
/// News a reader may be behind before it is told to read everything again.
const BEHIND: usize = 256;
const PING: Duration = Duration::from_secs(20);
/// How often counts are looked at while there is news.
const TICK: Duration = Duration::from_secs(1);
/// Ticks after which they are looked at without any.
const QUIET_TICKS: u32 = 5;

const TOPICS: [&str; 6] = ["jobs", "instances", "pools", "queues", "circuits", "cost"];

#[derive(Clone)]
struct Streams {
    state: AdminState,
    snapshots: Arc<Snapshots>,
    places: Arc<Semaphore>,
}

/// The route.
pub(crate) fn router(state: AdminState, snapshots: Arc<Snapshots>) -> Router {
    let places = Arc::new(Semaphore::new(STREAMS));
    Router::new().route("/api/events", get(open)).with_state(Streams { state, snapshots, places })
}

async fn open(State(streams): State<Streams>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let params = Params::read(query.as_deref(), &["topics"])?;
    let topics = params.words("topics", || TOPICS.to_vec(), |word| TOPICS.into_iter().find(|topic| *topic == word))?;
    let wants = |topic| topics.is_empty() || topics.contains(&topic);
    let place = Arc::clone(&streams.places).try_acquire_owned().map_err(|_| ApiError::too_many_streams())?;
    let stream = Stream::new(streams, place, wants("jobs"), wants("instances"));
    let events = stream::unfold(stream, |mut stream| async {
        let event = stream.next().await?;
        Some((Ok::<_, Infallible>(event), stream))
    });
    // A proxy that collects the answer would make the news old.
    let unbuffered = (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(([unbuffered], Sse::new(events)).into_response())
}

/// One reader.
struct Stream {
    dispatch: Arc<Dispatch>,
    snapshots: Arc<Snapshots>,
    stop: CancellationToken,
    jobs: bool,
    instances: bool,
    news: broadcast::Receiver<News>,
    ready: VecDeque<Event>,
    told: Option<Arc<Snapshot>>,
    /// Ticks until the counts are looked at again.
    quiet: u32,
    tick: Interval,
    ping: Interval,
    _place: OwnedSemaphorePermit,
}

impl Stream {
    fn new(streams: Streams, place: OwnedSemaphorePermit, jobs: bool, instances: bool) -> Self {
        let every = |period| {
            let mut interval = interval_at(Instant::now() + period, period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        };
        Self {
            news: streams.state.dispatch.news(),
            dispatch: streams.state.dispatch,
            snapshots: streams.snapshots,
            stop: streams.state.stop,
            jobs,
            instances,
            ready: [event("reset", &json!({}))].into(),
            told: None,
            quiet: 0,
            tick: every(TICK),
            ping: every(PING),
            _place: place,
        }
    }

    /// The next event; `None` ends the stream.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.quiet == 0 {
                self.count().await;
                continue;
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                _ = self.ping.tick() => return Some(event("ping", &json!({}))),
                _ = self.tick.tick() => self.quiet -= 1,
                news = self.news.recv() => match news {
                    Ok(_) if self.news.len() > BEHIND => self.start_over(),
                    Ok(news) => {
                        self.quiet = self.quiet.min(1);
                        if let Some(event) = self.tell(&news) {
                            return Some(event);
                        }
                    }
                    Err(RecvError::Lagged(_)) => self.start_over(),
                    Err(RecvError::Closed) => return None,
                },
            }
        }
    }

    fn start_over(&mut self) {
        self.news = self.news.resubscribe();
        self.told = None;
        self.quiet = 0;
        self.ready.push_back(event("reset", &json!({})));
    }

    fn tell(&self, news: &News) -> Option<Event> {
        match news {
            News::Job { id, state } if self.jobs => {
                Some(event("job", &json!({ "job_id": id, "status": state, "changed": ["status"] })))
            }
            News::Rejected(job) if self.jobs => {
                Some(event("job", &json!({ "job_id": job.id, "status": "rejected", "changed": ["status"] })))
            }
            News::Runner { key, state } if self.instances => {
                Some(event("instance", &json!({ "instance_id": key, "runner_state": state })))
            }
            _ => None,
        }
    }

    /// Queues the counts when they are others than those told last. A store that does not answer is asked again.
    async fn count(&mut self) {
        self.quiet = QUIET_TICKS;
        let counted = tokio::time::timeout(TICK * QUIET_TICKS, self.snapshots.get(&self.dispatch)).await;
        match counted {
            Ok(Ok(snapshot)) if self.told.as_ref() != Some(&snapshot) => {
                self.ready.push_back(event("snapshot", &*snapshot));
                self.told = Some(snapshot);
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the counts for the page could not be read"),
            Err(_) => tracing::warn!("the counts for the page took too long"),
        }
    }
}

fn event(name: &str, data: &impl Serialize) -> Event {
    let data = serde_json::to_string(data).unwrap_or_else(|_| "{}".to_owned());
    Event::default().event(name).data(data)
}
