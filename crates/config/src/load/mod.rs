//! The algorithm: mode, secret sources, values, derived values, cross-field checks, names nobody reads.

mod cross;
mod derive;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde_json::{Map, Value as Json};

use crate::files::Files;
use crate::model::{Config, Mode, StoreKind};
use crate::parse::{self, Reference, Value};
use crate::problem::{Code, Problem};
use crate::registry::{AGENT_SECRETS, Scope, Variable, variables};

/// Shorter secrets are not searched for in texts: they would blank out ordinary words.
const MIN_SECRET: usize = 8;
/// What stands for a secret.
const REDACTED: &str = "<redacted>";

/// What came of the environment.
pub struct Loaded {
    /// The configuration; `None` while there is an error, or a reference that is not resolved yet.
    pub config: Option<Config>,
    /// Every problem, by variable and code. Warnings among them.
    pub problems: Vec<Problem>,
    /// Every variable of the mode with its value after defaulting; secrets are `<redacted>`, unset is `null`.
    pub values: Map<String, Json>,
    /// What follows from the values.
    pub effective: Effective,
    /// The mode, for display: `ec2`, `k8s` or `local`.
    pub mode: &'static str,
    /// Every secret found, for the log's redactor. They were kept out of everything above.
    pub secrets: Vec<SecretString>,
    /// Secrets kept elsewhere: resolve them, [`substitute`] them, and load again.
    pub references: Vec<(&'static str, Reference)>,
    /// `AWS_ENDPOINT_URL*` variables that are set, to be logged: a forgotten emulator is otherwise invisible.
    pub endpoint_overrides: Vec<(String, String)>,
}

/// What follows from the values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Effective {
    /// Subnets of ordinary jobs.
    pub default_subnets: Vec<String>,
    /// Subnets of private jobs.
    pub private_subnets: Vec<String>,
    /// The cache's address as runners get it.
    pub cache_url: Option<String>,
    /// `dynamodb`, `valkey` or `embedded`.
    pub store: &'static str,
    /// `oidc`, `anonymous` or `disabled`.
    pub admin_api: &'static str,
    /// `authenticated`, `anonymous` or `disabled`.
    pub cache_api: &'static str,
    /// Whether traces are sent.
    pub tracing: bool,
    /// Where they would be sent.
    pub tracing_endpoint: Option<String>,
    /// The deployment environment in traces.
    pub environment: Option<String>,
    /// Where the issuer sends people back to.
    pub oidc_redirect_url: Option<String>,
    /// This replica's name.
    pub replica_id: String,
}

impl Effective {
    fn texts(&mut self) -> impl Iterator<Item = &mut String> {
        let optional =
            [&mut self.cache_url, &mut self.tracing_endpoint, &mut self.environment, &mut self.oidc_redirect_url];
        let lists = self.default_subnets.iter_mut().chain(&mut self.private_subnets);
        lists.chain(optional.into_iter().flatten()).chain([&mut self.replica_id])
    }
}

impl Loaded {
    /// Whether one may start; `strict` counts warnings as errors.
    pub fn ok(&self, strict: bool) -> bool {
        self.problems.iter().all(|p| !p.code.is_error() && !strict)
    }

    /// The number of warnings of each code, for the gauge.
    pub fn warnings(&self) -> BTreeMap<Code, usize> {
        let mut count = BTreeMap::new();
        for problem in self.problems.iter().filter(|p| !p.code.is_error()) {
            *count.entry(problem.code).or_default() += 1;
        }
        count
    }

    /// Adds what other crates found wrong with their own formats; an error takes the configuration away. The messages
    /// are searched for secrets like all others.
    pub fn add(&mut self, problems: impl IntoIterator<Item = Problem>) {
        for mut problem in problems {
            problem.message = scrubbed(&self.secrets, &problem.message);
            self.problems.push(problem);
        }
        finish(&mut self.problems);
        if !self.ok(false) {
            self.config = None;
        }
    }
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("problems", &self.problems).finish_non_exhaustive()
    }
}

/// The environment with a resolved secret in the place of `variable`'s reference.
pub fn substitute(env: &mut BTreeMap<String, String>, variable: &str, secret: &SecretString) {
    env.remove(&format!("{variable}_FILE"));
    env.insert(variable.to_owned(), secret.expose_secret().to_owned());
}

impl Config {
    /// Reads the whole environment for `serve` and `check-config`. Pure but for the files secrets are kept in.
    pub fn load(env: &BTreeMap<String, String>, files: &dyn Files) -> Loaded {
        Loader::new(env, files, false).run()
    }

    /// The same for local mode, which supplies every default itself (embedded store, simulated GitHub unless an App is
    /// configured, child processes as machines, loopback listener) and requires nothing; what is set must be valid.
    pub fn local(env: &BTreeMap<String, String>, files: &dyn Files) -> Loaded {
        Loader::new(env, files, true).run()
    }
}

fn finish(problems: &mut Vec<Problem>) {
    problems.sort_by(|a, b| a.order().cmp(&b.order()));
    problems.dedup();
}

/// `text` with every secret cut out of it.
fn scrubbed(secrets: &[SecretString], text: &str) -> String {
    let mut text = text.to_owned();
    let searched = || secrets.iter().map(|s| s.expose_secret()).filter(|s| s.len() >= MIN_SECRET);
    for secret in searched() {
        // A message quotes values escaped, so a secret is looked for in both forms.
        for form in [secret.to_owned(), secret.escape_debug().to_string()] {
            text = text.replace(&form, REDACTED);
        }
    }
    // A secret with escapes in it may come into being only when the text is written as JSON.
    let written = Json::from(text.as_str()).to_string();
    if searched().any(|secret| written.contains(secret)) { REDACTED.to_owned() } else { text }
}

/// The parsed values, by name.
#[derive(Debug, Default)]
pub(crate) struct Values {
    map: BTreeMap<&'static str, Value>,
    /// The names whose value follows from others.
    derived: BTreeSet<&'static str>,
}

impl Values {
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name)
    }

    /// Whether the value follows from others instead of being set or a constant.
    pub(crate) fn is_derived(&self, name: &str) -> bool {
        self.derived.contains(name)
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).map(Value::as_text).filter(|text| !text.is_empty())
    }

    pub(crate) fn list(&self, name: &str) -> &[String] {
        if let Some(Value::List(items)) = self.get(name) { items } else { &[] }
    }

    pub(crate) fn int(&self, name: &str) -> Option<i64> {
        if let Some(Value::Int(n)) = self.get(name) { Some(*n) } else { None }
    }

    pub(crate) fn float(&self, name: &str) -> Option<f64> {
        if let Some(Value::Float(n)) = self.get(name) { Some(*n) } else { None }
    }

    pub(crate) fn on(&self, name: &str) -> bool {
        matches!(self.get(name), Some(Value::Bool(true)))
    }

    pub(crate) fn secret(&self, name: &str) -> Option<&SecretString> {
        if let Some(Value::Secret(secret)) = self.get(name) { Some(secret) } else { None }
    }

    pub(crate) fn json(&self, name: &str) -> &Json {
        if let Some(Value::Json(json)) = self.get(name) { json } else { &Json::Null }
    }
}

/// Which parts are served, and why.
#[derive(Debug, Clone, Copy)]
struct Served {
    mode: Mode,
    ec2: bool,
    k8s: bool,
}

struct Loader<'a> {
    env: &'a BTreeMap<String, String>,
    files: &'a dyn Files,
    local: bool,
    served: Served,
    /// Text of secrets that came from files, by variable.
    from_files: BTreeMap<&'static str, SecretString>,
    values: Values,
    /// Variables that were set and have no usable value: what depends on them is not judged.
    failed: BTreeSet<&'static str>,
    problems: Vec<Problem>,
    secrets: Vec<SecretString>,
}

impl<'a> Loader<'a> {
    fn new(env: &'a BTreeMap<String, String>, files: &'a dyn Files, local: bool) -> Self {
        let raw = |name: &str| env.get(name).map_or("", |v| v.trim_ascii());
        // An invalid mode is reported like any value; until it is mended the rest is judged as for ec2.
        let mode = if raw("RUNS_FLEET_MODE") == "k8s" { Mode::K8s } else { Mode::Ec2 };
        let hybrid = matches!(raw("RUNS_FLEET_HYBRID_ENABLED").to_ascii_lowercase().as_str(), "1" | "t" | "true");
        let served = Served { mode, ec2: mode == Mode::Ec2 || hybrid, k8s: mode == Mode::K8s || hybrid };
        Self {
            env,
            files,
            local,
            served,
            from_files: BTreeMap::new(),
            values: Values::default(),
            failed: BTreeSet::new(),
            problems: Vec::new(),
            secrets: Vec::new(),
        }
    }

    /// The text of a variable, `None` when blank.
    fn raw(&self, name: &str) -> Option<&'a str> {
        self.env.get(name).map(String::as_str).filter(|value| !value.trim_ascii().is_empty())
    }

    fn is_set(&self, name: &str) -> bool {
        self.raw(name).is_some() || self.raw(&format!("{name}_FILE")).is_some()
    }

    fn problem(&mut self, code: Code, variables: &[&str], message: impl Into<String>) {
        self.problems.push(Problem::new(code, variables, message));
    }

    fn know(&mut self, secret: &str) {
        if self.secrets.iter().all(|known| known.expose_secret() != secret) {
            self.secrets.push(secret.into());
        }
    }

    fn run(mut self) -> Loaded {
        for name in variables().filter(|v| v.kind.is_secret()).map(|v| v.name).chain(AGENT_SECRETS.iter().copied()) {
            if let Some(secret) = self.raw(name).filter(|text| Reference::parse(text).is_none()) {
                self.know(secret.trim_ascii());
            }
        }
        let applicable: Vec<_> = variables().filter(|v| self.in_mode(v)).collect();
        for variable in &applicable {
            self.read_file(variable);
        }
        for variable in &applicable {
            self.read(variable);
        }
        self.derive();
        self.check_across();
        self.check_names();
        self.into_loaded()
    }

    /// Whether the variable belongs to what is served: only those are listed at all.
    fn in_mode(&self, variable: &Variable) -> bool {
        match variable.scope {
            Scope::Ec2 => self.served.ec2,
            Scope::K8s => self.served.k8s,
            _ => true,
        }
    }

    /// Whether the variable matters now: otherwise its problems are nobody's.
    fn matters(&self, variable: &Variable) -> bool {
        let on = |name: &str| matches!(self.raw(name), Some(v) if matches!(v.trim_ascii().to_ascii_lowercase().as_str(), "1" | "t" | "true"));
        match variable.scope {
            Scope::Always | Scope::Ec2 | Scope::K8s => true,
            Scope::Coordinator => on("RUNS_FLEET_COORDINATOR_ENABLED"),
            Scope::Prometheus => on("RUNS_FLEET_METRICS_PROMETHEUS_ENABLED"),
            Scope::Datadog => on("RUNS_FLEET_METRICS_DATADOG_ENABLED"),
            Scope::Oidc => cross::OIDC.iter().any(|name| self.is_set(name)),
            Scope::Vault => self.vault_used(),
        }
    }

    fn vault_used(&self) -> bool {
        let refers = |text: &str| text.trim_ascii_start().starts_with("vault://");
        (!self.local && self.raw("RUNS_FLEET_SECRETS_BACKEND").is_some_and(|v| v.trim_ascii() == "vault"))
            || variables().filter(|v| v.kind.is_secret() && v.scope != Scope::Vault && self.in_mode(v)).any(|v| {
                self.raw(v.name).is_some_and(refers)
                    || self.from_files.get(v.name).is_some_and(|s| refers(s.expose_secret()))
            })
    }

    /// The `_FILE` form of a secret.
    fn read_file(&mut self, variable: &'static Variable) {
        let form = format!("{}_FILE", variable.name);
        let (true, Some(path)) = (variable.kind.is_secret(), self.raw(&form)) else { return };
        // Vault's own secrets are looked at only when Vault is used, which other secrets' files may decide; they are the
        // last of the table.
        if !self.matters(variable) {
            return;
        }
        if self.raw(variable.name).is_some() {
            self.failed.insert(variable.name);
            self.problem(Code::SecretSource, &[variable.name, &form], "only one of both may be set");
            return;
        }
        let path = Path::new(path.trim_ascii());
        let text = self.files.read(path).map_err(|error| error.to_string()).and_then(|file| {
            if file.world_readable
                && !["/run/secrets", "/var/run/secrets", "/etc/runs-fleet"].iter().any(|d| path.starts_with(d))
            {
                self.problems.push(Problem::new(Code::WarnUnsafe, &[&form], "the file is readable by everybody"));
            }
            let text = String::from_utf8(file.bytes).map_err(|_| "not UTF-8".to_owned())?;
            let text = text.trim_end_matches(['\r', '\n']);
            if text.trim_ascii().is_empty() { Err("blank".to_owned()) } else { Ok(SecretString::from(text)) }
        });
        match text {
            Ok(text) => {
                if Reference::parse(text.expose_secret()).is_none() {
                    self.know(text.expose_secret().trim_ascii());
                }
                self.from_files.insert(variable.name, text);
            }
            Err(reason) => {
                self.failed.insert(variable.name);
                self.problem(Code::SecretSource, &[&form], format!("the file cannot be used: {reason}"));
            }
        }
    }

    fn read(&mut self, variable: &'static Variable) {
        let name = variable.name;
        if self.failed.contains(name) {
            return;
        }
        let matters = self.matters(variable);
        let from_file = self.from_files.get(name).map(|s| s.expose_secret().to_owned());
        let raw = from_file.as_deref().or_else(|| self.raw(name)).or_else(|| match name {
            // What AWS's own tools fall back to.
            "AWS_REGION" => self.raw("AWS_DEFAULT_REGION"),
            _ => None,
        });
        if raw.is_none() && variable.required && matters && !self.local {
            self.failed.insert(name);
            self.problem(Code::Required, &[name], format!("is required{}", self.because(variable)));
            return;
        }
        let Some(text) = raw.or(variable.default) else { return };
        let (mut value, findings) = parse::parse(variable, text);
        if !matters && value.is_none() {
            value = variable.default.and_then(|default| parse::parse(variable, default).0);
        }
        if matters || name == "VAULT_KV_VERSION" {
            if findings.failed() {
                self.failed.insert(name);
                value = None;
            }
            // Defaults are ours: nobody is warned about them.
            if raw.is_some() {
                for (code, message) in findings.list {
                    self.problem(code, &[name], message);
                }
            }
        }
        if let Some(value) = value {
            if let Value::Secret(secret) = &value {
                self.know(secret.expose_secret());
            }
            self.values.map.insert(name, value);
        }
    }

    fn because(&self, variable: &Variable) -> String {
        match variable.scope {
            Scope::K8s if self.served.mode == Mode::K8s => " because RUNS_FLEET_MODE=k8s".into(),
            Scope::K8s => " because RUNS_FLEET_HYBRID_ENABLED=true".into(),
            Scope::Ec2 => " because EC2 machines are served".into(),
            Scope::Vault => " because Vault is used".into(),
            _ => String::new(),
        }
    }

    fn into_loaded(mut self) -> Loaded {
        for problem in &mut self.problems {
            problem.message = scrubbed(&self.secrets, &problem.message);
        }
        finish(&mut self.problems);
        let shown = |v: &Variable| {
            let value = self.values.get(v.name).map_or(Json::Null, Value::shown);
            (v.name.to_owned(), scrub_json(&self.secrets, value))
        };
        let values = variables().filter(|v| self.in_mode(v)).map(shown).collect();
        let reference = |(name, value): (&&'static str, &Value)| match value {
            Value::Reference(reference) => Some((*name, reference.clone())),
            _ => None,
        };
        let references: Vec<_> = self.values.map.iter().filter_map(reference).collect();
        let mut effective = self.effective();
        let errors = self.problems.iter().any(|p| p.code.is_error());
        let config = (!errors && references.is_empty()).then(|| {
            Config::build(&self.values, self.served.mode, self.served.ec2, self.served.k8s, self.local, &effective)
        });
        let show = |text: &mut String| *text = scrubbed(&self.secrets, &parse::without_userinfo(text));
        effective.texts().for_each(show);
        let endpoints =
            self.env.iter().filter(|(name, value)| name.starts_with("AWS_ENDPOINT_URL") && !value.trim().is_empty());
        let endpoint_overrides = endpoints
            .map(|(name, value)| (name.clone(), scrubbed(&self.secrets, &parse::without_userinfo(value))))
            .collect();
        Loaded {
            config,
            problems: self.problems,
            values,
            effective,
            mode: if self.local { "local" } else { self.served.mode.as_str() },
            secrets: self.secrets,
            references,
            endpoint_overrides,
        }
    }

    fn store(&self) -> StoreKind {
        self.values.text("RUNS_FLEET_STORE").and_then(StoreKind::parse).unwrap_or(StoreKind::Embedded)
    }
}

fn scrub_json(secrets: &[SecretString], value: Json) -> Json {
    match value {
        Json::String(text) => scrubbed(secrets, &text).into(),
        Json::Array(items) => items.into_iter().map(|item| scrub_json(secrets, item)).collect(),
        Json::Object(fields) => fields
            .into_iter()
            .map(|(name, v)| (scrubbed(secrets, &name), scrub_json(secrets, v)))
            .collect::<Map<_, _>>()
            .into(),
        Json::Number(_) => {
            // A secret may be all digits.
            let text = value.to_string();
            let clean = scrubbed(secrets, &text);
            if clean == text { value } else { clean.into() }
        }
        other => other,
    }
}
