//! GitHub gives a job to whoever can run it.

use domain::gh::Conclusion;
use domain::job::{JobState, Settled};
use domain::timings::MAX_DISPLACED;

use crate::support::github::LABEL;
use crate::support::world::World;
use crate::support::{minutes, seconds};

#[tokio::test(start_paused = true)]
async fn theft_within_a_class_is_a_swap() {
    let world = World::of_thieves();
    let (_, jobs) = world.github.queue_jobs(&[LABEL], 2, minutes(1), Conclusion::Success);
    world.settle_down(minutes(30)).await;
    for job in jobs {
        world.must_be_served(job).await;
        assert_eq!(world.job(job).await.displaced_count, 0);
    }
    assert!(world.github.counters().stolen > 0, "there was theft");
    world.must_have_launched(2);
}

#[tokio::test(start_paused = true)]
async fn theft_all_around_costs_no_machine() {
    let world = World::of_thieves();
    let (_, jobs) = world.github.queue_jobs(&[LABEL], 12, seconds(20), Conclusion::Success);
    world.settle_down(minutes(30)).await;
    for job in jobs {
        world.must_be_served(job).await;
    }
    assert!(world.github.counters().stolen > 3, "there was theft");
    world.must_have_launched(12);
}

#[tokio::test(start_paused = true)]
async fn a_job_robbed_by_a_stranger_gets_another_machine() {
    let world = World::of_thieves();
    let job = world.queue_job_with(&[LABEL, "linux"]);
    world.until_state(job, JobState::Launched, minutes(1)).await;
    let stranger = world.queue_job_with(&["linux"]);
    world.until("it was robbed", minutes(1), async |w| w.reads(job, |job| job.displaced_count == 1).await).await;
    world.settle_down(minutes(30)).await;
    world.must_be_served(job).await;
    assert!(world.find(stranger).await.is_none(), "a stranger has no record");
    assert_eq!(world.github.conclusion(stranger), Some("success"), "and is not harmed");
    let record = world.job(job).await;
    assert_eq!((record.displaced_count, record.retry_count), (1, 0));
    world.must_have_launched(2);
}

#[tokio::test(start_paused = true)]
async fn a_job_robbed_too_often_is_given_up() {
    let world = World::of_thieves();
    let strangers = MAX_DISPLACED as usize + 1;
    let (_, strangers) = world.github.queue_jobs(&["linux"], strangers, seconds(20), Conclusion::Success);
    let job = world.queue_job_with(&[LABEL, "linux"]);
    world.until_state(job, JobState::Settled(Settled::Error), minutes(60)).await;
    let record = world.job(job).await;
    assert_eq!(record.displaced_count, MAX_DISPLACED);
    assert_eq!(record.settled_reason.as_deref(), Some("displaced"));
    world
        .until("the strangers are served", minutes(10), async |w| {
            strangers.iter().all(|id| w.github.conclusion(*id) == Some("success"))
        })
        .await;
    world.must_be_consistent().await;
    world.must_have_launched(MAX_DISPLACED as usize + 1);
}

#[tokio::test(start_paused = true)]
async fn the_thief_s_own_launch_serves_the_robbed_job() {
    let world = World::of_thieves();
    let robbed = world.queue_job();
    world.until_state(robbed, JobState::Launched, minutes(1)).await;
    world.machines.change(|nature| nature.launch_takes = seconds(10));
    let thief = world.queue_job();
    world.until("the thief runs", minutes(1), async |w| w.is_executing(thief).await).await;
    assert_eq!(world.state(robbed).await, Some(JobState::Requeued));
    world.settle_down(minutes(30)).await;
    world.must_be_served(robbed).await;
    world.must_be_served(thief).await;
    world.must_have_launched(2);
}

#[tokio::test(start_paused = true)]
async fn a_job_on_somebody_else_s_runner_costs_no_second_machine() {
    let world = World::new();
    world.github.foreign_runner(&[LABEL]);
    let job = world.queue_long_job(minutes(20));
    world.settle_down(minutes(60)).await;
    assert_eq!(world.github.conclusion(job), Some("success"));
    assert_eq!(world.state(job).await, Some(JobState::Settled(Settled::Completed)));
    assert!(world.launched().len() <= 1, "{}", world.describe().await);
}
