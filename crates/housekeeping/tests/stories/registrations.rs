//! Registrations at GitHub whose runner is not coming back.

use db::tasks::Ended;
use domain::ids::RunnerId;
use domain::runner::RunnerState;
use github::client::JitRequest;
use housekeeping::Task;
use provider::MachineState;
use simulation::github::model::Connect;

use crate::fleet::key;
use crate::support::github::repo;
use crate::support::{hours, minutes};
use crate::yard::Yard;

struct Registered {
    id: RunnerId,
    credential: String,
}

impl Yard {
    /// A registration, whose listener has not connected.
    async fn register(&self, name: &str) -> Registered {
        self.world.markers().saw_job_of(&repo()).await.unwrap();
        let labels = vec!["self-hosted".to_owned()];
        let request = JitRequest { name, group_id: 1, labels: &labels };
        let jit = self.github().jit_config(&repo(), &request).await.unwrap();
        Registered { id: jit.runner_id, credential: jit.encoded.expose().to_owned() }
    }

    async fn is_registered(&self, runner: &Registered) -> bool {
        self.github().runner(&repo(), runner.id).await.unwrap().is_some()
    }
}

fn name(n: u64) -> String {
    format!("runs-fleet-runner-cpu-000007-{n:017x}")
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_is_offline_for_good_is_deleted() {
    let yard = Yard::new();
    for n in [1, 2] {
        yard.fleet.add(n, MachineState::Running, yard.clock.now(), &[]);
    }
    let (ours, foreign) = (yard.register(&name(1)).await, yard.register("build-box").await);
    let late = yard.register(&name(2)).await;
    assert_eq!(yard.runs_well(Task::OrphanedRunners).await, 0, "first seen");
    yard.pass(hours(7)).await;
    assert_eq!(yard.runs_well(Task::OrphanedRunners).await, 0, "its machine lives, and it may yet come");
    yard.pass(hours(2)).await;
    yard.world.github.with(|model, now| model.connect(&late.credential, Connect::default(), now)).unwrap();
    assert_eq!(yard.rehearse(Task::OrphanedRunners).await.acted, 1);
    assert!(yard.is_registered(&ours).await);
    assert_eq!(yard.runs_well(Task::OrphanedRunners).await, 1);
    assert!(!yard.is_registered(&ours).await);
    assert!(yard.is_registered(&foreign).await && yard.is_registered(&late).await, "not ours, and online at last");
}

#[tokio::test(start_paused = true)]
async fn it_goes_sooner_when_its_machine_is_gone_or_its_runner_done() {
    let yard = Yard::new();
    yard.fleet.add(1, MachineState::Running, yard.clock.now(), &[]);
    yard.fleet.add(2, MachineState::Running, yard.clock.now(), &[]);
    let (alive, done, gone) =
        (yard.register(&name(1)).await, yard.register(&name(2)).await, yard.register(&name(3)).await);
    yard.runner(&key(2), RunnerState::Done).await;
    assert_eq!(yard.runs_well(Task::OrphanedRunners).await, 0);
    yard.pass(minutes(12)).await;
    yard.fleet.refuse("describe_many");
    yard.fleet.refuse("describe");
    assert_eq!(yard.runs_well(Task::OrphanedRunners).await, 1, "of the others nobody can tell");
    assert!(!yard.is_registered(&done).await && yard.is_registered(&gone).await);
    yard.fleet.refused.lock().unwrap().clear();
    assert_eq!(yard.runs_well(Task::OrphanedRunners).await, 1);
    assert!(!yard.is_registered(&gone).await && yard.is_registered(&alive).await);
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_github_ends_the_run() {
    let yard = Yard::new();
    yard.register(&name(1)).await;
    yard.world.github.script(Some(Box::new(|line| {
        line.contains("/actions/runners").then(|| (429, vec![("retry-after", "3600".to_owned())]))
    })));
    let (end, report) = yard.run(Task::OrphanedRunners).await;
    assert!(matches!(&end, Ended::Failed { why, .. } if why.starts_with("throttled")), "{end:?} {report:?}");
    assert!(yard.shows("housekeeping_runs_total{result=\"throttled\",task=\"orphaned_runners\"} 1"));
}
