//! What dispatch itself costs a job, on ports in memory: from a webhook to its record and its wake-up, and from that
//! wake-up to a machine with its hand-over. `cargo bench -p dispatch`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "a benchmark")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use dispatch::Dispatch;
use dispatch::ingest::Ingested;
use domain::clock::Timestamp;
use domain::ids::JobId;
use github::webhook::WorkflowJobEvent;
use provider::MachineState;
use queue::Disposition;
use serde_json::json;
use support::github::{LABEL, REPO};
use support::world::World;
use tokio::runtime::Runtime;
use tokio::time::Instant;

/// Jobs per world: what a world remembers must not become what is measured.
const JOBS: u64 = 500;

/// A dispatch that nothing slows down but itself.
fn quick() -> (World, Arc<Dispatch>) {
    let mut world = World::empty();
    world.github_takes = Duration::ZERO;
    world.laws.suspended.store(true, Ordering::Relaxed);
    world.machines.change(|nature| (nature.launch_takes, nature.no_agents) = (Duration::ZERO, true));
    let dispatch = world.life().dispatch;
    (world, dispatch)
}

fn event(job: u64, label: &str) -> WorkflowJobEvent {
    let body = json!({
        "action": "queued",
        "workflow_job": {"id": job, "run_id": 9, "name": "build", "labels": [label], "status": "queued"},
        "repository": {"full_name": REPO},
        "installation": {"id": 1},
    });
    WorkflowJobEvent::decode(body.to_string().as_bytes()).unwrap()
}

async fn accept(dispatch: &Dispatch, job: u64, label: &str) {
    let accepted = dispatch.ingest(&event(job, label), "guid", Timestamp::UNIX_EPOCH).await;
    assert_eq!(accepted, Ok(Ingested::Queued));
}

/// `iters` jobs, a world of them at a time; the time that `measured` took.
async fn jobs(iters: u64, measured: impl AsyncFn(&World, &Dispatch, u64) -> Duration) -> Duration {
    let mut took = Duration::ZERO;
    for first in (0..iters).step_by(usize::try_from(JOBS).unwrap()) {
        let (world, dispatch) = quick();
        // The first one pays for GitHub's token.
        attempt(&world, &dispatch, 999_999).await;
        for job in first..iters.min(first + JOBS) {
            took += measured(&world, &dispatch, 1_000_000 + job).await;
        }
    }
    took
}

async fn attempt(world: &World, dispatch: &Dispatch, job: u64) -> Duration {
    attempt_with(world, dispatch, job, LABEL).await
}

/// With a stopped spare of the job's pool.
async fn attempt_warm(world: &World, dispatch: &Dispatch, job: u64) -> Duration {
    world.spare(MachineState::Stopped).await;
    let took = attempt_with(world, dispatch, job, "runs-fleet/cpu=2/pool=ci").await;
    assert!(world.job(JobId::new(job).unwrap()).await.warm_pool_hit);
    took
}

async fn attempt_with(world: &World, dispatch: &Dispatch, job: u64, label: &str) -> Duration {
    accept(dispatch, job, label).await;
    let message = world.job(JobId::new(job).unwrap()).await.next_message().unwrap();
    let began = Instant::now();
    let disposition = dispatch.attempt(&message, None).await;
    let took = began.elapsed();
    assert_eq!(disposition, Disposition::Ack);
    took
}

fn dispatch(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    criterion.bench_function("dispatch: accept a queued job", |bench| {
        bench.iter_custom(|iters| {
            runtime.block_on(jobs(iters, async |_, dispatch, job| {
                let began = Instant::now();
                accept(dispatch, job, LABEL).await;
                began.elapsed()
            }))
        });
    });
    criterion.bench_function("dispatch: claim, launch, bind, mint, hand over", |bench| {
        bench.iter_custom(|iters| runtime.block_on(jobs(iters, attempt)));
    });
    criterion.bench_function("dispatch: claim, reserve, bind, mint, hand over, start", |bench| {
        bench.iter_custom(|iters| runtime.block_on(jobs(iters, attempt_warm)));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = dispatch
}
criterion_main!(benches);
