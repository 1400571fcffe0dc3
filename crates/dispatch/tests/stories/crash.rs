//! One job's whole life, once per port call it takes and per way that call can go wrong: the process dies before it or
//! right after it, it fails, or only its answer is lost. Whatever happens, the job is served exactly once and nothing
//! is left behind.

use std::time::Duration;

use domain::ids::JobId;
use provider::MachineState;

use crate::support::faults::{Mishap, Which};
use crate::support::github::LABEL;
use crate::support::world::World;
use crate::support::{hours, minutes, seconds};

/// Where the job's machine comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Scene {
    /// A launch; it waits for its start.
    Started,
    /// A launch; it runs from then on.
    Launched,
    /// A pool's spare that is off.
    Stopped,
    /// A pool's spare that runs.
    Running,
    /// The same as `Stopped`, but its first start is refused, and there is another.
    NoRoom,
}

impl Scene {
    async fn set(self, world: &World) {
        world.machines.change(|nature| {
            nature.runs_from_launch = self == Self::Launched;
            nature.no_room = u32::from(self == Self::NoRoom);
        });
        let spares: &[_] = match self {
            Self::Started | Self::Launched => &[],
            Self::Stopped => &[MachineState::Stopped],
            Self::Running => &[MachineState::Running],
            Self::NoRoom => &[MachineState::Stopped; 2],
        };
        for state in spares {
            world.spare(*state).await;
        }
    }

    fn job(self, world: &World, takes: Duration) -> JobId {
        let label = if self <= Self::Launched { LABEL } else { "runs-fleet/cpu=2/pool=ci" };
        world.queue_long_job_with(&[label], takes)
    }

    /// Machines there are at the end, at most, when nothing but a crash went wrong.
    const fn machines(self) -> usize {
        match self {
            Self::Started | Self::Launched | Self::Stopped => 1,
            // A spare whose tags say that it is somebody's is not offered again.
            Self::Running | Self::NoRoom => 2,
        }
    }
}

/// Whether the life was long enough for the call to be made.
async fn survives(mishap: Mishap, nth: usize, scene: Scene) -> bool {
    let mut world = World::empty();
    scene.set(&world).await;
    // Without sweeps, so that the n-th call is one of the job's own.
    world.boot_without_sweeps();
    world.process().plan(Which::Nth(nth), mishap);
    let job = scene.job(&world, seconds(10));
    let dies = matches!(mishap, Mishap::DieBefore | Mishap::DieAfter);
    world
        .until("the mishap, or the end", minutes(5), async |w| {
            let happened = if dies { w.process().is_dead() } else { w.process().plan_is_done() };
            let over = w.job_is_over(job).await && w.messages().await + w.reports().await == 0;
            happened || over && !w.process().plan_is_done()
        })
        .await;
    let happened = world.process().plan_is_done();
    let call = if happened { world.process().calls()[nth] } else { "the end" };
    println!("{mishap:?} at call {nth}, {call}");
    if world.process().is_dead() {
        world.pass(seconds(3)).await;
        world.kill().await;
        world.boot();
    } else {
        world.start_sweeps();
    }
    world.settle_down(minutes(90)).await;
    world.must_be_served(job).await;
    world.must_have_no_dead_letters().await;
    let runners = world.launched().len();
    // What a dead attempt launched is adopted; only one that gave up by itself leaves a machine unused.
    let expected = scene.machines() + usize::from(!dies);
    assert!(runners <= expected, "{runners} machines\n{}", world.describe().await);
    // One lease, one redelivery, one outbox period.
    let waited = world.waited(job);
    assert!(waited <= seconds(200), "it began after {waited:?}\n{}", world.describe().await);
    // A deletion that fails is left to the sweep of secrets, which is not dispatch's.
    if call != "hand_over.delete" {
        // That of a spare which was being given back goes with its row.
        world.until("no hand-over is left", minutes(7), async |w| w.documents.keys().is_empty()).await;
    }
    happened
}

async fn survives_everywhere(mishap: Mishap, scene: Scene) {
    let mut nth = 0;
    while survives(mishap, nth, scene).await {
        nth += 1;
    }
    assert!(nth > 30, "a job's life takes many calls; only {nth} were seen");
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_any_call_loses_nothing() {
    survives_everywhere(Mishap::DieBefore, Scene::Started).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_any_call_loses_nothing_where_machines_run_from_their_launch() {
    survives_everywhere(Mishap::DieBefore, Scene::Launched).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_any_call_loses_nothing() {
    survives_everywhere(Mishap::DieAfter, Scene::Started).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_any_call_loses_nothing_where_machines_run_from_their_launch() {
    survives_everywhere(Mishap::DieAfter, Scene::Launched).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_any_call_loses_nothing() {
    survives_everywhere(Mishap::Refuse, Scene::Launched).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_of_any_call_loses_nothing() {
    survives_everywhere(Mishap::LoseAnswer, Scene::Launched).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_around_any_call_loses_nothing_where_a_spare_is_started() {
    survives_everywhere(Mishap::DieBefore, Scene::Stopped).await;
    survives_everywhere(Mishap::DieAfter, Scene::Stopped).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_around_any_call_loses_nothing_where_a_spare_runs() {
    survives_everywhere(Mishap::DieBefore, Scene::Running).await;
    survives_everywhere(Mishap::DieAfter, Scene::Running).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_around_any_call_loses_nothing_where_a_spare_is_given_back() {
    survives_everywhere(Mishap::DieBefore, Scene::NoRoom).await;
    survives_everywhere(Mishap::DieAfter, Scene::NoRoom).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_any_call_loses_nothing_where_there_are_spares() {
    for scene in [Scene::Stopped, Scene::Running, Scene::NoRoom] {
        survives_everywhere(Mishap::Refuse, scene).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_of_any_call_loses_nothing_where_there_are_spares() {
    for scene in [Scene::Stopped, Scene::Running, Scene::NoRoom] {
        survives_everywhere(Mishap::LoseAnswer, scene).await;
    }
}

/// The first process stands still at its n-th call while another takes over, and then goes on as if nothing had
/// happened: it holds a lease that is long dead, and must change nothing.
async fn a_sleeper_wakes(nth: usize, scene: Scene) -> bool {
    let mut world = World::empty();
    scene.set(&world).await;
    // Its own clock stands still, too: no budget of its runs out while it sleeps.
    let timings = world.timings;
    world.timings.process = hours(2);
    world.timings.cleanup = hours(1);
    world.boot_without_sweeps();
    world.timings = timings;
    world.process().plan(Which::Nth(nth), Mishap::Freeze);
    let job = scene.job(&world, minutes(5));
    world
        .until("it stands still, or all is prepared", minutes(5), async |w| {
            let running = w.find(job).await.is_some_and(|job| job.in_progress_at.is_some());
            w.process().is_frozen() || running && w.messages().await == 0
        })
        .await;
    let sleeper = world.abandon();
    let froze = sleeper.process.is_frozen();
    println!("standing still at call {nth}, {:?}", sleeper.process.calls().last());
    world.boot();
    world
        .until("the job is served by the other", minutes(15), async |w| {
            w.find(job).await.is_some_and(|job| job.in_progress_at.is_some())
        })
        .await;
    sleeper.process.thaw();
    world.pass(minutes(1)).await;
    world.must_be_consistent().await;
    sleeper.process.die();
    world.settle_down(minutes(90)).await;
    world.must_be_served(job).await;
    froze
}

#[tokio::test(start_paused = true)]
async fn a_process_that_wakes_up_late_changes_nothing() {
    let mut nth = 0;
    while a_sleeper_wakes(nth, Scene::Started).await {
        nth += 1;
    }
    assert!(nth > 20, "an attempt takes many calls; only {nth} were seen");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_wakes_up_late_changes_nothing_where_machines_run_from_their_launch() {
    let mut nth = 0;
    while a_sleeper_wakes(nth, Scene::Launched).await {
        nth += 1;
    }
    assert!(nth > 20, "an attempt takes many calls; only {nth} were seen");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_wakes_up_late_changes_nothing_where_there_are_spares() {
    for scene in [Scene::Stopped, Scene::Running, Scene::NoRoom] {
        let mut nth = 0;
        while a_sleeper_wakes(nth, scene).await {
            nth += 1;
        }
        assert!(nth > 20, "an attempt takes many calls; only {nth} were seen");
    }
}
