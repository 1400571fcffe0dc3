//! What the emulator cannot show: refusals, lost answers, partial failures, silence.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_sdk_sqs::types::{Message as Received, MessageAttributeValue};
use domain::clock::Timestamp;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::double::{Answer, Double};
use super::*;

const FIFO: &str = "https://sqs.us-east-1.amazonaws.com/123456789012/main.fifo";
const STANDARD: &str = "https://sqs.us-east-1.amazonaws.com/123456789012/events";
const DEAD: &str = "https://sqs.us-east-1.amazonaws.com/123456789012/main-dlq.fifo";
const MINUTE: Duration = Duration::from_secs(60);

/// Production's limits, a hundred times shorter.
const SHORT: Limits = Limits {
    connect: Duration::from_millis(100),
    read: Duration::from_millis(100),
    call: Duration::from_millis(150),
    receive: Duration::from_millis(250),
    probe: Duration::from_millis(50),
};

fn queue(double: &Double, url: &str) -> SqsQueue {
    SqsQueue::limited(&emulator::sdk(&double.endpoint), emulator::silent(), "main", url, SHORT)
}

fn message() -> Message {
    Message { body: "{}".into(), group: "7".into(), dedup: "id".into(), ..Message::default() }
}

fn received(handle: &str, group: Option<&str>) -> Value {
    let mut attributes = json!({ "SentTimestamp": "1767225600123", "ApproximateReceiveCount": "2" });
    if let Some(group) = group {
        attributes["MessageGroupId"] = group.into();
    }
    json!({ "MessageId": format!("m-{handle}"), "ReceiptHandle": handle, "Body": "{}", "Attributes": attributes })
}

fn messages(handles: &[&str]) -> Answer {
    let messages: Vec<Value> = handles.iter().map(|handle| received(handle, Some(handle))).collect();
    Answer::Ok(json!({ "Messages": messages }))
}

fn operations(double: &Double) -> Vec<String> {
    double.calls().into_iter().map(|(operation, _)| operation).collect()
}

/// A batch of deletions that all succeed, or all but those in `failed`.
fn deleted(input: &Value, failed: &[(&str, &str)]) -> Answer {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for entry in input["Entries"].as_array().unwrap() {
        let id = &entry["Id"];
        match failed.iter().find(|(handle, _)| entry["ReceiptHandle"] == *handle) {
            Some((_, code)) => bad.push(json!({ "Id": id, "SenderFault": true, "Code": code })),
            None => good.push(json!({ "Id": id })),
        }
    }
    Answer::Ok(json!({ "Successful": good, "Failed": bad }))
}

/// One row per thing the caller can do, and nothing is tried again behind its back.
#[tokio::test]
async fn refusals_say_what_the_caller_must_do() {
    type Is = fn(&Error) -> bool;
    let rows: [(u16, &str, &str, Is); 14] = [
        (400, "RequestThrottled", "", |error| matches!(error, Error::Throttled)),
        (400, "ThrottlingException", "Rate exceeded", |error| matches!(error, Error::Throttled)),
        (400, "KMS.ThrottlingException", "", |error| matches!(error, Error::Throttled)),
        (429, "Unheard", "", |error| matches!(error, Error::Throttled)),
        (403, "AccessDenied", "no", |error| matches!(error, Error::Unauthorized(_))),
        (403, "AccessDeniedException", "no", |error| matches!(error, Error::Unauthorized(_))),
        (403, "ExpiredToken", "", |error| matches!(error, Error::Unauthorized(_))),
        (400, "KMS.DisabledException", "", |error| matches!(error, Error::Unauthorized(_))),
        (400, "AWS.SimpleQueueService.NonExistentQueue", "none", |error| matches!(error, Error::NotFound(_))),
        (400, "QueueDoesNotExist", "none", |error| matches!(error, Error::NotFound(_))),
        (400, "InvalidParameterValue", "bad", |error| matches!(error, Error::Invalid(_))),
        (400, "InvalidMessageContents", "bad", |error| matches!(error, Error::Invalid(_))),
        (500, "InternalError", "", |error| matches!(error, Error::Unavailable(_))),
        (503, "Unheard", "", |error| matches!(error, Error::Unavailable(_))),
    ];
    let double =
        Double::start(move |number, _, _| Answer::Refuse(rows[number].0, rows[number].1, rows[number].2)).await;
    let queue = queue(&double, FIFO);
    for (status, code, _, is) in rows {
        let error = queue.send(message()).await.unwrap_err();
        assert!(is(&error), "{status} {code} became {error:?}");
    }
    assert_eq!(double.calls().len(), rows.len());
}

#[test]
fn handles_that_are_over() {
    for (code, message) in [
        ("ReceiptHandleIsInvalid", "The input receipt handle is invalid."),
        ("AWS.SimpleQueueService.MessageNotInflight", ""),
        (
            "InvalidParameterValue",
            "Value AQEB for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired.",
        ),
    ] {
        assert!(matches!(fault::refused(code, message, 400), Error::HandleExpired), "{code}");
    }
}

#[tokio::test]
async fn a_broken_way_is_unavailable_and_silence_is_a_timeout() {
    let double = Double::start(|number, _, _| match number {
        0 => Answer::Html(502),
        1 => Answer::Break,
        _ => Answer::Hang,
    })
    .await;
    let queue = queue(&double, FIFO);
    assert!(matches!(queue.send(message()).await, Err(Error::Unavailable(_))));
    assert!(matches!(queue.send(message()).await, Err(Error::Unavailable(_))));
    assert!(matches!(queue.send(message()).await, Err(Error::Timeout)));
    assert!(matches!(queue.extend(&Handle("h".into()), MINUTE).await, Err(Error::Timeout)));
    assert!(matches!(queue.ack(&Handle("h".into())).await, Err(Error::Timeout)));
    assert!(matches!(queue.depth().await, Err(Error::Timeout)));
    let nobody = SqsQueue::limited(&emulator::sdk("http://127.0.0.1:1"), emulator::silent(), "main", FIFO, SHORT);
    assert!(matches!(nobody.send(message()).await, Err(Error::Unavailable(_))));
}

/// The batch that was on its way is asked for again under its own id, once.
#[tokio::test]
async fn a_receive_whose_answer_was_lost_is_the_same_receive_again() {
    for lost in [|| Answer::Break, || Answer::Hang] {
        let double = Double::start(move |number, _, _| if number == 0 { lost() } else { messages(&["a"]) }).await;
        let queue = queue(&double, FIFO);
        let before = Instant::now();
        let got = queue.receive(10, Duration::ZERO, MINUTE).await.unwrap();
        assert_eq!(got.len(), 1);
        assert!(got[0].deadline >= before + MINUTE && got[0].deadline <= Instant::now() + MINUTE);
        queue.receive(10, Duration::ZERO, MINUTE).await.unwrap();
        let calls = double.calls();
        assert_eq!(calls[0], calls[1], "the same request, its attempt id included");
        let id = |number: usize| calls[number].1["ReceiveRequestAttemptId"].as_str().unwrap().to_owned();
        assert!(!id(0).is_empty() && id(2) != id(0), "another receive has another id");
        assert_eq!(calls.len(), 3);
    }
}

#[tokio::test]
async fn a_receive_is_repeated_once_and_only_when_an_answer_was_lost() {
    let double = Double::start(|_, _, _| Answer::Break).await;
    let lost = queue(&double, FIFO).receive(1, Duration::ZERO, MINUTE).await;
    assert!(matches!(lost, Err(Error::Unavailable(_))));
    assert_eq!(double.calls().len(), 2);
    let refused = Double::start(|_, _, _| Answer::Refuse(400, "RequestThrottled", "")).await;
    let throttled = queue(&refused, FIFO).receive(1, Duration::ZERO, MINUTE).await;
    assert!(matches!(throttled, Err(Error::Throttled)));
    assert_eq!(refused.calls().len(), 1);
    // A standard queue has no attempts.
    let standard = Double::start(|_, _, _| Answer::Break).await;
    assert!(queue(&standard, STANDARD).receive(1, Duration::ZERO, MINUTE).await.is_err());
    assert_eq!(standard.calls().len(), 1);
    assert!(standard.calls()[0].1.get("ReceiveRequestAttemptId").is_none());
}

#[tokio::test]
async fn a_receive_asks_for_what_the_port_tells() {
    let double = Double::start(|_, _, _| Answer::Ok(json!({}))).await;
    let queue = queue(&double, FIFO);
    assert!(queue.receive(99, MINUTE, Duration::from_millis(1500)).await.unwrap().is_empty());
    let (operation, input) = double.calls().remove(0);
    assert_eq!(operation, "ReceiveMessage");
    assert_eq!((&input["MaxNumberOfMessages"], &input["WaitTimeSeconds"]), (&json!(10), &json!(20)));
    assert_eq!(input["VisibilityTimeout"], 2, "a part of a second counts as one");
    assert_eq!(input["MessageAttributeNames"], json!(["All"]));
    let names = ["SentTimestamp", "ApproximateReceiveCount", "MessageGroupId", "MessageDeduplicationId"];
    assert_eq!(input["MessageSystemAttributeNames"], json!(names));
}

/// SQS fills a batch from one group if it can; the port promises one message of a group at a time.
#[tokio::test]
async fn what_stands_behind_the_head_of_its_group_is_given_back() {
    let double = Double::start(|_, operation, _| match operation {
        "ReceiveMessage" => {
            let mut bare = received("", Some("i"));
            bare.as_object_mut().unwrap().remove("ReceiptHandle");
            let groups = [("a", "g"), ("b", "g"), ("c", "h"), ("d", "g")];
            let mut messages: Vec<_> = groups.iter().map(|(handle, group)| received(handle, Some(group))).collect();
            messages.push(bare);
            Answer::Ok(json!({ "Messages": messages }))
        }
        _ => Answer::Ok(json!({ "Successful": [], "Failed": [] })),
    })
    .await;
    let got = queue(&double, FIFO).receive(10, Duration::ZERO, MINUTE).await.unwrap();
    let handles: Vec<_> = got.iter().map(|delivery| delivery.handle.0.as_str()).collect();
    assert_eq!(handles, ["a", "c"], "and nothing without a receipt handle");
    let (operation, input) = double.calls().remove(1);
    assert_eq!(operation, "ChangeMessageVisibilityBatch");
    let entry = |id: &str, handle: &str| json!({ "Id": id, "ReceiptHandle": handle, "VisibilityTimeout": 0 });
    assert_eq!(input["Entries"], json!([entry("0", "b"), entry("1", "d")]));
}

#[test]
fn what_was_not_told_is_absent() {
    let deadline = Instant::now();
    let attribute = |value: MessageAttributeValue| HashMap::from([("X".to_owned(), value)]);
    let text = MessageAttributeValue::builder().data_type("String").string_value("y").build().unwrap();
    let binary = MessageAttributeValue::builder().data_type("Binary").build().unwrap();
    for (sent, count, want) in [
        (Some("1767225600123"), Some("3"), (Some(1_767_225_600_123), Some(3))),
        (Some("soon"), Some("many"), (None, None)),
        (Some(""), Some("0"), (None, None)),
        (None, None, (None, None)),
    ] {
        let mut builder = Received::builder().receipt_handle("h").set_message_attributes(Some(attribute(text.clone())));
        for (name, value) in [
            (MessageSystemAttributeName::SentTimestamp, sent),
            (MessageSystemAttributeName::ApproximateReceiveCount, count),
        ] {
            if let Some(value) = value {
                builder = builder.attributes(name, value);
            }
        }
        let got = wire::delivery(builder.build(), deadline).unwrap();
        let sent_at = want.0.map(|millis| Timestamp::from_millisecond(millis).unwrap());
        assert_eq!((got.sent_at, got.receive_count, got.body.as_str(), got.group), (sent_at, want.1, "", None));
        assert_eq!(got.attributes["X"], "y");
    }
    let got = Received::builder().receipt_handle("h").set_message_attributes(Some(attribute(binary))).build();
    assert!(wire::delivery(got, deadline).unwrap().attributes.is_empty(), "text only");
    assert!(wire::delivery(Received::builder().receipt_handle("").build(), deadline).is_none());
}

#[test]
fn durations_become_whole_seconds_upwards() {
    for (millis, seconds) in [(0, 0), (1, 1), (1000, 1), (1001, 2), (43_200_000, 43_200), (u64::MAX, i32::MAX)] {
        assert_eq!(wire::seconds(Duration::from_millis(millis)), seconds);
    }
}

#[tokio::test]
async fn a_send_says_what_its_kind_of_queue_takes() {
    let double = Double::start(|_, _, _| Answer::Ok(json!({ "MessageId": "m-1" }))).await;
    let attributes = [("Traceparent", "00-a"), ("Empty", "")];
    let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let message = Message { attributes, ..message() };
    let fifo = queue(&double, FIFO);
    assert_eq!(fifo.send(message.clone()).await.unwrap(), "m-1");
    queue(&double, STANDARD).send(message.clone()).await.unwrap();
    fifo.send(Message { dedup: String::new(), ..message.clone() }).await.unwrap();
    assert!(matches!(fifo.send(Message { group: String::new(), ..message.clone() }).await, Err(Error::Invalid(_))));
    let body = "x".repeat(MAX_BODY + 1);
    assert!(matches!(fifo.send(Message { body, ..message }).await, Err(Error::TooLarge(262_145))));
    let sent: Vec<_> = double.calls().into_iter().map(|(_, input)| input).collect();
    assert_eq!(sent.len(), 3, "two were refused here");
    let traceparent = json!({ "Traceparent": { "DataType": "String", "StringValue": "00-a" } });
    assert!(sent.iter().all(|input| input["MessageAttributes"] == traceparent));
    assert_eq!((&sent[0]["MessageGroupId"], &sent[0]["MessageDeduplicationId"]), (&json!("7"), &json!("id")));
    assert!(sent[1].get("MessageGroupId").is_none() && sent[1].get("MessageDeduplicationId").is_none());
    assert_eq!(sent[2]["MessageDeduplicationId"], poison::digest("{}"), "no id: the content is the id");
}

#[tokio::test]
async fn acks_of_a_moment_share_a_call_and_fail_alone() {
    let double = Double::start(|_, _, input| {
        deleted(input, &[("3", "ReceiptHandleIsInvalid"), ("4", "InternalError"), ("5", "AccessDenied")])
    })
    .await;
    let queue = Arc::new(queue(&double, FIFO));
    let mut acks = tokio::task::JoinSet::new();
    for number in 0..8 {
        let queue = Arc::clone(&queue);
        acks.spawn(async move { (number, queue.ack(&Handle(number.to_string())).await) });
    }
    for (number, result) in acks.join_all().await {
        match number {
            3 => assert!(matches!(result, Err(Error::HandleExpired))),
            4 | 5 => assert!(result.is_err()),
            _ => result.unwrap(),
        }
    }
    assert_eq!(operations(&double), ["DeleteMessageBatch"]);
    // An entry that SQS forgets is not taken for deleted.
    let forgetful = Double::start(|_, _, _| Answer::Ok(json!({ "Successful": [], "Failed": [] }))).await;
    let forgotten = self::queue(&forgetful, FIFO).ack(&Handle("a".into())).await;
    assert!(matches!(forgotten, Err(Error::Unavailable(_))));
}

/// Batches of ten at most; each caller gets the answer to its own handle.
#[tokio::test(start_paused = true)]
async fn every_ack_gets_its_own_answer() {
    let (acks, calls) = (Acks::default(), AtomicUsize::new(0));
    let delete = async |handles: Vec<Handle>| {
        assert!(handles.len() <= 10);
        calls.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(20)).await;
        let odd = |handle: Handle| handle.0.parse::<u32>().unwrap() % 2 == 1;
        handles.into_iter().map(|handle| if odd(handle) { Err(Error::HandleExpired) } else { Ok(()) }).collect()
    };
    let handles: Vec<_> = (0..64).map(|number| Handle(number.to_string())).collect();
    let from = Instant::now();
    let results = futures::future::join_all(handles.iter().map(|handle| acks.ack(handle, delete))).await;
    for (number, result) in results.iter().enumerate() {
        assert_eq!(result.is_ok(), number % 2 == 0, "{number}");
    }
    assert_eq!(calls.load(Ordering::Relaxed), 7);
    assert!(from.elapsed() < Duration::from_millis(60), "batches do not wait for one another's answers");
}

/// Whoever is dropped, and whenever, the others are answered; what was dropped before it was asked for is not asked.
#[tokio::test(start_paused = true)]
async fn a_dropped_ack_harms_no_other() {
    for dropped in 0..3 {
        for after in [0, 1, 4, 6, 15, 24, 26] {
            let (acks, asked) = (Acks::default(), Mutex::new(Vec::new()));
            let delete = async |handles: Vec<Handle>| {
                asked.lock().unwrap().extend(handles.iter().map(|handle| handle.0.clone()));
                sleep(Duration::from_millis(20)).await;
                handles.into_iter().map(|_| Ok(())).collect()
            };
            let run = async |number: usize| {
                let handle = Handle(number.to_string());
                let limit = if number == dropped { Duration::from_millis(after) } else { MINUTE };
                (number, timeout(limit, acks.ack(&handle, delete)).await)
            };
            for (number, result) in futures::future::join_all((0..3).map(run)).await {
                if number != dropped {
                    result.expect("answered in time").unwrap();
                }
            }
            if after <= 4 {
                assert!(!asked.lock().unwrap().contains(&dropped.to_string()), "{dropped} after {after} ms");
            }
        }
    }
}

#[tokio::test]
async fn a_reject_copies_first_and_acks_then() {
    let double = Double::start(|number, operation, input| match operation {
        "SendMessage" if number == 0 => Answer::Refuse(500, "InternalError", ""),
        "SendMessage" => Answer::Ok(json!({ "MessageId": "copy" })),
        _ => deleted(input, &[]),
    })
    .await;
    let queue = queue(&double, FIFO).with_dead_letters(DEAD);
    let message = Received::builder().message_id("m-1").receipt_handle("h").body("{").build();
    let mut delivery = wire::delivery(message, Instant::now()).unwrap();
    delivery.attributes = (0..10).map(|number| (format!("A{number}"), "x".to_owned())).collect();
    assert!(matches!(queue.reject(&delivery, "invalid_json").await, Err(Error::Unavailable(_))));
    queue.reject(&delivery, "invalid_json").await.unwrap();
    assert_eq!(operations(&double), ["SendMessage", "SendMessage", "DeleteMessageBatch"], "not acked without a copy");
    let copy = &double.calls()[1].1;
    assert_eq!(
        (&copy["QueueUrl"], &copy["MessageBody"], &copy["MessageGroupId"]),
        (&json!(DEAD), &json!("{"), &json!("poison"))
    );
    assert_eq!(copy["MessageDeduplicationId"], poison::digest("{"));
    let attributes = copy["MessageAttributes"].as_object().unwrap();
    assert_eq!(attributes["PoisonReason"]["StringValue"], "invalid_json");
    assert_eq!(attributes["SourceMessageId"]["StringValue"], "m-1");
    assert_eq!(attributes.len(), 10, "as many as a message can have");
}

#[test]
fn only_as_many_attributes_go_as_must() {
    let of = |names: &[&str]| -> BTreeMap<String, String> {
        names.iter().map(|name| ((*name).into(), "x".into())).collect()
    };
    let mut few = of(&["A", "PoisonReason", "SourceMessageId"]);
    assert!(wire::fit(&mut few).is_empty());
    assert_eq!(few.len(), 3);
    let mut many = of(&["A", "B", "C", "D", "E", "F", "G", "H", "Y", "Z", "PoisonReason", "SourceMessageId"]);
    assert_eq!(wire::fit(&mut many), ["Z", "Y"]);
    assert!(many.len() == 10 && many.contains_key("PoisonReason") && many.contains_key("SourceMessageId"));
}

#[tokio::test]
async fn a_good_probe_holds_for_a_while_and_a_bad_one_does_not() {
    let double = Double::start(|number, _, _| match number {
        0 => Answer::Refuse(403, "AccessDenied", ""),
        1 => Answer::Hang,
        _ => Answer::Ok(json!({ "Attributes": { "QueueArn": "arn" } })),
    })
    .await;
    let queue = queue(&double, FIFO);
    assert!(matches!(queue.ping().await, Err(Error::Unauthorized(_))));
    let from = Instant::now();
    assert!(matches!(queue.ping().await, Err(Error::Timeout)));
    assert!(from.elapsed() < SHORT.call, "sooner than other calls");
    for _ in 0..3 {
        queue.ping().await.unwrap();
    }
    assert_eq!(double.calls().len(), 3);
}

fn attributes(pairs: &[(QueueAttributeName, &str)]) -> HashMap<QueueAttributeName, String> {
    pairs.iter().map(|(name, value)| (name.clone(), (*value).to_owned())).collect()
}

#[test]
fn warnings_of_a_queue() {
    let good = attributes(&[
        (QueueAttributeName::MessageRetentionPeriod, "86400"),
        (QueueAttributeName::RedrivePolicy, r#"{"maxReceiveCount":3}"#),
        (QueueAttributeName::FifoQueue, "true"),
    ]);
    assert!(check::warnings(true, &good).is_empty());
    let with = |name: QueueAttributeName, value: &str| {
        let mut attributes = good.clone();
        attributes.insert(name, value.into());
        attributes
    };
    let says = |fifo: bool, attributes: HashMap<_, _>, words: &[&str]| {
        let warnings = check::warnings(fifo, &attributes);
        assert_eq!(warnings.len(), words.len(), "{warnings:?}");
        for (warning, word) in warnings.iter().zip(words) {
            assert!(warning.contains(word), "{warning}");
        }
    };
    says(true, with(QueueAttributeName::MessageRetentionPeriod, "3600"), &["3600 s"]);
    says(true, with(QueueAttributeName::RedrivePolicy, ""), &["redrive"]);
    says(true, with(QueueAttributeName::FifoQueue, "false"), &["attributes say standard"]);
    says(false, good.clone(), &[".fifo", "attributes say FIFO"]);
    says(false, with(QueueAttributeName::FifoQueue, "false"), &[".fifo"]);
    says(true, HashMap::new(), &["redrive", "attributes say standard"]);
}

#[tokio::test]
async fn a_queue_that_may_not_be_looked_at_is_a_warning() {
    let double = Double::start(|_, _, _| Answer::Refuse(403, "AccessDenied", "not you")).await;
    let warnings = check(&queue(&double, FIFO)).await;
    assert!(matches!(&warnings[..], [only] if only.starts_with("queue main: ") && only.contains("GetQueueAttributes")));
}

#[test]
fn the_queues_of_an_installation() {
    let specs = wanted("runs-fleet");
    let mut names: Vec<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "runs-fleet-events",
            "runs-fleet-events-dlq",
            "runs-fleet-housekeeping",
            "runs-fleet-main-dlq.fifo",
            "runs-fleet-main.fifo",
            "runs-fleet-termination",
            "runs-fleet-termination-dlq",
            "runs-fleet-webhook-dlq.fifo",
            "runs-fleet-webhook.fifo",
        ]
    );
    for spec in &specs {
        let Some(redrive) = &spec.redrive else { continue };
        let dead = specs.iter().find(|dead| dead.name == redrive.queue).unwrap();
        assert_eq!((dead.fifo(), dead.retention.as_secs(), redrive.max_receive_count), (spec.fifo(), 1_209_600, 5));
    }
    let of = |name: &str| specs.iter().find(|spec| spec.name == name).unwrap();
    let seconds = |spec: &QueueSpec| (spec.visibility.as_secs(), spec.retention.as_secs());
    assert_eq!(seconds(of("runs-fleet-main.fifo")), (300, 86_400));
    assert_eq!(seconds(of("runs-fleet-termination")), (60, 345_600));
}

#[test]
fn only_what_differs_is_set() {
    let specs = wanted("runs-fleet");
    let main = specs.iter().find(|spec| spec.name == "runs-fleet-main.fifo").unwrap();
    let redrive = Some(("arn:dlq", 5));
    let mut state =
        attributes(&[(QueueAttributeName::QueueArn, "arn:main"), (QueueAttributeName::VisibilityTimeout, "30")]);
    let changes = setup::changes(main, redrive, &state);
    assert_eq!(changes.len(), 5);
    assert_eq!(changes[&QueueAttributeName::VisibilityTimeout], "300");
    state.extend(changes);
    assert!(setup::changes(main, redrive, &state).is_empty(), "a second time changes nothing");
    let text = r#"{"maxReceiveCount":"5","deadLetterTargetArn":"arn:dlq"}"#;
    state.insert(QueueAttributeName::RedrivePolicy, text.into());
    assert!(setup::changes(main, redrive, &state).is_empty(), "whatever the policy looks like");
    state.insert(QueueAttributeName::KmsMasterKeyId, "alias/ours".into());
    state.insert(QueueAttributeName::SqsManagedSseEnabled, "false".into());
    assert!(setup::changes(main, redrive, &state).is_empty(), "an operator's key stays");
    assert_eq!(setup::changes(main, Some(("arn:dlq", 3)), &state).len(), 1);
}
