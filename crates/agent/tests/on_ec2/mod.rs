//! The real agent on an instance of the emulator: hand-over from SSM, reports to SQS, TerminateInstances.
//!
//! Where the emulator departs from AWS: a parameter that does not exist is never denied; instances end at once; a
//! signature is looked at only when that is switched on, and then a denial speaks XML in every protocol.

use std::fs;

use domain::handover::HandOver;
use domain::report::AgentReport;
use emulator::Emulator;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::machine::{After, JIT, Machine, TOKEN, document, files, runner_tree, runs, signal, until};

const SERVE: &str = "env > $FAKE_DIR/env; echo 'now: Listening for Jobs'; echo 'now: Running job: build'
                     echo 'now: Job build completed with result: Succeeded'";
const PREFIX: &str = "/runs-fleet/runners";

/// An unsigned call: the emulator takes the service from the credential's scope and believes the rest.
fn call(emulator: &Emulator, service: &str, target: Option<&str>, body: String) -> String {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let scope = format!("Credential=testing/20200101/{}/{service}/aws4_request", emulator::REGION);
    let mut request = reqwest::Client::new()
        .post(emulator.endpoint())
        .header("authorization", format!("AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0"));
    request = match target {
        Some(target) => request.header("content-type", "application/x-amz-json-1.0").header("x-amz-target", target),
        None => request.header("content-type", "application/x-www-form-urlencoded"),
    };
    let (status, text) = block_on(async {
        let response = request.body(body).send().await.unwrap();
        (response.status(), response.text().await.unwrap())
    });
    assert!(status.is_success(), "{service}: {text}");
    text
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn json_call(emulator: &Emulator, service: &str, target: &str, body: &Value) -> Value {
    serde_json::from_str(&call(emulator, service, Some(target), body.to_string())).unwrap()
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    text.split_once(from).and_then(|(_, rest)| rest.split_once(to)).unwrap_or_else(|| panic!("no {from} in {text}")).0
}

/// An instance with a queue for its reports, and a machine for the agent of that instance.
struct Instance<'a> {
    emulator: &'a Emulator,
    id: String,
    queue_url: String,
}

impl<'a> Instance<'a> {
    fn start(emulator: &'a Emulator) -> Self {
        let image = "ImageId=ami-12c6146b&MinCount=1&MaxCount=1&InstanceType=m5.large";
        let started = call(emulator, "ec2", None, format!("Action=RunInstances&Version=2016-11-15&{image}"));
        let id = between(&started, "<instanceId>", "</instanceId>").to_owned();
        let queue = json!({"QueueName": format!("{id}.fifo"), "Attributes": {"FifoQueue": "true"}});
        let queue = json_call(emulator, "sqs", "AmazonSQS.CreateQueue", &queue);
        Self { emulator, id, queue_url: queue["QueueUrl"].as_str().unwrap().to_owned() }
    }

    fn machine(&self, script: &str) -> Machine {
        let mut machine = Machine::bare();
        runner_tree(&machine.path("machine/runner"), script);
        for (name, value) in self.emulator.environment() {
            machine = machine.set(name, value);
        }
        machine
            .set("RUNS_FLEET_BACKEND", "ec2")
            .set("RUNS_FLEET_SECRETS_BACKEND", "ssm")
            .set("RUNS_FLEET_INSTANCE_ID", &self.id)
            .set("RUNS_FLEET_REPORT_SPOOL", "")
            .set("RUNS_FLEET_HANDOVER_DIR", "")
    }

    fn document(&self) -> HandOver {
        let created_at = Some(domain::clock::Timestamp::now());
        HandOver {
            instance_id: self.id.clone(),
            termination_queue_url: self.queue_url.clone(),
            created_at,
            ..document()
        }
    }

    fn put(&self, name: &str, value: &str) {
        let name = format!("{PREFIX}/{}/{name}", self.id);
        let parameter = json!({"Name": name, "Value": value, "Type": "SecureString", "Overwrite": true});
        json_call(self.emulator, "ssm", "AmazonSSM.PutParameter", &parameter);
    }

    fn hand_over(&self, document: &HandOver) {
        let packed = provider::ssm_layout::pack(document);
        self.put("credential", &packed.credential.unwrap());
        self.put("config", &packed.config);
    }

    fn state(&self) -> String {
        let query = format!("Action=DescribeInstances&Version=2016-11-15&InstanceId.1={}", self.id);
        let answer = call(self.emulator, "ec2", None, query);
        between(between(&answer, "<instanceState>", "</instanceState>"), "<name>", "</name>").to_owned()
    }

    fn reports(&self) -> Vec<AgentReport> {
        let mut reports = Vec::new();
        loop {
            let body = json!({"QueueUrl": self.queue_url, "MaxNumberOfMessages": 10});
            let answer = json_call(self.emulator, "sqs", "AmazonSQS.ReceiveMessage", &body);
            let Some(messages) = answer["Messages"].as_array().filter(|messages| !messages.is_empty()) else {
                return reports;
            };
            for message in messages {
                let (report, unreadable) = AgentReport::decode(message["Body"].as_str().unwrap()).unwrap();
                assert_eq!(unreadable, [""; 0]);
                reports.push(report);
                let done = json!({"QueueUrl": self.queue_url, "ReceiptHandle": message["ReceiptHandle"]});
                call(self.emulator, "sqs", Some("AmazonSQS.DeleteMessage"), done.to_string());
            }
        }
    }

    fn told(&self) -> Vec<&'static str> {
        self.reports().iter().map(|report| report.status.as_str()).collect()
    }

    fn assert_terminated(&self, after: &After) {
        let state = self.state();
        assert!(["shutting-down", "terminated"].contains(&state.as_str()), "{state}: {}", after.log);
        assert_eq!(after.status.code(), Some(0), "{}", after.log);
    }
}

/// A user who may call exactly these operations.
fn user(emulator: &Emulator, name: &str, operations: &[&str]) -> (String, String) {
    let iam = |query: &str| call(emulator, "iam", None, format!("Version=2010-05-08&UserName={name}&{query}"));
    iam("Action=CreateUser");
    let statement = json!({"Effect": "Allow", "Action": operations, "Resource": "*"});
    let policy = json!({"Version": "2012-10-17", "Statement": [statement]}).to_string();
    let policy: String = policy.bytes().map(|byte| format!("%{byte:02X}")).collect();
    iam(&format!("Action=PutUserPolicy&PolicyName=p&PolicyDocument={policy}"));
    let key = iam("Action=CreateAccessKey");
    let id = between(&key, "<AccessKeyId>", "</AccessKeyId>").to_owned();
    (id, between(&key, "<SecretAccessKey>", "</SecretAccessKey>").to_owned())
}

/// Whether signatures and permissions are looked at from now on.
fn check_signatures(emulator: &Emulator, check: bool) {
    let url = format!("{}/moto-api/reset-auth", emulator.endpoint());
    let after = if check { "0" } else { "inf" };
    let _ = rustls::crypto::ring::default_provider().install_default();
    block_on(async { reqwest::Client::new().post(url).body(after).send().await.unwrap().error_for_status().unwrap() });
}

#[test]
fn a_job_is_served_with_valid_signatures_and_three_permissions() {
    let emulator = Emulator::start();
    let operations = ["ssm:GetParameters", "sqs:SendMessage", "ec2:TerminateInstances"];
    let (id, secret) = user(&emulator, "agent", &operations);
    let (blind_id, blind_secret) = user(&emulator, "blind", &operations[1..]);
    let instance = Instance::start(&emulator);
    instance.hand_over(&instance.document());
    let blind = Instance::start(&emulator);
    blind.hand_over(&blind.document());
    let machine = instance.machine(SERVE).set("AWS_ACCESS_KEY_ID", &id).set("AWS_SECRET_ACCESS_KEY", &secret);
    let in_vain = blind
        .machine(SERVE)
        .set("AWS_ACCESS_KEY_ID", &blind_id)
        .set("AWS_SECRET_ACCESS_KEY", &blind_secret)
        .set("RUNS_FLEET_TERMINATION_QUEUE_URL", &blind.queue_url)
        .set("RUNS_FLEET_STANDBY_DEADLINE_SECONDS", "1");

    check_signatures(&emulator, true);
    let after = machine.run();
    let nothing = in_vain.run();
    check_signatures(&emulator, false);

    instance.assert_terminated(&after);
    let reports = instance.reports();
    let told: Vec<&str> = reports.iter().map(|report| report.status.as_str()).collect();
    assert_eq!(told, ["started", "success"], "{}", after.log);
    assert_eq!(reports[1].job_id.map(|id| id.get()), Some(7));
    assert_eq!(reports[1].token.as_ref().map(|token| token.expose()), Some(TOKEN));

    let env = machine.seen("env");
    assert!(env.contains(&format!("ACTIONS_RUNNER_INPUT_JITCONFIG={JIT}\n")), "what was packed is unpacked");
    assert!(env.contains("AWS_REGION=us-east-1\n"));
    for hidden in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", &id, &secret, TOKEN] {
        assert!(!env.contains(hidden), "{hidden} reached the job");
    }
    for secret in [secret.as_str(), JIT, TOKEN] {
        assert!(!after.log.contains(secret), "{secret} is in the log");
        for (path, content) in files(&machine.path("machine")) {
            assert!(!content.contains(secret), "{} holds a secret", path.display());
        }
    }

    // Who may not read its hand-over waits for it, says so, and ends.
    blind.assert_terminated(&nothing);
    let reports = blind.reports();
    assert_eq!(reports.len(), 1, "{}", nothing.log);
    assert_eq!(reports[0].status.as_str(), "bootstrap_failed");
    let error = reports[0].error.as_deref().unwrap_or_default();
    assert!(error.starts_with("config_invalid: ") && error.contains("AccessDenied"), "{error}");
}

#[test]
fn an_instance_without_work_ends_itself_unless_it_is_told_to_go() {
    let unused = Instance::start(emulator::shared());
    let after = unused.machine(SERVE).set("RUNS_FLEET_STANDBY_DEADLINE_SECONDS", "1").run();
    unused.assert_terminated(&after);
    assert_eq!(unused.told().len(), 0);

    let spare = Instance::start(emulator::shared());
    let old = domain::clock::Timestamp::now() - domain::clock::SignedDuration::from_hours(3);
    spare.hand_over(&HandOver { created_at: Some(old), ..spare.document() });
    let machine = spare.machine(SERVE);
    let agent = machine.start();
    until("standby", || fs::read_to_string(machine.path("agent.log")).ok()?.contains("config_stale").then_some(()));
    signal(&agent, Signal::TERM);
    let after = machine.wait(agent);
    assert_eq!((after.status.code(), spare.state().as_str()), (Some(0), "running"), "{}", after.log);
}

#[test]
fn an_unusable_hand_over_is_reported_and_ends_the_instance() {
    let instance = Instance::start(emulator::shared());
    instance.put("config", &format!("{{\"jit_config\": {JIT}"));
    let after = instance.machine(SERVE).set("RUNS_FLEET_TERMINATION_QUEUE_URL", &instance.queue_url).run();
    instance.assert_terminated(&after);
    assert_eq!(instance.told(), ["bootstrap_failed"], "{}", after.log);
    assert!(!after.log.contains(JIT), "{}", after.log);
}

#[test]
fn an_agent_that_was_killed_is_succeeded_by_one_that_ends_the_instance() {
    let instance = Instance::start(emulator::shared());
    instance.hand_over(&instance.document());
    let machine = instance.machine("echo $$ > $FAKE_DIR/up; exec sleep 1000");
    let mut agent = machine.start();
    let pid = machine.seen("up");
    agent.kill().unwrap();
    agent.wait().unwrap();
    let after = machine.run();
    instance.assert_terminated(&after);
    assert_eq!(instance.told(), ["failure"], "{}", after.log);
    assert!(!runs(&pid));
}

#[test]
fn an_instance_that_ec2_does_not_end_is_told_by_the_exit_code() {
    let instance = Instance::start(emulator::shared());
    instance.hand_over(&instance.document());
    let nowhere = "http://127.0.0.1:9";
    let after = instance.machine(SERVE).set("AWS_ENDPOINT_URL_EC2", nowhere).run();
    assert_eq!(after.status.code(), Some(1));
    assert_eq!(instance.told(), ["started", "success"], "the report never waits for the end");
    assert!(after.log.contains("machine_left_standing"), "{}", after.log);
}
