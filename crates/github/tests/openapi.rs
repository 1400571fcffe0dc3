//! Every request the client can make is one that GitHub documents, and it can read the answer GitHub documents.
//!
//! Each operation is driven against an exchange that answers with the description's own example. What it was asked is
//! then held against the description: method and path exist, every parameter is declared and of its type, required
//! ones are there, the body has the declared shape and nothing else.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    reason = "an integration test is a crate of its own"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use domain::clock::{SystemClock, SystemRng, Timestamp};
use domain::ids::{InstallationId, JobId, Repo, RunId, RunnerId};
use github::client::{Client, ClientConfig, Exchange, ExchangeError, JitRequest, Operation, Priority};
use http::{Request, Response};
use secrecy::SecretString;
use serde_json::{Value, json};

const KEY: &str = include_str!("fixtures/app-key.pkcs8.pem");

struct Description(Value);

/// A documented operation: its path, as written, and its entry.
struct Entry<'a> {
    template: &'a str,
    entry: &'a Value,
}

impl Description {
    fn load() -> Self {
        let file = support::node_modules().join("@octokit/openapi/generated/api.github.com.json");
        Self(serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap())
    }

    /// Replaces a reference by what it refers to.
    fn follow<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value.get("$ref").and_then(Value::as_str) {
            Some(to) => self.follow(self.0.pointer(to.trim_start_matches('#')).expect(to)),
            None => value,
        }
    }

    /// The whole schema without references.
    fn inline(&self, value: &Value) -> Value {
        match self.follow(value) {
            Value::Object(fields) => fields.iter().map(|(k, v)| (k.clone(), self.inline(v))).collect(),
            Value::Array(items) => items.iter().map(|v| self.inline(v)).collect(),
            other => other.clone(),
        }
    }

    fn entry(&self, method: &str, template: &str) -> Option<Entry<'_>> {
        let (template, path) = self.0["paths"].as_object()?.get_key_value(template)?;
        Some(Entry { template, entry: path.get(method)? })
    }

    /// The documented operation a request line belongs to: the one with the most literal path.
    fn find(&self, method: &str, path: &str) -> Option<Entry<'_>> {
        let segments: Vec<_> = path.split('/').collect();
        let fits = |template: &str| {
            let pattern: Vec<_> = template.split('/').collect();
            pattern.len() == segments.len() && pattern.iter().zip(&segments).all(|(p, s)| p.starts_with('{') || p == s)
        };
        let paths = self.0["paths"].as_object().unwrap();
        let found = paths.keys().filter(|t| fits(t) && paths[*t].get(method).is_some());
        let template = found.min_by_key(|t| t.matches('{').count())?;
        self.entry(method, template)
    }

    /// Status and body of the documented success.
    fn example(&self, entry: &Value) -> (u16, Bytes) {
        let responses = entry["responses"].as_object().unwrap();
        let (status, response) = responses.iter().find(|(status, _)| status.starts_with('2')).unwrap();
        let content = &self.follow(response)["content"]["application/json"];
        let body = content["examples"].as_object().and_then(|e| e.values().next());
        let body = body.map_or(Bytes::new(), |e| Bytes::from(self.follow(e)["value"].to_string()));
        (status.parse().unwrap(), body)
    }

    fn parameters(&self, entry: &Value, place: &str) -> BTreeMap<String, Value> {
        let all = entry["parameters"].as_array().cloned().unwrap_or_default();
        let all = all.iter().map(|p| self.follow(p)).filter(|p| p["in"] == place);
        all.map(|p| (p["name"].as_str().unwrap().to_owned(), p.clone())).collect()
    }

    /// Everything that is wrong with one request.
    fn complaints(&self, method: &str, target: &str, body: &[u8]) -> Vec<String> {
        let url = url::Url::parse("https://api.github.com").unwrap().join(target).unwrap();
        let Some(Entry { template, entry }) = self.find(method, url.path()) else {
            return vec!["is not documented".to_owned()];
        };
        let mut wrong = Vec::new();
        let path = self.parameters(entry, "path");
        let named = template.split('/').zip(url.path().split('/')).filter(|(name, _)| name.starts_with('{'));
        for (name, value) in named {
            let name = name.trim_matches(['{', '}']);
            match path.get(name) {
                Some(parameter) => wrong.extend(self.mismatch(parameter, value)),
                None => wrong.push(format!("path parameter {name} is not documented")),
            }
        }
        let query = self.parameters(entry, "query");
        let given: BTreeMap<_, _> = url.query_pairs().into_owned().collect();
        for (name, value) in &given {
            match query.get(name) {
                Some(parameter) => wrong.extend(self.mismatch(parameter, value)),
                None => wrong.push(format!("query parameter {name} is not documented")),
            }
        }
        let required = query.iter().filter(|(_, p)| p["required"] == true);
        wrong.extend(required.filter(|(n, _)| !given.contains_key(*n)).map(|(n, _)| format!("{n} is required")));
        wrong.extend(self.body_complaints(entry, body));
        wrong
    }

    /// Whether a parameter's text has its documented type.
    fn mismatch(&self, parameter: &Value, text: &str) -> Option<String> {
        let schema = self.inline(&parameter["schema"]);
        let value = match schema["type"].as_str() {
            Some("integer" | "number" | "boolean") => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
            _ => json!(text),
        };
        let error = jsonschema::validate(&schema, &value).err()?;
        Some(format!("parameter {}: {error}", parameter["name"]))
    }

    fn body_complaints(&self, entry: &Value, body: &[u8]) -> Vec<String> {
        let documented = self.follow(&entry["requestBody"]);
        if body.is_empty() {
            let required = documented["required"] == true;
            return required.then(|| "a body is required".to_owned()).into_iter().collect();
        }
        let schema = self.inline(&documented["content"]["application/json"]["schema"]);
        let Some(fields) = schema["properties"].as_object() else { return vec!["takes no body".to_owned()] };
        let body: Value = serde_json::from_slice(body).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let mut wrong: Vec<_> = validator.iter_errors(&body).map(|e| format!("body: {e}")).collect();
        let given = body.as_object().unwrap().keys();
        wrong.extend(given.filter(|f| !fields.contains_key(*f)).map(|f| format!("body field {f} is not documented")));
        wrong
    }
}

type Recorded = (String, String, Bytes);

/// Answers with examples and remembers the questions.
struct Recorder {
    description: Arc<Description>,
    /// Statuses that stand in for the example's, by template.
    instead: Vec<&'static str>,
    recorded: Mutex<Vec<Recorded>>,
}

#[async_trait]
impl Exchange for Recorder {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ExchangeError> {
        let method = request.method().as_str().to_ascii_lowercase();
        let target = request.uri().path_and_query().unwrap().to_string();
        let found = self.description.find(&method, request.uri().path());
        self.recorded.lock().unwrap().push((method, target, request.body().clone()));
        let (status, body) = match found {
            Some(Entry { template, .. }) if self.instead.contains(&template) => (404, Bytes::new()),
            Some(Entry { entry, .. }) => self.description.example(entry),
            None => (404, Bytes::new()),
        };
        Ok(Response::builder().status(status).body(body).unwrap())
    }
}

/// Makes the client ask the question, with every option the client ever uses.
async fn drive(client: &Client, operation: Operation) -> Result<(), github::client::Error> {
    let repo: Repo = "octo-org/octo.repo_1".parse().unwrap();
    let (job, run, runner) = (JobId::new(399_444_496), RunId::new(29_679_449), RunnerId::new(23));
    let (job, run, runner) = (job.unwrap(), run.unwrap(), runner.unwrap());
    let labels = ["runs-fleet/cpu=4+16".to_owned(), "self hosted".to_owned()];
    let jit = JitRequest { name: "runs-fleet-runner-x-1-0abc1234", group_id: 1, labels: &labels };
    match operation {
        Operation::App => client.app().await.map(drop),
        // Looked up on the way to any question about a repository.
        Operation::RepoInstallation
        | Operation::OrgInstallation
        | Operation::UserInstallation
        | Operation::CreateToken
        | Operation::Job => {
            let found = client.job(&repo, job, Priority::Dispatch).await?;
            assert!(found.is_some() || operation != Operation::Job);
            Ok(())
        }
        Operation::Installations => client.installations().await.map(|all| assert!(!all.is_empty())),
        Operation::InstalledRepos => {
            let all = client.installed_repos(InstallationId::new(1).unwrap()).await?;
            assert!(!all.is_empty());
            Ok(())
        }
        Operation::RerunJob => client.rerun_job(&repo, job).await.map(drop),
        Operation::JitConfig => client.jit_config(&repo, &jit).await.map(drop),
        Operation::RegistrationToken => client.registration_token(&repo).await.map(drop),
        Operation::Runners => {
            client.runner_by_name(&repo, "runs-fleet-runner-x").await?;
            let all = client.runners(&repo).await?;
            assert!(all.iter().any(|r| r.online || !r.labels.is_empty()));
            Ok(())
        }
        Operation::Runner => client.runner(&repo, runner).await.map(|r| assert!(r.is_some())),
        Operation::DeleteRunner => client.delete_runner(&repo, runner).await.map(drop),
        Operation::Run => client.run(&repo, run).await.map(|r| assert!(r.is_some())),
        Operation::Repository => client.repository(&repo).await.map(|r| assert!(r.is_some())),
        Operation::Runs => client.active_runs(&repo).await.map(|runs| assert!(!runs.is_empty())),
        Operation::JobsOfRun => client.jobs_of_run(&repo, run).await.map(|jobs| assert!(!jobs.is_empty())),
        Operation::RunnerGroups => {
            // The example's group, so that a failed look-up cannot pass for an answer.
            assert_eq!(client.runner_group_id(&repo, "Expensive-Hardware").await, 3);
            Ok(())
        }
        Operation::Deliveries => {
            let all = client.deliveries(Timestamp::UNIX_EPOCH).await?;
            assert!(all.is_some_and(|d| !d.is_empty()));
            Ok(())
        }
        Operation::Redeliver => client.redeliver(12_345_678).await,
    }
}

#[tokio::test]
async fn every_request_is_documented_and_every_documented_answer_is_read() {
    let description = Arc::new(Description::load());
    let mut asked = BTreeSet::new();
    for operation in Operation::ALL {
        let recorder = Arc::new(Recorder {
            description: Arc::clone(&description),
            instead: match operation {
                Operation::OrgInstallation => vec!["/repos/{owner}/{repo}/installation"],
                Operation::UserInstallation => {
                    vec!["/repos/{owner}/{repo}/installation", "/orgs/{org}/installation"]
                }
                _ => Vec::new(),
            },
            recorded: Mutex::default(),
        });
        let config = ClientConfig {
            app_id: 1,
            private_key: SecretString::from(KEY.to_owned()),
            api_url: "https://api.github.com".to_owned(),
            version: "0".to_owned(),
        };
        let exchange = Arc::<Recorder>::clone(&recorder);
        let client = Client::new(&config, exchange, Arc::new(SystemClock), Arc::new(SystemRng)).unwrap();
        drive(&client, operation).await.unwrap_or_else(|e| panic!("{operation:?}: {e}"));
        let recorded = recorder.recorded.lock().unwrap().clone();
        let method = operation.method().as_str().to_ascii_lowercase();
        assert!(description.entry(&method, operation.template()).is_some(), "{operation:?} is not documented");
        for (method, target, body) in &recorded {
            let wrong = description.complaints(method, target, body);
            assert!(wrong.is_empty(), "{method} {target}: {wrong:?}");
            let path = target.split('?').next().unwrap();
            asked.insert((method.clone(), description.find(method, path).unwrap().template.to_owned()));
        }
        let own = (method, operation.template().to_owned());
        assert!(asked.contains(&own), "{operation:?} was not asked");
    }
    // Nothing was asked that is not in the table.
    let table = |o: Operation| (o.method().as_str().to_ascii_lowercase(), o.template().to_owned());
    assert_eq!(asked, Operation::ALL.into_iter().map(table).collect());
}

#[tokio::test]
async fn cursors_are_documented() {
    let description = Description::load();
    assert_eq!(
        description.complaints("get", "/app/hook/deliveries?per_page=100&cursor=v1_1", b""),
        Vec::<String>::new()
    );
}

/// The check itself would be worthless if it let these through.
#[test]
fn the_check_sees_mistakes() {
    let description = Description::load();
    let jit = "/repos/o/r/actions/runners/generate-jitconfig";
    let cases: [(&str, &str, &[u8]); 9] = [
        ("get", "/repos/o/r/actions/jabs/1", b""),
        ("delete", "/repos/o/r/actions/jobs/1", b""),
        ("get", "/repos/o/r/actions/jobs/one", b""),
        ("get", "/repos/o/r/actions/runs?per_page=many", b""),
        ("get", "/repos/o/r/actions/runs?state=queued", b""),
        ("get", "/repos/o/r/actions/runs?status=running", b""),
        ("post", jit, b""),
        ("post", jit, br#"{"name":"x","runner_group_id":"1","labels":["a"]}"#),
        ("post", jit, br#"{"name":"x","runner_group_id":1,"labels":["a"],"folder":"w"}"#),
    ];
    for (method, target, body) in cases {
        assert_eq!(description.complaints(method, target, body).len(), 1, "{method} {target}");
    }
    let empty = description.complaints("post", jit, br#"{"runner_group_id":1,"labels":[]}"#);
    assert_eq!(empty.len(), 2, "{empty:?}");
}
