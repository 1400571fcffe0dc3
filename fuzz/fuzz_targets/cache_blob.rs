//! Any request to the blob end point, under an address that is signed: an answer, never a failure of ours, and nothing
//! is ever written outside of the store.
//!
//! The first line of the input is added to the query, the second is a range, the rest is the body.

#![no_main]

use std::path::Path;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, Response};
use cache::store::FsStore;
use cache::{Cache, Settings};
use domain::clock::{SystemClock, SystemRng};
use http_body_util::BodyExt;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tower::ServiceExt;

const TWIRP: &str = "/twirp/github.actions.results.api.v1.CacheService/";

struct World {
    runtime: Runtime,
    router: Router,
    outer: tempfile::TempDir,
    upload: String,
    download: String,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let outer = tempfile::tempdir().expect("a directory");
    let store = Arc::new(FsStore::open(&outer.path().join("store")).expect("a store"));
    let settings = Settings { base: None, max_entry: 1 << 20, per_repo: None, ttl: None, redirect: false };
    let metrics = telemetry::Metrics::new();
    let cache = Cache::new(store, None, settings, Arc::new(SystemClock), Arc::new(SystemRng), metrics);
    let router = cache::router(cache);
    let path = |url: &Value| url.as_str().and_then(|url| url.find("/_rfcache").map(|at| url[at..].to_owned()));
    let (upload, download) = runtime.block_on(async {
        let create = |key: &'static str| call(&router, "CreateCacheEntry", json!({ "key": key, "version": "v" }));
        let made = path(&create("there").await["signed_upload_url"]).expect("an address");
        let put = Request::put(made).header("content-length", 3).body(Body::from("abc")).expect("a request");
        assert_eq!(send(&router, put).await.status(), 201);
        call(&router, "FinalizeCacheEntryUpload", json!({ "key": "there", "version": "v", "size_bytes": 3 })).await;
        let found = call(&router, "GetCacheEntryDownloadURL", json!({ "key": "there", "version": "v" })).await;
        (path(&create("new").await["signed_upload_url"]), path(&found["signed_download_url"]))
    });
    World { runtime, router, outer, upload: upload.expect("an address"), download: download.expect("an address") }
});

async fn send(router: &Router, request: Request<Body>) -> Response<Body> {
    router.clone().oneshot(request).await.expect("an answer")
}

async fn call(router: &Router, method: &str, body: Value) -> Value {
    let request = Request::post(format!("{TWIRP}{method}")).body(Body::from(body.to_string())).expect("a request");
    let body = send(router, request).await.into_body().collect().await.expect("a body").to_bytes();
    serde_json::from_slice(&body).expect("JSON")
}

fn only_the_store(outer: &Path) -> bool {
    std::fs::read_dir(outer).is_ok_and(|entries| entries.count() == 1)
}

fuzz_target!(|data: &[u8]| {
    let world = &*WORLD;
    let mut parts = data.splitn(3, |byte| *byte == b'\n');
    let mut text = || parts.next().and_then(|part| std::str::from_utf8(part).ok()).unwrap_or_default();
    let (query, range) = (text(), text());
    let body = parts.next().unwrap_or_default().to_vec();
    for (method, address) in
        [(Method::PUT, &world.upload), (Method::GET, &world.download), (Method::HEAD, &world.download)]
    {
        let request = Request::builder()
            .method(method)
            .uri(format!("{address}&{query}"))
            .header("range", range)
            .header("content-length", body.len())
            .body(Body::from(body.clone()));
        // What is no request at all never arrives.
        let Ok(request) = request else { continue };
        let status = world.runtime.block_on(async {
            let answer = send(&world.router, request).await;
            let status = answer.status();
            answer.into_body().collect().await.map(|_| status)
        });
        assert!(status.is_ok_and(|status| !status.is_server_error()));
    }
    assert!(only_the_store(world.outer.path()));
});
