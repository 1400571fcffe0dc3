//! Launches against an EC2 in memory: exactly as many machines as slots, or a reason for each that is missing.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use domain::clock::{Clock, Timestamp};
use domain::ids::{JobId, RunId};
use domain::launch::{Arch, LaunchSpec};
use domain::testing::at;
use fleet::ec2::{Instance, SpotPrice, Subnet};
use fleet::settings::Settings;
use fleet::{Breaker, Ec2Compute};
use proptest::prelude::*;
use provider::compute::{Compute, Error, Filter, Machine, MachineState, Members, Order, Slot};
use simulation::chance::SeededRng;
use simulation::cloud::{Cloud, Fault, World};
use telemetry::Metrics;
use tokio::time::{Instant, timeout};

struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        at(0)
    }
}

fn region() -> World {
    let subnet = |id: &str, zone: &str| Subnet { id: id.to_owned(), zone: zone.to_owned(), free_addresses: 100 };
    World { subnets: vec![subnet("subnet-a", "1a"), subnet("subnet-c", "1c")], ..World::default() }
}

fn settings() -> Settings {
    Settings {
        launch_template: "base".to_owned(),
        spot_enabled: true,
        default_subnets: vec!["subnet-a".to_owned(), "subnet-c".to_owned()],
        ..Settings::default()
    }
}

fn process(cloud: &Arc<Cloud>, settings: Settings, breaker: Option<Breaker>) -> Ec2Compute {
    let rng = Arc::new(SeededRng::new(3));
    Ec2Compute::new(Arc::clone(cloud) as _, settings, breaker, Arc::new(Still), rng, Metrics::new())
}

fn fleet_with(world: World, settings: Settings, breaker: Option<Breaker>) -> (Arc<Cloud>, Ec2Compute) {
    let cloud = Cloud::new(world, Arc::new(Still));
    let compute = process(&cloud, settings, breaker);
    (cloud, compute)
}

fn fleet() -> (Arc<Cloud>, Ec2Compute) {
    fleet_with(region(), settings(), None)
}

fn spec(types: &[&str]) -> LaunchSpec {
    LaunchSpec { instance_types: types.iter().map(|t| (*t).to_owned()).collect(), ..LaunchSpec::default() }
}

fn order(launch: &str, spec: LaunchSpec, slots: u64) -> Order {
    let slot = |n| Slot { job: JobId::new(n).unwrap(), run: RunId::new(n / 3 + 1), repo: "org/app".parse().unwrap() };
    let until = Instant::now() + Duration::from_secs(90);
    let members = Members::Jobs((1..=slots).map(slot).collect());
    Order { launch_id: launch.into(), spec, spot: true, members, until }
}

fn arm(slots: u64) -> Order {
    order("rf1-a", spec(&["c7g.large"]), slots)
}

fn keys(answers: &[Result<Machine, Error>]) -> Vec<String> {
    answers.iter().flatten().map(|machine| machine.key.to_string()).collect()
}

/// Leaves so many instances of a type in both zones.
fn leave(cloud: &Cloud, name: &str, spot: bool, left: u32) {
    cloud.change(|world| {
        world.capacity.insert((name.to_owned(), "1a".to_owned(), spot), left);
        world.capacity.insert((name.to_owned(), "1c".to_owned(), spot), 0);
    });
}

#[tokio::test(start_paused = true)]
async fn machines_carry_what_really_was_launched() {
    let (cloud, compute) = fleet();
    leave(&cloud, "c7g.large", true, 0);
    let answers = compute.launch(&order("rf1-a", spec(&["c7g.large", "m7g.large"]), 1)).await;
    let machine = answers[0].as_ref().unwrap();
    assert_eq!(
        (machine.instance_type.as_str(), machine.zone.as_deref(), machine.spot),
        ("m7g.large", Some("1a"), true)
    );
    assert_eq!(machine.launch_id, Some("rf1-a".into()));
    assert_eq!(cloud.calls("DescribeInstances"), 0, "none on the launch path");
    assert_eq!(compute.start(&machine.key).await, Ok(()));
    assert_eq!(cloud.calls("DescribeInstances"), 0, "a launched machine boots by itself");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_again_under_the_same_token() {
    for faults in [vec![Fault::LoseAnswer], vec![Fault::LoseCall, Fault::LoseAnswer], vec![Fault::Hang]] {
        let (cloud, compute) = fleet();
        cloud.fail("CreateFleet", faults.clone());
        let answers = compute.launch(&arm(3)).await;
        assert_eq!(keys(&answers).len(), 3, "{faults:?}");
        assert_eq!(cloud.instances().len(), 3, "{faults:?}");
        let requests = cloud.requests();
        assert!(requests.iter().all(|request| *request == requests[0]), "equal to the last byte");
    }
}

#[tokio::test(start_paused = true)]
async fn machines_whose_answer_never_comes_are_found_by_their_launch() {
    let (cloud, compute) = fleet();
    cloud.change(|world| world.invisible = Duration::from_secs(7));
    cloud.fail("CreateFleet", [Fault::LoseAnswer, Fault::LoseCall, Fault::LoseCall]);
    assert_eq!(keys(&compute.launch(&arm(2)).await).len(), 2);
    assert_eq!(cloud.calls("CreateFleet"), 3);
    let (cloud, compute) = fleet();
    cloud.fail("CreateFleet", [Fault::LoseCall, Fault::LoseCall, Fault::LoseCall]);
    let began = Instant::now();
    let answers = compute.launch(&arm(2)).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(Error::Transient(_)))));
    assert_eq!((cloud.instances().len(), cloud.calls("DescribeInstances")), (0, 2));
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[tokio::test(start_paused = true)]
async fn throttling_is_waited_out_and_nothing_begins_too_late() {
    let throttled = || Fault::Refuse("RequestLimitExceeded", "Request limit exceeded.");
    let (cloud, compute) = fleet();
    cloud.fail("CreateFleet", [throttled(), throttled()]);
    assert_eq!(keys(&compute.launch(&arm(1)).await).len(), 1);
    let (cloud, compute) = fleet();
    cloud.fail("CreateFleet", (0..9).map(|_| throttled()));
    let answers = compute.launch(&arm(1)).await;
    assert!(matches!(answers[0], Err(Error::Transient(_))));
    assert_eq!((cloud.calls("CreateFleet"), cloud.calls("DescribeInstances")), (5, 0));
    let (cloud, compute) = fleet();
    let late = Order { until: Instant::now() + Duration::from_secs(34), ..arm(1) };
    assert!(matches!(&compute.launch(&late).await[0], Err(Error::Transient(text)) if text.contains("throttled")));
    assert_eq!(cloud.calls("CreateFleet"), 0);
}

#[tokio::test(start_paused = true)]
async fn half_an_answer_is_half_a_success() {
    let (cloud, compute) = fleet();
    leave(&cloud, "c7g.large", true, 3);
    let answers = compute.launch(&arm(5)).await;
    assert!(
        answers[..3].iter().all(Result::is_ok) && answers[3..].iter().all(|a| matches!(a, Err(Error::Capacity(_))))
    );
    assert_eq!(cloud.instances().len(), 3);
    // A single slot whose request also brought errors is served.
    let (cloud, compute) = fleet();
    cloud.change(|world| {
        world.capacity.insert(("c7g.large".to_owned(), "1a".to_owned(), true), 0);
    });
    assert!(compute.launch(&arm(1)).await[0].is_ok());
    // Its pool is left alone for a while.
    compute.launch(&order("rf1-b", spec(&["c7g.large"]), 1)).await;
    let subnets = |n: usize| cloud.requests()[n].overrides.iter().filter_map(|o| o.subnet.clone()).collect::<Vec<_>>();
    assert_eq!((subnets(0), subnets(1)), (vec!["subnet-a".into(), "subnet-c".into()], vec!["subnet-c".to_owned()]));
    tokio::time::advance(Duration::from_secs(181)).await;
    compute.launch(&order("rf1-c", spec(&["c7g.large"]), 1)).await;
    assert_eq!(subnets(2).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_other_architecture_fills_what_is_missing() {
    let mut world = region();
    let price = |name: &str, usd| SpotPrice { instance_type: name.to_owned(), zone: "1a".to_owned(), usd };
    world.prices = vec![price("c6i.large", 0.03), price("c7g.large", 0.05)];
    let (cloud, compute) = fleet_with(world, settings(), None);
    leave(&cloud, "c6i.large", true, 2);
    let answers = compute.launch(&order("rf1-a", spec(&["c7g.large", "c6i.large"]), 5)).await;
    assert_eq!(keys(&answers).len(), 5);
    let sent: Vec<_> = cloud.requests().iter().map(|r| (r.launch_template.clone(), r.capacity)).collect();
    assert_eq!(sent, [("base-amd64".to_owned(), 5), ("base-arm64".to_owned(), 3)], "the cheaper first");
    let tokens: BTreeSet<_> = cloud.requests().into_iter().map(|r| r.client_token).collect();
    assert_eq!(tokens.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn prices_that_cannot_be_had_favour_arm() {
    let (cloud, compute) = fleet();
    cloud.fail("DescribeSpotPriceHistory", (0..9).map(|_| Fault::Refuse("UnauthorizedOperation", "no")));
    assert!(compute.launch(&order("rf1-a", spec(&["c6i.large", "c7g.large"]), 1)).await[0].is_ok());
    assert_eq!(cloud.requests()[0].launch_template, "base-arm64");
}

#[tokio::test(start_paused = true)]
async fn spot_is_used_only_where_it_may_be() {
    let off = Settings { spot_enabled: false, ..settings() };
    let (cloud, compute) = fleet_with(region(), off, None);
    assert!(!compute.launch(&arm(1)).await[0].as_ref().unwrap().spot);
    assert!(cloud.requests()[0].overrides.iter().all(|o| o.priority == Some(0)));
    let (_, compute) = fleet();
    let wanted = Order { spot: false, ..arm(1) };
    assert!(!compute.launch(&wanted).await[0].as_ref().unwrap().spot);
}

#[tokio::test(start_paused = true)]
async fn capacity_that_is_being_taken_back_is_avoided() {
    let store = db::Circuits::new(Arc::new(db::Memory::new(Arc::new(Still))), Arc::new(SeededRng::new(1)));
    let breaker = Breaker::new(Arc::new(store), Arc::new(Still), Metrics::new());
    let (cloud, compute) = fleet_with(region(), settings(), Some(breaker));
    let answers = compute.launch(&arm(3)).await;
    for machine in answers.iter().flatten() {
        compute.reclaimed(machine, at(0)).await;
        compute.reclaimed(machine, at(0)).await;
    }
    assert!(compute.launch(&order("rf1-b", spec(&["c7g.large"]), 1)).await[0].as_ref().unwrap().spot);
    assert_eq!(cloud.requests()[1].overrides.len(), 1, "the zone of the three is left out");
    // The whole type: more of them, elsewhere.
    for n in 0..3 {
        let elsewhere =
            Machine { key: format!("i-{n}").into(), zone: Some("1c".to_owned()), ..answers[0].clone().unwrap() };
        compute.reclaimed(&elsewhere, at(0)).await;
    }
    let answers = compute.launch(&order("rf1-c", spec(&["c7g.large"]), 1)).await;
    assert!(!answers[0].as_ref().unwrap().spot, "no spot capacity is left to ask for");
}

#[tokio::test(start_paused = true)]
async fn what_can_never_be_launched_is_refused_without_a_call() {
    let (cloud, compute) = fleet();
    let mixed = LaunchSpec { arch: Some(Arch::Arm64), ..spec(&["c7g.large", "c6i.large"]) };
    for spec in [LaunchSpec::default(), spec(&["x9.large"]), mixed] {
        assert!(matches!(compute.launch(&order("rf1-a", spec, 1)).await[0], Err(Error::Invalid(_))));
    }
    let calls = ["CreateFleet", "DescribeSubnets", "DescribeInstanceTypeOfferings", "DescribeSpotPriceHistory"];
    assert!(calls.iter().all(|operation| cloud.calls(operation) == 0));
    assert!(compute.launch(&Order { members: Members::Jobs(Vec::new()), ..arm(1) }).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn windows_needs_its_template() {
    let windows = || LaunchSpec { os: "windows".to_owned(), ..spec(&["c6i.large"]) };
    let (cloud, compute) = fleet();
    cloud.change(|world| world.templates = ["base-amd64".to_owned()].into());
    let answers = compute.launch(&order("rf1-a", windows(), 1)).await;
    assert!(matches!(&answers[0], Err(Error::Invalid(text)) if text.contains("windows_unsupported")));
    let (cloud, compute) = fleet();
    cloud.change(|world| world.templates = ["base-windows".to_owned()].into());
    assert!(compute.launch(&order("rf1-a", windows(), 1)).await[0].is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_missing_template_is_the_deployments_fault_and_heals_by_itself() {
    let (cloud, compute) = fleet();
    cloud.change(|world| world.templates = ["other".to_owned()].into());
    assert!(matches!(compute.launch(&arm(1)).await[0], Err(Error::Deployment(_))));
    cloud.change(|world| world.templates.clear());
    assert!(compute.launch(&arm(1)).await[0].is_ok());
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_pause_launching() {
    let (cloud, compute) = fleet();
    cloud.fail("CreateFleet", [Fault::Refuse("ExpiredToken", "The security token has expired")]);
    for launch in ["rf1-a", "rf1-b"] {
        assert!(matches!(compute.launch(&order(launch, spec(&["c7g.large"]), 1)).await[0], Err(Error::Deployment(_))));
    }
    assert_eq!(cloud.calls("CreateFleet"), 1);
    tokio::time::advance(Duration::from_secs(31)).await;
    assert!(compute.launch(&order("rf1-c", spec(&["c7g.large"]), 1)).await[0].is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_request_built_otherwise_under_a_used_name_finds_the_same_machines() {
    let (cloud, compute) = fleet();
    let first = keys(&compute.launch(&arm(2)).await);
    let restarted = process(&cloud, settings(), None);
    let again = restarted.launch(&order("rf1-a", spec(&["m7g.large"]), 2)).await;
    assert_eq!((keys(&again), cloud.instances().len()), (first, 2));
}

#[tokio::test(start_paused = true)]
async fn zones_named_twice_are_answered_with_one_subnet() {
    let (cloud, compute) = fleet();
    cloud.fail("DescribeSubnets", (0..9).map(|_| Fault::Refuse("UnauthorizedOperation", "no")));
    cloud.fail("CreateFleet", [Fault::Refuse("InvalidFleetConfig", "Duplicate zones in overrides")]);
    assert!(compute.launch(&arm(1)).await[0].is_ok());
    assert_eq!(cloud.requests().last().unwrap().overrides.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn tags_are_repeated_behind_the_launch_in_one_call_per_run() {
    let (cloud, compute) = fleet();
    cloud.fail("CreateTags", [Fault::Refuse("InternalError", "oops")]);
    let answers = compute.launch(&arm(6)).await;
    assert!(timeout(Duration::from_secs(100), compute.maintain()).await.is_err(), "it goes on for ever");
    assert_eq!(cloud.calls("CreateTags"), 3 + 1, "three runs, one call repeated");
    let runs: Vec<_> = cloud.instances().iter().map(|i| i.tags["runs-fleet:run-id"].clone()).collect();
    assert_eq!(runs, ["1", "1", "2", "2", "2", "3"], "as the slots were paired");
    assert!(answers.iter().all(Result::is_ok));
    assert!(cloud.instances().iter().all(|i| i.tags["runs-fleet:launch-id"] == "rf1-a"));
}

#[tokio::test(start_paused = true)]
async fn a_burst_stays_within_the_budget() {
    let (cloud, compute) = fleet();
    let began = Instant::now();
    for n in 0..20 {
        compute.ready().await;
        let answers = compute.launch(&order(&format!("rf1-{n}"), spec(&["c7g.large"]), 50)).await;
        assert_eq!(keys(&answers).len(), 50);
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(4_900) && took < Duration::from_secs(10), "{took:?}");
    assert_eq!((cloud.calls("CreateFleet"), cloud.instances().len()), (20, 1_000));
    assert_eq!(
        cloud.calls("DescribeSubnets") + cloud.calls("DescribeInstanceTypeOfferings"),
        2,
        "one region, asked once"
    );
}

#[tokio::test(start_paused = true)]
async fn a_new_machine_is_pending_until_ec2_knows_it() {
    let (cloud, compute) = fleet();
    cloud.change(|world| world.invisible = Duration::from_secs(3_600));
    let machine = compute.launch(&arm(1)).await.remove(0).unwrap();
    let filter = Filter { launch_id: Some("rf1-a".into()), ..Filter::default() };
    assert_eq!(compute.describe(&machine.key).await.unwrap().unwrap().state, MachineState::Pending);
    assert_eq!(compute.list(&filter).await.unwrap().len(), 1);
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(compute.describe(&machine.key).await, Ok(None));
    assert!(compute.list(&filter).await.unwrap().is_empty());
}

fn instance(id: &str, state: &str, spot: bool, managed: bool) -> Instance {
    let tags = if managed { [("runs-fleet:managed".to_owned(), "true".to_owned())].into() } else { [].into() };
    Instance {
        id: id.to_owned(),
        state: state.to_owned(),
        instance_type: "c7g.large".to_owned(),
        zone: Some("1a".to_owned()),
        spot,
        arch: None,
        image: None,
        profile: None,
        launched_at: Some(at(-900)),
        transition: None,
        tags,
    }
}

#[tokio::test(start_paused = true)]
async fn ending_is_repeatable_and_final() {
    let (cloud, compute) = fleet();
    assert_eq!(compute.terminate(&"i-unknown".into()).await, Ok(()));
    cloud.put(instance("i-spot", "running", true, true));
    cloud.change(|world| drop(world.persistent.insert("i-spot".to_owned(), "sir-1".to_owned())));
    cloud.put(instance("i-bare", "running", false, false));
    cloud.change(|world| world.guarded = true);
    for key in ["i-spot", "i-bare", "i-bare"] {
        assert_eq!(compute.terminate(&key.into()).await, Ok(()), "{key}");
    }
    assert!(cloud.instances().iter().all(|i| i.state == "terminated"));
    assert_eq!(cloud.calls("CancelSpotInstanceRequests"), 1);
    assert_eq!(cloud.calls("DescribeSpotInstanceRequests"), 1, "not for on-demand machines");
}

#[tokio::test(start_paused = true)]
async fn stopping_and_starting_are_for_on_demand_machines() {
    let (cloud, compute) = fleet();
    cloud.put(instance("i-od", "running", false, true));
    cloud.put(instance("i-spot", "running", true, true));
    for key in ["i-od", "i-od", "i-spot", "i-gone"] {
        assert_eq!(compute.stop(&key.into()).await, Ok(()), "{key}");
    }
    let states: Vec<_> = cloud.instances().into_iter().map(|i| (i.id, i.state)).collect();
    assert_eq!(states, [("i-od".into(), "stopped".into()), ("i-spot".into(), "terminated".to_owned())]);
    cloud.fail("StartInstances", [Fault::Refuse("InsufficientInstanceCapacity", "none")]);
    assert!(matches!(compute.start(&"i-od".into()).await, Err(Error::Capacity(_))));
    cloud.fail("StartInstances", [Fault::Refuse("IncorrectInstanceState", "not yet")]);
    assert_eq!(compute.start(&"i-od".into()).await, Ok(()));
    assert_eq!(compute.start(&"i-od".into()).await, Ok(()), "it runs already");
    cloud.alter("i-od", |i| i.state = "stopping".to_owned());
    assert!(matches!(compute.start(&"i-od".into()).await, Err(Error::Transient(_))));
}

#[tokio::test(start_paused = true)]
async fn only_ours_are_listed() {
    let (cloud, compute) = fleet();
    cloud.put(instance("i-ours", "stopped", false, true));
    cloud.put(instance("i-gone", "terminated", false, true));
    cloud.put(instance("i-foreign", "running", false, false));
    let listed = |include_gone| {
        let filter = Filter { include_gone, ..Filter::default() };
        let compute = &compute;
        async move { compute.list(&filter).await.unwrap().into_iter().map(|m| m.key.to_string()).collect::<Vec<_>>() }
    };
    assert_eq!(listed(false).await, ["i-ours"]);
    assert_eq!(listed(true).await, ["i-gone", "i-ours"]);
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::LoseAnswer),
        Just(Fault::LoseCall),
        Just(Fault::Refuse("InternalError", "oops")),
        Just(Fault::Refuse("RequestLimitExceeded", "slow down")),
        Just(Fault::Refuse("InsufficientInstanceCapacity", "none")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_slot_has_one_answer_and_every_machine_one_slot(
        slots in 1u64..12,
        left in proptest::collection::vec(0u32..8, 4),
        faults in proptest::collection::vec(fault(), 0..4),
        spot in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (cloud, compute) = fleet();
            for (n, name) in ["c7g.large", "c6i.large"].into_iter().enumerate() {
                leave(&cloud, name, true, left[n]);
                leave(&cloud, name, false, left[n + 2]);
            }
            cloud.fail("CreateFleet", faults);
            let order = Order { spot, ..order("rf1-a", spec(&["c7g.large", "c6i.large"]), slots) };
            let answers = compute.launch(&order).await;
            prop_assert!(Instant::now() <= order.until, "nothing goes on after the deadline");
            prop_assert_eq!(answers.len() as u64, slots);
            let ours = keys(&answers);
            prop_assert_eq!(ours.iter().collect::<BTreeSet<_>>().len(), ours.len(), "no machine twice");
            let launched: Vec<String> = cloud.instances().into_iter().map(|i| i.id).collect();
            prop_assert_eq!(&ours, &launched, "what was launched is what was answered");
            let again = Order { until: Instant::now() + Duration::from_secs(90), ..order.clone() };
            let repeated = keys(&compute.launch(&again).await);
            prop_assert!(repeated.starts_with(&ours), "the same order brings the same machines");
            prop_assert!(cloud.instances().len() as u64 <= slots, "and never one too many");
            Ok(())
        })?;
    }
}
