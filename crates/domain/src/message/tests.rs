use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::ids::PoolName;
use crate::launch::Arch;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{SPAN}-{flags}")
}

/// As the first Go revision writes it: every field it always writes, ids of its own tracing, escapes of Go's encoder.
fn old_revision() -> String {
    format!(
        r#"{{"job_id":12345,"run_id":67890,"repo":"org/repo","instance_type":"c7g.xlarge","pool":"default",
        "private":true,"spot":true,"runner_spec":"4cpu-linux-arm64",
        "original_label":"runs-fleet=67890/runner=4cpu-linux-arm64\u0026x","retry_count":1,"force_on_demand":false,
        "region":"eu-west-1","environment":"prod","os":"linux","arch":"aarch64",
        "instance_types":["c7g.xlarge","m7g.xlarge"],"storage_gib":100,
        "trace_id":"{TRACE}","span_id":"{SPAN}","parent_id":"0102030405060708"}}"#
    )
}

/// As the later Go revision writes it.
fn later_revision() -> String {
    format!(
        r#"{{"job_id":12345,"run_id":67890,"repo":"org/repo","instance_type":"m8g.large","spot":false,
        "original_label":"runs-fleet/cpu=2+8","force_on_demand":true,"arch":"arm64","instance_types":["m8g.large"],
        "traceparent":"{}","cpu_min":2,"cpu_max":8,"gen":8,"ram_min":8,"ram_max":32.5,"families":["m8g","c8g"]}}"#,
        traceparent("00")
    )
}

fn base() -> Value {
    json!({"job_id": 12345, "run_id": 67890, "repo": "org/repo", "instance_type": "t4g.medium", "spot": true})
}

fn with(field: &str, value: Value) -> String {
    let mut message = base();
    message[field] = value;
    message.to_string()
}

fn without(fields: &[&str]) -> String {
    let mut message = base();
    for field in fields {
        message.as_object_mut().unwrap().remove(*field);
    }
    message.to_string()
}

fn decode(body: &str) -> JobMessage {
    JobMessage::decode(body).unwrap().message
}

#[test]
fn the_old_revision_decodes_with_everything_it_says() {
    let Decoded { message, warnings, old_trace } = JobMessage::decode(&old_revision()).unwrap();
    assert_eq!(warnings, [""; 0]);
    assert_eq!(old_trace, Some(traceparent("01")));
    assert_eq!(message.job_id.get(), 12345);
    assert_eq!(message.run_id.unwrap().get(), 67890);
    assert_eq!(message.repo.as_str(), "org/repo");
    assert_eq!(message.original_label, "runs-fleet=67890/runner=4cpu-linux-arm64&x");
    assert_eq!((message.retry_count, message.dispatch_seq, message.run_attempt), (1, 0, 1));
    assert_eq!(
        message.spec,
        LaunchSpec {
            instance_type: "c7g.xlarge".into(),
            instance_types: vec!["c7g.xlarge".into(), "m7g.xlarge".into()],
            arch: Some(Arch::Arm64),
            os: "linux".into(),
            runner_spec: "4cpu-linux-arm64".into(),
            pool: Some("default".parse().unwrap()),
            spot: true,
            private: true,
            storage_gib: 100,
            region: "eu-west-1".into(),
            environment: "prod".into(),
            ..LaunchSpec::default()
        }
    );
    assert!(message.unknown.is_empty());
}

#[test]
fn the_later_revision_decodes_with_everything_it_says() {
    let message = decode(&later_revision());
    assert_eq!(message.traceparent, Some(traceparent("00")));
    assert!(message.force_on_demand);
    assert_eq!(
        message.spec,
        LaunchSpec {
            instance_type: "m8g.large".into(),
            instance_types: vec!["m8g.large".into()],
            arch: Some(Arch::Arm64),
            cpu_min: 2,
            cpu_max: 8,
            gen_: 8,
            ram_min: 8.0,
            ram_max: 32.5,
            families: vec!["m8g".into(), "c8g".into()],
            ..LaunchSpec::default()
        }
    );
}

/// A re-dispatch by us must not lose what either revision asked for.
#[test]
fn encoding_keeps_every_known_field_of_both_revisions() {
    for body in [old_revision(), later_revision()] {
        let before: Value = serde_json::from_str(&body).unwrap();
        let after: Value = serde_json::from_str(&decode(&body).encode()).unwrap();
        for (name, value) in before.as_object().unwrap() {
            match name.as_str() {
                "trace_id" | "span_id" | "parent_id" => assert_eq!(after.get(name), None, "{name} is never written"),
                "arch" => assert_eq!(after[name], "arm64"),
                _ if *value == json!(false) && name != "spot" => assert_eq!(after.get(name), None, "{name}"),
                _ if value.is_number() => assert_eq!(after[name].as_f64(), value.as_f64(), "{name}"),
                _ => assert_eq!(after[name], *value, "{name}"),
            }
        }
    }
}

#[test]
fn encoding_is_compact_ordered_and_leaves_empty_fields_out() {
    let text = r#"{"job_id":12345,"run_id":67890,"repo":"org/repo","instance_type":"t4g.medium","pool":"default","spot":false}"#;
    assert_eq!(decode(text).encode(), text);
    let text = r#"{"job_id":1,"run_id":0,"repo":"o/r","instance_type":"","pool":"p","spot":true,"original_label":"l"}"#;
    assert_eq!(decode(text).encode(), text);
}

#[test]
fn every_field_is_written_in_the_documented_order() {
    let order = [
        "job_id",
        "run_id",
        "repo",
        "instance_type",
        "pool",
        "private",
        "spot",
        "runner_spec",
        "original_label",
        "retry_count",
        "force_on_demand",
        "region",
        "environment",
        "os",
        "arch",
        "instance_types",
        "storage_gib",
        "traceparent",
        "cpu_min",
        "cpu_max",
        "gen",
        "ram_min",
        "ram_max",
        "families",
        "dispatch_seq",
        "displaced_count",
        "labels",
        "public",
        "backend",
        "run_attempt",
        "installation_id",
        "created_at",
        "job_name",
        "workflow_name",
        "queued_at",
        "of_the_future",
    ];
    let mut at = 0;
    let text = full().encode();
    for name in order {
        let found = text.find(&format!("\"{name}\":")).unwrap_or_else(|| panic!("{name} is missing in {text}"));
        assert!(found >= at, "{name} comes too early in {text}");
        at = found;
    }
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap().as_object().unwrap().len(), order.len());
}

fn full() -> JobMessage {
    let mut message = decode(&old_revision());
    let later = decode(&later_revision());
    message.traceparent = later.traceparent;
    message.spec = LaunchSpec { public: true, backend: "ec2".into(), families: later.spec.families, ..message.spec };
    message.spec = LaunchSpec { cpu_min: 2, cpu_max: 8, ram_min: 8.0, ram_max: 32.5, gen_: 8, ..message.spec };
    (message.force_on_demand, message.dispatch_seq, message.displaced_count) = (true, 2, 3);
    (message.labels, message.run_attempt) = (vec!["linux".into()], 2);
    message.installation_id = InstallationId::new(9);
    (message.job_name, message.workflow_name) = ("build".into(), "CI".into());
    message.created_at = Some("2024-05-01T10:00:00Z".parse().unwrap());
    message.queued_at = Some("2024-05-01T10:00:01.5Z".parse().unwrap());
    message.unknown.insert("of_the_future".into(), json!({"a": [1, null]}));
    message
}

#[test]
fn poison_is_named() {
    use Reason::*;
    let bare = ["run_id", "instance_type"];
    let cases: Vec<(String, Reason, Option<&str>)> = vec![
        (String::new(), EmptyBody, None),
        ("{".into(), InvalidJson, None),
        ("null".into(), NotObject, None),
        (with("job_id", json!("12345")), BadType, Some("job_id")),
        (with("job_id", json!(1.5)), BadType, Some("job_id")),
        (with("run_id", json!("67890")), BadType, Some("run_id")),
        (with("spot", json!("true")), BadType, Some("spot")),
        (with("spot", json!(1)), BadType, Some("spot")),
        (with("labels", json!("linux")), BadType, Some("labels")),
        (with("instance_types", json!(["a", 1])), BadType, Some("instance_types")),
        (with("instance_types", json!([null])), BadType, Some("instance_types")),
        (with("storage_gib", json!(1.5)), BadType, Some("storage_gib")),
        (with("storage_gib", json!(1_u64 << 32)), BadType, Some("storage_gib")),
        (with("ram_min", json!("8")), BadType, Some("ram_min")),
        (with("queued_at", json!(1)), BadType, Some("queued_at")),
        (with("trace_id", json!(1)), BadType, Some("trace_id")),
        (without(&["job_id"]), MissingJobId, None),
        (with("job_id", json!(0)), MissingJobId, None),
        (with("job_id", Value::Null), MissingJobId, None),
        (with("JOB_ID", json!(1)).replace("\"job_id\"", "\"Job_id\""), MissingJobId, None),
        (with("job_id", json!(-1)), BadValue, Some("job_id")),
        (with("run_id", json!(-1)), BadValue, Some("run_id")),
        (without(&["repo"]), MissingRepo, None),
        (with("repo", json!("")), MissingRepo, None),
        (with("repo", json!("org")), BadValue, Some("repo")),
        (with("repo", json!("org/repo/x")), BadValue, Some("repo")),
        (with("repo", json!("org/re po")), BadValue, Some("repo")),
        (with("repo", json!("/repo")), BadValue, Some("repo")),
        (with("arch", json!("sparc")), BadValue, Some("arch")),
        (without(&bare), NoLabel, None),
        (without(&["instance_type"]), NoLaunchSpec, None),
        // A pool name that is none is no pool, so nothing is left to launch.
        (with("pool", json!("__task_lock:x")).replace("t4g.medium", ""), NoLaunchSpec, None),
    ];
    for (body, reason, field) in cases {
        let want = Poison { reason, field: field.map(Into::into) };
        assert_eq!(JobMessage::decode(&body).map(|_| ()), Err(want), "{body}");
    }
    for name in [
        "retry_count",
        "dispatch_seq",
        "displaced_count",
        "storage_gib",
        "gen",
        "cpu_min",
        "cpu_max",
        "ram_min",
        "ram_max",
    ] {
        let want = Poison::at(BadValue, name);
        assert_eq!(JobMessage::decode(&with(name, json!(-1))).map(|_| ()), Err(want), "{name}");
    }
}

/// Types are checked before values, and values in a fixed order, whatever the order of the fields.
#[test]
fn of_several_faults_the_first_in_the_documented_order_is_named() {
    let reason = |body: Value| JobMessage::decode(&body.to_string()).unwrap_err().reason;
    assert_eq!(reason(json!({"retry_count": "x"})), Reason::BadType);
    assert_eq!(reason(json!({"retry_count": -1})), Reason::MissingJobId);
    assert_eq!(reason(json!({"retry_count": -1, "job_id": 1})), Reason::MissingRepo);
    assert_eq!(reason(json!({"retry_count": -1, "job_id": 1, "repo": "o/r"})), Reason::BadValue);
    assert_eq!(reason(json!({"job_id": 1, "repo": "o/r"})), Reason::NoLabel);
    assert_eq!(reason(json!({"job_id": 1, "repo": "o/r", "run_id": 1})), Reason::NoLaunchSpec);
}

#[test]
fn each_way_to_ask_for_a_machine_suffices() {
    for (field, value) in [
        ("instance_type", json!("m8g.large")),
        ("instance_types", json!(["m8g.large"])),
        ("runner_spec", json!("4cpu-linux-arm64")),
        ("pool", json!("default")),
        ("cpu_min", json!(2)),
        ("cpu_max", json!(2)),
    ] {
        let mut message = base();
        message["instance_type"] = Value::Null;
        message[field] = value;
        assert!(JobMessage::decode(&message.to_string()).is_ok(), "{field}");
    }
}

#[test]
fn a_bad_pool_trace_or_time_is_dropped_with_a_warning() {
    let long = "p".repeat(64);
    for (field, value) in [
        ("pool", "__instance_claim:i-0"),
        ("pool", "-a"),
        ("pool", "a b"),
        ("pool", long.as_str()),
        ("traceparent", "00-0-0-00"),
        ("queued_at", "yesterday"),
        ("created_at", "2024-13-01T00:00:00Z"),
    ] {
        let decoded = JobMessage::decode(&with(field, json!(value))).unwrap();
        assert_eq!(decoded.warnings, [field], "{value}");
        assert_eq!(decoded.message, decode(&base().to_string()), "{value}");
    }
}

#[test]
fn architectures_are_normalised() {
    for (word, arch) in
        [("", None), ("arm64", Some(Arch::Arm64)), ("aarch64", Some(Arch::Arm64)), ("amd64", Some(Arch::Amd64))]
            .into_iter()
            .chain([("x64", Some(Arch::Amd64)), ("x86_64", Some(Arch::Amd64))])
    {
        assert_eq!(decode(&with("arch", json!(word))).spec.arch, arch, "{word}");
    }
}

#[test]
fn unknown_fields_survive_and_a_repeated_key_takes_the_last_value() {
    let body = r#"{"job_id":1,"job_id":2,"run_id":3,"repo":"o/r","cpu_min":2,"x":{"y":[1,{"z":true}]},"x2":"s"}"#;
    let message = decode(body);
    assert_eq!(message.job_id.get(), 2);
    let again: Value = serde_json::from_str(&message.encode()).unwrap();
    assert_eq!(again["x"], json!({"y": [1, {"z": true}]}));
    assert_eq!(again["x2"], "s");
}

#[test]
fn the_trace_parent_is_the_first_valid_one() {
    let attributes = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    let other = format!("00-{}-{SPAN}-00", "a".repeat(32));
    let ids = [("TraceID", "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"), ("SpanID", SPAN)];
    let from_ids = Some(format!("00-{}-{SPAN}-01", "b".repeat(32)));
    let both = attributes(&[("Traceparent", &other), ids[0], ids[1]]);

    let of_body = JobMessage::decode(&with("traceparent", json!(traceparent("01")))).unwrap();
    assert_eq!(of_body.trace_parent(&both), Some(traceparent("01")));
    let old = JobMessage::decode(&old_revision()).unwrap();
    assert_eq!(old.trace_parent(&both), Some(other));
    assert_eq!(old.trace_parent(&attributes(&[("Traceparent", "nonsense"), ids[0], ids[1]])), from_ids);
    assert_eq!(old.trace_parent(&attributes(&[("TraceID", TRACE), ("SpanID", "0")])), Some(traceparent("01")));
    let none = JobMessage::decode(&with("trace_id", json!(TRACE))).unwrap();
    assert_eq!(none.trace_parent(&attributes(&[])), None);
}

#[test]
fn trace_context_is_checked() {
    let good = traceparent("01");
    for (value, valid) in [
        (good.clone(), true),
        (good.replace("00-4", "01-4"), true),
        (format!("{}-more", good.replace("00-4", "01-4")), true),
        (format!("{good}-more"), false),
        (good.replace("00-4", "ff-4"), false),
        (good.to_uppercase(), false),
        (good.replace(TRACE, &"0".repeat(32)), false),
        (good.replace(SPAN, &"0".repeat(16)), false),
        (good[..54].to_owned(), false),
        (format!(" {good}"), false),
        (String::new(), false),
    ] {
        assert_eq!(trace::is_valid(&value), valid, "{value}");
    }
}

#[test]
fn deduplication_ids() {
    let mut message = decode(&base().to_string());
    for (retry, seq, key, id) in [
        (0, 0, "12345-0", "ec5385d5e89e46610c1b3556abcd5c23b34abf995af48cf3963c6493a5b06a24"),
        (1, 1, "12345-1", "cca151305227813e8d3a799c005652b71bbed8694b324d4e908c2716e6a068b6"),
        (1, 2, "12345-1-2", "d94ed03eaa632afc8ad7ca8265962ef9a5ae8af3674d82f018c54896e7967953"),
    ] {
        (message.retry_count, message.dispatch_seq) = (retry, seq);
        assert_eq!(message.dedup_key(), key);
        assert_eq!(message.dedup_id(), id);
    }
}

#[test]
fn jobs_of_one_run_have_groups_of_their_own() {
    let one = decode(&with("job_id", json!(1)));
    let two = decode(&with("job_id", json!(2)));
    assert_eq!((one.group(), two.group()), ("1".to_owned(), "2".to_owned()));
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), any::<String>()]
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(any::<String>(), 0..4)
}

fn time() -> impl Strategy<Value = Option<Timestamp>> {
    prop::option::of((0_i64..253_402_207_200, 0_i32..1_000_000_000).prop_map(|(s, ns)| Timestamp::new(s, ns).unwrap()))
}

/// As fine as a label can say it: thousandths.
fn gib() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), (0..1_000_000_000_u32).prop_map(|n| f64::from(n) / 1000.0)]
}

prop_compose! {
    fn spec()(
        (instance_type, instance_types, families) in (text(), texts(), texts()),
        arch in prop::option::of(prop_oneof![Just(Arch::Arm64), Just(Arch::Amd64)]),
        (os, runner_spec, region, environment, backend) in (text(), text(), text(), text(), text()),
        pool in prop::option::of("[a-zA-Z0-9][a-zA-Z0-9_-]{0,62}"),
        (spot, private, public) in any::<(bool, bool, bool)>(),
        (storage_gib, cpu_min, cpu_max, gen_) in (any::<u32>(), 1..u32::MAX, any::<u32>(), any::<u32>()),
        (ram_min, ram_max) in (gib(), gib()),
    ) -> LaunchSpec {
        let pool: Option<PoolName> = pool.map(|name| name.parse().unwrap());
        LaunchSpec {
            instance_type, instance_types, arch, os, runner_spec, pool, spot, private, public, storage_gib, cpu_min,
            cpu_max, ram_min, ram_max, families, gen_, region, environment, backend,
        }
    }
}

prop_compose! {
    fn message()(
        job in 1..=i64::MAX as u64,
        run in prop::option::of(1..=i64::MAX as u64),
        installation in prop::option::of(1..=i64::MAX as u64),
        repo in "[A-Za-z0-9_-]{1,20}/[A-Za-z0-9._-]{0,20}x",
        spec in spec(),
        (label, labels, job_name, workflow_name) in ("x\\PC*", texts(), text(), text()),
        (retry_count, dispatch_seq, displaced_count, run_attempt) in (any::<u32>(), any::<u32>(), any::<u32>(), 1..u32::MAX),
        force_on_demand in any::<bool>(),
        (created_at, queued_at) in (time(), time()),
        trace in prop::option::of("00-[0-9a-f]{31}1-[0-9a-f]{15}1-0[01]"),
        unknown in prop::collection::btree_map("x_\\PC*", "\\PC*", 0..3),
    ) -> JobMessage {
        JobMessage {
            job_id: JobId::new(job).unwrap(),
            run_id: run.and_then(RunId::new),
            repo: repo.parse().unwrap(),
            spec,
            original_label: label,
            labels, retry_count, force_on_demand, dispatch_seq, displaced_count, run_attempt,
            installation_id: installation.and_then(InstallationId::new),
            job_name, workflow_name, created_at, queued_at,
            traceparent: trace,
            unknown: unknown.into_iter().map(|(k, v)| (k, Value::String(v))).collect(),
        }
    }
}

proptest! {
    #[test]
    fn decoding_an_encoding_gives_the_message_back(message in message()) {
        let decoded = JobMessage::decode(&message.encode()).unwrap();
        prop_assert_eq!(decoded, Decoded { message, warnings: vec![], old_trace: None });
    }

    /// Whatever arrives is a message or a reason; and a message we accept is one we may send on.
    #[test]
    fn no_text_is_neither(body in "[{}\\[\\]\":,a-z0-9_/ -]{0,60}|\\PC*") {
        if let Ok(decoded) = JobMessage::decode(&body) {
            prop_assert!(decoded.message.check().is_ok());
        }
    }

    /// One field replaced by any value of any type: poison, or a message that survives being sent on.
    #[test]
    fn no_value_of_a_field_breaks_the_reader(index in 0_usize..36, value in value()) {
        let mut fields: Value = serde_json::from_str(&full().encode()).unwrap();
        let fields = fields.as_object_mut().unwrap();
        let name = fields.keys().nth(index).unwrap().clone();
        fields.insert(name, value);
        let body = serde_json::to_string(fields).unwrap();
        if let Ok(Decoded { mut message, .. }) = JobMessage::decode(&body) {
            // No label can ask for more, and up to here the JSON reader is exact.
            for gib in [&mut message.spec.ram_min, &mut message.spec.ram_max] {
                *gib = gib.min(1e6);
            }
            prop_assert_eq!(JobMessage::decode(&message.encode()).unwrap().message, message);
        }
    }
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i32>().prop_map(|n| Value::from(f64::from(n) / 1000.0)),
        any::<String>().prop_map(Value::from),
        Just(json!([])),
        Just(json!(["a"])),
        Just(json!([1, {}])),
        Just(json!({"a": {}})),
    ]
}
