use std::collections::BTreeMap;

use async_trait::async_trait;
use domain::clock::SystemRng;
use domain::ids::{JobId, RunnerKey};
use domain::launch::Arch;
use domain::testing::at;
use provider::compute::{Filter, MachineState, SpotRequest};
use tokio::time::{advance, timeout};

use super::*;

/// Answers every order with a machine per slot, up to a limit.
#[derive(Default)]
struct Cloud {
    orders: Mutex<Vec<Order>>,
    takes: Duration,
    ready_after: Duration,
    at_most: Option<usize>,
    dies: bool,
}

#[async_trait]
impl Compute for Cloud {
    async fn ready(&self) {
        tokio::time::sleep(self.ready_after).await;
    }
    async fn launch(&self, order: &Order) -> Vec<Result<Machine, Error>> {
        let call = {
            let mut orders = lock(&self.orders);
            orders.push(order.clone());
            orders.len()
        };
        tokio::time::sleep(self.takes).await;
        assert!(!self.dies, "as the test wants it");
        let machine = |index: usize| Machine {
            key: RunnerKey::new(format!("i-{call:02}-{index:02}")),
            state: MachineState::Pending,
            instance_type: "c7g.xlarge".to_owned(),
            zone: None,
            spot: order.spot,
            arch: None,
            image: None,
            launched_at: at(0),
            ended_at: None,
            launch_id: Some(order.launch_id.clone()),
            tags: BTreeMap::new(),
        };
        let made = |index| match self.at_most {
            Some(most) if index >= most => Err(Error::Capacity("none left".to_owned())),
            _ => Ok(machine(index)),
        };
        (0..order.members.len()).map(made).collect()
    }
    async fn start(&self, _: &RunnerKey) -> Result<(), Error> {
        Ok(())
    }
    async fn stop(&self, _: &RunnerKey) -> Result<(), Error> {
        Ok(())
    }
    async fn terminate(&self, _: &RunnerKey) -> Result<(), Error> {
        Ok(())
    }
    async fn describe(&self, _: &RunnerKey) -> Result<Option<Machine>, Error> {
        Ok(None)
    }
    async fn tag(&self, _: &RunnerKey, _: &[(String, String)]) -> Result<(), Error> {
        Ok(())
    }
    async fn untag(&self, _: &RunnerKey, _: &[&str]) -> Result<(), Error> {
        Ok(())
    }
    async fn list(&self, _: &Filter) -> Result<Vec<Machine>, Error> {
        Ok(Vec::new())
    }
    async fn current_image(&self, _: Arch) -> Result<Option<String>, Error> {
        Ok(None)
    }
    async fn spot_requests(&self) -> Result<Vec<SpotRequest>, Error> {
        Ok(Vec::new())
    }
    async fn cancel_spot_requests(&self, _: &[String]) -> Result<(), Error> {
        Ok(())
    }
}

fn batcher(cloud: Cloud) -> (Arc<Batcher>, Arc<Cloud>) {
    let cloud = Arc::new(cloud);
    let limits = Limits {
        max: 3,
        linger: Duration::from_millis(100),
        grace: Duration::from_secs(5),
        spare: Duration::from_secs(90),
    };
    (Batcher::new(cloud.clone(), Arc::new(SystemRng), Metrics::new(), limits, Weak::new()), cloud)
}

fn member(job: u64, queued: i64) -> Member {
    Member {
        slot: Slot { job: JobId::new(job).unwrap(), run: None, repo: "org/repo".parse().unwrap() },
        queued_at: at(queued),
        until: Instant::now() + Duration::from_secs(90),
        class: None,
    }
}

fn spec(cpus: u32) -> LaunchSpec {
    LaunchSpec { cpu_min: cpus, ..LaunchSpec::default() }
}

fn jobs(order: &Order) -> Vec<u64> {
    order.members.slots().iter().map(|slot| slot.job.get()).collect()
}

#[test]
fn a_batch_waits_only_for_company_that_may_come() {
    let facts = Facts { members: 1, max: 3, lingered: false, approaching: 0, calls: 0, closing: false };
    for (what, facts, expected) in [
        ("nobody else", facts, Step::Flush),
        ("others on the way", Facts { approaching: 1, ..facts }, Step::Wait),
        ("a call under way", Facts { calls: 1, ..facts }, Step::Wait),
        ("waited long enough", Facts { approaching: 9, lingered: true, ..facts }, Step::Flush),
        ("full", Facts { approaching: 9, members: 3, ..facts }, Step::Flush),
        ("shutdown", Facts { approaching: 9, closing: true, ..facts }, Step::Flush),
        ("everybody left", Facts { members: 0, lingered: true, closing: true, ..facts }, Step::Dissolve),
    ] {
        assert_eq!(step(facts), expected, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_single_job_is_not_delayed() {
    let (batcher, cloud) = batcher(Cloud::default());
    let began = Instant::now();
    let approach = batcher.approach();
    let ticket = batcher.join(&spec(4), true).submit(member(7, 0));
    drop(approach);
    ticket.machine().await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(lock(&cloud.orders).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn alike_jobs_go_together_oldest_first_and_others_apart() {
    let (batcher, cloud) = batcher(Cloud { at_most: Some(2), ..Cloud::default() });
    let approach = batcher.approach();
    let young = batcher.join(&spec(4), true).submit(member(1, 50));
    let other = batcher.join(&spec(8), true).submit(member(2, 0));
    let demand = batcher.join(&spec(4), false).submit(member(3, 0));
    let old = batcher.join(&spec(4), true).submit(member(5, 10));
    let twin = batcher.join(&spec(4), true).submit(member(4, 10));
    drop(approach);
    let (young, other, demand, old, twin) =
        tokio::join!(young.machine(), other.machine(), demand.machine(), old.machine(), twin.machine());
    assert!(matches!(young, Err(Error::Capacity(_))), "the youngest goes without: {young:?}");
    assert!(twin.unwrap().key < old.unwrap().key);
    assert!(other.is_ok() && demand.is_ok());
    let mut orders = lock(&cloud.orders).clone();
    orders.sort_by_key(|order| (order.spec.cpu_min, !order.spot));
    assert_eq!(orders.iter().map(jobs).collect::<Vec<_>>(), [vec![4, 5, 1], vec![3], vec![2]]);
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_members_that_are_writing_and_not_for_those_that_left() {
    let (batcher, cloud) = batcher(Cloud::default());
    let first = batcher.join(&spec(4), true);
    let second = batcher.join(&spec(4), true);
    assert_eq!(first.launch_id(), second.launch_id());
    let ticket = first.submit(member(1, 0));
    advance(Duration::from_secs(1)).await;
    tokio::task::yield_now().await;
    assert!(lock(&cloud.orders).is_empty(), "one has not written yet");
    drop(second);
    ticket.machine().await.unwrap();
    assert_eq!(jobs(&lock(&cloud.orders)[0]), [1]);
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_before_the_call_gets_no_machine_and_an_empty_batch_makes_no_call() {
    let (batcher, cloud) = batcher(Cloud::default());
    let approach = batcher.approach();
    let stays = batcher.join(&spec(4), true).submit(member(1, 0));
    drop(batcher.join(&spec(4), true).submit(member(2, 0)));
    drop(batcher.join(&spec(8), true).submit(member(3, 0)));
    drop(approach);
    stays.machine().await.unwrap();
    batcher.finish().await;
    assert_eq!(lock(&cloud.orders).iter().map(jobs).collect::<Vec<_>>(), [vec![1]]);
    assert!(lock(&batcher.state).batches.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_batch_fills_while_the_provider_is_not_ready() {
    let (batcher, cloud) = batcher(Cloud { ready_after: Duration::from_secs(5), ..Cloud::default() });
    let mut tickets = vec![batcher.join(&spec(4), true).submit(member(1, 0))];
    advance(Duration::from_secs(2)).await;
    for job in 2..=4 {
        tickets.push(batcher.join(&spec(4), true).submit(member(job, 0)));
    }
    for ticket in tickets {
        ticket.machine().await.unwrap();
    }
    assert_eq!(lock(&cloud.orders).iter().map(jobs).collect::<Vec<_>>(), [vec![1, 2, 3], vec![4]]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_dies_leaves_nobody_waiting() {
    let (batcher, _) = batcher(Cloud { dies: true, ..Cloud::default() });
    let ticket = batcher.join(&spec(4), true).submit(member(1, 0));
    let answer = timeout(Duration::from_secs(1), ticket.machine()).await.unwrap();
    assert!(matches!(answer, Err(Error::Transient(_))), "{answer:?}");
    let state = lock(&batcher.state);
    assert!(state.batches.is_empty() && state.calls == 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_end_is_cut_off() {
    let (batcher, _) = batcher(Cloud { takes: Duration::from_secs(1000), ..Cloud::default() });
    let ticket = batcher.join(&spec(4), true).submit(member(1, 0));
    let began = Instant::now();
    assert!(matches!(ticket.machine().await, Err(Error::Transient(_))));
    assert_eq!(began.elapsed(), Duration::from_secs(95));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_sends_off_what_waits_and_waits_for_it() {
    let (batcher, cloud) = batcher(Cloud { takes: Duration::from_secs(2), ..Cloud::default() });
    let _approach = batcher.approach();
    let began = Instant::now();
    let ticket = batcher.join(&spec(4), true).submit(member(1, 0));
    let (_, answer) = tokio::join!(batcher.finish(), ticket.machine());
    answer.unwrap();
    assert_eq!(began.elapsed(), Duration::from_secs(2), "without lingering");
    assert_eq!(lock(&cloud.orders).len(), 1);
}
