#![allow(clippy::disallowed_methods, reason = "these tests wait for real processes")]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::clock::{Clock, SystemClock, Timestamp};
use domain::handover::{Credential, HandOver as Document};
use domain::ids::{JobId, RunId, RunnerKey};
use domain::launch::LaunchSpec;
use tempfile::TempDir;

use super::{FileHandOver, Keep, ProcessCompute, Settings, Stage, read_machines};
use crate::compute::{self, Compute, Error, Filter, MachineState, Order, Slot};
use crate::handover::{self, HandOver};
use crate::processes::{Members, ProcessId, find};
use crate::tags;

/// A clock that is set by hand.
#[derive(Clone)]
struct Hand(Arc<Mutex<Timestamp>>);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

async fn open(root: &Path, script: &str) -> ProcessCompute {
    open_with(root, script, Keep::default(), Arc::new(SystemClock)).await
}

async fn open_with(root: &Path, script: &str, keep: Keep, clock: Arc<dyn Clock>) -> ProcessCompute {
    let settings = Settings {
        root: root.to_owned(),
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        env: BTreeMap::from([("EXTRA".to_owned(), "extra".to_owned())]),
        keep,
    };
    ProcessCompute::open(settings, clock).await.unwrap()
}

fn order(launch: &str, jobs: &[u64]) -> Order {
    let slot =
        |job: &u64| Slot { job: JobId::new(*job).unwrap(), run: RunId::new(7), repo: "acme/shop".parse().unwrap() };
    Order {
        launch_id: launch.into(),
        spec: LaunchSpec { instance_type: "c7g.large".to_owned(), ..LaunchSpec::default() },
        spot: true,
        members: compute::Members::Jobs(jobs.iter().map(slot).collect()),
        until: tokio::time::Instant::now() + Duration::from_secs(60),
    }
}

/// Launches and starts one machine.
async fn started(compute: &ProcessCompute, launch: &str) -> RunnerKey {
    let key = compute.launch(&order(launch, &[1])).await.remove(0).unwrap().key;
    compute.start(&key).await.unwrap();
    key
}

async fn state(compute: &ProcessCompute, key: &RunnerKey) -> MachineState {
    compute.describe(key).await.unwrap().unwrap().state
}

async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    for _ in 0..6_000 {
        if look().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain for {what}");
}

fn read(root: &Path, key: &RunnerKey, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(root.join("machines").join(key.as_str()).join(name)).ok()?;
    (!text.is_empty()).then_some(text)
}

fn alive(pid: &str) -> bool {
    ProcessId::of(pid.trim().parse().unwrap()).is_some_and(ProcessId::is_alive)
}

fn marked(key: &RunnerKey) -> usize {
    find(&Members { session: None, marker: Some(key.to_string()) }).len()
}

#[tokio::test]
async fn a_launch_makes_directories_and_a_repeated_one_the_same() {
    let root = TempDir::new().unwrap();
    let compute = open(root.path(), "sleep 1000").await;
    let both = order("l-1", &[1, 2]);
    let first: Vec<_> = compute.launch(&both).await.into_iter().map(Result::unwrap).collect();
    let again: Vec<_> = compute.launch(&both).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(first, again);
    assert_ne!(first[0].key, first[1].key);
    for machine in &first {
        let digits = machine.key.as_str().strip_prefix("i-").unwrap();
        assert!(digits.len() == 17 && digits.bytes().all(|b| b.is_ascii_hexdigit()), "{}", machine.key);
        assert_eq!(machine.state, MachineState::Pending);
        assert_eq!((machine.instance_type.as_str(), machine.spot), ("c7g.large", true));
        assert_eq!(machine.tags["runs-fleet:managed"], "true");
    }
    assert_eq!(first[1].tags["runs-fleet:job-id"], "2");

    let elsewhere = TempDir::new().unwrap();
    let other = open(elsewhere.path(), "sleep 1000").await.launch(&both).await.remove(0).unwrap();
    assert_ne!(other.key, first[0].key, "equal launches below two roots are two machines");

    let reopened = open(root.path(), "sleep 1000").await;
    let after: Vec<_> = reopened.launch(&both).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(first, after, "also by the next orchestrator");
    let other = compute.launch(&order("l-2", &[1])).await.remove(0).unwrap();
    let found = compute.list(&Filter { launch_id: Some("l-2".into()), ..Filter::default() }).await.unwrap();
    assert_eq!(found, [other]);
    let windows = LaunchSpec { os: "windows".to_owned(), ..LaunchSpec::default() };
    let refused = compute.launch(&Order { spec: windows, ..order("l-3", &[1]) }).await.remove(0);
    assert!(matches!(refused, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn a_started_machine_is_one_process_with_its_own_environment() {
    let root = TempDir::new().unwrap();
    let compute = open(root.path(), "env > env.part; mv env.part env; echo hello; exec sleep 1000").await;
    let key = started(&compute, "l").await;
    compute.start(&key).await.unwrap();
    until("the agent", async || read(root.path(), &key, "env").is_some()).await;
    compute.start(&key).await.unwrap();
    until("exec", async || marked(&key) == 1).await;
    assert_eq!(state(&compute, &key).await, MachineState::Running);
    assert_eq!(read(root.path(), &key, "agent.log").unwrap(), "hello\n", "spawned once");

    let env = read(root.path(), &key, "env").unwrap();
    let dir = root.path().join("machines").join(key.as_str());
    for line in [
        format!("RUNS_FLEET_INSTANCE_ID={key}"),
        format!("RUNS_FLEET_MACHINE={key}"),
        format!("RUNS_FLEET_STATE_DIR={}", dir.display()),
        format!("PWD={}", dir.display()),
        "EXTRA=extra".to_owned(),
    ] {
        assert!(env.lines().any(|found| found == line), "{line} is not in {env}");
    }
    assert!(!env.contains("CARGO_"), "the orchestrator's environment is its own");
    let record = &read_machines(root.path()).unwrap()[0];
    assert_eq!((record.state, &record.key), (Stage::Started, &key));
    assert!(record.spawned_at_ms.unwrap() >= record.launched_at.as_millisecond());
    assert_eq!(compute.record(&key).as_ref(), Some(record));
    compute.terminate(&key).await.unwrap();
}

#[tokio::test]
async fn a_machine_survives_its_orchestrator_and_is_found_again() {
    let root = TempDir::new().unwrap();
    let key = {
        let compute = open(root.path(), "exec sleep 1000").await;
        started(&compute, "l").await
    };
    let next = open(root.path(), "exec sleep 1000").await;
    assert_eq!(state(&next, &key).await, MachineState::Running);
    next.start(&key).await.unwrap();
    assert_eq!(marked(&key), 1);
    next.terminate(&key).await.unwrap();
    assert_eq!(marked(&key), 0);
    assert_eq!(state(&next, &key).await, MachineState::Terminated);
}

#[tokio::test]
async fn a_spawn_that_was_not_recorded_is_not_repeated() {
    let root = TempDir::new().unwrap();
    let compute = open(root.path(), "echo up; exec sleep 1000").await;
    let key = compute.launch(&order("l", &[1])).await.remove(0).unwrap().key;
    let path = root.path().join("machines").join(key.as_str()).join("machine.json");
    let before = std::fs::read(&path).unwrap();
    compute.start(&key).await.unwrap();
    until("the agent", async || read(root.path(), &key, "agent.log").is_some()).await;
    std::fs::write(&path, before).unwrap();

    let next = open(root.path(), "echo up; exec sleep 1000").await;
    assert_eq!(state(&next, &key).await, MachineState::Pending);
    next.start(&key).await.unwrap();
    assert_eq!(state(&next, &key).await, MachineState::Running);
    assert_eq!(read(root.path(), &key, "agent.log").unwrap(), "up\n");
    next.terminate(&key).await.unwrap();
    assert_eq!(marked(&key), 0);
}

#[tokio::test]
async fn terminate_leaves_no_descendant_and_can_be_repeated() {
    let root = TempDir::new().unwrap();
    let script = "trap '' TERM INT
                  setsid sleep 1000 & echo $! > daemon; (sleep 1000 & echo $! > grandchild)
                  (setsid sh -c 'sleep 1000; true' & ) ; echo up > up; while :; do sleep 1; done";
    let compute = open(root.path(), script).await;
    let key = started(&compute, "l").await;
    until("the agent", async || read(root.path(), &key, "up").is_some()).await;
    compute.terminate(&key).await.unwrap();
    assert_eq!(marked(&key), 0);
    for name in ["daemon", "grandchild"] {
        assert!(!alive(&read(root.path(), &key, name).unwrap()), "{name}");
    }
    assert_eq!(state(&compute, &key).await, MachineState::Terminated);
    compute.terminate(&key).await.unwrap();
    compute.terminate(&"i-unknown".into()).await.unwrap();
    assert_eq!(compute.list(&Filter::default()).await.unwrap(), []);
    assert_eq!(compute.list(&Filter { include_gone: true, ..Filter::default() }).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_machine_whose_agent_ended_is_terminated_and_its_leavings_can_be_ended() {
    let root = TempDir::new().unwrap();
    let compute = open(root.path(), "setsid sleep 1000 & echo $! > daemon").await;
    let key = started(&compute, "l").await;
    until("the end", async || state(&compute, &key).await == MachineState::Terminated).await;
    until("its record", async || compute.record(&key).unwrap().ended_at.is_some()).await;
    let record = compute.record(&key).unwrap();
    assert!(ProcessId::of(record.process.unwrap().pid) != record.process, "no zombie stays");
    assert!(alive(&read(root.path(), &key, "daemon").unwrap()));
    compute.terminate(&key).await.unwrap();
    assert!(!alive(&read(root.path(), &key, "daemon").unwrap()));
    compute.start(&key).await.unwrap();
    assert_eq!(state(&compute, &key).await, MachineState::Terminated, "ended is ended");
}

#[tokio::test]
async fn what_never_started_ends_without_a_process() {
    let root = TempDir::new().unwrap();
    let compute = open(root.path(), "sleep 1000").await;
    let key = compute.launch(&order("l", &[1])).await.remove(0).unwrap().key;
    compute.terminate(&key).await.unwrap();
    assert_eq!(state(&compute, &key).await, MachineState::Terminated);
    assert!(matches!(compute.start(&key).await, Err(Error::Invalid(_))));
    assert!(matches!(compute.start(&"i-unknown".into()).await, Err(Error::Invalid(_))));
    assert_eq!(compute.stop(&key).await, Ok(()), "nothing of it runs");
}

#[tokio::test]
async fn a_missing_agent_is_the_deployments_fault() {
    let root = TempDir::new().unwrap();
    let settings = Settings {
        root: root.path().to_owned(),
        program: "/nowhere/agent".into(),
        args: Vec::new(),
        env: BTreeMap::new(),
        keep: Keep::default(),
    };
    let compute = ProcessCompute::open(settings, Arc::new(SystemClock)).await.unwrap();
    let key = compute.launch(&order("l", &[1])).await.remove(0).unwrap().key;
    assert!(matches!(compute.start(&key).await, Err(Error::Deployment(_))));
    assert_eq!(state(&compute, &key).await, MachineState::Pending, "and can be tried again");
}

#[tokio::test]
async fn ended_machines_go_by_number_and_by_age() {
    let root = TempDir::new().unwrap();
    let clock = Hand(Arc::new(Mutex::new(Timestamp::from_second(1_000_000).unwrap())));
    let advance = |seconds: i64| {
        let mut now = clock.0.lock().unwrap();
        *now += domain::clock::SignedDuration::from_secs(seconds);
    };
    let keep = Keep { age: Duration::from_secs(100), count: 2 };
    let compute = open_with(root.path(), "exec sleep 1000", keep, Arc::new(clock.clone())).await;
    let mut keys = Vec::new();
    for launch in ["a", "b", "c"] {
        let key = compute.launch(&order(launch, &[1])).await.remove(0).unwrap().key;
        compute.terminate(&key).await.unwrap();
        keys.push(key);
        advance(10);
    }
    let live = started(&compute, "live").await;
    let dirs = || {
        let mut names: Vec<String> = std::fs::read_dir(root.path().join("machines"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let sorted = |keys: &[&RunnerKey]| {
        let mut names: Vec<String> = keys.iter().map(|key| key.to_string()).collect();
        names.sort();
        names
    };
    compute.prune().await;
    assert_eq!(dirs(), sorted(&[&keys[1], &keys[2], &live]));
    assert_eq!(compute.describe(&keys[0]).await.unwrap(), None);
    advance(85);
    compute.prune().await;
    assert_eq!(dirs(), sorted(&[&keys[2], &live]));
    advance(1_000);
    std::fs::create_dir(root.path().join("machines/i-half")).unwrap();
    let next = open_with(root.path(), "exec sleep 1000", keep, Arc::new(clock.clone())).await;
    assert_eq!(dirs(), sorted(&[&live]), "a directory without a record was never launched");
    next.terminate(&live).await.unwrap();
}

#[tokio::test]
async fn a_reused_pid_is_somebody_else() {
    let own = ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap();
    assert!(own.is_alive());
    let earlier = ProcessId { start_time: own.start_time - 1, ..own };
    assert!(!earlier.is_alive());
    // The session of a process whose pid now belongs to another is nobody's.
    let mut other = std::process::Command::new("setsid").args(["sleep", "1000"]).spawn().unwrap();
    let pid = i32::try_from(other.id()).unwrap();
    let leader = async || ProcessId::of(pid).is_some_and(|id| find(&session(id)).len() == 1);
    until("the session", leader).await;
    let id = ProcessId::of(pid).unwrap();
    let former = ProcessId { start_time: id.start_time - 1, ..id };
    assert_eq!(find(&session(former)), []);
    assert_eq!(find(&Members::default()), []);
    crate::processes::end(&session(id), Duration::from_secs(30)).await.unwrap();
    assert!(!id.is_alive());
    other.wait().unwrap();
}

/// An order for spares. Their program writes a line whenever it gets to.
fn spares(launch: &str, count: usize) -> Order {
    let members = compute::Members::Pool { pool: "fast".parse().unwrap(), count };
    Order { members, ..order(launch, &[]) }
}

const TICKS: &str = "setsid sh -c 'while :; do echo child >> child.log; sleep 0.02; done' &
                     while :; do echo tick; sleep 0.02; done";

async fn spare(compute: &ProcessCompute, launch: &str) -> RunnerKey {
    compute.launch(&spares(launch, 1)).await.remove(0).unwrap().key
}

/// Whether both processes of a ticking machine write.
async fn ticks(root: &Path, key: &RunnerKey) -> bool {
    let size = |name: &str| read(root, key, name).map_or(0, |text| text.len());
    let before = (size("agent.log"), size("child.log"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    size("agent.log") > before.0 && size("child.log") > before.1
}

fn states(key: &RunnerKey) -> Vec<char> {
    let found = find(&Members { session: None, marker: Some(key.to_string()) });
    let state = |id: ProcessId| procfs::process::Process::new(id.pid).and_then(|process| process.stat()).unwrap().state;
    found.into_iter().map(|found| state(found.id)).collect()
}

#[tokio::test]
async fn a_spare_runs_from_its_launch_and_is_nobodys() {
    let root = TempDir::new().unwrap();
    let compute = open(root.path(), "env > env.part; mv env.part env; exec sleep 1000").await;
    let machines: Vec<_> = compute.launch(&spares("p", 2)).await.into_iter().map(Result::unwrap).collect();
    for machine in &machines {
        assert_eq!((machine.state, machine.spot, machine.pool()), (MachineState::Running, false, Some("fast")));
        assert!(machine.launch_id.is_none() && !machine.is_assigned());
    }
    let again: Vec<_> = compute.launch(&spares("p", 2)).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(machines, again, "a repeated order makes no third");
    until("the agent", async || read(root.path(), &machines[0].key, "env").is_some()).await;
    compute.start(&machines[0].key).await.unwrap();
    assert_eq!(marked(&machines[0].key), 1);
    let filter = Filter { pool: "fast".parse().ok(), ..Filter::default() };
    assert_eq!(compute.list(&filter).await.unwrap().len(), 2);
    let other = Filter { pool: "slow".parse().ok(), ..Filter::default() };
    assert_eq!(compute.list(&other).await.unwrap(), []);
    for machine in machines {
        compute.terminate(&machine.key).await.unwrap();
        assert!(matches!(compute.start(&machine.key).await, Err(Error::Transient(_))), "no job is to wait for it");
    }
}

#[tokio::test]
async fn a_stopped_machine_does_nothing_until_it_is_started_and_then_goes_on() {
    let root = TempDir::new().unwrap();
    let clock = Hand(Arc::new(Mutex::new(Timestamp::from_second(1_000_000).unwrap())));
    let compute = open_with(root.path(), TICKS, Keep::default(), Arc::new(clock.clone())).await;
    let key = spare(&compute, "p").await;
    until("both", async || ticks(root.path(), &key).await).await;
    for _ in 0..2 {
        compute.stop(&key).await.unwrap();
        assert_eq!(state(&compute, &key).await, MachineState::Stopped);
        assert!(states(&key).iter().all(|state| *state == 'T'), "{:?}", states(&key));
    }
    assert!(!ticks(root.path(), &key).await);

    // The next orchestrator finds it as it is.
    drop(compute);
    let next = open_with(root.path(), TICKS, Keep::default(), Arc::new(clock.clone())).await;
    assert_eq!(state(&next, &key).await, MachineState::Stopped);
    *clock.0.lock().unwrap() += domain::clock::SignedDuration::from_secs(500);
    for _ in 0..2 {
        next.start(&key).await.unwrap();
        assert_eq!(state(&next, &key).await, MachineState::Running);
    }
    assert_eq!(next.describe(&key).await.unwrap().unwrap().launched_at, clock.now(), "as EC2 counts it");
    until("both again", async || ticks(root.path(), &key).await).await;

    next.stop(&key).await.unwrap();
    next.terminate(&key).await.unwrap();
    assert_eq!((state(&next, &key).await, marked(&key)), (MachineState::Terminated, 0));
}

#[tokio::test]
async fn a_stopped_machine_that_died_is_gone() {
    let root = TempDir::new().unwrap();
    let compute = open(root.path(), "exec sleep 1000").await;
    let key = spare(&compute, "p").await;
    compute.stop(&key).await.unwrap();
    let members = Members { session: None, marker: Some(key.to_string()) };
    crate::processes::end(&members, Duration::from_secs(30)).await.unwrap();
    until("the end", async || state(&compute, &key).await == MachineState::Terminated).await;
    assert!(matches!(compute.start(&key).await, Err(Error::Transient(_))));
    compute.stop(&key).await.unwrap();
    assert_eq!(state(&compute, &key).await, MachineState::Terminated);
}

#[tokio::test]
async fn a_spot_machine_is_not_stopped_but_ended() {
    let root = TempDir::new().unwrap();
    let compute = open(root.path(), "exec sleep 1000").await;
    let key = started(&compute, "l").await;
    compute.stop(&key).await.unwrap();
    assert_eq!((state(&compute, &key).await, marked(&key)), (MachineState::Terminated, 0));
    compute.stop(&"i-unknown".into()).await.unwrap();
}

#[tokio::test]
async fn spares_that_were_never_spawned_do_not_stay() {
    let root = TempDir::new().unwrap();
    let compute = open(root.path(), "exec sleep 1000").await;
    let key = spare(&compute, "p").await;
    // As if the orchestrator had died before the spawn was recorded.
    let path = root.path().join("machines").join(key.as_str()).join("machine.json");
    let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    record["state"] = "launched".into();
    record["process"] = serde_json::Value::Null;
    std::fs::write(&path, record.to_string()).unwrap();
    let next = open(root.path(), "exec sleep 1000").await;
    assert_eq!((state(&next, &key).await, marked(&key)), (MachineState::Terminated, 0));

    let settings = Settings {
        root: root.path().to_owned(),
        program: "/nowhere/agent".into(),
        args: Vec::new(),
        env: BTreeMap::new(),
        keep: Keep::default(),
    };
    let broken = ProcessCompute::open(settings, Arc::new(SystemClock)).await.unwrap();
    assert!(matches!(broken.launch(&spares("q", 1)).await.remove(0), Err(Error::Deployment(_))));
    assert_eq!(broken.list(&Filter::default()).await.unwrap(), [], "nobody would start it later");
}

#[tokio::test]
async fn tags_are_kept_and_can_be_taken_away() {
    let root = TempDir::new().unwrap();
    let compute = open(root.path(), "exec sleep 1000").await;
    let key = spare(&compute, "p").await;
    let assigned =
        [(tags::ASSIGNED, "true"), (tags::JOB_ID, "7")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    for _ in 0..2 {
        compute.tag(&key, &assigned).await.unwrap();
    }
    let next = open(root.path(), "exec sleep 1000").await;
    let machine = next.describe(&key).await.unwrap().unwrap();
    assert!(machine.is_assigned() && machine.tags[tags::JOB_ID] == "7");
    for _ in 0..2 {
        next.untag(&key, &[tags::ASSIGNED, tags::JOB_ID]).await.unwrap();
    }
    assert!(!next.describe(&key).await.unwrap().unwrap().is_assigned());
    next.terminate(&key).await.unwrap();
}

fn session(id: ProcessId) -> Members {
    Members { session: Some(id), marker: None }
}

#[tokio::test]
async fn hand_overs_are_private_files() {
    let root = TempDir::new().unwrap();
    let dir = root.path().join("handovers");
    let store = FileHandOver::new(&dir);
    let key: RunnerKey = "i-1".into();
    assert_eq!(store.get(&key).await.unwrap(), None);
    assert_eq!(store.list().await.unwrap(), []);
    store.delete(&key).await.unwrap();
    let first = Document { repo: "o/r".to_owned(), jit_config: Credential::new("anit"), ..Document::default() };
    store.put(&key, &first).await.unwrap();
    let second = Document { repo: "o/s".to_owned(), ..first };
    store.put(&key, &second).await.unwrap();
    assert_eq!(store.get(&key).await.unwrap().as_ref(), Some(&second));
    assert_eq!(store.list().await.unwrap(), std::slice::from_ref(&key));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&dir.join("i-1.json"))), (0o700, 0o600));
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "nothing unfinished stays");
    store.delete(&key).await.unwrap();
    assert_eq!(store.get(&key).await.unwrap(), None);
}

#[tokio::test]
async fn a_hand_overs_key_is_a_name_and_never_a_path() {
    let root = TempDir::new().unwrap();
    let store = FileHandOver::new(root.path().join("handovers"));
    let long = "a".repeat(129);
    for key in ["", ".", "..", "../x", "a/b", "/etc/passwd", ".hidden", "-x", "a\0b", "a b", long.as_str()] {
        let refused = store.put(&key.into(), &Document::default()).await;
        assert!(matches!(refused, Err(handover::Error::Invalid(_))), "{key}");
        assert!(store.get(&key.into()).await.is_err() && store.delete(&key.into()).await.is_err(), "{key}");
    }
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    for key in ["i-0123456789abcdef0", "runner-x-7.pod_1"] {
        store.put(&key.into(), &Document::default()).await.unwrap();
    }
}

#[tokio::test]
async fn an_unreadable_hand_over_does_not_quote_itself() {
    let root = TempDir::new().unwrap();
    std::fs::write(root.path().join("i-1.json"), "{\"is_org\": \"hunter2\"}").unwrap();
    let error = FileHandOver::new(root.path()).get(&"i-1".into()).await.unwrap_err();
    assert!(matches!(error, handover::Error::Invalid(_)) && !error.to_string().contains("hunter2"), "{error}");
}
