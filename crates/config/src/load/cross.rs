//! Checks over several variables. A variable that failed on its own is not judged again.

use url::Url;

use super::Loader;
use crate::model::StoreKind;
use crate::parse::Value;
use crate::problem::Code;

/// The group that configures sign-ins: all or none, so that a typo cannot silently switch authentication off.
pub(super) const OIDC: [&str; 4] = [
    "RUNS_FLEET_ADMIN_OIDC_ISSUER_URL",
    "RUNS_FLEET_ADMIN_OIDC_CLIENT_ID",
    "RUNS_FLEET_ADMIN_OIDC_CLIENT_SECRET",
    "RUNS_FLEET_ADMIN_SESSION_SECRET",
];

const SUBNETS: [&str; 3] = ["RUNS_FLEET_SUBNET_IDS", "RUNS_FLEET_PUBLIC_SUBNET_IDS", "RUNS_FLEET_PRIVATE_SUBNET_IDS"];

/// Queues by role.
const QUEUES: [&str; 7] = [
    "RUNS_FLEET_QUEUE_URL",
    "RUNS_FLEET_POOL_QUEUE_URL",
    "RUNS_FLEET_QUEUE_DLQ_URL",
    "RUNS_FLEET_EVENTS_QUEUE_URL",
    "RUNS_FLEET_TERMINATION_QUEUE_URL",
    "RUNS_FLEET_HOUSEKEEPING_QUEUE_URL",
    "RUNS_FLEET_WEBHOOK_QUEUE_URL",
];

impl Loader<'_> {
    pub(super) fn check_across(&mut self) {
        if self.local {
            self.check_local();
        } else if self.served.ec2 {
            self.check_region();
            self.check_subnets_given();
            self.check_tables();
        }
        if self.served.ec2 {
            self.check_queues();
            self.check_subnet_use();
            self.check_tags();
        }
        self.check_store();
        self.check_cache();
        self.check_admin();
        self.check_observability();
        self.check_vault();
        self.check_valkey();
        let unsigned = self.values.on("RUNS_FLEET_TERMINATION_REQUIRE_TOKEN") && self.unset("RUNS_FLEET_CACHE_SECRET");
        if unsigned {
            let variables = ["RUNS_FLEET_CACHE_SECRET", "RUNS_FLEET_TERMINATION_REQUIRE_TOKEN"];
            self.problem(Code::Required, &variables, "is required to sign and check agents' reports");
        }
    }

    /// Whether the variable is simply absent; one that failed is not.
    fn unset(&self, name: &str) -> bool {
        !self.is_set(name) && !self.failed.contains(name)
    }

    fn text(&self, name: &str) -> Option<String> {
        self.values.text(name).map(str::to_owned)
    }

    fn check_local(&mut self) {
        let app = ["RUNS_FLEET_GITHUB_APP_ID", "RUNS_FLEET_GITHUB_APP_PRIVATE_KEY"];
        for (missing, other) in [(app[0], app[1]), (app[1], app[0])] {
            if self.unset(missing) && self.is_set(other) {
                self.problem(Code::Required, &[missing, other], "is required because the other half of the App is set");
            }
        }
        let listens = self.text("RUNS_FLEET_LISTEN_ADDR").unwrap_or_default();
        if !["127.0.0.1:", "localhost:", "[::1]:"].iter().any(|host| listens.starts_with(host)) {
            let message = "local mode is open to whoever reaches it and listens on this machine only";
            self.problem(Code::Conflict, &["RUNS_FLEET_LISTEN_ADDR"], message);
        }
        if self.is_set("RUNS_FLEET_STORE") && self.store() != StoreKind::Embedded {
            self.problem(Code::Conflict, &["RUNS_FLEET_STORE"], "local mode has the embedded store only");
        }
    }

    fn check_region(&mut self) {
        if self.unset("AWS_REGION") && self.unset("AWS_DEFAULT_REGION") {
            let message = "is not set; ap-northeast-1 is used, and resources elsewhere are not found";
            self.problem(Code::WarnDefaulted, &["AWS_REGION"], message);
        }
    }

    fn check_subnets_given(&mut self) {
        if SUBNETS.iter().all(|name| self.values.list(name).is_empty() && !self.failed.contains(name)) {
            self.problem(Code::Required, &SUBNETS, "one of these is required");
        }
    }

    fn check_tables(&mut self) {
        if self.store() == StoreKind::Embedded && !self.failed.contains("RUNS_FLEET_STORE") {
            if self.unset("RUNS_FLEET_JOBS_TABLE") {
                let message = "is not set: records live on one machine's disk, for one replica, and are lost with it";
                self.problem(Code::WarnUnsafe, &["RUNS_FLEET_JOBS_TABLE", "RUNS_FLEET_STORE"], message);
            } else {
                let message = "the embedded store lives on one machine's disk, for one replica, and is lost with it";
                self.problem(Code::WarnUnsafe, &["RUNS_FLEET_STORE"], message);
            }
        }
        if self.unset("RUNS_FLEET_POOLS_TABLE") {
            let message = "is not set: no warm pools, no locks between replicas, no cost samples";
            self.problem(Code::WarnUnsafe, &["RUNS_FLEET_POOLS_TABLE"], message);
        }
    }

    fn check_queues(&mut self) {
        let without = [
            ("RUNS_FLEET_QUEUE_DLQ_URL", "is not set: dead letters are not drained"),
            ("RUNS_FLEET_EVENTS_QUEUE_URL", "is not set: spot interruptions go unseen"),
            ("RUNS_FLEET_TERMINATION_QUEUE_URL", "is not set: reports of agents go unseen"),
        ];
        for (name, message) in without {
            if self.unset(name) && !self.local {
                self.problem(Code::WarnPartial, &[name], message);
            }
        }
        if self.values.get("RUNS_FLEET_POOL_QUEUE_URL").is_some() {
            self.problem(Code::WarnDeprecated, &["RUNS_FLEET_POOL_QUEUE_URL"], "nothing is consumed from this queue");
        }
        let urls: Vec<(&str, String)> = QUEUES.iter().filter_map(|name| Some((*name, self.text(name)?))).collect();
        let region = self.text("AWS_REGION");
        for (name, url) in &urls {
            let host = Url::parse(url).ok().and_then(|url| url.host_str().and_then(sqs_region));
            if let (Some(host), Some(region)) = (host, region.as_deref())
                && host != region
            {
                self.problem(Code::WarnFormat, &[name, "AWS_REGION"], format!("is in {host}, not in {region}"));
            }
        }
        let fifo = |name: &str| urls.iter().find(|(n, _)| *n == name).map(|(_, url)| url.ends_with(".fifo"));
        match (fifo(QUEUES[0]), fifo(QUEUES[2])) {
            (Some(false), _) => {
                self.problem(Code::WarnFormat, &[QUEUES[0]], "should be a FIFO queue, whose name ends in .fifo");
            }
            (Some(true), Some(false)) => {
                let message = "must be a FIFO queue because the main queue is one";
                self.problem(Code::WarnFormat, &[QUEUES[2], QUEUES[0]], message);
            }
            _ => {}
        }
        for (n, (name, url)) in urls.iter().enumerate() {
            for (other, _) in urls[n + 1..].iter().filter(|(_, u)| u.trim_end_matches('/') == url.trim_end_matches('/'))
            {
                if (*name, *other) == (QUEUES[0], QUEUES[1]) {
                    self.problem(Code::WarnUnsafe, &[name, other], "both name the same queue");
                } else {
                    let message = "both name the same queue, and one consumer would discard the other's messages";
                    self.problem(Code::Conflict, &[name, other], message);
                }
            }
        }
    }

    fn check_subnet_use(&mut self) {
        let given = |name: &str| !self.values.list(name).is_empty();
        let [shared, public, private] = SUBNETS.map(given);
        if public {
            let message = "ordinary jobs get a public IPv4 address, and every one is billed";
            self.problem(Code::WarnCost, &[SUBNETS[1]], message);
        }
        if shared && (public || private) {
            let other = if public { SUBNETS[1] } else { SUBNETS[2] };
            self.problem(Code::WarnConflict, &[SUBNETS[0], other], "is not used beside the other lists of subnets");
        }
    }

    fn check_tags(&mut self) {
        let keys = ["RUNS_FLEET_TAG_KEY_APPLICATION", "RUNS_FLEET_TAG_KEY_SERVICE"];
        let [application, service] = keys.map(|name| self.text(name));
        if application.is_some() && application == service {
            self.problem(Code::Conflict, &keys, "must differ");
        }
        for (name, key) in [(keys[0], application), (keys[1], service)] {
            if key.is_some_and(|key| self.values.json("RUNS_FLEET_TAGS").get(&key).is_some()) {
                let message = "has a tag with the key of an attribution tag, and wins";
                self.problem(Code::WarnConflict, &["RUNS_FLEET_TAGS", name], message);
            }
        }
    }

    fn check_store(&mut self) {
        if self.local || self.failed.contains("RUNS_FLEET_STORE") {
            return;
        }
        match self.store() {
            StoreKind::DynamoDb if self.unset("RUNS_FLEET_JOBS_TABLE") => {
                let variables = ["RUNS_FLEET_JOBS_TABLE", "RUNS_FLEET_STORE"];
                self.problem(Code::Required, &variables, "is required because RUNS_FLEET_STORE=dynamodb");
            }
            StoreKind::Valkey if !self.served.k8s => {
                let variables = ["RUNS_FLEET_STORE", "RUNS_FLEET_MODE"];
                self.problem(Code::Conflict, &variables, "valkey is available with k8s only");
            }
            _ => {}
        }
    }

    fn check_cache(&mut self) {
        let ttl = self.values.int("RUNS_FLEET_CACHE_TOKEN_TTL_SECONDS");
        let runtime = self.values.int("RUNS_FLEET_MAX_RUNTIME_MINUTES");
        if let (Some(ttl), Some(runtime)) = (ttl, runtime)
            && ttl < runtime * 60 + 3600
        {
            let least = runtime * 60 + 3600;
            let message = format!("must be at least {least}, the maximum run time and an hour, not \"{ttl}\"");
            let variables = ["RUNS_FLEET_CACHE_TOKEN_TTL_SECONDS", "RUNS_FLEET_MAX_RUNTIME_MINUTES"];
            self.problem(Code::Conflict, &variables, message);
        }
        let files = self.values.text("RUNS_FLEET_CACHE_BACKEND") == Some("fs");
        if files && self.unset("RUNS_FLEET_CACHE_DIR") {
            let variables = ["RUNS_FLEET_CACHE_DIR", "RUNS_FLEET_CACHE_BACKEND"];
            self.problem(Code::Required, &variables, "is required because RUNS_FLEET_CACHE_BACKEND=fs");
        }
        if !self.cache_on() {
            return;
        }
        if self.unset("RUNS_FLEET_CACHE_SECRET") {
            if self.values.on("RUNS_FLEET_CACHE_ALLOW_ANONYMOUS") {
                let message = "anybody who reaches the cache may read and write it";
                self.problem(Code::WarnUnsafe, &["RUNS_FLEET_CACHE_ALLOW_ANONYMOUS"], message);
            } else {
                self.problem(Code::WarnPartial, &["RUNS_FLEET_CACHE_SECRET"], "is not set: the cache stays off");
            }
        }
        if self.unset("RUNS_FLEET_CACHE_URL") && self.unset("RUNS_FLEET_BASE_URL") && !self.local {
            let variables = ["RUNS_FLEET_CACHE_URL", "RUNS_FLEET_BASE_URL"];
            self.problem(Code::WarnPartial, &variables, "neither is set: runners cannot find the cache");
        }
    }

    fn check_admin(&mut self) {
        if OIDC.iter().all(|name| self.unset(name)) {
            if self.values.on("RUNS_FLEET_ADMIN_ALLOW_ANONYMOUS") && !self.local {
                let message = "anybody who reaches the listener may end machines";
                self.problem(Code::WarnUnsafe, &["RUNS_FLEET_ADMIN_ALLOW_ANONYMOUS"], message);
            }
            return;
        }
        let missing: Vec<&str> = OIDC.into_iter().filter(|name| self.unset(name)).collect();
        for name in &missing {
            self.problem(Code::Required, &[name], "is required because other parts of the sign-in are set");
        }
        let redirect = ["RUNS_FLEET_ADMIN_OIDC_REDIRECT_URL", "RUNS_FLEET_BASE_URL"];
        if missing.is_empty() && redirect.iter().all(|name| self.unset(name)) {
            self.problem(Code::Required, &redirect, "one of these is required for sign-ins");
        }
    }

    fn check_observability(&mut self) {
        let endpoints = ["RUNS_FLEET_OTEL_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
        if self.values.on("RUNS_FLEET_TRACING_ENABLED") && endpoints.iter().all(|name| self.unset(name)) {
            let variables = ["RUNS_FLEET_TRACING_ENABLED", endpoints[0], endpoints[1]];
            self.problem(Code::WarnPartial, &variables, "there is no endpoint to send traces to");
        }
        if self.values.on("RUNS_FLEET_METRICS_PROMETHEUS_ENABLED")
            && self.unset("RUNS_FLEET_METRICS_LISTEN_ADDR")
            && self.is_set("RUNS_FLEET_BASE_URL")
        {
            let variables = ["RUNS_FLEET_METRICS_LISTEN_ADDR", "RUNS_FLEET_METRICS_PROMETHEUS_ENABLED"];
            self.problem(Code::WarnUnsafe, &variables, "metrics are served on the public listener without a sign-in");
        }
    }

    fn check_vault(&mut self) {
        if !self.vault_used() {
            return;
        }
        let due: &[&str] = match self.values.text("VAULT_AUTH_METHOD").unwrap_or_default() {
            "kubernetes" | "k8s" | "jwt" => &["VAULT_K8S_ROLE"],
            "approle" => &["VAULT_APP_ROLE_ID", "VAULT_APP_SECRET_ID"],
            "token" => &["VAULT_TOKEN"],
            _ => &[],
        };
        for name in due {
            if self.unset(name) {
                self.problem(Code::Required, &[name, "VAULT_AUTH_METHOD"], "is required by this way to log in");
            }
        }
        for name in ["VAULT_APP_SECRET_ID", "VAULT_TOKEN"] {
            if matches!(self.values.get(name), Some(Value::Reference(r)) if r.scheme() == "vault") {
                self.problem(Code::Conflict, &[name], "cannot be kept in the Vault it opens");
            }
        }
    }

    fn check_valkey(&mut self) {
        let pair = ["RUNS_FLEET_VALKEY_RUNNER_USERNAME", "RUNS_FLEET_VALKEY_RUNNER_PASSWORD"];
        for (missing, other) in [(pair[0], pair[1]), (pair[1], pair[0])] {
            if self.served.k8s && self.unset(missing) && self.is_set(other) {
                self.problem(Code::Required, &[missing, other], "is required because the other half is set");
            }
        }
    }
}

/// The region in the name of an SQS endpoint; `None` for hosts that are not AWS's.
fn sqs_region(host: &str) -> Option<String> {
    let host = host.strip_suffix(".cn").unwrap_or(host).strip_suffix(".amazonaws.com")?;
    let region =
        host.strip_prefix("sqs.").or_else(|| host.strip_prefix("sqs-fips.")).or_else(|| host.strip_suffix(".queue"));
    region.map(str::to_owned)
}
