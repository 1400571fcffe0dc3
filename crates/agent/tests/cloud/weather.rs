//! What lies between the agent and AWS: calls are counted, and fail as a script says before they are passed on.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::http::{self, Request};

/// What happens to one call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// Nothing.
    Pass,
    /// It is refused with this status and code.
    Refuse(u16, &'static str),
    /// Nobody answers, and nothing happens.
    Drop,
    /// It has its effect, and the answer is lost.
    Lose,
    /// It has its effect, and the answer comes this much later.
    Late(Duration),
}

#[derive(Default)]
struct Sky {
    faults: BTreeMap<&'static str, VecDeque<Fault>>,
    always: BTreeMap<&'static str, Fault>,
    calls: BTreeMap<String, usize>,
}

pub(crate) struct Weather {
    address: SocketAddr,
    sky: Arc<Mutex<Sky>>,
}

impl Weather {
    /// Fine weather, in front of `aws`.
    pub(crate) fn start(aws: &str) -> Self {
        Self::serve(aws, TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// The same at an address of the test's own choice.
    pub(crate) fn serve(aws: &str, listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let sky = Arc::new(Mutex::new(Sky::default()));
        let (shared, aws) = (Arc::clone(&sky), aws.to_owned());
        http::serve(listener, move |stream| handle(stream, &shared, &aws));
        Self { address, sky }
    }

    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next calls of `service` meet these.
    pub(crate) fn next(&self, service: &'static str, faults: &[Fault]) {
        self.sky.lock().unwrap().faults.entry(service).or_default().extend(faults);
    }

    /// All calls of `service` meet this.
    pub(crate) fn always(&self, service: &'static str, fault: Fault) {
        self.sky.lock().unwrap().always.insert(service, fault);
    }

    pub(crate) fn clear(&self) {
        let mut sky = self.sky.lock().unwrap();
        sky.faults.clear();
        sky.always.clear();
    }

    /// How often `service` was called.
    pub(crate) fn calls(&self, service: &str) -> usize {
        self.sky.lock().unwrap().calls.get(service).copied().unwrap_or(0)
    }
}

/// `…/<region>/<service>/aws4_request` of a signature.
fn service(request: &Request) -> String {
    let scope = request.header("authorization").and_then(|text| text.split("/aws4_request").next());
    scope.and_then(|scope| scope.rsplit('/').next()).unwrap_or_default().to_owned()
}

fn handle(mut stream: TcpStream, sky: &Mutex<Sky>, aws: &str) {
    let Some(request) = http::read(&mut stream) else { return };
    let service = service(&request);
    let fault = {
        let mut sky = sky.lock().unwrap();
        *sky.calls.entry(service.clone()).or_default() += 1;
        let next = sky.faults.get_mut(service.as_str()).and_then(VecDeque::pop_front);
        next.or_else(|| sky.always.get(service.as_str()).copied()).unwrap_or(Fault::Pass)
    };
    let pass = || http::forward(aws, &request).unwrap_or_default();
    match fault {
        Fault::Pass => drop(stream.write_all(&pass())),
        Fault::Drop => {}
        Fault::Lose => drop(pass()),
        Fault::Late(by) => {
            let answer = pass();
            std::thread::sleep(by);
            let _ = stream.write_all(&answer);
        }
        Fault::Refuse(status, code) => {
            let body = match service.as_str() {
                "ec2" | "s3" => format!("<Response><Errors><Error><Code>{code}</Code></Error></Errors></Response>"),
                _ => format!("{{\"__type\":\"{code}\",\"message\":\"no\"}}"),
            };
            http::answer(&mut stream, status, &body);
        }
    }
}
