//! A server that answers as a test tells it, for what an emulator cannot be made to do.

use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What becomes of a request.
pub(super) enum Answer {
    /// A body, with 200.
    Ok(Value),
    /// A refusal: status and SQS's code.
    Refuse(u16, &'static str, &'static str),
    /// Something that is not from SQS.
    Html(u16),
    /// The connection breaks before an answer.
    Break,
    /// No answer.
    Hang,
}

/// The name of an operation and its input.
pub(super) type Call = (String, Value);

/// Listens until it is dropped.
pub(super) struct Double {
    pub(super) endpoint: String,
    calls: Arc<Mutex<Vec<Call>>>,
    _tasks: JoinSet<()>,
}

impl Double {
    /// `script` gets the number of the call, from 0, the operation and its input.
    pub(super) async fn start(script: impl Fn(usize, &str, &Value) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (calls, script) = (Arc::<Mutex<Vec<Call>>>::default(), Arc::new(script));
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let calls = Arc::clone(&calls);
            async move {
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    let (calls, script) = (Arc::clone(&calls), Arc::clone(&script));
                    connections.spawn(async move {
                        let _ = converse(stream, &calls, &*script).await;
                    });
                }
            }
        });
        Self { endpoint, calls, _tasks: tasks }
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }
}

async fn converse(
    stream: TcpStream,
    calls: &Mutex<Vec<Call>>,
    script: &(impl Fn(usize, &str, &Value) -> Answer + ?Sized),
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut length, mut operation) = (0, String::new());
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                if line.trim_end().is_empty() {
                    break;
                }
                continue;
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().unwrap(),
                "x-amz-target" => operation = value.trim_start_matches("AmazonSQS.").to_owned(),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let input: Value = serde_json::from_slice(&body).unwrap();
        let number = {
            let mut calls = calls.lock().unwrap();
            calls.push((operation.clone(), input.clone()));
            calls.len() - 1
        };
        let (status, error, body) = match script(number, &operation, &input) {
            Answer::Ok(body) => (200, None, body.to_string()),
            Answer::Refuse(status, code, message) => {
                let body = serde_json::json!({ "__type": format!("com.amazonaws.sqs#{code}"), "message": message });
                (status, Some(code), body.to_string())
            }
            Answer::Html(status) => (status, None, "<html>no</html>".to_owned()),
            Answer::Break => return Ok(()),
            Answer::Hang => std::future::pending().await,
        };
        let error = error.map_or_else(String::new, |code| format!("x-amzn-query-error: {code};Sender\r\n"));
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/x-amz-json-1.0\r\n{error}content-length: {length}\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        stream.flush().await?;
    }
}
