//! An instance for the real agent: its record in the emulated EC2, a queue, a bucket, its hand-over, its metadata
//! service, and bad weather between the agent and AWS.

pub(crate) mod http;
pub(crate) mod metadata;
pub(crate) mod weather;

use std::process::Child;

use domain::handover::HandOver;
use domain::report::AgentReport;
use emulator::Emulator;
use serde_json::{Value, json};

use crate::machine::{Machine, document, runner_tree, until, until_or};
use http::Request;
use metadata::Metadata;
use weather::Weather;

const PREFIX: &str = "/runs-fleet/runners";

/// An instance that runs, without a hand-over.
pub(crate) struct Instance {
    pub(crate) id: String,
    pub(crate) queue_url: String,
    pub(crate) machine: Machine,
    pub(crate) metadata: Metadata,
    pub(crate) weather: Weather,
    aws: String,
}

/// An unsigned call: the emulator takes the service from the credential's scope and believes the rest.
pub(crate) fn call(aws: &str, service: &str, target: Option<&str>, body: &str) -> String {
    let answer = http::exchange(aws, &request(service, target, body));
    assert!((200..300).contains(&answer.status), "{service}: {}", answer.body);
    answer.body
}

fn request(service: &str, target: Option<&str>, body: &str) -> Request {
    let scope = format!("Credential=testing/20200101/{}/{service}/aws4_request", emulator::REGION);
    let mut headers =
        vec![("authorization".to_owned(), format!("AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0"))];
    match target {
        Some(target) => {
            headers.push(("content-type".to_owned(), "application/x-amz-json-1.0".to_owned()));
            headers.push(("x-amz-target".to_owned(), target.to_owned()));
        }
        None => headers.push(("content-type".to_owned(), "application/x-www-form-urlencoded".to_owned())),
    }
    Request { line: "POST / HTTP/1.1".to_owned(), headers, body: body.as_bytes().to_vec() }
}

fn json_call(aws: &str, service: &str, target: &str, body: &Value) -> Value {
    serde_json::from_str(&call(aws, service, Some(target), &body.to_string())).unwrap()
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    text.split_once(from).and_then(|(_, rest)| rest.split_once(to)).unwrap_or_else(|| panic!("no {from} in {text}")).0
}

impl Instance {
    /// One whose runner is `script`.
    pub(crate) fn start(emulator: &Emulator, script: &str) -> Self {
        let aws = emulator.endpoint().to_owned();
        let image = "ImageId=ami-12c6146b&MinCount=1&MaxCount=1&InstanceType=m5.large";
        let started = call(&aws, "ec2", None, &format!("Action=RunInstances&Version=2016-11-15&{image}"));
        let id = between(&started, "<instanceId>", "</instanceId>").to_owned();
        let queue = json!({"QueueName": format!("{id}.fifo"), "Attributes": {"FifoQueue": "true"}});
        let queue = json_call(&aws, "sqs", "AmazonSQS.CreateQueue", &queue);
        let (metadata, weather) = (Metadata::start(&id), Weather::start(&aws));
        let machine = Machine::bare()
            .set("RUNS_FLEET_BACKEND", "ec2")
            .set("RUNS_FLEET_SECRETS_BACKEND", "")
            .set("RUNS_FLEET_MACHINE", "")
            .set("RUNS_FLEET_INSTANCE_ID", "")
            .set("RUNS_FLEET_REPORT_SPOOL", "")
            .set("RUNS_FLEET_HANDOVER_DIR", "")
            .set("AWS_SECRET_ACCESS_KEY", "")
            .set("AWS_EC2_METADATA_DISABLED", "")
            .set("RUNS_FLEET_SPOT_POLL_MS", "50")
            .set("RUNS_FLEET_SAFETY_CHECK_SECONDS", "1")
            .set("RUNS_FLEET_RUNNER_RELEASES_URL", "http://127.0.0.1:9")
            .set("AWS_ENDPOINT_URL", &weather.address())
            .set("AWS_EC2_METADATA_SERVICE_ENDPOINT", &metadata.address());
        runner_tree(&machine.path("machine/runner"), script);
        let queue_url = queue["QueueUrl"].as_str().unwrap().to_owned();
        Self { id, queue_url, machine, metadata, weather, aws }
    }

    pub(crate) fn set(mut self, name: &str, value: &str) -> Self {
        self.machine = self.machine.set(name, value);
        self
    }

    pub(crate) fn document(&self) -> HandOver {
        HandOver {
            instance_id: self.id.clone(),
            termination_queue_url: self.queue_url.clone(),
            created_at: Some(domain::clock::Timestamp::now()),
            ..document()
        }
    }

    /// Writes one parameter.
    pub(crate) fn put(&self, name: &str, value: &str) {
        let name = format!("{PREFIX}/{}/{name}", self.id);
        let parameter = json!({"Name": name, "Value": value, "Type": "SecureString", "Overwrite": true});
        json_call(&self.aws, "ssm", "AmazonSSM.PutParameter", &parameter);
    }

    pub(crate) fn hand_over(&self, document: &HandOver) {
        let packed = provider::ssm_layout::pack(document);
        if let Some(credential) = packed.credential {
            self.put("credential", &credential);
        }
        self.put("config", &packed.config);
    }

    pub(crate) fn make_bucket(&self, name: &str) {
        let request = Request { line: format!("PUT /{name} HTTP/1.1"), ..request("s3", None, "") };
        assert_eq!(http::exchange(&self.aws, &request).status, 200);
    }

    /// The keys in a bucket.
    pub(crate) fn keys(&self, bucket: &str) -> Vec<String> {
        let request = Request { line: format!("GET /{bucket} HTTP/1.1"), ..request("s3", None, "") };
        let answer = http::exchange(&self.aws, &request).body;
        answer.split("<Key>").skip(1).map(|rest| rest.split("</Key>").next().unwrap().to_owned()).collect()
    }

    /// EC2's word for what the instance does.
    pub(crate) fn state(&self) -> String {
        let query = format!("Action=DescribeInstances&Version=2016-11-15&InstanceId.1={}", self.id);
        let answer = call(&self.aws, "ec2", None, &query);
        between(between(&answer, "<instanceState>", "</instanceState>"), "<name>", "</name>").to_owned()
    }

    /// What was reported and can be read. The queue forgets.
    pub(crate) fn reports(&self) -> Vec<AgentReport> {
        let mut reports = Vec::new();
        loop {
            let body = json!({"QueueUrl": self.queue_url, "MaxNumberOfMessages": 10});
            let answer = json_call(&self.aws, "sqs", "AmazonSQS.ReceiveMessage", &body);
            let Some(messages) = answer["Messages"].as_array().filter(|messages| !messages.is_empty()) else {
                return reports;
            };
            for message in messages {
                if let Ok((report, unreadable)) = AgentReport::decode(message["Body"].as_str().unwrap()) {
                    assert_eq!(unreadable, [""; 0]);
                    reports.push(report);
                }
                let done = json!({"QueueUrl": self.queue_url, "ReceiptHandle": message["ReceiptHandle"]});
                call(&self.aws, "sqs", Some("AmazonSQS.DeleteMessage"), &done.to_string());
            }
        }
    }

    /// Waits until the agent has logged this.
    pub(crate) fn logged(&self, word: &str) {
        until(word, || std::fs::read_to_string(self.machine.path("agent.log")).ok()?.contains(word).then_some(()));
    }

    /// Waits until the agent has called a service this often.
    pub(crate) fn called(&self, service: &str, times: usize) {
        let log = || std::fs::read_to_string(self.machine.path("agent.log")).unwrap_or_default();
        until_or(service, log, || (self.weather.calls(service) >= times).then_some(()));
    }

    /// Kills the agent as nothing can be caught.
    pub(crate) fn kill(agent: &mut Child) {
        agent.kill().unwrap();
        agent.wait().unwrap();
    }
}
