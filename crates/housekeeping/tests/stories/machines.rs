//! Machines nobody owns, and the others.

use db::claims::{Action, Holder};
use db::tasks::Ended;
use domain::handover::HandOver as Document;
use domain::launch::Arch;
use domain::runner::RunnerState;
use housekeeping::{Ask, Task};
use provider::compute::{SpotRequest, Which};
use provider::{MachineState, tags};

use crate::fleet::key;
use crate::support::minutes;
use crate::yard::Yard;

const CPU: (&str, &str) = (tags::POOL, "cpu");

#[tokio::test(start_paused = true)]
async fn a_machine_without_a_job_ends_and_one_with_a_job_stays() {
    let yard = Yard::new();
    let lonely = yard.fleet.add(1, MachineState::Running, yard.ago(45), &[]);
    let busy = yard.fleet.add(2, MachineState::Running, yard.ago(45), &[]);
    yard.running(7, &busy).await;
    let serves_others = yard.fleet.add(3, MachineState::Running, yard.ago(45), &[]);
    yard.runner(&serves_others, RunnerState::Busy).await;
    yard.fleet.add(4, MachineState::Running, yard.ago(45), &[CPU]);
    yard.pool("cpu").await;
    let outlived = yard.fleet.add(5, MachineState::Running, yard.ago(25), &[]);
    yard.ended(8, &outlived, yard.ago(20)).await;

    let rehearsed = yard.rehearse(Task::OrphanedInstances).await;
    assert_eq!(rehearsed.items.keys().collect::<Vec<_>>(), [lonely.as_str(), outlived.as_str()]);
    assert!(yard.fleet.ended().is_empty(), "a rehearsal ends nothing");
    assert_eq!(yard.runs_well(Task::OrphanedInstances).await, 2);
    assert_eq!(yard.fleet.ended(), [lonely, outlived], "the oldest first");
    assert!(yard.shows("housekeeping_actions_total{action=\"orphaned_instances\"} 2"));
    assert_eq!(yard.runs_well(Task::OrphanedInstances).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_fails_fails_the_run_and_stops_nothing_else() {
    let yard = Yard::new();
    let old = yard.fleet.add(1, MachineState::Running, yard.ago(371), &[]);
    let unmarked = yard.fleet.add_as(Which::Unmarked, 2, MachineState::Stopped, yard.ago(420), &[]);
    yard.fleet.refuse("list unmarked");
    let (end, _) = yard.run(Task::OrphanedInstances).await;
    assert!(matches!(end, Ended::Failed { barren: false, .. }), "{end:?}");
    assert_eq!(yard.fleet.ended(), [old]);
    yard.fleet.refused.lock().unwrap().clear();
    assert_eq!(yard.runs_well(Task::OrphanedInstances).await, 1);
    assert_eq!(yard.fleet.ended().last(), Some(&unmarked));
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_started_again_meanwhile_is_another() {
    let yard = Yard::new();
    yard.fleet.add(1, MachineState::Running, yard.ago(371), &[]);
    let now = yard.clock.now();
    *yard.fleet.after_list.lock().unwrap() = Some(Box::new(move |machine| machine.launched_at = now));
    assert_eq!(yard.runs_well(Task::OrphanedInstances).await, 0);
    assert!(yard.fleet.ended().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_member_of_a_pool_ends_only_when_nobody_claimed_it() {
    let yard = Yard::new();
    // Its pool is gone.
    let free = yard.fleet.add(1, MachineState::Stopped, yard.ago(120), &[CPU]);
    let claimed = yard.fleet.add(2, MachineState::Stopped, yard.ago(120), &[CPU]);
    let holder = Holder::Action { action: Action::Start, owner: "a pass" };
    assert!(yard.claims().claim(&claimed, holder, minutes(5)).await.unwrap().is_applied());
    assert_eq!(yard.runs_well(Task::OrphanedInstances).await, 1);
    assert_eq!(yard.fleet.ended(), [free]);
    assert!(yard.shows("housekeeping_actions_total{action=\"unowned_members\"} 1"));
    // Even one past every age: somebody may be giving it a job right now.
    yard.fleet.change(&claimed, |machine| {
        machine.state = MachineState::Running;
        machine.launched_at = yard.ago(371);
    });
    assert_eq!(yard.runs_well(Task::OrphanedInstances).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_run_ends_a_hundred_machines_at_most() {
    let yard = Yard::new();
    for n in 0..103 {
        yard.fleet.add(n, MachineState::Running, yard.ago(400), &[]);
    }
    let (end, report) = yard.run_as(Task::OrphanedInstances, Ask { max_items: Some(2), ..Ask::default() }).await;
    assert_eq!((end, report.acted, report.deferred), (Ended::Success, 2, 101));
    let (end, report) = yard.run(Task::OrphanedInstances).await;
    assert_eq!((end, report.acted, report.deferred), (Ended::Success, 100, 1));
    assert!(yard.shows("housekeeping_deferred_total{task=\"orphaned_instances\"} 2"));
    assert_eq!(yard.runs_well(Task::OrphanedInstances).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_spare_of_an_old_image_is_replaced_unless_it_is_wanted() {
    let yard = Yard::new();
    let stale = yard.fleet.add(1, MachineState::Stopped, yard.ago(60), &[CPU]);
    let second = yard.fleet.add(2, MachineState::Stopped, yard.ago(30), &[CPU]);
    assert_eq!(yard.runs_well(Task::StaleAmiInstances).await, 0, "nobody knows the image of now");
    yard.fleet.images.lock().unwrap().insert(Arch::Arm64, "ami-new".to_owned());
    let holder = Holder::Action { action: Action::Start, owner: "a pass" };
    assert!(yard.claims().claim(&stale, holder, minutes(5)).await.unwrap().is_applied());
    assert_eq!(yard.runs_well(Task::StaleAmiInstances).await, 0, "claimed; and one per pool and run is looked at");
    yard.pass(minutes(6)).await;
    assert_eq!(yard.runs_well(Task::StaleAmiInstances).await, 1);
    assert_eq!(yard.runs_well(Task::StaleAmiInstances).await, 1);
    assert_eq!(yard.fleet.ended(), [stale, second]);
}

#[tokio::test(start_paused = true)]
async fn a_builder_that_was_left_behind_ends() {
    let yard = Yard::new();
    let left = yard.fleet.add_as(Which::Builders, 1, MachineState::Stopped, yard.ago(61), &[]);
    yard.fleet.add_as(Which::Builders, 2, MachineState::Running, yard.ago(59), &[]);
    assert_eq!(yard.runs_well(Task::OrphanedPackerInstances).await, 1);
    assert_eq!(yard.fleet.ended(), [left]);
    yard.fleet.refuse("list builders");
    let (end, _) = yard.run(Task::OrphanedPackerInstances).await;
    assert!(matches!(end, Ended::Failed { barren: true, .. }), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn a_spot_request_whose_machine_is_gone_is_cancelled() {
    let yard = Yard::new();
    let alive = yard.fleet.add(1, MachineState::Running, yard.ago(5), &[]);
    let request = |id: &str, machine| SpotRequest { id: id.to_owned(), machine };
    *yard.fleet.requests.lock().unwrap() = vec![request("sir-alive", alive), request("sir-gone", key(9))];
    yard.fleet.refuse("describe_many");
    yard.fleet.refuse("describe");
    let (end, report) = yard.run(Task::OrphanedSpotRequests).await;
    assert_eq!((end, report.acted, report.unknown), (Ended::Success, 0, 2), "nobody could tell");
    yard.fleet.refused.lock().unwrap().remove("describe");
    assert_eq!(yard.runs_well(Task::OrphanedSpotRequests).await, 1, "one by one, where all at once failed");
    assert_eq!(*yard.fleet.cancelled.lock().unwrap(), ["sir-gone"]);
}

#[tokio::test(start_paused = true)]
async fn a_credential_outlives_neither_its_machine_nor_its_agent() {
    let yard = Yard::new();
    let store = yard.hand_over();
    let written = |at| Document { created_at: Some(at), ..Document::default() };
    let dead = yard.fleet.add(1, MachineState::Running, yard.ago(540), &[]);
    let restarted = yard.fleet.add(2, MachineState::Running, yard.ago(60), &[]);
    let stopped = yard.fleet.add(3, MachineState::Stopped, yard.ago(60), &[]);
    let fresh = yard.fleet.add(4, MachineState::Running, yard.ago(540), &[]);
    for key in [&dead, &restarted, &stopped] {
        store.put(key, &written(yard.ago(540))).await.unwrap();
    }
    store.put(&fresh, &written(yard.ago(60))).await.unwrap();
    // Spares that a job was to have, of whom one was given back by somebody who died over it.
    let [given_back, waits] = [5, 6].map(|n| yard.fleet.add(n, MachineState::Stopped, yard.ago(60), &[CPU]));
    for (key, state) in [(&given_back, RunnerState::Gone), (&waits, RunnerState::Minted)] {
        store.put(key, &written(yard.ago(30))).await.unwrap();
        yard.runner(key, state).await;
    }
    let (gone, gone_just_now) = (key(8), key(9));
    store.put(&gone, &written(yard.ago(30))).await.unwrap();
    store.put(&gone_just_now, &written(yard.ago(1))).await.unwrap();

    assert_eq!(yard.runs_well(Task::StaleSecrets).await, 4);
    assert_eq!(yard.fleet.ended(), [dead]);
    assert_eq!(store.list().await.unwrap(), [restarted, fresh, waits, gone_just_now]);
}
