use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::gh::{Conclusion, NamedRunner, Status};
use domain::ids::RunnerId;
use domain::message::JobMessage;
use domain::wire::{Poison, Reason, sha256_hex};
use proptest::prelude::*;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::*;
use crate::labels::{Aliases, LabelError, LabelSpec, parse};

fn secret(text: &str) -> SecretString {
    SecretString::from(text.to_owned())
}

fn secrets(current: &str, previous: Option<&str>) -> Secrets {
    Secrets { current: secret(current), previous: previous.map(secret) }
}

/// The example of GitHub's documentation.
const SECRET: &str = "It's a Secret to Everybody";
const BODY: &[u8] = b"Hello, World!";
const SIGNATURE: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

#[test]
fn githubs_own_example_is_signed_and_verified() {
    assert_eq!(sign(&secret(SECRET), BODY), SIGNATURE);
    assert_eq!(verify(&secrets(SECRET, None), SIGNATURE, BODY), Ok(()));
}

#[test]
fn only_the_exact_header_form_is_read() {
    let hex = &SIGNATURE[7..];
    for header in [
        String::new(),
        "sha256=".to_owned(),
        hex.to_owned(),
        format!("sha1={hex}"),
        format!("SHA256={hex}"),
        format!("sha256={}", hex.to_uppercase()),
        format!(" sha256={hex}"),
        format!("sha256= {hex}"),
        format!("sha256={hex} "),
        format!("sha256={hex}0"),
        format!("sha256={hex}00"),
        format!("sha256={}", &hex[1..]),
        format!("sha256=g{}", &hex[1..]),
        format!("sha256={}é", &hex[2..]),
        format!("sha256={hex},sha256={hex}"),
    ] {
        assert_eq!(verify(&secrets(SECRET, None), &header, BODY), Err(SignatureError::Format), "{header}");
    }
}

#[test]
fn another_body_or_secret_does_not_match() {
    let mismatch = Err(SignatureError::Mismatch);
    assert_eq!(verify(&secrets(SECRET, None), SIGNATURE, b"Hello, World"), mismatch);
    assert_eq!(verify(&secrets(SECRET, None), SIGNATURE, b"Hello, World!\n"), mismatch);
    assert_eq!(verify(&secrets("other", None), SIGNATURE, BODY), mismatch);
    assert_eq!(verify(&secrets(&format!("{SECRET}\n"), None), SIGNATURE, BODY), mismatch, "secrets are not trimmed");
}

#[test]
fn during_a_rotation_either_secret_is_good() {
    assert_eq!(verify(&secrets("new", Some(SECRET)), SIGNATURE, BODY), Ok(()));
    assert_eq!(verify(&secrets(SECRET, Some("old")), SIGNATURE, BODY), Ok(()));
    assert_eq!(verify(&secrets("new", Some("old")), SIGNATURE, BODY), Err(SignatureError::Mismatch));
}

#[test]
fn an_empty_secret_signs_nothing() {
    let signed_with_nothing = sign(&secret(""), BODY);
    for secrets in [secrets("", None), secrets("", Some("")), secrets(SECRET, Some(""))] {
        assert_eq!(verify(&secrets, &signed_with_nothing, BODY), Err(SignatureError::Mismatch));
    }
    assert_eq!(verify(&secrets("", Some(SECRET)), SIGNATURE, BODY), Ok(()));
}

fn payload() -> Value {
    json!({
        "action": "in_progress",
        "workflow_job": {
            "id": 11, "run_id": 22, "run_attempt": 3, "name": "build", "workflow_name": "CI", "head_branch": "main",
            "labels": ["self-hosted", "runs-fleet/cpu=4"], "status": "in_progress", "conclusion": null,
            "created_at": "2026-01-01T00:00:00Z", "started_at": "2026-01-01T00:00:42Z", "completed_at": null,
            "runner_id": 7, "runner_name": "runs-fleet-i-0abc", "runner_group_id": 1,
            "html_url": "https://github.com/org/repo/actions/runs/22/job/11", "steps": [{"name": "x"}]
        },
        "repository": {"full_name": "org/repo", "private": true, "id": 1},
        "installation": {"id": 99, "node_id": "x"},
        "sender": {"login": "someone"}
    })
}

fn read(payload: &Value) -> Result<WorkflowJobEvent, DecodeError> {
    WorkflowJobEvent::decode(payload.to_string().as_bytes())
}

fn event() -> WorkflowJobEvent {
    read(&payload()).unwrap()
}

fn with(pointer: &str, value: Value) -> Value {
    let mut payload = payload();
    *payload.pointer_mut(pointer).unwrap() = value;
    payload
}

fn without(parent: &str, name: &str) -> Value {
    let mut payload = payload();
    payload.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name).unwrap();
    payload
}

#[test]
fn every_field_is_read() {
    let event = event();
    assert_eq!(event.action, Action::InProgress);
    assert_eq!((event.job_id.get(), event.run_id.unwrap().get(), event.run_attempt), (11, 22, 3));
    assert_eq!((&*event.name, &*event.workflow_name, &*event.head_branch), ("build", "CI", "main"));
    assert_eq!(event.labels, ["self-hosted", "runs-fleet/cpu=4"]);
    assert_eq!((&*event.status, event.conclusion.as_deref()), ("in_progress", None));
    assert_eq!(event.created_at, Some("2026-01-01T00:00:00Z".parse().unwrap()));
    assert_eq!(event.started_at, Some("2026-01-01T00:00:42Z".parse().unwrap()));
    assert_eq!(event.completed_at, None);
    assert_eq!((event.runner_id, event.runner_name.as_deref()), (RunnerId::new(7), Some("runs-fleet-i-0abc")));
    assert_eq!(event.runner_group_id, Some(1));
    assert_eq!(event.html_url, "https://github.com/org/repo/actions/runs/22/job/11");
    assert_eq!((event.repo.as_str(), event.private), ("org/repo", true));
    assert_eq!(event.installation_id.unwrap().get(), 99);
}

#[test]
fn what_we_need_must_be_there_and_right() {
    for broken in [
        without("", "action"),
        without("", "workflow_job"),
        without("", "repository"),
        without("/workflow_job", "id"),
        without("/repository", "full_name"),
        with("/action", Value::Null),
        with("/action", json!(1)),
        with("/workflow_job", json!([])),
        with("/workflow_job/id", json!("11")),
        with("/workflow_job/id", json!(0)),
        with("/workflow_job/id", json!(-1)),
        with("/workflow_job/id", json!(9_223_372_036_854_775_808_u64)),
        with("/workflow_job/labels", json!("runs-fleet")),
        with("/workflow_job/labels", json!(["runs-fleet", null])),
        with("/repository/full_name", json!("repo")),
        with("/repository/full_name", json!("org/repo/x")),
        with("/repository/full_name", json!("../repo")),
        json!([]),
        Value::Null,
    ] {
        assert!(matches!(read(&broken), Err(DecodeError::Shape { .. })), "{broken}");
    }
    for text in ["", " ", "{", "payload=%7B%7D", "\u{feff}{}", &format!("{} x", payload())] {
        let error = WorkflowJobEvent::decode(text.as_bytes()).unwrap_err();
        assert!(matches!(error, DecodeError::NotJson { .. }), "{text:?}: {error}");
    }
    let deep = format!("{{\"action\":\"queued\",\"x\":{}", "[".repeat(100_000));
    assert!(WorkflowJobEvent::decode(deep.as_bytes()).is_err());
    assert!(WorkflowJobEvent::decode(b"{\"action\":\"\xff\"}").is_err());
}

#[test]
fn errors_quote_nothing_of_the_body() {
    let error = read(&with("/workflow_job/id", json!("s3cret"))).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("s3cret"));
}

#[test]
fn everything_else_may_be_absent_null_or_odd() {
    let minimal = json!({"action": "queued", "workflow_job": {"id": 11}, "repository": {"full_name": "org/repo"}});
    let minimal = read(&minimal).unwrap();
    assert_eq!((minimal.run_attempt, minimal.labels.len(), minimal.private), (1, 0, false));
    let optional = [
        "run_id",
        "run_attempt",
        "name",
        "workflow_name",
        "head_branch",
        "status",
        "conclusion",
        "created_at",
        "started_at",
        "completed_at",
        "runner_id",
        "runner_name",
        "runner_group_id",
        "html_url",
    ];
    let (absent, null, odd) = optional.iter().fold((payload(), payload(), payload()), |(mut a, mut n, mut o), name| {
        a["workflow_job"].as_object_mut().unwrap().remove(*name);
        n["workflow_job"][name] = Value::Null;
        o["workflow_job"][name] = json!({"not": ["this"]});
        (a, n, o)
    });
    for mut payload in [absent, null, odd] {
        payload["workflow_job"]["labels"] = Value::Null;
        payload["repository"]["private"] = Value::Null;
        payload["installation"] = json!({"id": "99"});
        let want = WorkflowJobEvent { action: Action::InProgress, ..minimal.clone() };
        assert_eq!(read(&payload).unwrap(), want, "{payload}");
    }
    for (pointer, value) in [
        ("/workflow_job/run_id", json!(0)),
        ("/workflow_job/runner_id", json!(0)),
        ("/workflow_job/runner_name", json!("")),
        ("/workflow_job/created_at", json!("")),
        ("/workflow_job/created_at", json!("yesterday")),
        ("/workflow_job/run_attempt", json!(0)),
        ("/installation", Value::Null),
    ] {
        assert!(read(&with(pointer, value.clone())).is_ok(), "{pointer} {value}");
    }
    assert_eq!(read(&with("/workflow_job/runner_id", json!(0))).unwrap().runner_id, None);
    assert_eq!(read(&with("/workflow_job/runner_name", json!(""))).unwrap().view().runner, None);
}

#[test]
fn actions_and_event_names_are_bounded_before_they_become_metric_labels() {
    for word in ["queued", "waiting", "requested", "pending", "in_progress", "completed"] {
        assert_eq!(read(&with("/action", json!(word))).unwrap().action.as_str(), word);
    }
    assert_eq!(read(&with("/action", json!("reticulated"))).unwrap().action, Action::Other);
    assert_eq!(Action::Other.as_str(), "other");
    for name in ["workflow_job", "ping", "push"] {
        assert_eq!(event_label(name), name);
    }
    assert_eq!(event_label("Workflow_Job"), "other");
    assert_eq!(event_label(""), "other");
}

#[test]
fn the_view_follows_the_action() {
    let view = event().view();
    assert_eq!(view.status, Status::InProgress);
    assert_eq!(view.runner, Some(NamedRunner { id: RunnerId::new(7), name: "runs-fleet-i-0abc".into() }));
    assert_eq!((view.run_attempt, view.run_id.unwrap().get()), (3, 22));
    assert_eq!(view.labels, ["self-hosted", "runs-fleet/cpu=4"]);

    let status = |action: &str, status: &str, conclusion: Value| {
        let mut payload = with("/action", json!(action));
        payload["workflow_job"]["status"] = json!(status);
        payload["workflow_job"]["conclusion"] = conclusion;
        read(&payload).unwrap().view().status
    };
    // GitHub's published example of `queued` says `waiting`.
    assert_eq!(status("queued", "waiting", Value::Null), Status::Queued);
    assert_eq!(status("waiting", "waiting", Value::Null), Status::Queued);
    assert_eq!(status("in_progress", "queued", Value::Null), Status::InProgress);
    assert_eq!(status("completed", "in_progress", json!("failure")), Status::Completed(Conclusion::Failure));
    assert_eq!(status("completed", "completed", json!("stale")), Status::Completed(Conclusion::Other));
    assert_eq!(status("completed", "completed", Value::Null), Status::Completed(Conclusion::Other));
    assert_eq!(status("reticulated", "in_progress", Value::Null), Status::InProgress);
    assert_eq!(status("reticulated", "reticulating", Value::Null), Status::Unknown);
}

#[test]
fn startup_is_measured_only_on_runners_of_ours_and_only_if_it_took_time() {
    assert_eq!(event().startup_seconds(), Some(42.0));
    for (pointer, value) in [
        ("/workflow_job/runner_name", json!("GitHub Actions 5")),
        ("/workflow_job/runner_name", Value::Null),
        ("/workflow_job/created_at", Value::Null),
        ("/workflow_job/started_at", Value::Null),
        ("/workflow_job/started_at", json!("2026-01-01T00:00:00Z")),
        ("/workflow_job/started_at", json!("2025-12-31T23:59:59Z")),
    ] {
        assert_eq!(read(&with(pointer, value.clone())).unwrap().startup_seconds(), None, "{pointer} {value}");
    }
}

fn labels(label: &str) -> Result<LabelSpec, LabelError> {
    parse(&["self-hosted".to_owned(), label.to_owned()], &Aliases::none())
}

#[test]
fn routes() {
    let (ours, bad, foreign) = (labels("runs-fleet/cpu=4"), labels("runs-fleet/cpu=x"), labels("ubuntu-latest"));
    let (spec, error) = (ours.as_ref().unwrap(), bad.as_ref().unwrap_err());
    let our_runner = Some("runs-fleet-i-0abc");
    let their_runner = Some("GitHub Actions 5");
    let all = [Action::Queued, Action::Waiting, Action::Requested, Action::Pending, Action::InProgress]
        .into_iter()
        .chain([Action::Completed, Action::Other]);
    for action in all {
        for runner in [our_runner, their_runner, None] {
            for labels in [&ours, &bad, &foreign] {
                let event = WorkflowJobEvent { action, runner_name: runner.map(str::to_owned), ..event() };
                let concerns_us = runner == our_runner || !std::ptr::eq(labels, &foreign);
                let want = match action {
                    Action::Queued if std::ptr::eq(labels, &ours) => Route::Accept(spec),
                    Action::Queued if std::ptr::eq(labels, &bad) => Route::Refuse(error),
                    Action::InProgress if concerns_us => Route::Bind,
                    Action::Completed if concerns_us => Route::Complete,
                    _ => Route::Ignore,
                };
                assert_eq!(route(&event, labels), want, "{action:?} {runner:?} {labels:?}");
            }
        }
    }
}

#[test]
fn a_queued_event_becomes_a_message_that_can_be_sent() {
    let spec = labels("runs-fleet/cpu=4/arch=arm64/disk=100/pool=default").unwrap();
    let queued_at = "2026-01-01T00:00:01Z".parse().unwrap();
    let message = job_message(&event(), &spec, queued_at);
    assert_eq!(message.check(), Ok(()));
    assert_eq!((message.job_id.get(), message.run_id.unwrap().get()), (11, 22));
    assert_eq!(message.original_label, "runs-fleet/cpu=4/arch=arm64/disk=100/pool=default");
    assert_eq!(message.labels, ["self-hosted", "runs-fleet/cpu=4"], "the job's whole set, not only our label");
    assert_eq!(message.spec, spec.launch_spec());
    assert_eq!((message.run_attempt, message.installation_id.unwrap().get()), (3, 99));
    assert_eq!((&*message.job_name, &*message.workflow_name), ("build", "CI"));
    assert_eq!((message.created_at, message.queued_at), (event().created_at, Some(queued_at)));
    assert_eq!((message.retry_count, message.dispatch_seq, message.displaced_count), (0, 0, 0));
    assert!(!message.force_on_demand);
    assert_eq!(JobMessage::decode(&message.encode()).unwrap().message, message);
}

fn queued() -> QueuedEvent {
    let received_at = Some("2026-01-01T00:00:43Z".parse().unwrap());
    QueuedEvent { delivery: "72d3162e-cc78-11e3-81ab-4c9367dc0958".into(), received_at, event: event() }
}

#[test]
fn queued_events_survive_the_queue() {
    let bare = json!({"action": "completed", "workflow_job": {"id": 1}, "repository": {"full_name": "o/r"}});
    let bare = QueuedEvent { delivery: String::new(), received_at: None, event: read(&bare).unwrap() };
    for event in [queued(), bare] {
        assert_eq!(QueuedEvent::decode(&event.encode()), Ok((event, vec![])));
    }
    let body: Value = serde_json::from_str(&queued().encode()).unwrap();
    assert_eq!((&body["v"], &body["kind"]), (&json!(1), &json!("workflow_job_event")));
    assert_eq!((&body["event"]["job_id"], &body["event"]["action"]), (&json!(11), &json!("in_progress")));
}

#[test]
fn queued_events_are_read_by_the_rules_of_all_messages() {
    let base: Value = serde_json::from_str(&queued().encode()).unwrap();
    let with = |pointer: &str, value: Value| {
        let mut body = base.clone();
        *body.pointer_mut(pointer).unwrap() = value;
        QueuedEvent::decode(&body.to_string())
    };
    for (pointer, value, poison) in [
        ("/v", json!(2), Poison::at(Reason::BadValue, "v")),
        ("/v", json!("1"), Poison::at(Reason::BadValue, "v")),
        ("/v", Value::Null, Poison::at(Reason::BadValue, "v")),
        ("/event", Value::Null, Poison::at(Reason::BadValue, "event")),
        ("/event", json!([]), Poison::at(Reason::BadType, "event")),
        ("/event/job_id", Value::Null, Poison::at(Reason::BadValue, "job_id")),
        ("/event/job_id", json!(0), Poison::at(Reason::BadValue, "job_id")),
        ("/event/job_id", json!(-1), Poison::at(Reason::BadValue, "job_id")),
        ("/event/job_id", json!("11"), Poison::at(Reason::BadType, "event")),
        ("/event/repo", json!("repo"), Poison::at(Reason::BadType, "event")),
        ("/event/labels", json!("x"), Poison::at(Reason::BadType, "event")),
    ] {
        assert_eq!(with(pointer, value.clone()), Err(poison), "{pointer} {value}");
    }
    for (body, reason) in [("", Reason::EmptyBody), ("{", Reason::InvalidJson), ("[]", Reason::NotObject)] {
        assert_eq!(QueuedEvent::decode(body), Err(reason.into()));
    }
    let (read, warnings) = with("/received_at", json!("soon")).unwrap();
    assert_eq!((read, warnings), (QueuedEvent { received_at: None, ..queued() }, vec!["received_at"]));
    let newer = queued().encode().replacen("{\"v\":1", "{\"v\":7,\"of_the_future\":{},\"v\":1", 1);
    let newer = newer.replacen("\"event\":{", "\"event\":{\"of_the_future\":null,\"head_branch\":null,", 1);
    assert_eq!(QueuedEvent::decode(&newer.replacen(",\"head_branch\":\"main\"", "", 1)).unwrap().0.event, {
        WorkflowJobEvent { head_branch: String::new(), ..event() }
    });
}

#[test]
fn an_event_has_its_own_lane_and_is_deduplicated_per_job_action_and_runner() {
    let queued = queued();
    assert_eq!(queued.group(), "ev:11");
    assert_eq!(queued.dedup_id(), sha256_hex("wj:11:in_progress:7"));
    let unassigned = QueuedEvent {
        delivery: "another".into(),
        event: WorkflowJobEvent { action: Action::Completed, runner_id: None, ..event() },
        ..queued
    };
    assert_eq!(unassigned.dedup_id(), sha256_hex("wj:11:completed:0"));
}

fn attributes(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn messages_are_told_apart_by_their_attributes() {
    assert_eq!(Kind::of(&attributes(&[])), Kind::Job);
    assert_eq!(Kind::of(&attributes(&[("Traceparent", "x")])), Kind::Job);
    assert_eq!(Kind::of(&QueuedEvent::attributes()), Kind::QueuedEvent);
    assert_eq!(Kind::of(&attributes(&[("RunsFleet-Kind", "of_the_future")])), Kind::Unknown);
    assert_eq!(Kind::of(&attributes(&[("x-github-EVENT", "push")])), Kind::RawWebhook);
    let both = attributes(&[("X-GitHub-Event", "push"), ("RunsFleet-Kind", "workflow_job_event")]);
    assert_eq!(Kind::of(&both), Kind::RawWebhook, "what claims to be a webhook has to prove it");
}

#[test]
fn a_gateways_message_opens_to_githubs_bytes() {
    let text = std::str::from_utf8(BODY).unwrap();
    let plain = attributes(&[
        ("X-GitHub-Event", "workflow_job"),
        ("X-Hub-Signature-256", SIGNATURE),
        ("X-GitHub-Delivery", "guid"),
    ]);
    let delivery = Delivery::open(&plain, text).unwrap();
    assert_eq!((delivery.event, delivery.guid, &*delivery.body), ("workflow_job", "guid", BODY));
    assert_eq!(delivery.verify(&secrets(SECRET, None)), Ok(()));
    assert_eq!(delivery.verify(&secrets("other", None)), Err(SignatureError::Mismatch));
    assert!(!format!("{delivery:?}").contains("Hello"));

    let encoded = attributes(&[
        ("x-github-event", "workflow_job"),
        ("X-HUB-SIGNATURE-256", SIGNATURE),
        ("body-encoding", "base64"),
    ]);
    let body = STANDARD.encode(BODY);
    let delivery = Delivery::open(&encoded, &body).unwrap();
    assert_eq!((delivery.guid, &*delivery.body), ("", BODY));
    assert_eq!(delivery.verify(&secrets(SECRET, None)), Ok(()));
}

#[test]
fn a_message_that_can_never_be_a_good_delivery_is_poison() {
    let event = ("X-GitHub-Event", "workflow_job");
    let signature = ("X-Hub-Signature-256", SIGNATURE);
    let base64 = ("Body-Encoding", "base64");
    let limit = "x".repeat(MAX_BODY);
    let over = format!("{limit}x");
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, Option<Poison>);
    let cases: &[Case<'_>] = &[
        (&[signature], "{}", Some(Poison::at(Reason::BadValue, "X-GitHub-Event"))),
        (&[event], "{}", Some(Reason::SignatureFormat.into())),
        (&[event, ("X-Hub-Signature-256", "")], "{}", Some(Reason::SignatureFormat.into())),
        (&[event, signature, base64], "not base64!", Some(Poison::at(Reason::Payload, "Body-Encoding"))),
        (&[event, signature], &over, Some(Reason::TooLarge.into())),
        (&[event, signature], &limit, None),
        (&[event, signature, base64], &STANDARD.encode(&over), Some(Reason::TooLarge.into())),
        (&[event, signature, base64], &STANDARD.encode(&limit), None),
        (&[event, signature], "", None),
    ];
    for (pairs, body, poison) in cases {
        let attributes = attributes(pairs);
        assert_eq!(Delivery::open(&attributes, body).err(), *poison, "{pairs:?}, {} bytes", body.len());
    }
    // Present but malformed is found when the signature is checked.
    let malformed = attributes(&[event, ("X-Hub-Signature-256", "sha256=00")]);
    let delivery = Delivery::open(&malformed, "{}").unwrap();
    assert_eq!(delivery.verify(&secrets(SECRET, None)), Err(SignatureError::Format));
}

proptest! {
    #[test]
    fn a_signature_is_good_for_its_body_and_secret_alone(
        secret in "\\PC{1,40}",
        body in prop::collection::vec(any::<u8>(), 0..200),
        flip in any::<prop::sample::Index>(),
    ) {
        let secrets = secrets(&secret, None);
        let signature = sign(&secrets.current, &body);
        prop_assert_eq!(verify(&secrets, &signature, &body), Ok(()));
        if !body.is_empty() {
            let mut other = body.clone();
            other[flip.index(body.len())] ^= 1;
            prop_assert_eq!(verify(&secrets, &signature, &other), Err(SignatureError::Mismatch));
        }
        let mut other = signature.into_bytes();
        let digit = &mut other[7 + flip.index(64)];
        *digit = if *digit == b'0' { b'1' } else { b'0' };
        let other = String::from_utf8(other).unwrap();
        prop_assert_eq!(verify(&secrets, &other, &body), Err(SignatureError::Mismatch));
    }

    #[test]
    fn no_header_body_or_message_panics(text in "\\PC*", bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = verify(&secrets(SECRET, None), &text, &bytes);
        let _ = WorkflowJobEvent::decode(&bytes);
        let _ = WorkflowJobEvent::decode(text.as_bytes());
        let _ = QueuedEvent::decode(&text);
    }

    /// One field of a real payload replaced by any value: an error, or an event that survives the queue.
    #[test]
    fn no_value_of_a_field_breaks_the_reader(index in 0_usize..20, value in value()) {
        let mut payload = payload();
        let job = payload["workflow_job"].as_object_mut().unwrap();
        let name = job.keys().nth(index % job.len()).unwrap().clone();
        job.insert(name, value);
        if let Ok(event) = read(&payload) {
            let queued = QueuedEvent { event, ..queued() };
            prop_assert_eq!(QueuedEvent::decode(&queued.encode()).unwrap().0, queued);
        }
    }
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(json!(["a"])),
        Just(json!([1, {}])),
        Just(json!({"a": {}})),
    ]
}
