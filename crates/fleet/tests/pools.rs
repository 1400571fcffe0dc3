//! Spares of warm pools, and what housekeeping asks EC2.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use domain::clock::{Clock, Timestamp};
use domain::ids::RunnerKey;
use domain::launch::{Arch, LaunchSpec};
use domain::testing::at;
use fleet::Ec2Compute;
use fleet::ec2::{Instance, Subnet};
use fleet::settings::Settings;
use provider::compute::{Compute, Error, Filter, Machine, MachineState, Members, Order, SpotRequest, Which};
use provider::tags;
use simulation::chance::SeededRng;
use simulation::cloud::{Cloud, Fault, World};
use telemetry::Metrics;
use tokio::time::{Instant, advance, timeout};

struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        at(0)
    }
}

fn cloud() -> Arc<Cloud> {
    let subnet = |id: &str, zone: &str| Subnet { id: id.to_owned(), zone: zone.to_owned(), free_addresses: 100 };
    let subnets = vec![subnet("subnet-a", "1a"), subnet("subnet-c", "1c")];
    Cloud::new(World { subnets, ..World::default() }, Arc::new(Still))
}

fn process(cloud: &Arc<Cloud>) -> Ec2Compute {
    let settings = Settings {
        launch_template: "base".to_owned(),
        spot_enabled: true,
        default_subnets: vec!["subnet-a".to_owned(), "subnet-c".to_owned()],
        instance_profile: Some("arn:profile".to_owned()),
        ..Settings::default()
    };
    Ec2Compute::new(
        Arc::clone(cloud) as _,
        settings,
        None,
        Arc::new(Still),
        Arc::new(SeededRng::new(3)),
        Metrics::new(),
    )
}

fn spares(launch: &str, count: usize) -> Order {
    Order {
        launch_id: launch.into(),
        spec: LaunchSpec {
            instance_types: vec!["c7g.large".to_owned(), "m7g.large".to_owned()],
            ..LaunchSpec::default()
        },
        // Not for a pool.
        spot: true,
        members: Members::Pool { pool: "fast".parse().unwrap(), count },
        until: Instant::now() + Duration::from_secs(90),
    }
}

async fn spare(compute: &Ec2Compute) -> Machine {
    compute.launch(&spares("rf1-p", 1)).await.remove(0).unwrap()
}

fn of_pool() -> Filter {
    Filter { pool: "fast".parse().ok(), ..Filter::default() }
}

#[tokio::test(start_paused = true)]
async fn spares_are_on_demand_and_carry_their_pool_and_no_launch() {
    let cloud = cloud();
    let compute = process(&cloud);
    let machines: Vec<Machine> = compute.launch(&spares("rf1-p", 3)).await.into_iter().map(Result::unwrap).collect();
    for machine in machines.iter().cloned().chain(compute.list(&of_pool()).await.unwrap()) {
        assert_eq!((machine.spot, machine.pool(), machine.arch), (false, Some("fast"), Some(Arch::Arm64)));
        assert!(machine.launch_id.is_none() && !machine.is_assigned());
    }
    let request = &cloud.requests()[0];
    assert_eq!((request.client_token.as_str(), request.spot, request.capacity), ("rf1-p", false, 3));
    assert!(cloud.instances().iter().all(|i| !i.tags.contains_key(tags::LAUNCH_ID)));
    // Repeated, by this process and the next one.
    assert_eq!(compute.launch(&spares("rf1-p", 3)).await.into_iter().map(Result::unwrap).collect::<Vec<_>>(), machines);
    process(&cloud).launch(&spares("rf1-p", 3)).await;
    assert_eq!(cloud.instances().len(), 3);
    // The tags that are written once more are a spare's, too, and take nothing from a job it was given to.
    compute.tag(&machines[0].key, &[(tags::JOB_ID.to_owned(), "7".to_owned())]).await.unwrap();
    assert!(timeout(Duration::from_secs(100), compute.maintain()).await.is_err(), "it goes on for ever");
    let listed = compute.list(&of_pool()).await.unwrap();
    assert_eq!(listed.iter().map(Machine::is_assigned).collect::<Vec<_>>(), [true, false, false]);
}

#[tokio::test(start_paused = true)]
async fn half_a_pool_is_half_a_success_and_a_lost_answer_is_left_to_the_next_look() {
    let cloud = cloud();
    let compute = process(&cloud);
    cloud.change(|world| {
        for (name, left) in [("c7g.large", 2), ("m7g.large", 0)] {
            world.capacity.insert((name.to_owned(), "1a".to_owned(), false), left);
            world.capacity.insert((name.to_owned(), "1c".to_owned(), false), 0);
        }
    });
    let answers = compute.launch(&spares("rf1-p", 3)).await;
    assert!(answers[..2].iter().all(Result::is_ok) && matches!(answers[2], Err(Error::Capacity(_))));

    let cloud = self::cloud();
    let compute = process(&cloud);
    cloud.fail("CreateFleet", [Fault::LoseAnswer, Fault::LoseCall, Fault::LoseCall]);
    let answers = compute.launch(&spares("rf1-p", 2)).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(Error::Transient(_)))));
    assert_eq!(compute.list(&of_pool()).await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_spare_is_in_its_pool_before_ec2_knows_it() {
    let cloud = cloud();
    cloud.change(|world| world.invisible = Duration::from_secs(30));
    let compute = process(&cloud);
    let machine = spare(&compute).await;
    assert_eq!(compute.list(&of_pool()).await.unwrap(), vec![machine.clone()]);
    let other = Filter { pool: "slow".parse().ok(), ..Filter::default() };
    assert!(compute.list(&other).await.unwrap().is_empty());
    assert_eq!(compute.describe_many(&[machine.key.clone(), "i-other".into()]).await.unwrap(), [machine]);
}

#[tokio::test(start_paused = true)]
async fn a_spare_is_started_also_when_another_process_stopped_it() {
    let cloud = cloud();
    let (compute, other) = (process(&cloud), process(&cloud));
    let key = spare(&compute).await.key;
    compute.start(&key).await.unwrap();
    assert_eq!(cloud.calls("StartInstances"), 0, "it runs");
    other.stop(&key).await.unwrap();
    other.stop(&key).await.unwrap();
    assert_eq!(cloud.calls("StopInstances"), 1);
    assert_eq!(compute.describe(&key).await.unwrap().unwrap().state, MachineState::Stopped);
    compute.start(&key).await.unwrap();
    assert_eq!(compute.describe(&key).await.unwrap().unwrap().state, MachineState::Running);

    other.stop(&key).await.unwrap();
    cloud.fail("StartInstances", [Fault::Refuse("InsufficientInstanceCapacity", "none where its volume is")]);
    assert!(matches!(compute.start(&key).await, Err(Error::Capacity(_))), "another spare may do");
    cloud.alter(key.as_str(), |instance| instance.state = "stopping".to_owned());
    assert!(matches!(compute.start(&key).await, Err(Error::Transient(_))));
    compute.stop(&key).await.unwrap();
    assert_eq!(cloud.calls("StopInstances"), 2, "it is on its way");
}

#[tokio::test(start_paused = true)]
async fn spot_capacity_is_never_stopped() {
    let cloud = cloud();
    let compute = process(&cloud);
    let key = spare(&compute).await.key;
    cloud.alter(key.as_str(), |instance| instance.spot = true);
    compute.stop(&key).await.unwrap();
    assert_eq!(cloud.calls("StopInstances"), 0);
    assert_eq!(cloud.instances()[0].state, "terminated");
}

#[tokio::test(start_paused = true)]
async fn an_assignment_is_written_on_a_spare_and_taken_off_again() {
    let cloud = cloud();
    let compute = process(&cloud);
    let key = spare(&compute).await.key;
    let assigned = || async { compute.describe(&key).await.unwrap().unwrap().is_assigned() };
    for name in [tags::ASSIGNED, tags::INTERRUPTED] {
        compute.tag(&key, &[(name.to_owned(), "true".to_owned())]).await.unwrap();
        assert!(assigned().await, "{name}");
        compute.untag(&key, &[name]).await.unwrap();
        assert!(!assigned().await, "{name}");
    }
    compute.tag(&key, &[(tags::JOB_ID.to_owned(), String::new())]).await.unwrap();
    assert!(!assigned().await, "no job is no job");
}

#[tokio::test(start_paused = true)]
async fn the_current_image_is_what_new_machines_have_and_old_news_is_none() {
    let cloud = cloud();
    let compute = process(&cloud);
    let machine = spare(&compute).await;
    let image = compute.describe(&machine.key).await.unwrap().unwrap().image;
    assert_eq!(compute.current_image(Arch::Arm64).await.unwrap(), image);
    assert_ne!(compute.current_image(Arch::Amd64).await.unwrap(), image);
    assert!(image.is_some());
    cloud.change(|world| world.image_edition = 1);
    advance(Duration::from_secs(301)).await;
    let newer = compute.current_image(Arch::Arm64).await.unwrap();
    assert!(newer.is_some() && newer != image);
    cloud.fail("DescribeLaunchTemplateVersions", (0..99).map(|_| Fault::Refuse("UnauthorizedOperation", "no")));
    advance(Duration::from_secs(301)).await;
    assert_eq!(compute.current_image(Arch::Arm64).await.unwrap(), newer, "confirmed five minutes ago");
    advance(Duration::from_secs(301)).await;
    assert_eq!(compute.current_image(Arch::Arm64).await.unwrap(), None);
}

fn instance(id: &str, tags: &[(&str, &str)]) -> Instance {
    Instance {
        id: id.to_owned(),
        state: "running".to_owned(),
        instance_type: "c7g.large".to_owned(),
        zone: None,
        spot: false,
        arch: None,
        image: None,
        profile: Some("arn:profile".to_owned()),
        launched_at: Some(at(-900)),
        transition: None,
        tags: tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    }
}

#[tokio::test(start_paused = true)]
async fn machines_without_our_mark_and_builders_are_found_apart() {
    let cloud = cloud();
    let compute = process(&cloud);
    let ours = spare(&compute).await.key;
    cloud.put(instance("i-lost", &[]));
    cloud.put(instance("i-builder", &[(tags::CREATED_BY, tags::IMAGE_BUILDER), (tags::MANAGED, "false")]));
    let listed = |which| {
        let filter = Filter { which, ..Filter::default() };
        let compute = &compute;
        async move { compute.list(&filter).await.unwrap().into_iter().map(|m| m.key).collect::<Vec<RunnerKey>>() }
    };
    assert_eq!(listed(Which::Ours).await, [ours]);
    assert_eq!(listed(Which::Builders).await, ["i-builder".into()]);
    assert_eq!(listed(Which::Unmarked).await, ["i-lost".into()]);
}

#[tokio::test(start_paused = true)]
async fn many_machines_are_looked_for_in_few_calls_and_the_missing_are_missing() {
    let cloud = cloud();
    let compute = process(&cloud);
    for n in 0..150 {
        cloud.put(instance(&format!("i-{n}"), &[]));
    }
    cloud.alter("i-7", |instance| instance.state = "terminated".to_owned());
    let keys: Vec<RunnerKey> = (0..250).map(|n| format!("i-{n}").into()).collect();
    let found = compute.describe_many(&keys).await.unwrap();
    assert_eq!((found.len(), cloud.calls("DescribeInstances")), (150, 3));
    assert_eq!(found.iter().filter(|machine| machine.state.is_gone()).count(), 1, "ended ones, too");
    cloud.fail("DescribeInstances", [Fault::Refuse("UnauthorizedOperation", "no")]);
    assert!(compute.describe_many(&keys).await.is_err(), "all or an error");
    assert!(compute.describe_many(&[]).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn spot_requests_that_were_fulfilled_can_be_cancelled() {
    let cloud = cloud();
    let compute = process(&cloud);
    cloud.change(|world| world.persistent = [("i-1".to_owned(), "sir-1".to_owned())].into());
    let open = compute.spot_requests().await.unwrap();
    assert_eq!(open, [SpotRequest { id: "sir-1".to_owned(), machine: "i-1".into() }]);
    compute.cancel_spot_requests(&["sir-1".to_owned()]).await.unwrap();
    assert!(compute.spot_requests().await.unwrap().is_empty());
    compute.cancel_spot_requests(&[]).await.unwrap();
    assert_eq!(cloud.calls("CancelSpotInstanceRequests"), 1, "nothing to cancel is no call");
}
