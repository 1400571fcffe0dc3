//! Jobs launched together.

use std::collections::BTreeSet;
use std::sync::Arc;

use domain::gh::Conclusion;
use domain::ids::JobId;
use domain::job::JobState;
use fleet::Ec2Compute;
use fleet::ec2::Subnet;
use simulation::cloud::{self, Cloud};

use crate::support::faults::{Mishap, Which};
use crate::support::github::LABEL;
use crate::support::world::World;
use crate::support::{minutes, seconds};

/// A world that works on many messages at a time.
fn wide(permits: usize) -> World {
    let mut world = World::empty();
    world.permits = permits;
    world
}

fn queue(world: &World, jobs: usize) -> Vec<JobId> {
    world.github.queue_jobs(&[LABEL], jobs, seconds(10), Conclusion::Success).1
}

#[tokio::test(start_paused = true)]
async fn a_thousand_jobs_take_no_more_than_twenty_five_calls() {
    let mut world = wide(512);
    world.laws.suspended.store(true, std::sync::atomic::Ordering::Relaxed);
    world.machines.change(|nature| {
        nature.runs_from_launch = true;
        nature.no_agents = true;
        nature.launch_takes = seconds(2);
        nature.launch_tokens = Some(Default::default());
    });
    world.boot_without_sweeps();
    let jobs = queue(&world, 1000);
    let began = tokio::time::Instant::now();
    world
        .until("every job has its machine", minutes(3), async |w| {
            w.jobs().by_state(JobState::Launched, None, None).await.unwrap().len() == 1000
        })
        .await;
    let orders = world.machines.orders();
    let sizes: Vec<usize> = orders.iter().map(|order| order.members.len()).collect();
    println!("{} calls in {:?}: {sizes:?}", orders.len(), began.elapsed());
    assert!(orders.len() <= 25, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size <= 50));
    world.must_have_launched(1000);
    let served: BTreeSet<JobId> = orders.iter().flat_map(|o| o.members.slots().iter().map(|s| s.job)).collect();
    assert_eq!(served, jobs.into_iter().collect());
}

/// GitHub registers so many runners of an account a minute. A machine that waited for its registration would cost money
/// and keep a worker; so the jobs wait instead.
#[tokio::test(start_paused = true)]
async fn a_burst_of_an_account_waits_without_machines() {
    let mut world = World::empty();
    world.changes_per_minute = 12;
    world.boot();
    let jobs = queue(&world, 25);
    world.pass(seconds(55)).await;
    assert_eq!(world.launched().len(), 10, "five of six changes are for registrations");
    world.settle_down(minutes(20)).await;
    for job in jobs {
        world.must_be_served(job).await;
        assert!(world.waited(job) <= minutes(4), "{:?}", world.waited(job));
    }
    world.must_have_launched(25);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_jobs_on_ec2_take_no_more_than_twenty_five_fleets() {
    let mut world = wide(512);
    world.laws.suspended.store(true, std::sync::atomic::Ordering::Relaxed);
    let subnet = |zone: &str| Subnet { id: format!("subnet-{zone}"), zone: zone.to_owned(), free_addresses: 4_000 };
    let nature = cloud::World { subnets: vec![subnet("1a"), subnet("1c")], ..cloud::World::default() };
    let ec2 = Cloud::new(nature, Arc::clone(&world.clock));
    let settings = fleet::Settings {
        launch_template: "runs-fleet-runner".to_owned(),
        spot_enabled: true,
        default_subnets: vec!["subnet-1a".to_owned(), "subnet-1c".to_owned()],
        ..fleet::Settings::default()
    };
    let (clock, rng) = (Arc::clone(&world.clock), Arc::clone(&world.rng));
    let compute = Ec2Compute::new(ec2.clone(), settings, None, clock, rng, world.metrics.clone());
    world.cloud = Some(Arc::new(compute));
    world.boot_without_sweeps();
    queue(&world, 1000);
    let began = tokio::time::Instant::now();
    world
        .until("every job has its instance", minutes(3), async |w| {
            w.jobs().by_state(JobState::Launched, None, None).await.unwrap().len() == 1000
        })
        .await;
    println!("{} fleets in {:?}", ec2.calls("CreateFleet"), began.elapsed());
    assert!(ec2.calls("CreateFleet") <= 25, "{}", ec2.calls("CreateFleet"));
    assert_eq!(ec2.instances().len(), 1000, "as many instances as jobs");
    assert_eq!(ec2.calls("DescribeInstances"), 0, "a launch describes nothing");
}

#[tokio::test(start_paused = true)]
async fn a_matrix_is_served_by_a_few_calls() {
    let mut world = wide(64);
    world.boot();
    let jobs = queue(&world, 40);
    world.settle_down(minutes(30)).await;
    for job in jobs {
        world.must_be_served(job).await;
    }
    world.must_have_launched(40);
    assert!(world.machines.orders().len() <= 5, "{}", world.machines.orders().len());
}

#[tokio::test(start_paused = true)]
async fn a_single_job_waits_for_nobody() {
    let world = World::new();
    let job = world.queue_job();
    world.until_state(job, JobState::Launched, seconds(3)).await;
    let record = world.job(job).await;
    assert!(domain::clock::since(record.created_at, record.queued_at) <= seconds(2));
    world.settle_down(minutes(10)).await;
}

#[tokio::test(start_paused = true)]
async fn a_partial_answer_serves_some_and_sends_the_rest_to_on_demand() {
    let mut world = wide(64);
    world.machines.change(|nature| nature.at_most = 3);
    world.boot();
    let jobs = queue(&world, 10);
    world.until("the first calls are answered", seconds(4), async |w| !w.machines.all().is_empty()).await;
    world.pass(seconds(3)).await;
    let bound = world.machines.all().len();
    assert!(bound >= 3, "{}", world.describe().await);
    world.settle_down(minutes(60)).await;
    for job in &jobs {
        world.must_be_served(*job).await;
    }
    world.must_have_launched(10);
    let forced = world.all_jobs().await.iter().filter(|job| job.force_on_demand).count();
    assert!(forced >= 5, "{forced} of ten fell back");
    let orders = world.machines.orders();
    assert!(orders.iter().filter(|order| order.spot).all(|order| order.members.len() <= 10));
    assert!(orders.iter().any(|order| !order.spot));
}

#[tokio::test(start_paused = true)]
async fn a_member_that_loses_its_job_harms_no_other() {
    let mut world = wide(64);
    world.machines.change(|nature| nature.launch_takes = seconds(30));
    world.boot();
    let cancelled = world.queue_job();
    let jobs = queue(&world, 3);
    world.until("all are launching", seconds(5), async |w| w.machines.all().len() == 4).await;
    world.github.cancel(world.run_of(cancelled));
    let late = world.queue_job();
    world.settle_down(minutes(60)).await;
    for job in jobs.into_iter().chain([late]) {
        world.must_be_served(job).await;
    }
    assert!(world.launched().len() <= 5, "{}", world.describe().await);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_comes_too_late_for_its_attempt_is_not_left_over() {
    let mut world = World::empty();
    let timings = world.timings;
    world.timings.process = seconds(20);
    world.machines.change(|nature| nature.launch_takes = seconds(22));
    // Without sweeps: nobody but the batch itself knows of the machine.
    world.boot_without_sweeps();
    let job = world.queue_job();
    world.timings = timings;
    world.until("it is on its way", seconds(5), async |w| !w.machines.live().is_empty()).await;
    world.until("it is ended", seconds(25), async |w| w.machines.live().is_empty()).await;
    assert_eq!(world.state(job).await, Some(JobState::Requeued));
    world.machines.change(|nature| nature.launch_takes = seconds(1));
    world.start_sweeps();
    world.settle_down(minutes(60)).await;
    world.must_be_served(job).await;
    world.must_have_launched(2);
}

#[tokio::test(start_paused = true)]
async fn a_launch_of_many_whose_answer_was_lost_is_adopted_by_each() {
    let mut world = wide(64);
    world.boot();
    world.process().plan(Which::Next("compute.launch"), Mishap::LoseAnswer);
    let jobs = queue(&world, 8);
    world.settle_down(minutes(60)).await;
    for job in jobs {
        world.must_be_served(job).await;
    }
    world.must_have_launched(8);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_with_many_in_one_launch_leaves_each_its_machine() {
    for mishap in [Mishap::DieBefore, Mishap::DieAfter] {
        let mut world = wide(64);
        world.boot_without_sweeps();
        world.process().plan(Which::Next("compute.launch"), mishap);
        let jobs = queue(&world, 8);
        world.process().died().await;
        world.pass(seconds(3)).await;
        world.kill().await;
        world.boot();
        world.settle_down(minutes(60)).await;
        for job in jobs {
            world.must_be_served(job).await;
        }
        world.must_have_launched(8);
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_told_to_stop_finishes_its_launches() {
    let mut world = wide(64);
    world.machines.change(|nature| nature.launch_takes = seconds(20));
    world.boot();
    let jobs = queue(&world, 8);
    world.until("they are launching", seconds(5), async |w| w.machines.all().len() == 8).await;
    world.stop().await;
    for job in &jobs {
        assert!(world.job(*job).await.prepared_at.is_some(), "{}", world.describe().await);
    }
    world.boot();
    world.settle_down(minutes(30)).await;
    world.must_have_launched(8);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_told_to_stop_gives_back_what_it_has_asked_nothing_for() {
    let mut world = World::empty();
    world.machines.change(|nature| (nature.no_spot, nature.no_on_demand) = (true, true));
    world.boot();
    let job = world.queue_job();
    world.until("it is in back-off", minutes(1), async |w| w.reads(job, |job| job.not_before.is_some()).await).await;
    world.kill().await;
    world.machines.change(|nature| nature.no_on_demand = false);
    // A job that was dispatched before is looked up first, and GitHub takes its time.
    world.github_takes = seconds(30);
    world.boot();
    world.until_state(job, JobState::Claiming, minutes(5)).await;
    world.stop().await;
    let record = world.job(job).await;
    assert_eq!(record.state, JobState::Requeued, "{}", world.describe().await);
    assert_eq!(record.requeue_reason.as_deref(), Some("shutdown"));
    assert!(record.claim_attempts <= 1, "it costs no strike");
    world.github_takes = seconds(0);
    world.boot();
    world.until("another takes it at once", seconds(5), async |w| w.state(job).await != Some(JobState::Requeued)).await;
    world.settle_down(minutes(30)).await;
    world.must_be_served(job).await;
    world.must_have_launched(1);
}
