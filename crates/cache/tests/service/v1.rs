//! The first protocol, request by request.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};

use crate::support::{Answer, BACKS, Back, Service, VERSION, noise, path, request, settings, token, token_in};

const API: &str = "/_apis/artifactcache";

async fn reserve(service: &Service, token: &str, key: &str) -> Answer {
    let body = json!({ "key": key, "version": VERSION });
    let request = request(Method::POST, &format!("{API}/caches"), token);
    service.send(request.body(body.to_string().into()).unwrap()).await
}

async fn reserved(service: &Service, token: &str, key: &str) -> u64 {
    let answer = reserve(service, token, key).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["cacheId"].as_u64().unwrap()
}

async fn patch(service: &Service, token: &str, id: impl std::fmt::Display, range: &str, body: &'static [u8]) -> Answer {
    let request = request(Method::PATCH, &format!("{API}/caches/{id}"), token).header("content-range", range);
    service.send(request.body(body.into()).unwrap()).await
}

async fn commit(service: &Service, token: &str, id: impl std::fmt::Display, body: &Value) -> Answer {
    let request = request(Method::POST, &format!("{API}/caches/{id}"), token);
    service.send(request.body(body.to_string().into()).unwrap()).await
}

async fn get(service: &Service, token: &str, query: &str) -> Answer {
    let request = request(Method::GET, &format!("{API}/{query}"), token);
    service.send(request.body(Body::empty()).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_arrive_in_any_order_and_holes_can_be_filled() {
    for &back in BACKS {
        let service = Service::new(back).await;
        let token = token("1");
        let id = reserved(&service, &token, "k").await;
        for (range, body) in [("bytes 6-8/*", &b"ghi"[..]), ("bytes 0-2/*", b"xxx"), ("bytes 0-2/*", b"abc")] {
            assert_eq!(patch(&service, &token, id, range, body).await.status, 204, "{range}");
        }
        assert_eq!(commit(&service, &token, id, &json!({ "size": 9 })).await.status, 400, "a hole");
        assert_eq!(service.found(&token, "k", &[]).await, None);
        assert_eq!(patch(&service, &token, id, "bytes 3-5/9", b"def").await.status, 204);
        for size in [8, 10] {
            assert_eq!(commit(&service, &token, id, &json!({ "size": size })).await.status, 400, "{size}");
        }
        for _ in 0..2 {
            assert_eq!(commit(&service, &token, id, &json!({ "size": 9 })).await.status, 204, "repeatable");
        }
        assert_eq!(service.load(&token, "k").await.as_deref(), Some(&b"abcdefghi"[..]));
        assert_eq!(patch(&service, &token, id, "bytes 0-2/*", b"zzz").await.status, 409, "final");
        assert_eq!(service.load(&token, "k").await.as_deref(), Some(&b"abcdefghi"[..]));
    }
}

#[tokio::test]
async fn wrong_chunks_are_refused_and_leave_nothing() {
    let service = Service::with(Back::Fs, cache::Settings { max_entry: 1000, ..settings() }, true).await;
    let token = token("1");
    let id = reserved(&service, &token, "k").await;
    for (range, status) in [
        ("bytes 0-99/*", 400),
        ("bytes 0-4/*", 400),
        ("bytes 9-0/*", 400),
        ("bytes 0-9", 400),
        ("0-9/*", 400),
        ("", 400),
        ("bytes 991-1000/*", 413),
        ("bytes 0-18446744073709551615/*", 400),
        ("bytes 18446744073709551605-18446744073709551614/*", 413),
        ("bytes 0-99999999999999999999999/*", 400),
    ] {
        let answer = patch(&service, &token, id, range, b"0123456789").await;
        assert_eq!(answer.status, status, "{range}: {}", answer.text());
        assert!(answer.json()["message"].is_string(), "{range}");
    }
    assert_eq!(commit(&service, &token, id, &json!({ "size": 10 })).await.status, 400, "nothing was stored");
    for body in [json!({}), json!({ "size": -1 }), json!({ "size": "x" }), json!([])] {
        assert_eq!(commit(&service, &token, id, &body).await.status, 400, "{body}");
    }
    assert_eq!(commit(&service, &token, id, &json!({ "size": 0 })).await.status, 204, "an empty entry");
    assert_eq!(service.load(&token, "k").await.as_deref(), Some(&b""[..]));
}

#[tokio::test]
async fn an_upload_is_its_job_s_alone() {
    let service = Service::new(Back::Fs).await;
    let owner = token("1");
    let id = reserved(&service, &owner, "k").await;
    let strangers = [token("2"), token_in("1", "acme/other", &[("refs/heads/main", 3)])];
    for (who, id) in strangers.iter().map(|who| (who.as_str(), id.to_string())).chain(
        ["0", "-1", "x", "99999999999999999999", "..", "..%2f..", "1.5", "%2e%2e", "7"]
            .map(|id| (owner.as_str(), id.to_owned())),
    ) {
        assert_eq!(patch(&service, who, &id, "bytes 0-0/*", b"x").await.status, 404, "{id}");
        assert_eq!(commit(&service, who, &id, &json!({ "size": 0 })).await.status, 404, "{id}");
    }
    let second = reserve(&service, &token("2"), "k").await;
    assert_eq!(second.status, 409, "another job's reservation");
    assert_eq!(second.json()["typeKey"], "ArtifactCacheItemAlreadyExistsException");
    assert!(second.json()["message"].as_str().unwrap().contains("already exists"));
    let again = reserved(&service, &owner, "k").await;
    assert_eq!(patch(&service, &owner, id, "bytes 0-0/*", b"x").await.status, 404, "void");
    assert_eq!(patch(&service, &owner, again, "bytes 0-0/*", b"x").await.status, 204);
}

#[tokio::test]
async fn requests_are_answered_in_the_words_clients_read() {
    let service = Service::with(Back::Fs, cache::Settings { max_entry: 1000, ..settings() }, true).await;
    let token = token("1");
    for (query, message) in [
        ("cache?version=v", "keys parameter is required"),
        ("cache?keys=&version=v", "keys parameter is required"),
        ("cache?keys=k", "version parameter is required"),
        ("cache?keys=a,,b&version=v", "cache key is empty"),
        ("cache?keys=a%2C..%2Fb&version=v", "cache key contains"),
        ("cache?keys=k&version=..%2Fv", "cache version contains"),
        ("cache?keys=1,2,3,4,5,6,7,8,9,10,11&version=v", "too many keys"),
        ("caches", "key parameter is required"),
    ] {
        let answer = get(&service, &token, query).await;
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.json()["message"].as_str().unwrap().contains(message), "{query}: {}", answer.text());
    }
    let miss = get(&service, &token, "cache?keys=k&version=v").await;
    assert_eq!((miss.status.as_u16(), miss.body.len()), (204, 0));
    for (method, what, allow) in
        [(Method::POST, "cache", "GET"), (Method::PUT, "caches", "GET, POST"), (Method::GET, "caches/7", "PATCH, POST")]
    {
        let request = request(method, &format!("{API}/{what}"), &token);
        let answer = service.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, allow), "{what}");
        assert!(answer.json()["message"].is_string());
    }
    assert_eq!(get(&service, &token, "else/where").await.status, 404);
    for (size, message) in [(1001, "over the 1000 byte limit"), (-1, "negative")] {
        let body = json!({ "key": "k", "version": "v", "cacheSize": size });
        let request = request(Method::POST, &format!("{API}/caches"), &token);
        let answer = service.send(request.body(body.to_string().into()).unwrap()).await;
        assert_eq!(answer.status, 400);
        assert!(answer.json()["message"].as_str().unwrap().contains(message), "{}", answer.text());
    }
    let huge = request(Method::POST, &format!("{API}/caches"), &token).body(vec![b' '; 2 << 20].into()).unwrap();
    assert_eq!(service.send(huge).await.status, 413);
}

#[tokio::test]
async fn what_is_found_is_described() {
    let service = Service::new(Back::Fs).await;
    let token = token("1");
    service.save(&token, "npm-1", noise(100, 1)).await;
    let found = get(&service, &token, &format!("cache?keys=npm-2%2Cnpm-&version={VERSION}")).await;
    assert_eq!(found.status, 200);
    let found = found.json();
    assert_eq!(found["cacheKey"], "npm-1");
    assert_eq!(found["scope"], "refs/heads/main");
    assert_eq!(found["cacheVersion"], VERSION);
    let download = Method::GET;
    let location = path(found["archiveLocation"].as_str().unwrap());
    let answer = service.send(request(download, &location, "").body(Body::empty()).unwrap()).await;
    assert_eq!(answer.body, noise(100, 1));
    let listed = get(&service, &token, "caches?key=npm").await.json();
    assert_eq!((&listed["totalCount"], &listed["artifactCaches"][0]["cacheKey"]), (&json!(1), &json!("npm-1")));
    assert_eq!(get(&service, &token, "caches?key=yarn").await.json()["totalCount"], 0);
    let stranger = token_in("2", "acme/other", &[("refs/heads/main", 3)]);
    assert_eq!(get(&service, &stranger, "caches?key=npm").await.json()["totalCount"], 0);
}

#[tokio::test]
async fn artifacts_are_entries_that_the_caller_may_read() {
    let service = Service::new(Back::Fs).await;
    let token = token("1");
    service.save(&token, "k", noise(10, 1)).await;
    let url = service.lookup(&token, "k", &[]).await["signed_download_url"].as_str().unwrap().to_owned();
    let id = path(&url).split(['/', '?']).nth(3).unwrap().to_owned();
    let get = |token: String, id: String| {
        let service = &service;
        async move {
            let request = request(Method::GET, &format!("/_artifacts/{id}"), &token).body(Body::empty()).unwrap();
            service.send(request).await.status.as_u16()
        }
    };
    assert_eq!(get(token.clone(), id.clone()).await, 307);
    assert_eq!(get(token_in("1", "acme/other", &[("refs/heads/main", 3)]), id.clone()).await, 404);
    assert_eq!(get(token_in("1", "acme/app", &[("refs/heads/x", 3)]), id).await, 404);
    for (bad, status) in [("7", 404), ("caches", 404), ("..%2Fidx", 400), ("a%5Cb", 400)] {
        assert_eq!(get(token.clone(), bad.into()).await, status, "{bad}");
    }
}
