//! What is cut off never becomes an entry.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::lookups::walk;
use crate::support::{BACKS, Back, Client, Protocol, Service, noise, token};

/// Polls until it holds.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..600 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}");
}

/// Sends the head and a part of the body, and hangs up.
async fn half(url: &str, path: &str, announced: usize, sent: &[u8]) {
    let mut stream = TcpStream::connect(url.trim_start_matches("http://").trim_end_matches('/')).await.unwrap();
    let head =
        format!("PUT {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {announced}\r\nx-ms-blob-type: BlockBlob\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(sent).await.unwrap();
    stream.shutdown().await.unwrap();
    // Whatever it says, it is not that it was stored.
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(!answer.starts_with("HTTP/1.1 201"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_ends_early_stores_nothing() {
    for &back in BACKS {
        let mut service = Service::new(back).await;
        let url = service.listen().await;
        let token = token("1");
        let path = service.create(&token, "k").await;
        let bytes = noise(3 << 20, 1);
        half(&url, &path, bytes.len(), &bytes[..bytes.len() - 1]).await;
        assert_eq!(service.finalize(&token, "k", bytes.len()).await.status, 400, "nothing was uploaded");
        half(&url, &format!("{path}&comp=block&blockid=QQ%3D%3D"), bytes.len(), &bytes[..1 << 20]).await;
        let list = "<BlockList><Latest>QQ==</Latest></BlockList>";
        assert_eq!(service.put(&format!("{path}&comp=blocklist"), list).await.code(), "InvalidBlockList");
        assert_eq!(service.found(&token, "k", &[]).await, None);
        // Sent again, it is an entry.
        assert_eq!(service.put(&format!("{path}&comp=block&blockid=QQ%3D%3D"), bytes.clone()).await.status, 201);
        assert_eq!(service.put(&format!("{path}&comp=blocklist"), list).await.status, 201);
        assert_eq!(service.finalize(&token, "k", bytes.len()).await.status, 200);
        assert_eq!(service.load(&token, "k").await, Some(bytes));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_client_leaves_no_entry_and_its_leftovers_are_collected() {
    let mut service = Service::new(Back::Fs).await;
    let url = service.listen().await;
    for (package, protocol) in [("cache-v3", Protocol::V1), ("cache-v6", Protocol::V2)] {
        let client = Client::new(package, protocol, &url, &token("1"));
        let mut child = client.start();
        let calls = json!([
            { "op": "write", "path": "data/file", "size": 150 << 20 },
            { "op": "save", "paths": ["data"], "key": package },
        ]);
        child.stdin.take().unwrap().write_all(calls.to_string().as_bytes()).await.unwrap();
        let root = service.dir.path().to_owned();
        eventually("bytes arrive", || {
            walk(&root.join("tmp")).iter().any(|file| file.metadata().is_ok_and(|m| m.len() > 1 << 20))
        })
        .await;
        child.kill().await.unwrap();
        eventually("what was being written is gone", || walk(&root.join("tmp")).is_empty()).await;
        assert_eq!(service.found(&token("2"), package, &[]).await, None);
        // Another job waits for as long as the lease lasts, and then goes ahead.
        let body = json!({ "key": package, "version": crate::support::VERSION });
        assert_eq!(service.twirp(&token("2"), "CreateCacheEntry", body.clone()).await.status, 409);
    }
    service.clock.advance(Duration::from_secs(601));
    service.create(&token("2"), "cache-v6").await;
    service.clock.advance(Duration::from_secs(25 * 3600));
    service.cache.collect().await.unwrap();
    assert_eq!(walk(&service.dir.path().join("caches")), Vec::<std::path::PathBuf>::new(), "nothing is left");
    assert!(service.metrics.render().contains("cache_uploads_abandoned_total 3"), "{}", service.metrics.render());
}
