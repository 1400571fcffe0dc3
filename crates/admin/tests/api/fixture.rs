//! A fleet in memory, for the API's tests and the preview.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use admin::{About, Access, AdminState, ConfigWarning, WatchedQueue};
use async_trait::async_trait;
use bytes::Bytes;
use db::{Jobs, Markers, Memory, Runners};
use dispatch::{Dispatch, Ports, Settings};
use domain::clock::{Clock, SystemRng};
use domain::handover::HandOver as Document;
use domain::ids::RunnerKey;
use domain::job::Job;
use domain::runner::Runner;
use domain::timings::Timings;
use github::client::{Client, ClientConfig, Exchange, ExchangeError};
use github::labels::Aliases;
use github::mint;
use github::webhook::WorkflowJobEvent;
use provider::compute::{self, Filter, Order};
use provider::{Compute, HandOver, Machine, handover};
use queue::{MemoryQueues, QueueConfig};
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

/// Machines as they were put there.
#[derive(Default)]
pub struct Machines(Mutex<Vec<Machine>>);

#[async_trait]
impl Compute for Machines {
    async fn launch(&self, order: &Order) -> Vec<Result<Machine, compute::Error>> {
        (0..order.members.len()).map(|_| Err(compute::Error::Transient("there are none".to_owned()))).collect()
    }
    async fn start(&self, _: &RunnerKey) -> Result<(), compute::Error> {
        Ok(())
    }
    async fn stop(&self, _: &RunnerKey) -> Result<(), compute::Error> {
        Ok(())
    }
    async fn terminate(&self, _: &RunnerKey) -> Result<(), compute::Error> {
        Ok(())
    }
    async fn tag(&self, _: &RunnerKey, _: &[(String, String)]) -> Result<(), compute::Error> {
        Ok(())
    }
    async fn untag(&self, _: &RunnerKey, _: &[&str]) -> Result<(), compute::Error> {
        Ok(())
    }
    async fn describe(&self, key: &RunnerKey) -> Result<Option<Machine>, compute::Error> {
        Ok(self.0.lock().unwrap().iter().find(|machine| machine.key == *key).cloned())
    }
    async fn list(&self, filter: &Filter) -> Result<Vec<Machine>, compute::Error> {
        let machines = self.0.lock().unwrap().clone();
        Ok(machines.into_iter().filter(|machine| filter.admits(machine)).collect())
    }
    async fn current_image(&self, _: domain::launch::Arch) -> Result<Option<String>, compute::Error> {
        Ok(None)
    }
    async fn spot_requests(&self) -> Result<Vec<compute::SpotRequest>, compute::Error> {
        Ok(Vec::new())
    }
    async fn cancel_spot_requests(&self, _: &[String]) -> Result<(), compute::Error> {
        Ok(())
    }
}

struct Nothing;

#[async_trait]
impl HandOver for Nothing {
    async fn put(&self, _: &RunnerKey, _: &Document) -> Result<(), handover::Error> {
        Ok(())
    }
    async fn get(&self, _: &RunnerKey) -> Result<Option<Document>, handover::Error> {
        Ok(None)
    }
    async fn delete(&self, _: &RunnerKey) -> Result<(), handover::Error> {
        Ok(())
    }
    async fn list(&self) -> Result<Vec<RunnerKey>, handover::Error> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Exchange for Nothing {
    async fn send(&self, _: http::Request<Bytes>) -> Result<http::Response<Bytes>, ExchangeError> {
        Err(ExchangeError::Transport("nobody is asked here".to_owned()))
    }
}

/// The fleet.
pub struct Fleet {
    /// What the API answers from.
    pub state: AdminState,
    machines: Arc<Machines>,
}

impl Fleet {
    /// An empty one.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let store = Arc::new(Memory::new(Arc::clone(&clock)));
        let rng = Arc::new(SystemRng);
        let queues = MemoryQueues::new(Arc::clone(&clock), rng.clone());
        let dead = QueueConfig::fifo("main-dlq");
        let main = queues.queue(QueueConfig::fifo("main").dead_letters(&dead, 5));
        let machines = Arc::new(Machines::default());
        let key = include_str!("../../../simulation/testdata/app-key.pem");
        let config = ClientConfig {
            app_id: 1,
            private_key: SecretString::from(key),
            api_url: "https://api.github.com".to_owned(),
            version: "0".to_owned(),
        };
        let github = Client::new(&config, Arc::new(Nothing), Arc::clone(&clock), rng.clone()).unwrap();
        let started_at = clock.now();
        let ports = Ports {
            jobs: Jobs::new(store.clone(), Arc::clone(&clock)),
            runners: Runners::new(store.clone(), Arc::clone(&clock)),
            markers: Markers::new(store, Arc::clone(&clock)),
            main: Arc::clone(&main),
            dead_letters: None,
            compute: machines.clone(),
            pools: None,
            hand_over: Arc::new(Nothing),
            github: Arc::new(github),
            clock,
            rng,
            metrics: telemetry::Metrics::new(),
        };
        let settings = Settings {
            timings: Timings::PRODUCTION,
            registration: mint::Registration::Jit,
            jobs_per_minute: 0,
            owner: "replica-1/boot-1".to_owned(),
            aliases: Aliases::default(),
            allowed_repos: Vec::new(),
            rerun_interrupted: true,
            max_runtime: Duration::from_secs(6 * 3600),
            hand_over: mint::Settings { server_url: "https://github.com".to_owned(), ..mint::Settings::default() },
            batch_max: Settings::BATCH_MAX,
            batch_linger: Settings::BATCH_LINGER,
            report_tokens: None,
            require_report_token: false,
            account: None,
        };
        let state = AdminState {
            dispatch: Dispatch::new(ports, settings),
            queues: vec![
                WatchedQueue { queue: main, dead_letters: Some(queues.queue(dead)) },
                WatchedQueue { queue: queues.queue(QueueConfig::standard("termination")), dead_letters: None },
            ],
            access: Access::Open,
            about: About {
                version: "0.1.0".to_owned(),
                mode: "local".to_owned(),
                started_at,
                features: BTreeMap::from([("cache".to_owned(), false), ("rerun_interrupted".to_owned(), true)]),
                warnings: vec![ConfigWarning { code: "W_UNSAFE".to_owned(), name: "RUNS_FLEET_JOBS_TABLE".to_owned() }],
            },
            stop: CancellationToken::new(),
        };
        Self { state, machines }
    }

    /// Puts a record there.
    pub async fn job(&self, job: Job) {
        assert!(self.state.dispatch.ports().jobs.create(&job).await.unwrap().is_applied());
    }

    /// Puts a runner's row there.
    pub async fn runner(&self, runner: Runner) {
        assert!(self.state.dispatch.ports().runners.write(None, runner).await.unwrap().is_applied());
    }

    /// Puts a machine there.
    pub fn machine(&self, machine: Machine) {
        self.machines.0.lock().unwrap().push(machine);
    }

    /// Takes a webhook in: the one door to news and refusals.
    pub async fn webhook(&self, id: u64, labels: &[&str]) {
        let now = self.state.dispatch.ports().clock.now();
        let event: WorkflowJobEvent = serde_json::from_value(serde_json::json!({
            "action": "queued", "job_id": id, "run_id": 7, "name": "test", "workflow_name": "ci",
            "labels": labels, "status": "queued", "repo": "acme/storefront", "created_at": now,
        }))
        .unwrap();
        self.state.dispatch.ingest(&event, "delivery", now).await.unwrap();
    }
}
