//! The second protocol, request by request.

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::json;

use crate::support::{BACKS, Back, Service, TWIRP, VERSION, noise, request, token, token_in};

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_is_committed_once_with_its_true_size() {
    for &back in BACKS {
        let service = Service::new(back).await;
        let token = token("1");
        assert_eq!(service.finalize(&token, "k", 1).await.status, 404, "never reserved");
        let path = service.create(&token, "k").await;
        assert_eq!(service.finalize(&token, "k", 0).await.status, 400, "nothing uploaded");
        assert_eq!(service.put(&path, "first").await.status, 201);
        assert_eq!(service.put(&path, "second").await.status, 201, "the last one counts");
        let wrong = service.finalize(&token, "k", 5).await;
        assert_eq!((wrong.status.as_u16(), &wrong.json()["code"]), (400, &json!("invalid_argument")));
        assert!(wrong.text().contains('5') && wrong.text().contains('6'), "both numbers: {}", wrong.text());
        assert_eq!(service.found(&token, "k", &[]).await, None, "not before it is committed");
        let other = crate::support::token("2");
        assert_eq!(service.finalize(&other, "k", 6).await.status, 409, "another job's");
        let done = service.finalize(&token, "k", 6).await;
        assert_eq!(done.status, 200);
        assert!(done.json()["entry_id"].is_string(), "{}", done.text());
        let again = service.finalize(&token, "k", 6).await;
        assert_eq!((again.status, again.json()["entry_id"].clone()), (done.status, done.json()["entry_id"].clone()));
        assert_eq!(service.finalize(&token, "k", 7).await.status, 400);
        assert_eq!(service.put(&path, "third!").await.status, 409, "final");
        let exists = service.twirp(&other, "CreateCacheEntry", json!({ "key": "k", "version": VERSION })).await;
        assert_eq!((exists.status.as_u16(), &exists.json()["code"]), (409, &json!("already_exists")));
        assert_eq!(service.load(&token, "k").await.as_deref(), Some(&b"second"[..]));
    }
}

#[tokio::test]
async fn protocol_buffers_are_answered_in_kind() {
    let service = Service::new(Back::Fs).await;
    let token = token("1");
    service.save(&token, "npm-1", noise(10, 1)).await;
    let mut body = b"\x12\x05npm-9\x1a\x04npm-\x22".to_vec();
    body.push(u8::try_from(VERSION.len()).unwrap());
    body.extend(VERSION.as_bytes());
    let send = |method: &str, body: Vec<u8>| {
        let request = request(Method::POST, &format!("{TWIRP}{method}"), &token);
        service.send(request.header("content-type", "application/protobuf").body(body.into()).unwrap())
    };
    let found = send("GetCacheEntryDownloadURL", body).await;
    assert_eq!((found.status.as_u16(), found.header("content-type")), (200, "application/protobuf"));
    assert_eq!(found.body[..2], [0x08, 1]);
    assert!(found.body.ends_with(b"\x1a\x05npm-1"));
    let miss = send("GetCacheEntryDownloadURL", b"\x12\x01x\x22\x01v".to_vec()).await;
    assert_eq!((miss.status.as_u16(), miss.body.len()), (200, 0));
    let bad = send("CreateCacheEntry", b"\x12\x05x".to_vec()).await;
    assert_eq!(
        (bad.status.as_u16(), bad.header("content-type"), &bad.json()["code"]),
        (400, "application/json", &json!("malformed"))
    );
}

#[tokio::test]
async fn every_error_is_json() {
    let service = Service::new(Back::Fs).await;
    let token = token("1");
    let plain = |path: &str, kind: &str, body: &str| {
        request(Method::POST, path, &token).header("content-type", kind).body(Body::from(body.to_owned())).unwrap()
    };
    let (json, get) = ("application/json", format!("{TWIRP}GetCacheEntryDownloadURL"));
    for (what, request, status, code) in [
        (
            "another service",
            plain("/twirp/github.actions.results.api.v1.ArtifactService/CreateArtifact", json, "{}"),
            404,
            "bad_route",
        ),
        ("another method", plain(&format!("{TWIRP}Delete"), json, "{}"), 404, "bad_route"),
        ("no method", plain("/twirp/x", json, "{}"), 404, "bad_route"),
        ("another type", plain(&get, "text/plain", "{}"), 404, "bad_route"),
        ("GET", request(Method::GET, &get, &token).body(Body::empty()).unwrap(), 405, "bad_route"),
        ("no JSON", plain(&get, json, "{"), 400, "malformed"),
        ("a wrong type", plain(&get, json, r#"{"key":1,"version":"v"}"#), 400, "invalid_argument"),
        ("no key", plain(&get, json, r#"{"version":"v"}"#), 400, "invalid_argument"),
        ("a climbing key", plain(&get, json, r#"{"key":"../x","version":"v"}"#), 400, "invalid_argument"),
        ("a comma", plain(&get, json, r#"{"key":"a,b","version":"v"}"#), 400, "invalid_argument"),
        ("no version", plain(&get, json, r#"{"key":"k"}"#), 400, "invalid_argument"),
        ("too much", plain(&get, json, &" ".repeat(2 << 20)), 413, "malformed"),
        ("no token", Request::post(&get).body("{".into()).unwrap(), 401, "unauthenticated"),
    ] {
        let answer = service.send(request).await;
        assert_eq!((answer.status.as_u16(), answer.json()["code"].as_str()), (status, Some(code)), "{what}");
        assert!(answer.json()["msg"].is_string() && answer.json()["message"].is_null(), "{what}");
        assert_eq!(answer.header("content-type"), "application/json", "{what}");
    }
    let body = r#"{"key":"k","version":"v"}"#;
    let untyped = request(Method::POST, &get, &token).body(body.into()).unwrap();
    assert_eq!(service.send(untyped).await.json(), json!({ "ok": false }));
}

#[tokio::test]
async fn permissions_are_told_in_the_words_clients_read() {
    let service = Service::new(Back::Fs).await;
    let read_only = token_in("1", "acme/app", &[("refs/heads/main", 1)]);
    let body = json!({ "key": "k", "version": VERSION });
    for method in ["CreateCacheEntry", "FinalizeCacheEntryUpload"] {
        let denied = service.twirp(&read_only, method, body.clone()).await;
        assert_eq!((denied.status.as_u16(), &denied.json()["ok"]), (200, &json!(false)));
        assert!(denied.json()["message"].as_str().unwrap().starts_with("cache write denied:"), "{}", denied.text());
    }
    let write_only = token_in("1", "acme/app", &[("refs/heads/main", 2)]);
    let denied = service.twirp(&write_only, "GetCacheEntryDownloadURL", body).await;
    assert_eq!((denied.status.as_u16(), &denied.json()["code"]), (403, &json!("permission_denied")));
    assert!(denied.json()["msg"].as_str().unwrap().starts_with("cache read denied:"));
}

#[tokio::test]
async fn a_job_cannot_reserve_without_end() {
    let service = Service::new(Back::Fs).await;
    let mut statuses = Vec::new();
    for at in 0..601 {
        let body = json!({ "key": format!("k{at}"), "version": VERSION });
        statuses.push(service.twirp(&token("1"), "CreateCacheEntry", body).await.status.as_u16());
    }
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 600);
    assert_eq!(statuses.last(), Some(&429));
    service.create(&token("2"), "other").await;
}
