use serde_json::json;

use super::*;

const OURS: Option<&str> = Some("123456789012");
const KEY: &str = "i-0abc1234def567890";

#[allow(clippy::needless_pass_by_value, reason = "it reads better where it is called")]
fn event(kind: &str, detail: Value) -> Value {
    json!({
        "version": "0", "id": "e-1", "detail-type": kind, "source": "aws.ec2", "account": "123456789012",
        "time": "2025-12-26T10:15:30Z", "region": "ap-northeast-1",
        "resources": ["arn:aws:ec2:ap-northeast-1a:instance/i-0abc1234def567890"], "detail": detail,
    })
}

fn warning(detail: Value) -> Value {
    event("EC2 Spot Instance Interruption Warning", detail)
}

fn what(body: &Value) -> Result<What, Reason> {
    decode(&body.to_string(), OURS).map(|e| e.what).map_err(|poison| poison.reason)
}

fn interruption() -> What {
    What::Interruption { key: RunnerKey::new(KEY), zone: Some("ap-northeast-1a".to_owned()) }
}

#[test]
fn a_warning_is_read_whatever_will_be_done_to_the_machine() {
    for action in ["terminate", "stop", "hibernate"] {
        let body = warning(json!({"instance-id": KEY, "instance-action": action}));
        assert_eq!(what(&body), Ok(interruption()), "{action}");
    }
    let read = decode(&warning(json!({"instance-id": KEY})).to_string(), OURS).unwrap();
    assert_eq!(read.id.as_deref(), Some("e-1"));
    assert_eq!(read.at, Some("2025-12-26T10:15:30Z".parse().unwrap()));
}

#[test]
fn other_notices_are_read() {
    let rebalance = event("EC2 Instance Rebalance Recommendation", json!({"instance-id": KEY}));
    assert_eq!(what(&rebalance), Ok(What::Rebalance { key: RunnerKey::new(KEY) }));
    for (word, state) in [
        ("pending", Change::Passing),
        ("running", Change::Passing),
        ("stopping", Change::Passing),
        ("shutting-down", Change::Passing),
        ("stopped", Change::Ended),
        ("terminated", Change::Ended),
        ("melted", Change::Unknown),
    ] {
        let body = event("EC2 Instance State-change Notification", json!({"instance-id": KEY, "state": word}));
        assert_eq!(what(&body), Ok(What::StateChange { key: RunnerKey::new(KEY), state }), "{word}");
    }
}

#[test]
fn only_the_two_fields_that_matter_are_required() {
    let body = json!({"detail-type": "EC2 Spot Instance Interruption Warning", "detail": {"instance-id": KEY}});
    let read = decode(&body.to_string(), OURS).unwrap();
    assert_eq!(
        read,
        Envelope { id: None, at: None, what: What::Interruption { key: RunnerKey::new(KEY), zone: None } }
    );
    let mut odd = warning(json!({"instance-id": KEY}));
    odd["time"] = json!("yesterday");
    odd["resources"] = json!("none");
    odd["surprise"] = json!([1, 2]);
    assert_eq!(decode(&odd.to_string(), OURS).unwrap().at, None);
}

#[test]
fn what_can_never_be_handled_is_named() {
    for (body, reason) in [
        ("", Reason::EmptyBody),
        (" \n", Reason::EmptyBody),
        ("nonsense", Reason::InvalidJson),
        ("[]", Reason::NotObject),
    ] {
        assert_eq!(decode(body, OURS).unwrap_err().reason, reason, "{body:?}");
    }
    for kind in [
        "EC2 Spot Instance Interruption Warning",
        "EC2 Instance Rebalance Recommendation",
        "EC2 Instance State-change Notification",
    ] {
        for (detail, reason) in [
            (json!("text"), Reason::BadType),
            (json!(null), Reason::BadType),
            (json!({}), Reason::MissingInstanceId),
            (json!({"instance-id": ""}), Reason::MissingInstanceId),
            (json!({"instance-id": 5}), Reason::MissingInstanceId),
            (json!({"instance-id": "i-123"}), Reason::BadValue),
            (json!({"instance-id": "i-0ABC1234DEF567890"}), Reason::BadValue),
            (json!({"instance-id": "i-0abc1234def5678901"}), Reason::BadValue),
            (json!({"instance-id": "../../i-0abc1234"}), Reason::BadValue),
        ] {
            assert_eq!(what(&event(kind, detail.clone())), Err(reason), "{kind} {detail}");
        }
    }
    let mut foreign = warning(json!({"instance-id": KEY}));
    foreign["account"] = json!("999999999999");
    assert_eq!(what(&foreign), Err(Reason::BadValue));
    assert_eq!(decode(&foreign.to_string(), None).unwrap().what, interruption(), "unless ours is not known");
}

#[test]
fn what_is_about_something_else_is_ignored() {
    for body in [
        json!({}),
        json!({"detail-type": "EC2 Fleet Error", "detail": {"instance-id": 5}}),
        json!({"detail-type": 5}),
        json!({"job_id": "7", "run_id": 8}),
        json!({"job_id": 7}),
    ] {
        assert_eq!(what(&body), Ok(What::Other), "{body}");
    }
}

#[test]
fn a_job_message_is_recognised_and_a_broken_one_is_poison() {
    let body = json!({
        "job_id": 7, "run_id": 8, "repo": "acme/widgets", "instance_type": "c7g.xlarge",
        "original_label": "runs-fleet/cpu=4", "job_name": "build",
    });
    let Ok(What::Job(message)) = what(&body) else { panic!("{:?}", what(&body)) };
    assert_eq!(message.job_id.get(), 7);
    assert!(what(&json!({"job_id": 7, "run_id": 8})).is_err());
}

#[test]
fn a_zone_is_told_from_a_region() {
    for (text, zone) in [
        ("ap-northeast-1a", true),
        ("us-gov-west-1b", true),
        ("ap-northeast-1", false),
        ("us-1a", false),
        ("usa-east-1a", false),
        ("us--1a", false),
        ("us-East-1a", false),
        ("us-east-12a", false),
        ("", false),
    ] {
        assert_eq!(is_zone(text), zone, "{text}");
    }
}
