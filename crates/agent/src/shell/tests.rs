use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use domain::clock::{SystemClock, SystemRng};
use domain::ids::RunnerKey;
use provider::handover::Error;

use super::*;
use crate::machine::Machine;
use crate::report::Spool;

/// A machine that counts its ends.
struct Counted {
    accepts: bool,
    ends: AtomicU32,
}

#[async_trait]
impl Machine for Counted {
    async fn end(&self, _: &Log) -> bool {
        self.ends.fetch_add(1, Ordering::SeqCst);
        self.accepts
    }
}

struct Store<F>(F);

#[async_trait]
impl<F: Fn() -> Result<Option<Document>, Error> + Send + Sync + 'static> HandOver for Store<F> {
    async fn get(&self, _: &RunnerKey) -> Result<Option<Document>, Error> {
        (self.0)()
    }
    async fn put(&self, _: &RunnerKey, _: &Document) -> Result<(), Error> {
        unreachable!("the agent only reads")
    }
    async fn delete(&self, _: &RunnerKey) -> Result<(), Error> {
        unreachable!("the agent only reads")
    }
    async fn list(&self) -> Result<Vec<RunnerKey>, Error> {
        unreachable!("the agent only reads")
    }
}

/// The exit code, how often the machine was ended, and the reports.
async fn life(
    accepts: bool,
    state: Option<&str>,
    store: impl Fn() -> Result<Option<Document>, Error> + Send + Sync + 'static,
) -> (u8, u32, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| Some(dir.path().join(name).to_str().unwrap().to_owned());
    if let Some(state) = state {
        std::fs::create_dir(dir.path().join("state")).unwrap();
        std::fs::write(dir.path().join("state/state.json"), state).unwrap();
    }
    let get = |name: &str| match name {
        "RUNS_FLEET_INSTANCE_ID" => Some("i-1".to_owned()),
        "RUNS_FLEET_BACKEND" => Some("local".to_owned()),
        "RUNS_FLEET_SECRETS_BACKEND" => Some("file".to_owned()),
        "RUNS_FLEET_HANDOVER_DIR" => path("handovers"),
        "RUNS_FLEET_STATE_DIR" => path("state"),
        "RUNS_FLEET_RUNNER_DIR" => path("runner"),
        "RUNS_FLEET_STANDBY_DEADLINE_SECONDS" | "RUNS_FLEET_RETRY_BASE_MS" => Some("1".to_owned()),
        _ => None,
    };
    let (environment, _) = Environment::read(get).unwrap();
    let machine = Arc::new(Counted { accepts, ends: AtomicU32::new(0) });
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let parts = Parts {
        environment,
        store: Arc::new(Store(store)),
        channel: Arc::new(Spool(Some(dir.path().join("spool")))),
        machine: Arc::clone(&machine) as Arc<dyn Machine>,
        bucket: None,
        metadata: None,
        log: Log::new(Arc::clone(&clock)),
        clock,
        rng: Arc::new(SystemRng),
        prefix: Vec::new(),
        started: Instant::now(),
    };
    let code = run(parts).await.unwrap();
    let spooled = std::fs::read_dir(dir.path().join("spool")).into_iter().flatten();
    let reports = spooled.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect();
    (code, machine.ends.load(Ordering::SeqCst), reports)
}

#[tokio::test]
async fn the_machine_ends_whatever_happens() {
    let (code, ends, reports) = life(true, None, || Ok(None)).await;
    assert_eq!((code, ends, reports.len()), (0, 1, 0), "nobody came");

    let (code, ends, reports) = life(true, None, || panic!("the store is broken")).await;
    assert_eq!((code, ends, reports.len()), (1, 1, 0), "a panic before there was work");

    let (code, ends, reports) = life(true, None, || Err(Error::Invalid("line 1".to_owned()))).await;
    assert_eq!((code, ends, reports.len()), (0, 1, 1), "an unusable hand-over");

    let (code, ends, reports) = life(true, None, || Err(Error::Deployment("denied".to_owned()))).await;
    assert_eq!((code, ends, reports.len()), (0, 1, 1), "denied to the end");
    assert!(reports[0].contains("bootstrap_failed") && reports[0].contains("denied"), "{reports:?}");

    let (code, ends, reports) = life(true, Some("{\"phase\":\"finished\"}"), || Ok(None)).await;
    assert_eq!((code, ends, reports.len()), (0, 1, 0), "everything was done before");

    let boot_id = state::boot_id(Path::new("/proc"));
    let running = |boot_id: &str| format!("{{\"phase\":\"running\",\"job_id\":\"7\",\"boot_id\":\"{boot_id}\"}}");
    let (code, ends, reports) = life(true, Some(&running(&boot_id)), || Ok(None)).await;
    assert_eq!((code, ends, reports.len()), (0, 1, 1), "a predecessor died");

    let (code, ends, reports) = life(true, Some(&running("another")), || Ok(None)).await;
    assert_eq!((code, ends, reports.len()), (0, 1, 0), "a job ran in another life, and nobody counts on this one");

    let (code, ends, reports) = life(true, Some("nonsense"), || Ok(None)).await;
    assert_eq!((code, ends, reports.len()), (0, 1, 0), "whose job it was cannot be told");
}

#[tokio::test]
async fn a_machine_that_does_not_end_is_told_by_the_exit_code() {
    let (code, ends, _) = life(false, None, || Ok(None)).await;
    assert_eq!((code, ends), (1, 1));
}
