//! Who is let in.

use axum::body::Body;
use axum::http::Request;
use serde_json::json;

use crate::support::{Back, Service, TWIRP, VERSION, noise, settings, token};

#[tokio::test]
async fn the_cache_s_own_header_counts_before_the_job_s() {
    let service = Service::new(Back::Fs).await;
    let (good, bad) = (token("1"), "bad.token");
    let body = json!({ "key": "k", "version": VERSION }).to_string();
    for (own, bearer, status) in [
        (Some(good.as_str()), Some(bad), 200),
        (Some(bad), Some(good.as_str()), 401),
        (None, Some(good.as_str()), 200),
        (None, Some(bad), 401),
        (None, None, 401),
    ] {
        let mut request = Request::post(format!("{TWIRP}GetCacheEntryDownloadURL"));
        if let Some(own) = own {
            request = request.header("x-cache-token", own);
        }
        if let Some(bearer) = bearer {
            request = request.header("authorization", format!("bearer {bearer}"));
        }
        let answer = service.send(request.body(Body::from(body.clone())).unwrap()).await;
        assert_eq!(answer.status, status, "{own:?} {bearer:?}");
    }
    let counted = service.metrics.render();
    for reason in ["missing", "signature", "malformed"] {
        assert!(counted.contains(&format!("cache_auth_rejected_total{{reason=\"{reason}\"}}")), "{counted}");
    }
    let v1 = Request::get("/_apis/artifactcache/cache?keys=k&version=v").body(Body::empty()).unwrap();
    let refused = service.send(v1).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["message"]),
        (401, &json!("Unauthorized: missing cache token"))
    );
}

#[tokio::test]
async fn without_a_secret_everybody_shares_one_repository() {
    let service = Service::with(Back::Fs, settings(), false).await;
    service.save("anything", "k", noise(10, 1)).await;
    assert_eq!(service.load("something else", "k").await, Some(noise(10, 1)));
    service.create("one", "new").await;
    let body = json!({ "key": "new", "version": VERSION });
    assert_eq!(service.twirp("one", "CreateCacheEntry", body).await.status, 409, "nobody is the same job");
}
