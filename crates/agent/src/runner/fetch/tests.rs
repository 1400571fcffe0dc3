#![allow(clippy::disallowed_methods, reason = "the test's server is a detached task")]

use std::sync::{Arc, Mutex};

use domain::clock::SystemClock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Answers each connection with the next reply, closes it, and keeps the requests.
async fn server(replies: Vec<String>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/runner.tar.gz?X-Amz-Signature=s3cr3t", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    tokio::spawn(async move {
        for reply in replies {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = String::new();
            while !request.ends_with("\r\n\r\n") {
                let mut buffer = [0; 1024];
                let count = socket.read(&mut buffer).await.unwrap();
                request.push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
            seen.lock().unwrap().push(request.to_ascii_lowercase());
            socket.write_all(reply.as_bytes()).await.unwrap();
        }
    });
    (url, requests)
}

async fn get(replies: Vec<String>) -> (Result<String, String>, Vec<String>) {
    let (url, requests) = server(replies).await;
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("t");
    let log = Log::new(Arc::new(SystemClock));
    let result = over_http(&url, &target, Duration::from_millis(1), &log).await;
    let result = result.map(|()| fs::read_to_string(&target).unwrap()).map_err(|error| error.to_string());
    (result, requests.lock().unwrap().clone())
}

fn reply(head: &str, body: &str) -> String {
    format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n{body}")
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_stopped() {
    let (result, requests) = get(vec![
        reply("200 OK\r\nContent-Length: 10\r\nETag: \"v1\"", "0123"),
        reply("503 Busy\r\nContent-Length: 0", ""),
        reply("206 Partial\r\nContent-Length: 6\r\nContent-Range: bytes 4-9/10", "456789"),
    ])
    .await;
    assert_eq!(result.unwrap(), "0123456789");
    assert!(!requests[0].contains("range:"));
    assert!(requests[1].contains("range: bytes=4-") && requests[1].contains("if-range: \"v1\""), "{requests:?}");
    assert!(requests[2].contains("range: bytes=4-"), "{requests:?}");
}

#[tokio::test]
async fn content_that_changed_or_has_no_name_starts_again() {
    let changed = vec![
        reply("200 OK\r\nContent-Length: 10\r\nETag: \"v1\"", "0123"),
        reply("200 OK\r\nContent-Length: 3\r\nETag: \"v2\"", "new"),
    ];
    assert_eq!(get(changed).await.0.unwrap(), "new");
    let (result, requests) = get(vec![
        reply("200 OK\r\nContent-Length: 10\r\nETag: W/\"v1\"", "0123"),
        reply("200 OK\r\nContent-Length: 3", "new"),
    ])
    .await;
    assert_eq!(result.unwrap(), "new");
    assert!(!requests[1].contains("range:"));
    let wrong_place = vec![
        reply("200 OK\r\nContent-Length: 10\r\nETag: \"v1\"", "0123"),
        reply("206 Partial\r\nContent-Length: 1\r\nContent-Range: bytes 7-7/10", "7"),
        reply("200 OK\r\nContent-Length: 3", "new"),
    ];
    assert_eq!(get(wrong_place).await.0.unwrap(), "new");
}

#[tokio::test]
async fn refusals_are_final_unless_they_pass() {
    for status in ["404 Not Found", "403 Forbidden"] {
        let (result, requests) = get(vec![reply(&format!("{status}\r\nContent-Length: 0"), "")]).await;
        let error = result.unwrap_err();
        assert!(error.starts_with("download_failed: the server answered 40") && !error.contains("s3cr3t"), "{error}");
        assert_eq!(requests.len(), 1);
    }
    let done = reply("200 OK\r\nContent-Length: 2", "ok");
    for passing in ["403 Limit\r\nx-ratelimit-remaining: 0", "429 Slow\r\nRetry-After: 0", "500 Oops"] {
        let replies = vec![reply(&format!("{passing}\r\nContent-Length: 0"), ""), done.clone()];
        assert_eq!(get(replies).await.0.unwrap(), "ok", "{passing}");
    }
    let (result, requests) = get(vec![reply("500 Oops\r\nContent-Length: 0", ""); 5]).await;
    assert!(result.is_err());
    assert_eq!(requests.len(), 5, "tries are bounded");
}
