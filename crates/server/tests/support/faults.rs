//! Bad weather in front of the emulator: calls that are throttled, answers that are lost after the call took effect,
//! fleets that launch only a part or nothing. It also keeps the one promise of EC2 that the emulator does not: a
//! repeated client token gets the first answer again.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, Method, Response, StatusCode, Uri};
use domain::clock::Rng;
use emulator::Emulator;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use simulation::chance::SeededRng;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Probabilities.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// A call is refused because there were too many.
    pub(crate) throttled: f64,
    /// A call takes effect and its answer is lost.
    pub(crate) lost: f64,
    /// A fleet of several launches half.
    pub(crate) partial: f64,
    /// A fleet launches nothing.
    pub(crate) no_capacity: f64,
}

/// How often it was bad, by kind.
pub(crate) type Tally = BTreeMap<&'static str, u64>;

/// Something that looks like AWS and can be as bad.
pub(crate) struct BadAws {
    pub(crate) url: String,
    state: Arc<Front>,
    _task: JoinSet<()>,
}

struct Front {
    weather: Weather,
    rng: SeededRng,
    client: Client<HttpConnector, Full<Bytes>>,
    aws: String,
    dynamodb: String,
    fleets: tokio::sync::Mutex<HashMap<String, Bytes>>,
    tally: Mutex<Tally>,
}

impl BadAws {
    pub(crate) async fn start(emulator: &Emulator, seed: u64, weather: Weather) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let state = Arc::new(Front {
            weather,
            rng: SeededRng::new(seed),
            client: Client::builder(TokioExecutor::new()).build_http(),
            aws: emulator.endpoint().to_owned(),
            dynamodb: emulator.dynamodb_endpoint().to_owned(),
            fleets: tokio::sync::Mutex::default(),
            tally: Mutex::default(),
        });
        let app = Router::new().fallback(front).with_state(Arc::clone(&state));
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, app).await.expect("it serves") });
        Self { url, state, _task: task }
    }

    pub(crate) fn tally(&self) -> Tally {
        self.state.tally.lock().expect("no panic").clone()
    }
}

impl Front {
    fn bad(&self, kind: &'static str, probability: f64) -> bool {
        let bad = self.rng.unit() < probability;
        if bad {
            *self.tally.lock().expect("no panic").entry(kind).or_default() += 1;
        }
        bad
    }

    async fn pass(&self, method: Method, uri: &Uri, headers: &HeaderMap, body: Bytes) -> Response<Bytes> {
        let target = headers.get("x-amz-target").and_then(|t| t.to_str().ok()).unwrap_or_default();
        let base = if target.starts_with("DynamoDB") { &self.dynamodb } else { &self.aws };
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let mut request = axum::http::Request::builder().method(method).uri(format!("{base}{path}"));
        for (name, value) in headers {
            if !["host", "content-length", "connection", "transfer-encoding"].contains(&name.as_str()) {
                request = request.header(name, value);
            }
        }
        let request = request.body(Full::new(body)).expect("a request");
        let answer = self.client.request(request).await.expect("the emulator answers");
        let (mut head, body) = answer.into_parts();
        head.headers.remove("content-length");
        head.headers.remove("transfer-encoding");
        head.headers.remove("connection");
        Response::from_parts(head, body.collect().await.expect("a whole answer").to_bytes())
    }

    /// `CreateFleet`, as EC2 would answer it on a bad day.
    async fn fleet(&self, uri: &Uri, headers: &HeaderMap, form: &str) -> Response<Bytes> {
        let field = |name: &str| {
            let pairs = form.split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).next()
        };
        let token = field("ClientToken").expect("every fleet request has a token");
        let mut fleets = self.fleets.lock().await;
        if let Some(known) = fleets.get(&token) {
            *self.tally.lock().expect("no panic").entry("repeated").or_default() += 1;
            return Response::new(known.clone());
        }
        let name = "TargetCapacitySpecification.TotalTargetCapacity";
        let wanted: u32 = field(name).and_then(|n| n.parse().ok()).expect("a capacity");
        let body = if self.bad("no_capacity", self.weather.no_capacity) {
            let id = "<fleetId>fleet-00000000-0000-0000-0000-000000000000</fleetId><fleetInstanceSet/>";
            Bytes::from(format!(
                "<CreateFleetResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">{id}{SHORT}</CreateFleetResponse>"
            ))
        } else if wanted > 1 && self.bad("partial", self.weather.partial) {
            let less = form.replace(&format!("{name}={wanted}"), &format!("{name}={}", wanted / 2));
            let answer = self.pass(Method::POST, uri, headers, less.into()).await;
            assert_eq!(answer.status(), StatusCode::OK);
            let text = String::from_utf8(answer.into_body().to_vec()).expect("XML");
            let (text, _) = text.split_once("<errorSet").unwrap_or((text.trim_end(), ""));
            let text = text.trim_end().trim_end_matches("</CreateFleetResponse>");
            Bytes::from(format!("{text}{SHORT}</CreateFleetResponse>"))
        } else {
            let answer = self.pass(Method::POST, uri, headers, form.to_owned().into()).await;
            if answer.status() != StatusCode::OK {
                return answer;
            }
            answer.into_body()
        };
        fleets.insert(token, body.clone());
        Response::new(body)
    }
}

const SHORT: &str = "<errorSet><item><launchTemplateAndOverrides/><lifecycle>spot</lifecycle>\
    <errorCode>InsufficientInstanceCapacity</errorCode><errorMessage>There is no capacity.</errorMessage>\
    </item></errorSet>";

async fn front(
    State(state): State<Arc<Front>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let json = headers.contains_key("x-amz-target");
    if state.bad("throttled", state.weather.throttled) {
        return throttled(json);
    }
    let form = std::str::from_utf8(&body).unwrap_or_default().to_owned();
    let answer = if !json && form.contains("Action=CreateFleet") {
        state.fleet(&uri, &headers, &form).await
    } else {
        state.pass(method, &uri, &headers, body).await
    };
    if state.bad("lost", state.weather.lost) {
        // Promised and not delivered: the connection breaks in the middle of the answer.
        let broken = futures::stream::once(async { Err::<Bytes, _>(std::io::Error::other("gone")) });
        let name = HeaderName::from_static("content-length");
        return Response::builder().header(name, "1000").body(Body::from_stream(broken)).expect("a response");
    }
    answer.map(Body::from)
}

fn throttled(json: bool) -> Response<Body> {
    let (status, kind, body) = if json {
        (400, "application/x-amz-json-1.0", r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#)
    } else {
        let body = "<Response><Errors><Error><Code>RequestLimitExceeded</Code><Message>Request limit exceeded.\
            </Message></Error></Errors><RequestID>0</RequestID></Response>";
        (503, "text/xml", body)
    };
    Response::builder().status(status).header("content-type", kind).body(Body::from(body)).expect("a response")
}
