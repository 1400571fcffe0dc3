//! Defaults that follow from other values, and what follows from all of them.

use std::path::Path;

use url::Url;

use super::{Effective, Loader, cross};
use crate::parse::Value;

impl Loader<'_> {
    /// Fills in what is unset and has a source other than a constant. What failed stays failed.
    pub(super) fn derive(&mut self) {
        let replica = self.replica_id();
        self.or_text("RUNS_FLEET_INSTANCE_ID", Some(replica));
        if self.local && !self.is_set("RUNS_FLEET_LISTEN_ADDR") {
            self.values.map.insert("RUNS_FLEET_LISTEN_ADDR", Value::Text("127.0.0.1:8080".into()));
        }
        let text = |name: &str| self.values.text(name).map(str::to_owned);

        let api = text("RUNS_FLEET_GITHUB_API_URL");
        let schedule =
            if self.is_set("RUNS_FLEET_REPORT_TIMEZONE") { text("RUNS_FLEET_REPORT_TIMEZONE") } else { None };
        let archive = text("RUNS_FLEET_COST_REPORT_BUCKET").or_else(|| text("RUNS_FLEET_CACHE_BUCKET"));
        let region = text("AWS_REGION");
        let store = if self.local {
            "embedded"
        } else if self.is_set("RUNS_FLEET_JOBS_TABLE") {
            "dynamodb"
        } else if self.served.k8s {
            "valkey"
        } else {
            "embedded"
        };
        let redirect = cross::OIDC
            .iter()
            .all(|name| self.is_set(name))
            .then(|| text("RUNS_FLEET_BASE_URL").map(|base| format!("{base}/api/auth/callback")))
            .flatten();
        self.or_text("RUNS_FLEET_GITHUB_SERVER_URL", api.as_deref().map(server_url));
        self.or_text("RUNS_FLEET_SCHEDULE_TIMEZONE", Some(schedule.unwrap_or_else(|| "UTC".into())));
        self.or_text("RUNS_FLEET_ARCHIVE_BUCKET", archive);
        self.or_text("RUNS_FLEET_STORE", Some(store.into()));
        self.or_text("RUNS_FLEET_ADMIN_OIDC_REDIRECT_URL", redirect);
        self.or_text("VAULT_AWS_REGION", region);

        let runtime = self.values.int("RUNS_FLEET_MAX_RUNTIME_MINUTES");
        let ttl = runtime.map(|minutes| Value::Int((minutes * 60 + 3600).max(86_400)));
        self.or_value("RUNS_FLEET_CACHE_TOKEN_TTL_SECONDS", ttl);
        let traced = self.is_set("OTEL_EXPORTER_OTLP_ENDPOINT");
        self.or_value("RUNS_FLEET_TRACING_ENABLED", Some(Value::Bool(traced)));
        self.or_value("RUNS_FLEET_METRICS_LEGACY_NAMES", Some(Value::Bool(true)));
    }

    fn or_text(&mut self, name: &'static str, default: Option<String>) {
        self.or_value(name, default.map(Value::Text));
    }

    fn or_value(&mut self, name: &'static str, default: Option<Value>) {
        if let Some(value) = default
            && !self.failed.contains(name)
            && self.values.get(name).is_none()
        {
            self.values.map.insert(name, value);
            self.values.derived.insert(name);
        }
    }

    fn replica_id(&self) -> String {
        let named = self.raw("HOSTNAME").map(|v| v.trim_ascii().to_owned());
        let from_file = || {
            let file = self.files.read(Path::new("/etc/hostname")).ok()?;
            let name = String::from_utf8(file.bytes).ok()?;
            Some(name.trim_ascii().to_owned()).filter(|name| !name.is_empty())
        };
        named.or_else(from_file).unwrap_or_else(|| "unknown".into())
    }

    pub(super) fn effective(&self) -> Effective {
        let v = &self.values;
        let text = |name: &str| v.text(name).map(str::to_owned);
        let oidc = cross::OIDC.iter().all(|name| v.get(name).is_some());
        let anonymous = v.on("RUNS_FLEET_ADMIN_ALLOW_ANONYMOUS") || self.local;
        let subnets = |names: [&str; 3]| {
            names.iter().map(|name| v.list(name)).find(|list| !list.is_empty()).unwrap_or_default().to_vec()
        };
        const SHARED: &str = "RUNS_FLEET_SUBNET_IDS";
        const PUBLIC: &str = "RUNS_FLEET_PUBLIC_SUBNET_IDS";
        const PRIVATE: &str = "RUNS_FLEET_PRIVATE_SUBNET_IDS";
        let endpoint = text("RUNS_FLEET_OTEL_ENDPOINT").or_else(|| text("OTEL_EXPORTER_OTLP_ENDPOINT"));
        Effective {
            default_subnets: subnets([PUBLIC, PRIVATE, SHARED]),
            private_subnets: subnets([PRIVATE, PUBLIC, SHARED]),
            cache_url: text("RUNS_FLEET_CACHE_URL").or_else(|| text("RUNS_FLEET_BASE_URL")),
            store: self.store().as_str(),
            admin_api: if oidc {
                "oidc"
            } else if anonymous {
                "anonymous"
            } else {
                "disabled"
            },
            cache_api: if !self.cache_on() {
                "disabled"
            } else if v.get("RUNS_FLEET_CACHE_SECRET").is_some() {
                "authenticated"
            } else if v.on("RUNS_FLEET_CACHE_ALLOW_ANONYMOUS") {
                "anonymous"
            } else {
                "disabled"
            },
            tracing: v.on("RUNS_FLEET_TRACING_ENABLED") && endpoint.is_some(),
            tracing_endpoint: endpoint,
            environment: text("RUNS_FLEET_ENV").or_else(|| text("RUNS_FLEET_ENVIRONMENT")),
            oidc_redirect_url: if oidc { text("RUNS_FLEET_ADMIN_OIDC_REDIRECT_URL") } else { None },
            replica_id: text("RUNS_FLEET_INSTANCE_ID").unwrap_or_default(),
        }
    }

    pub(super) fn cache_on(&self) -> bool {
        self.values.text("RUNS_FLEET_CACHE_BUCKET").is_some()
            || self.values.text("RUNS_FLEET_CACHE_BACKEND") == Some("fs")
    }
}

/// The web address that belongs to an API address: `https://api.github.com` → `https://github.com`,
/// `https://api.SUB.ghe.com` → `https://SUB.ghe.com`, `https://HOST/api/v3` → `https://HOST`.
fn server_url(api: &str) -> String {
    let Ok(url) = Url::parse(api) else { return api.to_owned() };
    let host = url.host_str().unwrap_or_default();
    let web = match host.strip_prefix("api.") {
        Some(rest) if rest == "github.com" || rest.ends_with(".ghe.com") => rest,
        _ => host,
    };
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{web}{port}", url.scheme())
}
