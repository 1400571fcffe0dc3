//! The transport against a server on the loopback interface.

#![allow(clippy::disallowed_methods, reason = "the server is a task of its own and ends with the test")]

use axum::Router;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::routing::{get, post};

use super::*;

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    base
}

fn request(method: &str, url: &str) -> Request<Bytes> {
    let request = Request::builder().method(method).uri(url).header("user-agent", "runs-fleet/1");
    request.header("authorization", "Bearer secret").body(Bytes::new()).unwrap()
}

fn moved(to: String) -> impl axum::response::IntoResponse {
    (StatusCode::FOUND, [("location", to)])
}

/// Tells which credentials and agents arrived.
async fn tell(headers: HeaderMap, uri: Uri) -> String {
    let all = |name| headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>().join("+");
    format!("{uri} {} {}", all("authorization"), all("user-agent"))
}

#[tokio::test]
async fn a_request_arrives_as_it_was_written() {
    let base = serve(Router::new().route("/a/b", post(tell))).await;
    let response = OctocrabExchange::new().unwrap().send(request("POST", &format!("{base}/a/b?c=d"))).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.body(), "/a/b?c=d Bearer secret runs-fleet/1");
}

#[tokio::test]
async fn redirects_are_followed_for_get_only_and_never_carry_credentials_elsewhere() {
    let elsewhere = serve(Router::new().route("/told", get(tell))).await;
    let base = serve(
        Router::new()
            .route("/told", get(tell))
            .route("/here", get(|| async { moved("/told?x".to_owned()) }).post(|| async { moved("/told".to_owned()) }))
            .route("/there", get(move || async move { moved(format!("{elsewhere}/told")) }))
            .route("/loop", get(|| async { moved("/loop".to_owned()) })),
    )
    .await;
    let exchange = OctocrabExchange::new().unwrap();
    let send = |method: &'static str, path: &str| {
        let request = request(method, &format!("{base}{path}"));
        exchange.send(request)
    };
    assert_eq!(send("GET", "/here").await.unwrap().body(), "/told?x Bearer secret runs-fleet/1");
    assert_eq!(send("GET", "/there").await.unwrap().body(), "/told  runs-fleet/1");
    assert_eq!(send("POST", "/here").await.unwrap().status(), 302);
    assert_eq!(send("GET", "/loop").await.unwrap_err(), ExchangeError::Redirect);
}

#[test]
fn https_is_not_left_for_http() {
    let go = |to: &str| {
        let mut request = request("GET", "https://api.github.com/a");
        redirect(&mut request, Some(&to.parse().unwrap())).map(|()| request.uri().to_string())
    };
    assert_eq!(go("http://api.github.com/b"), None);
    assert_eq!(go("b").as_deref(), Some("https://api.github.com/b"));
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_an_error() {
    let base = serve(
        Router::new()
            .route("/full", get(|| async { vec![b'x'; BODY_LIMIT] }))
            .route("/over", get(|| async { vec![b'x'; BODY_LIMIT + 1] })),
    )
    .await;
    let exchange = OctocrabExchange::new().unwrap();
    assert_eq!(exchange.send(request("GET", &format!("{base}/full"))).await.unwrap().body().len(), BODY_LIMIT);
    let over = exchange.send(request("GET", &format!("{base}/over"))).await;
    assert_eq!(over.unwrap_err(), ExchangeError::TooLarge);
}

#[tokio::test]
async fn a_closed_port_is_an_error_that_shows_no_header() {
    let error = OctocrabExchange::new().unwrap().send(request("GET", "http://127.0.0.1:1/x")).await.unwrap_err();
    assert!(matches!(error, ExchangeError::Transport(_)));
    assert!(!error.to_string().contains("secret"), "{error}");
}
