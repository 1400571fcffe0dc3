use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use domain::clock::{Clock, SystemClock, Timestamp};
use domain::handover::Credential;
use domain::report::{AgentReport, AgentStatus};
use provider::handover::{Error as StoreError, HandOver};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::ec2::Instance;
use super::sqs::Queue;
use super::ssm::Parameters;
use super::{Aws, Error, error, identity, sign};
use crate::environment::{Cloud, Endpoints, Identity as Given, Keys};
use crate::log::Log;
use crate::machine::{Machine, PowerOff};
use crate::report::{Channel, Letter, Undelivered};

fn keys(session_token: &str) -> Keys {
    Keys {
        id: "AKIDEXAMPLE".to_owned(),
        secret: Credential::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
        session_token: Credential::new(session_token),
    }
}

fn signed(session_token: &str) -> Vec<(&'static str, String)> {
    let identity = identity(&keys(session_token));
    let at: Timestamp = "2015-08-30T12:36:00Z".parse().unwrap();
    let time = UNIX_EPOCH + Duration::from_secs(at.as_second().unsigned_abs());
    let scope = sign::Scope { region: "us-east-1", service: "service", time, identity: &identity };
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    sign::post(&scope, "https://example.amazonaws.com/", &headers, b"Param1=value1").unwrap()
}

/// The case "post-x-www-form-urlencoded" of AWS's published test suite of Signature Version 4.
#[test]
fn the_signature_is_the_published_one() {
    let headers = signed("");
    let value = |name| headers.iter().find(|(present, _)| *present == name).map(|(_, value)| value.as_str());
    assert_eq!(value("x-amz-date"), Some("20150830T123600Z"));
    assert_eq!(
        value("authorization"),
        Some(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, \
             Signature=ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"
        )
    );
    assert_eq!(value("x-amz-security-token"), None);
}

#[test]
fn a_session_token_is_sent_and_signed() {
    let headers = signed("the-token");
    assert!(headers.contains(&("x-amz-security-token", "the-token".to_owned())));
    assert!(headers.iter().any(|(_, value)| value.contains(";x-amz-security-token,")));
}

/// Vault forwards the request to the global endpoint, wherever the machine is.
#[cfg(feature = "vault")]
#[tokio::test]
async fn an_identity_is_proved_to_the_global_endpoint() {
    use provider::vault::{CALLER_IDENTITY, Identity as _};
    let headers = client("http://127.0.0.1:9").sign(&CALLER_IDENTITY).await.unwrap();
    let value = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let authorization = value("authorization").unwrap();
    assert!(authorization.contains("/us-east-1/sts/aws4_request, SignedHeaders=content-type;host;x-amz-date"));
    assert!(value("x-amz-date").is_some());
}

#[test]
fn errors_are_told_apart_by_what_to_do() {
    let json = |code: &str| format!("{{\"__type\":\"com.amazonaws.x#{code}\",\"message\":\"secret words\"}}");
    let xml = |code: &str| {
        format!(
            "<Response><Errors><Error><Code>{code}</Code><Message>secret words</Message></Error></Errors></Response>"
        )
    };
    type Row = (u16, String, fn(String) -> Error, &'static str);
    let rows: [Row; 16] = [
        (400, json("ThrottlingException"), Error::Throttled, "ThrottlingException"),
        (503, xml("RequestLimitExceeded"), Error::Throttled, "RequestLimitExceeded"),
        (429, String::new(), Error::Throttled, "status 429"),
        (400, json("AccessDeniedException"), Error::Denied, "AccessDeniedException"),
        (403, xml("UnauthorizedOperation"), Error::Denied, "UnauthorizedOperation"),
        (403, "<html>".to_owned(), Error::Denied, "status 403"),
        (400, json("QueueDoesNotExist"), Error::NotFound, "QueueDoesNotExist"),
        (400, xml("InvalidInstanceID.NotFound"), Error::NotFound, "InvalidInstanceID.NotFound"),
        (500, json("InternalServerError"), Error::NoAnswer, "InternalServerError"),
        (400, json("InternalFailure"), Error::NoAnswer, "InternalFailure"),
        (503, xml("Strange"), Error::NoAnswer, "Strange"),
        (502, "bad gateway".to_owned(), Error::NoAnswer, "status 502"),
        (400, xml("InvalidInstanceID.Malformed"), Error::Refused, "InvalidInstanceID.Malformed"),
        (400, "{\"__type\":\"Odd:http://internal.amazon.com/\"}".to_owned(), Error::Refused, "Odd"),
        (400, json("not a code, but a sentence"), Error::Refused, "status 400"),
        (301, String::new(), Error::Refused, "status 301"),
    ];
    for (status, body, kind, text) in rows {
        let found = error::of(status, body.as_bytes());
        assert_eq!(found, kind(text.to_owned()), "{status} {body}");
        assert!(!found.to_string().contains("secret"));
    }
}

/// A server that gives these answers, one a connection, the last one for ever, and counts the requests. It
/// lives as long as its task.
async fn double(answers: Vec<(u16, String)>) -> (Arc<Aws>, Arc<AtomicUsize>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let mut server = JoinSet::new();
    server.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            while !whole(&seen) {
                let mut buffer = [0; 4096];
                match stream.read(&mut buffer).await.unwrap() {
                    0 => break,
                    length => seen.extend_from_slice(&buffer[..length]),
                }
            }
            let number = counted.fetch_add(1, Ordering::SeqCst);
            let (status, body) = &answers[number.min(answers.len() - 1)];
            let length = body.len();
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (client(&endpoint), count, server)
}

fn client(endpoint: &str) -> Arc<Aws> {
    let [ssm, sqs, ec2, s3] = [(); 4].map(|()| endpoint.to_owned());
    let cloud = Cloud {
        region: "us-east-1".to_owned(),
        endpoints: Endpoints { ssm, sqs, ec2, s3 },
        identity: Given::Keys(keys("")),
        metadata: None,
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    Arc::new(Aws::new(&cloud, Arc::clone(&clock), &Log::new(clock)).unwrap())
}

/// Whether these bytes are a request with its whole body.
fn whole(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    length.is_none_or(|length| body.len() >= length.trim().parse().unwrap())
}

fn xml(code: &str) -> String {
    format!("<Response><Errors><Error><Code>{code}</Code></Error></Errors></Response>")
}

#[tokio::test]
async fn ending_the_instance_is_tried_four_times_unless_that_is_pointless() {
    let log = Log::new(Arc::new(SystemClock));
    let good = || (200, "<TerminateInstancesResponse/>".to_owned());
    let busy = || (503, xml("RequestLimitExceeded"));
    let rows = [
        (vec![good()], true, 1),
        (vec![busy(), (500, String::new()), (400, xml("IncorrectState")), good()], true, 4),
        (vec![busy()], false, 4),
        (vec![(403, xml("UnauthorizedOperation")), good()], false, 1),
        (vec![(403, xml("AuthFailure")), good()], false, 1),
        (vec![(400, xml("OperationNotPermitted")), good()], false, 1),
        (vec![(400, xml("InvalidInstanceID.NotFound")), good()], false, 1),
        (vec![(400, xml("InvalidInstanceID.Malformed")), good()], false, 1),
    ];
    for (answers, ended, calls) in rows {
        let (aws, count, _server) = double(answers.clone()).await;
        let instance = Instance::new(aws, "i-1".into(), Duration::from_millis(1), PowerOff::default());
        assert_eq!(instance.end(&log).await, ended, "{answers:?}");
        assert_eq!(count.load(Ordering::SeqCst), calls, "{answers:?}");
    }
}

#[tokio::test]
async fn an_unreadable_store_is_not_there_yet_or_no_answer_or_refused() {
    let row = async |status, body: &str| {
        let (aws, _, _server) = double(vec![(status, body.to_owned())]).await;
        Parameters::new(aws, "/p".to_owned(), None).get(&"i-1".into()).await
    };
    let parameter = |name: &str, value: &str| {
        serde_json::json!({"Parameters": [{"Name": format!("/p/i-1/{name}"), "Value": value}]}).to_string()
    };
    assert_eq!(row(200, "{\"Parameters\":[],\"InvalidParameters\":[\"a\"]}").await, Ok(None));
    assert_eq!(row(200, &parameter("config", "{\"repo\":\"o/r\"}")).await, Ok(None), "its credential is missing");
    assert_eq!(row(200, &parameter("credential", "{}")).await, Ok(None), "its document is missing");
    assert_eq!(row(400, "{\"__type\":\"ParameterNotFound\"}").await, Ok(None));
    let found = row(200, &parameter("config", "{\"repo\":\"o/r\",\"jit_token\":\"t\"}")).await;
    assert_eq!(found.unwrap().map(|document| document.repo), Some("o/r".to_owned()));
    let denied = row(400, "{\"__type\":\"AccessDeniedException\"}").await;
    assert_eq!(denied, Err(StoreError::Deployment("denied (AccessDeniedException)".to_owned())));
    assert!(matches!(row(200, &parameter("config", "{")).await, Err(StoreError::Invalid(_))));
    assert!(matches!(row(400, "{\"__type\":\"ThrottlingException\"}").await, Err(StoreError::Transient(_))));
    assert!(matches!(row(200, "<html>").await, Err(StoreError::Transient(_))), "a proxy answered");
    assert!(matches!(row(200, "{}").await, Err(StoreError::Transient(_))), "half an answer says nothing");
    let gone = Parameters::new(client("http://127.0.0.1:9"), "/p".to_owned(), None).get(&"i-1".into()).await;
    assert!(matches!(gone, Err(StoreError::Transient(_))));
}

#[tokio::test]
async fn an_undelivered_letter_says_whether_to_try_again() {
    let report = AgentReport::new("i-1".into(), AgentStatus::Started);
    let letter = Letter { report, queue_url: Some("https://sqs.us-east-1.amazonaws.com/1/t".to_owned()) };
    let deliver = async |status, body: &str| {
        let (aws, _, _server) = double(vec![(status, body.to_owned())]).await;
        Queue::new(aws).deliver(&letter).await
    };
    assert_eq!(deliver(200, "{\"MessageId\":\"m\"}").await, Ok(()));
    for again in ["ThrottlingException", "AccessDeniedException", "InternalFailure"] {
        let body = format!("{{\"__type\":\"{again}\"}}");
        assert!(matches!(deliver(400, &body).await, Err(Undelivered::Again(_))), "{again}");
    }
    let never = deliver(400, "{\"__type\":\"com.amazonaws.sqs#QueueDoesNotExist\"}").await;
    assert_eq!(never, Err(Undelivered::Never("not found (QueueDoesNotExist)".to_owned())));
    let nowhere = Letter { queue_url: None, ..letter.clone() };
    assert_eq!(Queue::new(client("http://127.0.0.1:9")).deliver(&nowhere).await, Err(Undelivered::Nowhere));
}

#[tokio::test]
async fn what_ec2_does_not_end_powers_off() {
    let log = Log::new(Arc::new(SystemClock));
    for (commands, ended) in [(vec!["false", "true"], true), (vec!["/nowhere/x"], false)] {
        let (aws, _, _server) = double(vec![(403, xml("UnauthorizedOperation"))]).await;
        let power_off = PowerOff { commands: commands.into_iter().map(str::to_owned).collect() };
        let instance = Instance::new(aws, "i-1".into(), Duration::from_millis(1), power_off);
        assert_eq!(instance.end(&log).await, ended);
    }
}
