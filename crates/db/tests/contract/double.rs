//! What goes wrong between us and DynamoDB, with a server that answers as told, or loses the answers of the emulator.

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};

use db::schema::{JOBS, POOLS, STATUS_CREATED};
use db::table::{Cond, Item, Outcome, Query, Table, Update, Value, Write};
use db::{DynamoDb, Error, TableNames};
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::emulated::{Dice, make, names, quiet};
use crate::{TestClock, row};

/// What the double does with a request.
enum Reply {
    /// Answers.
    Answer(u16, Json),
    /// Hands it to the emulator, and its answer back.
    Pass,
    /// Hands it to the emulator, and loses the answer.
    PassAndLose,
    /// Loses the request.
    Lose,
}
use Reply::{Answer, Lose, Pass, PassAndLose};

/// Operation and body of every request so far.
type Requests = Arc<Mutex<Vec<(String, Json)>>>;

/// A server on this machine. Its tasks end with it.
struct Double {
    store: DynamoDb,
    requests: Requests,
    _tasks: JoinSet<()>,
}

impl Double {
    /// Answers by the operation's name and how often it has been asked before.
    async fn start(names: TableNames, reply: fn(&str, usize) -> Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let requests = Requests::default();
        let (mut tasks, seen) = (JoinSet::new(), Arc::clone(&requests));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket, Arc::clone(&seen), reply));
            }
        });
        let rng = Arc::new(Dice(AtomicU32::new(7)));
        let store = DynamoDb::new(&emulator::sdk(&endpoint), quiet(), names, TestClock::new(), rng);
        Self { store, requests, _tasks: tasks }
    }

    fn operations(&self) -> Vec<String> {
        self.requests.lock().expect("whole").iter().map(|(operation, _)| operation.clone()).collect()
    }
    fn body(&self, place: usize) -> Json {
        self.requests.lock().expect("whole")[place].1.clone()
    }
}

/// One request, then the connection ends.
async fn serve(mut socket: TcpStream, requests: Requests, reply: fn(&str, usize) -> Reply) {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    let (head, body) = loop {
        let count = socket.read(&mut buffer).await.unwrap_or(0);
        bytes.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = header(head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            if body.len() >= length {
                break (head.to_owned(), body.to_owned());
            }
        }
        if count == 0 {
            return;
        }
    };
    let target = header(&head, "x-amz-target").unwrap_or_default();
    let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
    let body: Json = serde_json::from_str(&body).expect("JSON");
    let before = {
        let mut requests = requests.lock().expect("whole");
        requests.push((operation.clone(), body));
        requests.iter().filter(|(seen, _)| *seen == operation).count() - 1
    };
    match reply(&operation, before) {
        Answer(status, body) => {
            let body = body.to_string();
            let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/x-amz-json-1.0\r\nconnection: close");
            let answer = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            socket.write_all(answer.as_bytes()).await.expect("it listens");
        }
        Pass => socket.write_all(&passed(&bytes).await).await.expect("it listens"),
        PassAndLose => drop(passed(&bytes).await),
        Lose => {}
    }
}

fn header(head: &str, name: &str) -> Option<String> {
    let line = |line: &str| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    };
    head.lines().find_map(line)
}

async fn passed(request: &[u8]) -> Vec<u8> {
    let address = emulator::shared().dynamodb_endpoint().trim_start_matches("http://");
    let mut socket = TcpStream::connect(address).await.expect("the emulator");
    socket.write_all(request).await.expect("it listens");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.expect("an answer");
    answer
}

fn error(kind: &str, message: &str) -> Json {
    json!({"__type": format!("com.amazonaws.dynamodb.v20120810#{kind}"), "message": message})
}

fn throttled() -> Reply {
    Answer(400, error("ProvisionedThroughputExceededException", "slow down"))
}

fn jobs() -> TableNames {
    TableNames::new().table(&JOBS, "jobs")
}

fn job(id: i64) -> Item {
    row([("job_id", id.into()), ("status", "requeued".into()), ("created_at", format!("2026-01-0{id}").into())])
}

fn absent() -> Cond {
    Cond::absent("job_id")
}

#[tokio::test]
async fn throttling_is_waited_out_a_few_times() {
    let double = Double::start(jobs(), |_, before| if before < 2 { throttled() } else { Answer(200, json!({})) }).await;
    assert!(double.store.put(&JOBS, job(1), absent()).await.expect("allowed").is_applied());
    assert_eq!(double.operations(), ["PutItem"; 3]);
    let double = Double::start(jobs(), |_, _| throttled()).await;
    let answer = double.store.put(&JOBS, job(1), absent()).await;
    assert!(matches!(answer, Err(Error::Unavailable(_))), "{answer:?}");
    assert_eq!(double.operations(), ["PutItem"; 3], "and not more often");
    // An addition that was certainly not made is repeated, too.
    let double = Double::start(jobs(), |_, before| if before < 1 { throttled() } else { Answer(200, json!({})) }).await;
    let sum = Update::default().add("count", 1_i64);
    assert!(double.store.update(&JOBS, &1_i64.into(), sum, Cond::Always).await.expect("allowed").is_applied());
}

#[tokio::test]
async fn what_no_repetition_cures_is_asked_once() {
    for (kind, invalid) in [("ValidationException", true), ("AccessDeniedException", false)] {
        let double = match kind {
            "ValidationException" => {
                Double::start(jobs(), |_, _| Answer(400, error("ValidationException", "no"))).await
            }
            _ => Double::start(jobs(), |_, _| Answer(400, error("AccessDeniedException", "no"))).await,
        };
        let answer = double.store.get(&JOBS, &1_i64.into()).await;
        assert_eq!(matches!(answer, Err(Error::Invalid(_))), invalid, "{answer:?}");
        assert_eq!(matches!(answer, Err(Error::Unavailable(_))), !invalid, "{answer:?}");
        assert_eq!(double.operations(), ["GetItem"]);
    }
}

/// D35.
#[tokio::test]
async fn a_write_whose_answer_was_lost_is_recognised() {
    let names = names(&[&JOBS]);
    make(&[&JOBS], &names);
    let first = |_: &str, before: usize| if before == 0 { PassAndLose } else { Pass };
    let double = Double::start(names, first).await;
    let (store, key) = (&double.store, Value::N(1));
    assert!(store.put(&JOBS, job(1), absent()).await.expect("allowed").is_applied());
    let claim = Update::default().set("lease_token", "mine").set("version", 1_i64).remove("created_at");
    let claimed = store.update(&JOBS, &key, claim, Cond::absent("lease_token")).await.expect("allowed");
    assert_eq!(claimed.applied().expect("ours")["lease_token"], Value::from("mine"));
    assert!(store.delete(&JOBS, &key, Cond::eq("lease_token", "mine")).await.expect("allowed").is_applied());
    assert_eq!(double.operations(), ["PutItem", "PutItem", "UpdateItem", "UpdateItem", "DeleteItem", "DeleteItem"]);
    assert_eq!(store.get(&JOBS, &key).await.expect("an answer"), None);
}

/// D35, the other side: what is in the row then is somebody else's.
#[tokio::test]
async fn a_lost_request_that_finds_anothers_write_is_lost() {
    fn item() -> Json {
        json!({"job_id": {"N": "1"}, "lease_token": {"S": "theirs"}})
    }
    let double = Double::start(jobs(), |_, before| {
        let mut failed = error("ConditionalCheckFailedException", "The conditional request failed");
        failed["Item"] = item();
        if before == 0 { Answer(500, error("InternalServerError", "?")) } else { Answer(400, failed) }
    })
    .await;
    let claim = Update::default().set("lease_token", "mine");
    let answer = double.store.update(&JOBS, &1_i64.into(), claim, Cond::absent("lease_token")).await;
    assert_eq!(answer.expect("an answer"), Outcome::Lost);
    assert_eq!(double.store.put(&JOBS, job(1), absent()).await.expect("an answer"), Outcome::Lost);
    assert_eq!(double.store.delete(&JOBS, &1_i64.into(), absent()).await.expect("an answer"), Outcome::Lost);
}

#[tokio::test]
async fn an_addition_is_never_sent_again_when_it_may_have_been_made() {
    let double = Double::start(jobs(), |_, _| Lose).await;
    let sum = Update::default().set("day", "x").add("count", 1_i64);
    let answer = double.store.update(&JOBS, &1_i64.into(), sum, Cond::Always).await;
    assert!(matches!(answer, Err(Error::Unavailable(_))), "{answer:?}");
    assert_eq!(double.operations(), ["UpdateItem"]);
}

fn two() -> Vec<Write> {
    let update = Update::default().set("status", "claiming");
    vec![
        Write::Put { table: &JOBS, item: job(1), cond: absent() },
        Write::Update { table: &JOBS, key: Value::N(2), update, cond: Cond::exists("job_id") },
    ]
}

fn canceled(codes: [&str; 2]) -> Reply {
    let mut body = error("TransactionCanceledException", "Transaction cancelled");
    body["CancellationReasons"] = codes.map(|code| json!({"Code": code, "Message": "because"})).to_vec().into();
    Answer(400, body)
}

/// A token per transaction: moto ignores it, so what DynamoDB is sent is looked at.
#[tokio::test]
async fn a_transaction_is_repeated_with_its_token() {
    let double = Double::start(jobs(), |_, before| match before {
        0 => canceled(["None", "TransactionConflict"]),
        1 => Lose,
        _ => Answer(200, json!({})),
    })
    .await;
    assert!(double.store.transact(two()).await.expect("allowed").is_applied());
    assert_eq!(double.operations(), ["TransactWriteItems"; 3]);
    let token = |place| double.body(place)["ClientRequestToken"].as_str().expect("a token").to_owned();
    assert_eq!((token(0), token(0)), (token(1), token(2)));
    assert!((1..=36).contains(&token(0).len()), "as long as DynamoDB allows");
    assert!(double.store.transact(two()).await.expect("allowed").is_applied());
    assert_ne!(token(0), token(3), "another transaction");
}

#[tokio::test]
async fn the_reasons_of_a_refused_transaction_decide() {
    let double = Double::start(jobs(), |_, _| canceled(["ConditionalCheckFailed", "TransactionConflict"])).await;
    assert_eq!(double.store.transact(two()).await.expect("an answer"), Outcome::Lost);
    assert_eq!(double.operations().len(), 1);
    let double = Double::start(jobs(), |_, _| canceled(["ConditionalCheckFailed", "ValidationError"])).await;
    assert!(matches!(double.store.transact(two()).await, Err(Error::Invalid(_))));
    let double = Double::start(jobs(), |_, _| canceled(["TransactionConflict", "None"])).await;
    assert!(matches!(double.store.transact(two()).await, Err(Error::Unavailable(_))));
    assert_eq!(double.operations().len(), 3);
}

/// DynamoDB answers like this; moto as if the table were missing.
#[tokio::test]
async fn without_its_index_a_query_reads_the_whole_table() {
    let names = names(&[&JOBS]);
    make(&[&JOBS], &names);
    let double = Double::start(names, |operation, _| match operation {
        "Query" => {
            let message = "The table does not have the specified index: status-created-index";
            Answer(400, error("ValidationException", message))
        }
        _ => Pass,
    })
    .await;
    for id in [3, 1, 2] {
        assert!(double.store.put(&JOBS, job(id), absent()).await.expect("allowed").is_applied());
    }
    let other = row([("job_id", 4_i64.into()), ("status", "running".into()), ("created_at", "2026-01-01".into())]);
    assert!(double.store.put(&JOBS, other, absent()).await.expect("allowed").is_applied());
    let query = Query::of(STATUS_CREATED, "requeued");
    assert_eq!(double.store.query(&JOBS, query.clone()).await.expect("an answer"), [job(1), job(2), job(3)]);
    assert_eq!(double.store.count(&JOBS, query.clone()).await.expect("an answer"), 3);
    let part = Query { from: Some("2026-01-01".into()), until: Some("2026-01-03".into()), ..query };
    let newest = Query { descending: true, limit: Some(1), ..part.clone() };
    assert_eq!(double.store.query(&JOBS, newest).await.expect("an answer"), [job(2)]);
    assert_eq!(double.store.count(&JOBS, part).await.expect("an answer"), 2);
}

#[tokio::test]
async fn every_page_is_read() {
    let double = Double::start(jobs(), |_, before| {
        let key = |id: &str| json!({"job_id": {"N": id}, "created_at": {"S": "t"}, "status": {"S": "s"}});
        match before {
            0 => Answer(200, json!({"Count": 1, "Items": [key("1")], "LastEvaluatedKey": key("1")})),
            // A filter may leave a page without rows.
            1 => Answer(200, json!({"Count": 0, "Items": [], "LastEvaluatedKey": key("2")})),
            _ => Answer(200, json!({"Count": 1, "Items": [key("3")]})),
        }
    })
    .await;
    let query = Query::of(STATUS_CREATED, "s");
    assert_eq!(double.store.query(&JOBS, query.clone()).await.expect("an answer").len(), 2);
    assert_eq!(double.body(2)["ExclusiveStartKey"]["job_id"]["N"], "2");
    assert_eq!(double.store.scan(&JOBS).await.expect("an answer").len(), 2);
    assert_eq!(double.body(3)["ConsistentRead"], true);
}

#[tokio::test]
async fn what_a_batch_leaves_out_is_asked_for_again() {
    let double = Double::start(jobs(), |_, before| {
        let row = |id: &str| json!({"job_id": {"N": id}});
        match before {
            0 => Answer(
                200,
                json!({"Responses": {"jobs": [row("2")]}, "UnprocessedKeys": {"jobs": {"Keys": [row("1")]}}}),
            ),
            _ => Answer(200, json!({"Responses": {"jobs": [row("1")]}})),
        }
    })
    .await;
    let keys = [Value::N(2), Value::N(1), Value::N(2)];
    let rows = double.store.get_many(&JOBS, &keys).await.expect("an answer");
    assert_eq!(rows.iter().map(|row| row["job_id"].clone()).collect::<Vec<_>>(), [Value::N(1), Value::N(2)]);
    assert_eq!(double.body(0)["RequestItems"]["jobs"]["Keys"].as_array().map(Vec::len), Some(2), "each key once");
    assert_eq!(double.body(0)["RequestItems"]["jobs"]["ConsistentRead"], true);
    let double = Double::start(jobs(), |_, _| {
        Answer(200, json!({"UnprocessedKeys": {"jobs": {"Keys": [{"job_id": {"N": "1"}}]}}}))
    })
    .await;
    assert!(matches!(double.store.get_many(&JOBS, &keys[1..]).await, Err(Error::Unavailable(_))));
    assert_eq!(double.operations().len(), 6);
}

/// D34: no attribute name stands in an expression itself, whatever is sent.
#[tokio::test]
async fn no_expression_names_an_attribute() {
    let names = TableNames::new().table(&JOBS, "jobs").table(&POOLS, "pools");
    let double = Double::start(names, |_, _| Answer(200, json!({}))).await;
    let store = &double.store;
    let cond = Cond::exists("owner").and(Cond::lt("region", 1_i64).or(Cond::In("pool".into(), vec!["x".into()])));
    let cond = cond.and(Cond::Not(Box::new(Cond::BeginsWith("name".into(), "a".into()))));
    let update = Update::default().set("status", "s").set_if_absent("ttl", 1_i64).add("count", 1_i64).remove("token");
    store.update(&JOBS, &1_i64.into(), update, cond.clone()).await.expect("allowed").applied();
    store.put(&JOBS, job(1), cond.clone()).await.expect("allowed").applied();
    store.delete(&POOLS, &"a".into(), cond).await.expect("allowed").applied();
    store.transact(two()).await.expect("allowed").applied();
    let query = Query { from: Some("a".into()), until: Some("b".into()), ..Query::of(STATUS_CREATED, "status") };
    store.query(&JOBS, query.clone()).await.expect("an answer");
    store.count(&JOBS, query).await.expect("an answer");
    store.scan(&POOLS).await.expect("an answer");
    let requests = double.requests.lock().expect("whole").clone();
    let mut seen = 0;
    for (operation, body) in &requests {
        let mut parts = vec![body];
        parts.extend(
            body["TransactItems"].as_array().into_iter().flatten().filter_map(|item| item.as_object()?.values().next()),
        );
        for part in parts {
            for (name, expression) in
                part.as_object().into_iter().flatten().filter(|(name, _)| name.ends_with("Expression"))
            {
                seen += 1;
                let text = expression.as_str().expect("text");
                let words =
                    text.split(|c: char| !(c.is_alphanumeric() || "#:_".contains(c))).filter(|word| !word.is_empty());
                let bare: Vec<_> =
                    words.filter(|word| !word.starts_with(['#', ':']) && !KNOWN.contains(word)).collect();
                assert!(bare.is_empty(), "{operation} {name} {text}: {bare:?}");
            }
        }
    }
    assert!(seen > 10, "{requests:?}");
}

const KNOWN: [&str; 14] = [
    "AND",
    "OR",
    "NOT",
    "IN",
    "BETWEEN",
    "SET",
    "ADD",
    "REMOVE",
    "if_not_exists",
    "attribute_exists",
    "attribute_not_exists",
    "attribute_type",
    "begins_with",
    "contains",
];
