//! A job's life when the news about it comes twice, late, or not at all, and when somebody changes their mind.

use std::sync::Arc;

use cache::token::Keys;
use dispatch::CacheAccess;
use domain::gh::Conclusion;
use domain::job::{JobState, Settled};
use domain::report::{AgentReport, AgentStatus};
use secrecy::SecretString;

use crate::support::faults::Port;
use crate::support::github::{Fate, LABEL};
use crate::support::world::World;
use crate::support::{minutes, seconds};

#[tokio::test(start_paused = true)]
async fn a_job_is_served_once_by_one_machine() {
    let world = World::new();
    world.machines.change(|nature| nature.start_takes = seconds(2));
    let job = world.queue_job();
    world.until_state(job, JobState::Launched, minutes(1)).await;
    assert_eq!(world.messages().await, 1, "the message stays until the machine has what it needs");
    world.until_state(job, JobState::Running, minutes(1)).await;
    assert_eq!(world.messages().await, 0);
    world.until_state(job, JobState::Settled(Settled::Success), minutes(1)).await;
    world.settle_down(minutes(20)).await;
    world.must_be_served(job).await;
    world.must_have_launched(1);
    let record = world.job(job).await;
    assert_eq!((record.dispatch_seq, record.retry_count, record.claim_attempts), (0, 0, 1));
    assert!(world.documents.keys().is_empty(), "no credential outlives its runner");
}

#[tokio::test(start_paused = true)]
async fn a_job_is_let_into_the_cache_where_there_is_one() {
    let keys = Keys::new(SecretString::from("a secret of the tests"), None, false);
    for cache in [None, Some(CacheAccess::new(Some(keys.clone()), "http://cache", minutes(60)))] {
        let mut world = World::empty();
        let served = cache.is_some();
        world.cache = cache.map(Arc::new);
        world.boot();
        let job = world.queue_job();
        world.until_state(job, JobState::Launched, minutes(1)).await;
        world.until("it is handed over", minutes(1), async |w| !w.documents.keys().is_empty()).await;
        let document = world.documents.read(&world.documents.keys()[0]).unwrap();
        assert_eq!(document.cache_url, if served { "http://cache/" } else { "" });
        let caller = keys.verify(document.cache_token.expose(), world.clock.now());
        assert_eq!(caller.map(|caller| caller.repo.to_string()).ok(), served.then(|| document.repo.to_lowercase()));
        world.settle_down(minutes(20)).await;
        world.must_be_served(job).await;
    }
}

#[tokio::test(start_paused = true)]
async fn machines_that_could_not_lead_a_job_to_the_cache_are_counted() {
    let world = World::new();
    for (word, first) in [("failed", true), ("failed", false), ("engaged", true), ("a word of the future", true)] {
        let mut report = AgentReport::new("i-1".into(), AgentStatus::Success);
        report.cache_interception = Some(word.to_owned());
        world.dispatch().report(&report, first).await.unwrap();
    }
    let counted = world.metrics.render();
    for status in ["failed", "engaged"] {
        let line = format!("runner_cache_interception_total{{status=\"{status}\"}} 1");
        assert!(counted.contains(&line), "{line}: {counted}");
    }
}

#[tokio::test(start_paused = true)]
async fn webhooks_that_come_twice_change_nothing() {
    let world = World::new();
    for action in ["queued", "in_progress", "completed"] {
        world.github.fate(action, Fate::Twice);
    }
    let job = world.queue_job();
    world.settle_down(minutes(20)).await;
    world.must_be_served(job).await;
    world.must_have_launched(1);
    assert_eq!(world.job(job).await.dispatch_seq, 0);
}

#[tokio::test(start_paused = true)]
async fn a_matrix_is_served_with_one_machine_per_job() {
    let world = World::new();
    let (_, jobs) = world.github.queue_jobs(&[LABEL], 30, seconds(40), Conclusion::Success);
    world.settle_down(minutes(30)).await;
    for job in jobs {
        world.must_be_served(job).await;
    }
    world.must_have_launched(30);
}

#[tokio::test(start_paused = true)]
async fn a_red_job_is_not_dispatched_again() {
    let world = World::new();
    let job = world.github.queue_jobs(&[LABEL], 1, seconds(10), Conclusion::Failure).1[0];
    world.settle_down(minutes(20)).await;
    assert_eq!(world.github.conclusion(job), Some("failure"));
    assert_eq!(world.github.counters().rerun, 0);
    world.must_have_launched(1);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_job_s_launch_ends_within_seconds() {
    let world = World::new();
    world.machines.change(|nature| nature.launch_takes = seconds(20));
    let job = world.queue_job();
    world.until_state(job, JobState::Claiming, minutes(1)).await;
    world.github.cancel(world.run_of(job));
    world.until_state(job, JobState::Settled(Settled::Cancelled), seconds(10)).await;
    world.pass(seconds(25)).await;
    assert!(world.machines.live().is_empty(), "{}", world.describe().await);
    world.settle_down(minutes(20)).await;
    world.must_have_launched(1);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_job_s_launch_serves_another_job_of_its_class() {
    let world = World::new();
    world.machines.change(|nature| nature.launch_takes = seconds(60));
    let cancelled = world.queue_job();
    world.until_state(cancelled, JobState::Claiming, minutes(1)).await;
    // The other job is pending: its own wake-up was not sent.
    world.weather.down(Port::Queue);
    let other = world.queue_job();
    world.pass(seconds(12)).await;
    assert_eq!(world.state(other).await, Some(JobState::Requeued));
    world.weather.up(Port::Queue);
    world.github.cancel(world.run_of(cancelled));
    world.settle_down(minutes(20)).await;
    world.must_be_served(other).await;
    world.must_have_launched(1);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_job_s_runner_is_left_alone_and_exits_when_idle() {
    let world = World::new();
    world.machines.change(|nature| nature.boot_takes = seconds(30));
    let job = world.queue_job();
    world.until_state(job, JobState::Launched, minutes(1)).await;
    world.until("the machine starts", minutes(1), async |w| w.messages().await == 0).await;
    world.github.cancel(world.run_of(job));
    world.until_state(job, JobState::Settled(Settled::Cancelled), seconds(10)).await;
    world.pass(minutes(5)).await;
    assert_eq!(world.machines.live().len(), 1, "it may serve the next job of its class");
    let next = world.queue_job();
    world.settle_down(minutes(30)).await;
    world.must_be_served(next).await;
    assert!(world.waited(next) <= seconds(1), "by the runner that was idle");
}

#[tokio::test(start_paused = true)]
async fn a_running_job_that_is_cancelled_ends_as_cancelled_at_github() {
    let world = World::new();
    let job = world.queue_long_job(minutes(30));
    world.until("the job runs", minutes(1), async |w| w.is_executing(job).await).await;
    world.github.cancel(world.run_of(job));
    world.settle_down(minutes(20)).await;
    assert_eq!(world.github.conclusion(job), Some("cancelled"));
    world.must_have_launched(1);
}

#[tokio::test(start_paused = true)]
async fn news_of_a_running_job_makes_its_record() {
    let world = World::new();
    // An idle runner of the class, left by a cancelled job.
    let gone = world.queue_job();
    world.until_state(gone, JobState::Launched, minutes(1)).await;
    world.github.cancel(world.run_of(gone));
    world.pass(seconds(30)).await;
    world.github.fate("queued", Fate::Late(seconds(5)));
    let job = world.queue_job();
    world.until("the record exists", seconds(4), async |w| w.is_executing(job).await).await;
    world.settle_down(minutes(30)).await;
    world.must_be_served(job).await;
    world.must_have_launched(1);
}

#[tokio::test(start_paused = true)]
async fn a_report_that_overtakes_the_webhooks_closes_its_job() {
    let world = World::new();
    world.github.fate("in_progress", Fate::Late(seconds(60)));
    world.github.fate("completed", Fate::Late(seconds(60)));
    let job = world.queue_job();
    world.until_state(job, JobState::Settled(Settled::Success), seconds(30)).await;
    world.settle_down(minutes(20)).await;
    world.must_be_served(job).await;
    world.must_have_launched(1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_in_progress_is_found_by_asking() {
    let world = World::new();
    world.github.fate("in_progress", Fate::Vanishes);
    world.github.fate("completed", Fate::Vanishes);
    let job = world.queue_job();
    world.until_state(job, JobState::Settled(Settled::Success), minutes(1)).await;
    world.settle_down(minutes(20)).await;
    world.must_have_launched(1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_end_is_found_by_the_stale_sweep() {
    let world = World::new();
    world.machines.change(|nature| nature.hangs_at_the_end = true);
    world.github.fate("completed", Fate::Vanishes);
    let job = world.queue_job();
    world.until_state(job, JobState::Running, minutes(1)).await;
    world.until_state(job, JobState::Settled(Settled::Completed), minutes(17)).await;
    world.must_be_consistent().await;
    world.must_have_launched(1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_end_and_a_lost_machine_are_noticed_at_once() {
    let world = World::new();
    world.machines.change(|nature| nature.final_report_lost = true);
    world.github.fate("completed", Fate::Vanishes);
    let job = world.queue_job();
    world.until_state(job, JobState::Running, minutes(1)).await;
    world.until_state(job, JobState::Settled(Settled::Completed), minutes(2)).await;
    world.settle_down(minutes(20)).await;
    world.must_have_launched(1);
}

#[tokio::test(start_paused = true)]
async fn a_queued_webhook_that_never_came_is_made_up_for_by_the_scan() {
    let world = World::new();
    // The repository is known by an earlier job.
    let earlier = world.queue_job();
    world.github.fate("queued", Fate::Vanishes);
    let job = world.queue_job();
    world.settle_down(minutes(20)).await;
    world.must_be_served(earlier).await;
    world.must_be_served(job).await;
    assert!(world.waited(job) <= minutes(10));
}

#[tokio::test(start_paused = true)]
async fn the_first_job_of_a_repository_is_found_without_its_webhook_too() {
    let world = World::new();
    world.github.fate("queued", Fate::Vanishes);
    let job = world.queue_job();
    world.settle_down(minutes(20)).await;
    world.must_be_served(job).await;
    assert!(world.waited(job) <= minutes(10));
}

#[tokio::test(start_paused = true)]
async fn a_failed_delivery_is_asked_for_again() {
    let world = World::new();
    world.github.fate("queued", Fate::Fails);
    let job = world.queue_job();
    world.settle_down(minutes(20)).await;
    world.must_be_served(job).await;
    assert_eq!(world.github.counters().redeliveries, 1);
    world.must_have_launched(1);
}
