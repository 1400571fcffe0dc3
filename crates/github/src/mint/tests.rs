//! Names read back, names moved on from, documents with exactly one credential.

use std::time::Duration;

use domain::clock::Timestamp;
use domain::ids::{DispatchId, JobId, PoolName, Repo, RunId, RunnerId, RunnerKey};
use domain::launch::{Arch, LaunchSpec};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::client::tests::fake::{Answer, Asked, Fake, client, empty, message, ok, repo, unreachable};

const KEY: &str = "i-0abc123def4567890";

fn naming<'a>(key: &'a RunnerKey, pool: Option<&'a PoolName>, repo: &'a Repo) -> Naming<'a> {
    Naming { key, pool, repo, spec: None, job: JobId::new(65_558_617_323) }
}

#[test]
fn names_tell_pool_or_machine_job_and_instance() {
    let (key, repo) = (RunnerKey::from(KEY), repo());
    let pool: PoolName = "default".parse().unwrap();
    let pooled = naming(&key, Some(&pool), &repo);
    assert_eq!(runner_name(&pooled, 0), "runs-fleet-runner-default-617323-0abc123def4567890");
    assert_eq!(runner_name(&pooled, 2), "runs-fleet-runner-default-617323-r2-0abc123def4567890");
    let spec = LaunchSpec {
        arch: Some(Arch::Arm64),
        cpu_min: 4,
        ram_min: 8.5,
        storage_gib: 50,
        families: vec!["c7g".to_owned()],
        gen_: 7,
        ..LaunchSpec::default()
    };
    let short = RunnerKey::from("i-0abc1234");
    let described = Naming { spec: Some(&spec), job: None, ..naming(&short, None, &repo) };
    assert_eq!(runner_name(&described, 0), "runs-fleet-runner-widgets-arm64-cpu4-ram8-disk50-c7g-ge-0abc1234");
    let small = Naming { job: JobId::new(42), ..naming(&short, None, &repo) };
    assert_eq!(runner_name(&small, 0), "runs-fleet-runner-widgets-42-0abc1234");
}

#[test]
fn the_cut_falls_on_the_front_and_leaves_no_dash() {
    let (key, repo) = (RunnerKey::from(KEY), repo());
    let pool: PoolName = "a-pool-name-that-is--far-too-long-for-a-runner-name".parse().unwrap();
    let name = runner_name(&naming(&key, Some(&pool), &repo), 0);
    assert_eq!(name, "runs-fleet-runner-a-pool-name-that-is-617323-0abc123def4567890");
}

#[test]
fn pods_keep_their_own_name() {
    let (key, repo) = (RunnerKey::from("job-617323-r1"), repo());
    let pod = naming(&key, None, &repo);
    assert_eq!(runner_name(&pod, 0), "runs-fleet-job-617323-r1");
    assert_eq!(runner_name(&pod, 2), "runs-fleet-job-617323-r1-n2");
    for n in [0, 2] {
        assert_eq!(runner_key_candidates(&runner_name(&pod, n)), std::slice::from_ref(&key));
    }
}

#[test]
fn machines_are_read_back_from_every_form_of_name() {
    let cases: [(&str, &[&str]); 7] = [
        ("runs-fleet-i-0abc123def4567890", &["i-0abc123def4567890"]),
        ("runs-fleet-i-0abc1234", &["i-0abc1234"]),
        ("runs-fleet-runner-p-617323-67890", &["runner-p-617323-67890"]),
        ("runs-fleet-job-n7-n12", &["job-n7"]),
        ("runs-fleet-ip-10-0-0-1", &["ip-10-0-0-1"]),
        ("runs-fleet-", &[]),
        ("someone-elses-0abc1234", &[]),
    ];
    for (name, keys) in cases {
        let keys: Vec<_> = keys.iter().map(|k| RunnerKey::from(*k)).collect();
        assert_eq!(runner_key_candidates(name), keys, "{name}");
    }
}

proptest! {
    #[test]
    fn every_name_fits_and_leads_back_to_its_machine(
        hex in "[0-9a-f]{17}|[0-9a-f]{8}",
        pool in proptest::option::of("[a-zA-Z0-9][a-zA-Z0-9_-]{0,62}"),
        name in "[A-Za-z0-9._-]{1,80}",
        job in proptest::option::of(1u64..i64::MAX as u64),
        family in "\\PC{0,30}",
        n in 0u32..4,
    ) {
        prop_assume!(name != "." && name != "..");
        let key = RunnerKey::from(format!("i-{hex}"));
        let repo: Repo = format!("acme/{name}").parse().unwrap();
        let pool = pool.map(|p| p.parse::<PoolName>().unwrap());
        let spec = LaunchSpec { families: vec![family], cpu_min: 2, ..LaunchSpec::default() };
        let job = job.and_then(JobId::new);
        let naming = Naming { key: &key, pool: pool.as_ref(), repo: &repo, spec: Some(&spec), job };
        let runner = runner_name(&naming, n);
        prop_assert!(runner.len() <= 64);
        prop_assert!(runner.starts_with("runs-fleet-runner"));
        prop_assert!(runner.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)));
        prop_assert_eq!(&runner_key_candidates(&runner)[0], &key);
        prop_assert_ne!(&runner, &runner_name(&naming, n + 1));
    }
}

/// Answers JIT mints from a list, the last one for ever.
fn minting(answers: Vec<fn(&Asked) -> Answer>) -> std::sync::Arc<Fake> {
    let mut n = 0;
    Fake::new(move |a| {
        a.target.ends_with("/generate-jitconfig").then(|| {
            let answer = answers[n.min(answers.len() - 1)];
            n += 1;
            answer(a)
        })
    })
}

fn good(_: &Asked) -> Answer {
    ok(201, json!({"runner": {"id": 31, "name": "x"}, "encoded_jit_config": "c2VjcmV0"}))
}
fn taken(_: &Asked) -> Answer {
    message(409, "Already exists")
}
fn lost(_: &Asked) -> Answer {
    unreachable()
}
fn broken(_: &Asked) -> Answer {
    empty(502)
}
fn forbidden(_: &Asked) -> Answer {
    message(403, "no")
}

const BASE: &str = "runs-fleet-runner-widgets-617323-0abc123def4567890";
const R1: &str = "runs-fleet-runner-widgets-617323-r1-0abc123def4567890";
const R2: &str = "runs-fleet-runner-widgets-617323-r2-0abc123def4567890";
const R3: &str = "runs-fleet-runner-widgets-617323-r3-0abc123def4567890";

async fn minted(
    fake: &std::sync::Arc<Fake>,
    abandoned: &[String],
    registration: Registration,
) -> Result<Mint, MintError> {
    let (key, repo) = (RunnerKey::from(KEY), repo());
    let labels = ["runs-fleet".to_owned(), "linux".to_owned()];
    let naming = naming(&key, None, &repo);
    let request = MintRequest { repo: &repo, naming, abandoned, labels: &labels, group: "", registration };
    mint(&client(fake), &request).await
}

fn tried(fake: &Fake) -> Vec<String> {
    let mints = fake.asked().into_iter().filter(|a| a.target.ends_with("/generate-jitconfig"));
    mints.map(|a| a.body["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_mint_registers_exactly_the_labels_and_no_work_folder() {
    let fake = minting(vec![good]);
    let mint = minted(&fake, &[], Registration::Jit).await.unwrap();
    assert_eq!(mint.name, BASE);
    assert!(mint.abandoned.is_empty());
    assert_eq!(mint.runner_id(), RunnerId::new(31));
    let Minted::Jit { config, .. } = mint.credential else { panic!("a token") };
    assert_eq!(config.expose(), "c2VjcmV0");
    let asked = fake.asked();
    let body = &asked.last().unwrap().body;
    assert_eq!(*body, json!({"name": BASE, "runner_group_id": 1, "labels": ["runs-fleet", "linux"]}));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_taken_or_lost_is_left_behind_and_reported() {
    let fake = minting(vec![taken, lost, good]);
    let mint = minted(&fake, &[], Registration::Jit).await.unwrap();
    assert_eq!((mint.name.as_str(), mint.abandoned.as_slice()), (R2, [BASE.to_owned(), R1.to_owned()].as_slice()));
    assert_eq!(tried(&fake), [BASE, R1, R2]);
    // A name that is taken costs no time; an answer that was lost does.
    let at: Vec<_> = fake.asked().iter().map(|a| a.at).collect();
    assert_eq!(at[1..], [Duration::ZERO, Duration::ZERO, Duration::from_millis(375)]);
    assert_eq!(fake.count("DELETE"), 0);
}

#[tokio::test(start_paused = true)]
async fn three_names_are_tried_and_all_reported() {
    let fake = minting(vec![broken]);
    let error = minted(&fake, &[], Registration::Jit).await.unwrap_err();
    assert!(matches!(error.cause, MintFailure::GitHub(Error::Server(_))), "{error}");
    assert_eq!(error.abandoned, [BASE, R1, R2]);
    // The next attempt of the same assignment goes on where this one stopped.
    let fake = minting(vec![good]);
    assert_eq!(minted(&fake, &error.abandoned, Registration::Jit).await.unwrap().name, R3);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_ends_it_at_once() {
    let fake = minting(vec![taken, forbidden, good]);
    let error = minted(&fake, &[], Registration::Jit).await.unwrap_err();
    assert!(matches!(error.cause, MintFailure::GitHub(Error::Forbidden(_))), "{error}");
    assert_eq!(error.abandoned, [BASE]);
}

#[tokio::test(start_paused = true)]
async fn token_registration_needs_labels_without_commas() {
    let token = || Fake::new(|a| a.target.ends_with("/registration-token").then(|| ok(201, json!({"token": "AAAA"}))));
    let fake = token();
    let mint = minted(&fake, &[], Registration::Token).await.unwrap();
    assert_eq!((mint.name.as_str(), &mint.credential), (BASE, &Minted::Token(Credential::new("AAAA"))));
    assert_eq!(mint.runner_id(), None);
    assert!(tried(&fake).is_empty());

    let (key, repo) = (RunnerKey::from(KEY), repo());
    let naming = naming(&key, None, &repo);
    let labels = ["a,b".to_owned()];
    let registration = Registration::Token;
    let request = MintRequest { repo: &repo, naming, abandoned: &[], labels: &labels, group: "", registration };
    let error = mint_it(&request).await.unwrap_err();
    assert_eq!(error.cause, MintFailure::Comma("a,b".to_owned()));
}

async fn mint_it(request: &MintRequest<'_>) -> Result<Mint, MintError> {
    mint(&client(&Fake::new(|_| None)), request).await
}

#[test]
fn a_document_carries_exactly_one_credential() {
    let (key, repo, dispatch) = (RunnerKey::from(KEY), repo(), DispatchId::from("d1"));
    let labels = ["runs-fleet".to_owned()];
    let assignment = Assignment {
        repo: &repo,
        run: RunId::new(9),
        job: JobId::new(5).unwrap(),
        labels: &labels,
        key: &key,
        dispatch: &dispatch,
        written_at: Timestamp::from_second(1_735_689_600).unwrap(),
    };
    let settings = Settings {
        runner_group: String::new(),
        max_runtime_minutes: 360,
        idle_exit_seconds: 600,
        server_url: "https://github.com".to_owned(),
        termination_queue_url: "q".to_owned(),
    };
    let jit = Minted::Jit { runner_id: RunnerId::new(31).unwrap(), config: Credential::new("c2VjcmV0") };
    let mint = |credential| Mint { name: BASE.to_owned(), credential, abandoned: Vec::new() };
    let document = hand_over(&assignment, mint(jit), &settings);
    assert_eq!(
        serde_json::to_value(&document).unwrap(),
        json!({
            "org": "acme", "repo": "acme/widgets", "run_id": "9", "job_id": "5", "jit_token": "",
            "jit_config": "c2VjcmV0", "labels": ["runs-fleet"], "runner_name": BASE, "instance_id": KEY,
            "dispatch_id": "d1", "created_at": "2025-01-01T00:00:00Z", "server_url": "https://github.com",
            "termination_queue_url": "q", "max_runtime_minutes": 360, "idle_exit_seconds": 600,
        })
    );
    let document = hand_over(&assignment, mint(Minted::Token(Credential::new("AAAA"))), &settings);
    assert_eq!((document.jit_token.expose(), document.jit_config.is_empty()), ("AAAA", true));
    assert!(!format!("{document:?}").contains("AAAA"));
}
