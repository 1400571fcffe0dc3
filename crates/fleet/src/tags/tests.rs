use std::collections::{BTreeMap, BTreeSet};

use domain::ids::{JobId, RunId};
use domain::launch::LaunchSpec;
use proptest::prelude::*;

use super::*;
use crate::settings::VaultTags;

fn slot(job: u64, run: u64, repo: &str) -> Slot {
    Slot { job: JobId::new(job).unwrap(), run: RunId::new(run), repo: repo.parse().unwrap() }
}

fn order(slots: Vec<Slot>, spec: LaunchSpec) -> Order {
    let members = Members::Jobs(slots);
    Order { launch_id: "rf1-abc".into(), spec, spot: true, members, until: tokio::time::Instant::now() }
}

fn tagged(order: &Order, settings: &TagSettings) -> Tags {
    of(order, &order.members.slots().iter().collect::<Vec<_>>(), Arch::Arm64, settings)
}

fn value<'a>(tags: &'a Tags, key: &str) -> Option<&'a str> {
    tags.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
}

#[test]
fn a_single_job_has_everything_at_creation() {
    let spec = LaunchSpec {
        arch: Some(Arch::Arm64),
        cpu_min: 4,
        ram_min: 16.0,
        environment: "dev".to_owned(),
        ..LaunchSpec::default()
    };
    let tags = tagged(&order(vec![slot(7, 77, "org/app")], spec), &TagSettings::default());
    let keys: Vec<&str> = tags.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "Name",
            RUN_ID,
            MANAGED,
            "runs-fleet:arch",
            "runs-fleet:environment",
            "Environment",
            "Role",
            LAUNCH_ID,
            JOB_ID
        ]
    );
    assert_eq!(value(&tags, "Name"), Some("runs-fleet-runner-app-arm64-cpu4-ram16"));
    assert_eq!(
        (value(&tags, JOB_ID), value(&tags, RUN_ID), value(&tags, "Role")),
        (Some("7"), Some("77"), Some("org/app"))
    );
}

#[test]
fn a_batch_carries_only_what_its_jobs_share() {
    let two = order(vec![slot(7, 77, "org/app"), slot(8, 77, "org/app")], LaunchSpec::default());
    let tags = tagged(&two, &TagSettings::default());
    assert_eq!((value(&tags, JOB_ID), value(&tags, RUN_ID), value(&tags, "Role")), (None, Some("77"), Some("org/app")));
    let strangers = order(vec![slot(7, 77, "org/app"), slot(8, 78, "org/web")], LaunchSpec::default());
    let tags = tagged(&strangers, &TagSettings::default());
    assert_eq!((value(&tags, RUN_ID), value(&tags, "Role")), (None, None));
    assert_eq!(value(&tags, "Name"), Some("runs-fleet-runner"));
}

#[test]
fn the_operators_tag_wins_over_ours_without_prefix_only() {
    let custom = [("Environment", "theirs"), ("runs-fleet:managed", "false")];
    let custom = custom.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let settings = TagSettings { custom, ..TagSettings::default() };
    let spec = LaunchSpec { environment: "dev".to_owned(), ..LaunchSpec::default() };
    let tags = tagged(&order(vec![slot(7, 77, "org/app")], spec), &settings);
    assert_eq!(tags.iter().filter(|(key, _)| key == "Environment").count(), 1);
    assert_eq!(value(&tags, "Environment"), Some("theirs"));
    assert_eq!(value(&tags, MANAGED), Some("true"));
}

#[test]
fn names_are_cut_at_a_character() {
    let long = format!("org/{}", "r".repeat(90));
    let tags = tagged(&order(vec![slot(7, 77, &long)], LaunchSpec::default()), &TagSettings::default());
    assert_eq!(value(&tags, "Name").unwrap().chars().count(), 64);
    let spec = LaunchSpec { pool: "builders".parse().ok(), ..LaunchSpec::default() };
    let tags = tagged(&order(vec![slot(7, 77, &long)], spec), &TagSettings::default());
    assert_eq!(value(&tags, "Name"), Some("runs-fleet-runner-builders"));
}

#[test]
fn a_spare_has_its_pools_name_and_neither_a_launchs_nor_a_jobs() {
    let members = Members::Pool { pool: "fast".parse().unwrap(), count: 2 };
    let spare = Order { members, ..order(Vec::new(), LaunchSpec::default()) };
    let tags = tagged(&spare, &TagSettings::default());
    assert_eq!((value(&tags, POOL), value(&tags, "Name")), (Some("fast"), Some("runs-fleet-runner-fast")));
    assert!([LAUNCH_ID, JOB_ID, RUN_ID, ROLE].iter().all(|key| value(&tags, key).is_none()));
    // A job that asks for the pool has all of them.
    let spec = LaunchSpec { pool: "fast".parse().ok(), ..LaunchSpec::default() };
    let tags = tagged(&order(vec![slot(7, 77, "org/app")], spec), &TagSettings::default());
    assert!([POOL, LAUNCH_ID, JOB_ID, RUN_ID, ROLE].iter().all(|key| value(&tags, key).is_some()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn keys_are_unique_and_at_most_fifty(
        custom in proptest::collection::btree_map("[A-Za-z:]{1,12}|Name|Role|Service", ".{0,300}", 0..60),
        jobs in 1u64..4,
        environment in "[a-z]{0,5}",
    ) {
        let attribution = BTreeMap::from([("Application".to_owned(), "a".to_owned()), ("Service".to_owned(), "s".to_owned())]);
        let settings = TagSettings { custom, attribution, cache_url: Some("https://c".to_owned()), ..TagSettings::default() };
        let spec = LaunchSpec { environment, ..LaunchSpec::default() };
        let order = order((1..=jobs).map(|job| slot(job, 1 + job / 2, "org/app")).collect(), spec);
        let tags = tagged(&order, &settings);
        prop_assert!(tags.len() <= LIMIT);
        prop_assert_eq!(tags.iter().map(|(key, _)| key).collect::<BTreeSet<_>>().len(), tags.len());
        prop_assert!(tags.iter().all(|(_, value)| value.chars().count() <= 256));
        prop_assert!(tags.contains(&(MANAGED.to_owned(), "true".to_owned())));
        prop_assert_eq!(tagged(&order, &settings), tags);
    }
}

#[test]
fn machines_are_told_where_vault_is_and_log_in_as_themselves() {
    let vault = VaultTags {
        addr: "https://vault.example".to_owned(),
        namespace: "team".to_owned(),
        kv_mount: "secret".to_owned(),
        kv_version: 2,
        base_path: "runs-fleet/runners".to_owned(),
    };
    let told = |vault: VaultTags| {
        let settings = TagSettings { vault: Some(vault), ..TagSettings::default() };
        let tags = tagged(&order(vec![slot(7, 77, "org/app")], LaunchSpec::default()), &settings);
        let ours = tags
            .into_iter()
            .filter_map(|(key, value)| Some((key.strip_prefix("runs-fleet:vault-")?.to_owned(), value)));
        ours.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>()
    };
    let expected = [
        "addr=https://vault.example",
        "namespace=team",
        "kv-mount=secret",
        "kv-version=2",
        "base-path=runs-fleet/runners",
        "auth-method=aws",
        "aws-role=runs-fleet-runner",
    ];
    assert_eq!(told(vault.clone()), expected);
    let plain = told(VaultTags { namespace: String::new(), kv_version: 0, ..vault });
    assert_eq!(plain.len(), 5, "what is not known has no tag: {plain:?}");
}
