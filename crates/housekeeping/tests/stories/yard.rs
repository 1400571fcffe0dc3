//! The place: a world of dispatch whose machines are told, and housekeeping in it.

use std::sync::Arc;
use std::time::Duration;

use db::pools::PoolConfig;
use db::tasks::{Ended, Trigger};
use db::{Claims, Locks, Pools, Table, Tasks};
use domain::clock::{Clock, SignedDuration, Timestamp};
use domain::ids::{JobId, PoolName, RunnerKey};
use domain::job::{Job, JobState, Settled};
use domain::runner::{Runner, RunnerState};
use github::client::Client;
use housekeeping::{Ask, Housekeeping, Ports, Ran, Report, Settings, Task};
use provider::{BlobStore, Compute, HandOver};
use tokio_util::sync::CancellationToken;

use crate::fleet::Fleet;
use crate::support::minutes;
use crate::support::world::{Boot, World};

/// See the module.
pub struct Yard {
    pub world: World,
    pub fleet: Arc<Fleet>,
    pub table: Arc<dyn Table>,
    pub clock: Arc<dyn Clock>,
    pub keeper: Arc<Housekeeping>,
    boot: Boot,
}

pub fn settings() -> Settings {
    Settings {
        divisor: 1,
        owner: "test".to_owned(),
        max_runtime: minutes(360),
        unclaimed_grace: minutes(30),
        completed_grace: minutes(15),
        stopped_grace: None,
        hot_pools: None,
        hard_delete: false,
    }
}

impl Yard {
    pub fn new() -> Self {
        Self::with(settings(), None)
    }

    pub fn with(settings: Settings, archive: Option<Arc<dyn BlobStore>>) -> Self {
        let mut world = World::empty();
        let clock = Arc::clone(&world.clock);
        let fleet = Fleet::new(Arc::clone(&clock));
        world.cloud = Some(Arc::clone(&fleet) as Arc<dyn Compute>);
        let table = world.table();
        let boot = world.life();
        let keeper = keeper(&boot, &table, settings, archive);
        Self { world, fleet, table, clock, keeper, boot }
    }

    /// So many minutes ago.
    pub fn ago(&self, minutes: i64) -> Timestamp {
        self.clock.now().checked_sub(SignedDuration::from_mins(minutes)).unwrap()
    }

    pub fn claims(&self) -> Claims {
        Claims::new(Arc::clone(&self.table), Arc::clone(&self.clock))
    }

    pub fn hand_over(&self) -> Arc<dyn HandOver> {
        Arc::clone(&self.boot.dispatch.ports().hand_over)
    }

    pub fn github(&self) -> Arc<Client> {
        Arc::clone(&self.boot.dispatch.ports().github)
    }

    pub fn pools(&self) -> Pools {
        Pools::new(Arc::clone(&self.table), Arc::clone(&self.clock))
    }

    /// A pool that a job's label made just now.
    pub async fn pool(&self, name: &str) -> PoolName {
        let name: PoolName = name.parse().unwrap();
        assert!(self.pools().create_ephemeral(&name, &PoolConfig::default()).await.unwrap().is_applied());
        name
    }

    pub fn tasks(&self) -> Tasks {
        Tasks::new(Arc::clone(&self.table), Arc::clone(&self.clock))
    }

    /// One run that nothing speaks against.
    pub async fn run(&self, task: Task) -> (Ended, Report) {
        self.run_as(task, Ask::default()).await
    }

    pub async fn run_as(&self, task: Task, ask: Ask) -> (Ended, Report) {
        match self.keeper.run(task, &ask, Trigger::Admin, None, Vec::new(), |_| true).await.unwrap() {
            Ran::Ended(end, report) => (end, report),
            other => panic!("{other:?}"),
        }
    }

    /// One that must end well; how many things it acted upon.
    pub async fn runs_well(&self, task: Task) -> usize {
        let (end, report) = self.run(task).await;
        assert_eq!(end, Ended::Success, "{report:?}");
        report.acted
    }

    /// What one would act upon.
    pub async fn rehearse(&self, task: Task) -> Report {
        self.keeper.rehearse(task, &Ask::default(), CancellationToken::new()).await
    }

    /// A job's record.
    pub async fn job(&self, id: u64, change: impl FnOnce(&mut Job)) -> Job {
        let mut job = domain::testing::accepted(id);
        job.created_at = self.clock.now();
        change(&mut job);
        self.world.jobs().create(&job).await.unwrap().applied().expect("there was none")
    }

    /// The record of one that runs on a machine.
    pub async fn running(&self, id: u64, on: &RunnerKey) -> Job {
        self.job(id, |job| {
            job.state = JobState::Running;
            job.instance = Some(on.clone());
        })
        .await
    }

    /// The record of one that ended.
    pub async fn ended(&self, id: u64, on: &RunnerKey, at: Timestamp) -> Job {
        self.job(id, |job| {
            job.state = JobState::Settled(Settled::Success);
            job.instance = Some(on.clone());
            job.created_at = at;
            job.completed_at = Some(at);
        })
        .await
    }

    /// A runner's record.
    pub async fn runner(&self, on: &RunnerKey, state: RunnerState) {
        let runner = Runner {
            state,
            repo: crate::support::github::repo(),
            name: format!("runs-fleet-runner-cpu-000007-{}", on.as_str().trim_start_matches("i-")),
            minted_at: self.clock.now(),
            ..domain::testing::runner(on.as_str())
        };
        assert!(self.world.runners().write(None, runner).await.unwrap().is_applied());
    }

    /// What housekeeping here runs on.
    pub fn ports(&self) -> Ports {
        ports(&self.boot, &self.table, None)
    }

    pub async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    pub async fn find(&self, id: u64) -> Option<Job> {
        self.world.find(JobId::new(id).unwrap()).await
    }

    /// Whether the metrics hold this sample.
    pub fn shows(&self, sample: &str) -> bool {
        self.world.metrics.render().lines().any(|line| line == format!("runs_fleet_{sample}"))
    }
}

/// Housekeeping of a process.
pub fn keeper(
    boot: &Boot,
    table: &Arc<dyn Table>,
    settings: Settings,
    archive: Option<Arc<dyn BlobStore>>,
) -> Arc<Housekeeping> {
    Housekeeping::new(ports(boot, table, archive), settings)
}

fn ports(boot: &Boot, table: &Arc<dyn Table>, archive: Option<Arc<dyn BlobStore>>) -> Ports {
    let clock = &boot.dispatch.ports().clock;
    Ports {
        dispatch: Arc::clone(&boot.dispatch),
        tasks: Tasks::new(Arc::clone(table), Arc::clone(clock)),
        locks: Locks::new(Arc::clone(table), Arc::clone(clock)),
        claims: Claims::new(Arc::clone(table), Arc::clone(clock)),
        pools: Arc::new(Pools::new(Arc::clone(table), Arc::clone(clock))),
        archive,
    }
}
