//! A job's ordinary life.

use domain::job::{JobState, Settled};

use crate::support::minutes;
use crate::support::world::World;

#[tokio::test(start_paused = true)]
async fn a_job_is_served_once_by_one_machine() {
    let world = World::new();
    let job = world.queue_job();
    world.until_state(job, JobState::Launched, minutes(1)).await;
    world.until_state(job, JobState::Running, minutes(1)).await;
    world.until_state(job, JobState::Settled(Settled::Success), minutes(1)).await;
    world.settle_down(minutes(20)).await;
    world.must_be_served(job).await;
    assert_eq!(world.launched().len(), 1);
    assert_eq!(world.job(job).await.dispatch_seq, 0);
}
