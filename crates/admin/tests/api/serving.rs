//! What every answer carries, what is closed, and how the page is served.

use admin::{Access, AdminState, root_redirect, router};
use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::json;
use tower::ServiceExt;

use crate::{ask, fleet, get, ok};

fn open() -> Router {
    router(fleet().state)
}

#[tokio::test]
async fn every_answer_carries_the_policy_and_no_api_answer_is_stored() {
    let app = open();
    let paths =
        ["/admin", "/admin/", "/admin/x.js", "/api", "/api/jobs", "/api/jobs?limit=0", "/api/nothing", "/api/events"];
    for path in paths {
        let response = ask(&app, Method::GET, path).await;
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let policy = header(header::CONTENT_SECURITY_POLICY);
        assert!(policy.starts_with("default-src 'none'; script-src 'self'") && !policy.contains("unsafe"), "{path}");
        assert_eq!(header(header::X_CONTENT_TYPE_OPTIONS), "nosniff", "{path}");
        assert_eq!(header(header::REFERRER_POLICY), "same-origin", "{path}");
        assert_eq!(header(header::CACHE_CONTROL) == "no-store", path.starts_with("/api"), "{path}");
    }
}

#[tokio::test]
async fn what_cannot_be_asked_is_said_in_json() {
    let app = open();
    for path in ["/api", "/api/", "/api/nothing", "/api/jobs/1/nothing"] {
        assert_eq!(get(&app, path).await, (StatusCode::NOT_FOUND, json!({ "error": "Not found" })), "{path}");
    }
    for path in ["/api/jobs", "/api/jobs/7", "/api/events", "/api/auth/config"] {
        let response = ask(&app, Method::POST, path).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert_eq!(response.headers()[header::ALLOW], "GET,HEAD", "{path}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, r#"{"error":"Method not allowed"}"#);
    }
    let head = ask(&app, Method::HEAD, "/api/jobs").await;
    assert_eq!(head.status(), StatusCode::OK);
    assert!(head.into_body().collect().await.unwrap().to_bytes().is_empty());
}

#[tokio::test]
async fn a_closed_api_tells_nothing_but_that() {
    let closed = router(AdminState { access: Access::Closed, ..fleet().state });
    assert_eq!(ok(&closed, "/api/auth/config").await, json!({ "auth_enabled": false, "mode": "disabled" }));
    for path in ["/api/jobs", "/api/jobs/1", "/api/instances", "/api/status", "/api/queues", "/api/events", "/api"] {
        assert_eq!(get(&closed, path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(ask(&closed, Method::GET, "/admin/").await.status(), StatusCode::OK, "the page can say so");
    assert_eq!(ok(&open(), "/api/auth/config").await, json!({ "auth_enabled": false, "mode": "anonymous" }));
}

#[tokio::test]
async fn the_shell_is_for_pages_and_a_missing_file_is_missing() {
    let app = open();
    for page in ["/admin/", "/admin/jobs/", "/admin/jobs/detail/?id=7", "/admin/instances", "/admin/later"] {
        let response = ask(&app, Method::GET, page).await;
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8", "{page}");
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-cache", "{page}");
    }
    for file in ["/admin/assets/missing.js", "/admin/assets/app.js", "/admin/missing.css", "/admin/jobs/x.png"] {
        assert_eq!(get(&app, file).await.0, StatusCode::NOT_FOUND, "{file}");
    }
    let moved = ask(&app, Method::GET, "/admin").await;
    assert_eq!(moved.status(), StatusCode::PERMANENT_REDIRECT);
    assert_eq!(moved.headers()[header::LOCATION], "/admin/");
}

#[tokio::test]
async fn assets_are_kept_for_ever_and_the_shell_is_asked_for_again() {
    let app = open();
    let shell = ask(&app, Method::GET, "/admin/").await;
    let tag = shell.headers()[header::ETAG].clone();
    let html = String::from_utf8(shell.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
    let assets: Vec<_> = html.split('"').filter(|text| text.starts_with("/admin/assets/")).collect();
    assert!(assets.len() >= 4, "{assets:?}");
    for asset in assets {
        let response = ask(&app, Method::GET, asset).await;
        assert_eq!(response.status(), StatusCode::OK, "{asset}");
        assert_eq!(response.headers()[header::CACHE_CONTROL], "public,max-age=31536000,immutable");
    }
    for (known, status) in [
        (tag.to_str().unwrap().to_owned(), StatusCode::NOT_MODIFIED),
        (format!("\"old\", W/{}", tag.to_str().unwrap()), StatusCode::NOT_MODIFIED),
        ("\"old\"".to_owned(), StatusCode::OK),
    ] {
        let request =
            Request::builder().uri("/admin/").header(header::IF_NONE_MATCH, &known).body(Body::empty()).unwrap();
        assert_eq!(app.clone().oneshot(request).await.unwrap().status(), status, "{known}");
    }
}

#[tokio::test]
async fn the_root_leads_to_the_page_only_where_that_is_wanted() {
    assert_eq!(get(&open(), "/").await.0, StatusCode::NOT_FOUND);
    let response = ask(&open().merge(root_redirect()), Method::GET, "/").await;
    assert!(response.status().is_redirection());
    assert_eq!(response.headers()[header::LOCATION], "/admin/");
}

#[tokio::test(start_paused = true)]
async fn the_process_tells_of_itself_and_its_queues() {
    let fleet = fleet();
    fleet.webhook(9, &["runs-fleet/cpu=2"]).await;
    let app = router(fleet.state);
    insta::assert_json_snapshot!(ok(&app, "/api/queues").await, @r#"
    {
      "queues": [
        {
          "dlq_messages": 0,
          "messages_delayed": null,
          "messages_in_flight": 0,
          "messages_visible": 1,
          "name": "main",
          "oldest_message_age_seconds": 0,
          "url": null
        },
        {
          "messages_delayed": null,
          "messages_in_flight": 0,
          "messages_visible": 0,
          "name": "termination",
          "url": null
        }
      ]
    }
    "#);
    assert_eq!(ok(&app, "/api/queues/main").await["messages_visible"], 1);
    assert_eq!(get(&app, "/api/queues/other").await.0, StatusCode::NOT_FOUND);
    insta::assert_json_snapshot!(ok(&app, "/api/status").await, @r#"
    {
      "dependencies": [
        {
          "name": "store",
          "ok": true
        },
        {
          "name": "queue main",
          "ok": true
        },
        {
          "name": "queue termination",
          "ok": true
        }
      ],
      "features": {
        "cache": false,
        "rerun_interrupted": true
      },
      "mode": "local",
      "now": "2026-01-01T00:10:00Z",
      "replica": "replica-1/boot-1",
      "replicas": null,
      "started_at": "2026-01-01T00:10:00Z",
      "uptime_seconds": 0,
      "version": "0.1.0",
      "warnings": [
        {
          "code": "W_UNSAFE",
          "name": "RUNS_FLEET_JOBS_TABLE"
        }
      ]
    }
    "#);
}
