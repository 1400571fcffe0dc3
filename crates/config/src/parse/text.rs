//! The rules of single values.

use std::net::{IpAddr, Ipv6Addr};

use domain::ids::Repo;
use jiff::tz::TimeZoneDatabase;
use secrecy::ExposeSecret as _;
use url::Url;

use super::{Findings, Value, quote};
use crate::problem::Code;

/// Whether the host is this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"))
}

pub(crate) fn url(text: &str, https: bool, findings: &mut Findings) -> Option<()> {
    let rule = if https { "an absolute https URL" } else { "an absolute http or https URL" };
    let parsed = Url::parse(text).ok().filter(|url| url.host_str().is_some_and(|host| !host.is_empty()));
    match parsed.as_ref().map(|url| (url.scheme(), url)) {
        Some(("https", _)) => return Some(()),
        Some(("http", _)) if !https => return Some(()),
        Some(("http", url)) if is_loopback(url) => {
            findings.add(Code::WarnUnsafe, "is not encrypted; tolerated because it is this machine");
            return Some(());
        }
        _ => findings.invalid(format!("must be {rule}, not {}", quote(text))),
    }
    None
}

/// The normalised form: an empty host becomes every address.
pub(crate) fn host_port(text: &str, any_host: bool, findings: &mut Findings) -> Option<String> {
    let split = match text.strip_prefix('[') {
        Some(rest) => rest.split_once("]:").filter(|(host, _)| host.parse::<Ipv6Addr>().is_ok()),
        None => {
            text.split_once(':').filter(|(host, _)| !host.contains(|c: char| "/@[]".contains(c) || c.is_whitespace()))
        }
    };
    let port = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p > 0);
    match split.filter(|(host, number)| port(number) && (any_host || !host.is_empty())) {
        Some(("", number)) => Some(format!("0.0.0.0:{number}")),
        Some(_) => Some(text.to_owned()),
        None => {
            findings.invalid(format!("must be host:port with a port from 1 to 65535, not {}", quote(text)));
            None
        }
    }
}

/// Makes a [`super::Check`] of a predicate over a text.
macro_rules! texts {
    ($( $name:ident: $code:ident, $rule:literal, $valid:expr; )+) => { $(
        pub(crate) fn $name(value: Value, findings: &mut Findings) -> Value {
            let valid: fn(&str) -> bool = $valid;
            if !valid(value.as_text()) {
                findings.add(Code::$code, format!("{}, not {}", $rule, quote(value.as_text())));
            }
            value
        }
    )+ };
}

/// Makes a [`super::Check`] of a predicate over the items of a list.
macro_rules! lists {
    ($( $name:ident: $code:ident, $rule:literal, $valid:expr; )+) => { $(
        pub(crate) fn $name(value: Value, findings: &mut Findings) -> Value {
            let valid: fn(&str) -> bool = $valid;
            if let Some(item) = value.as_list().iter().find(|item| !valid(item)) {
                findings.add(Code::$code, format!("{}, not {}", $rule, quote(item)));
            }
            value
        }
    )+ };
}

fn all(text: &str, valid: fn(u8) -> bool) -> bool {
    text.bytes().all(valid)
}

texts! {
    region: WarnFormat, "should look like eu-west-1", |s| {
        let parts: Vec<&str> = s.split('-').collect();
        matches!(&parts[..], [country, areas @ .., number] if !areas.is_empty()
            && country.len() == 2 && number.len() == 1
            && all(country, |b| b.is_ascii_lowercase()) && all(number, |b| b.is_ascii_digit())
            && areas.iter().all(|a| !a.is_empty() && all(a, |b| b.is_ascii_lowercase())))
    };
    repo: Invalid, "must be owner/name", |s| s.parse::<Repo>().is_ok();
    relative_path: Invalid, "must be a relative path without ..",
        |s| !s.starts_with('/') && s.split('/').all(|part| part != "..");
    absolute_path: Invalid, "must be an absolute path", |s| s.starts_with('/');
    table_name: Invalid, "must be 3 to 255 of letters, digits, '_', '.' and '-', or an ARN", |s| {
        s.starts_with("arn:")
            || (3..=255).contains(&s.len()) && all(s, |b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
    };
    queue_url: Invalid, "must have a path",
        |s| Url::parse(s).is_ok_and(|url| url.path().len() > 1);
    arn: WarnFormat, "should start with arn:", |s| s.starts_with("arn:");
    vpc: WarnFormat, "should start with vpc-", |s| s.starts_with("vpc-");
    security_group: WarnFormat, "should start with sg-", |s| s.starts_with("sg-");
    instance_profile: WarnFormat, "should look like arn:…:instance-profile/…",
        |s| s.strip_prefix("arn:").is_some_and(|rest| rest.contains(":instance-profile/"));
    ecr_image: Invalid, "must be an image in ECR, <account>.dkr.ecr.<region>.amazonaws.com/<name>[:tag][@sha256:…]",
        is_ecr_image;
    launch_template: Invalid, "must be 3 to 123 of letters, digits and ().-/_",
        |s| (3..=123).contains(&s.len()) && all(s, |b| b.is_ascii_alphanumeric() || b"().-/_".contains(&b));
    tag_key: Invalid, "must be a tag key of 1 to 128 characters that does not start with aws: or runs-fleet:",
        |s| super::structured::tag_key_problem(s).is_none();
    tag_value: Invalid, "must have 256 characters or fewer", |s| s.chars().count() <= 256;
    dns_label: Invalid, "must be a DNS label of at most 63 characters", is_dns_label;
    dns_subdomain: Invalid, "must be a DNS name of at most 253 characters",
        |s| s.len() <= 253 && s.split('.').all(is_dns_label);
    no_white_space: Invalid, "must not contain white space", |s| !s.contains(char::is_whitespace);
    metrics_path: Invalid, "must start with '/', have no query, and not be under a path that is taken", |s| {
        const TAKEN: [&str; 8] =
            ["/webhook", "/health", "/ready", "/api", "/admin", "/_apis", "/_artifacts", "/twirp"];
        let under = |taken: &&str| s.strip_prefix(*taken).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        s.starts_with('/') && !s.contains(['?', '#']) && !s.contains(char::is_whitespace) && !TAKEN.iter().any(under)
    };
    endpoint: Invalid, "must be host:port or an http(s) URL", |s| {
        let mut ignored = Findings::default();
        url(s, false, &mut ignored).is_some() || host_port(s, false, &mut ignored).is_some()
    };
    jwt_path: Invalid, "must be an absolute path below /var/run/secrets/", |s| {
        let mut clean: Vec<&str> = Vec::new();
        for part in s.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(clean.pop()),
                name => clean.push(name),
            }
        }
        s.starts_with('/') && matches!(&clean[..], ["var", "run", "secrets", _, ..])
    };
}

lists! {
    repos: Invalid, "must be owner/name or owner/*",
        |s| s.strip_suffix("/*").map_or_else(|| s.parse::<Repo>().is_ok(), |owner| format!("{owner}/x").parse::<Repo>().is_ok());
    subnets: WarnFormat, "each should start with subnet-", |s| s.starts_with("subnet-");
    cidrs: Invalid, "must be CIDR blocks", |s| {
        s.split_once('/').is_some_and(|(address, bits)| {
            let most = address.parse::<IpAddr>().map(|ip| if ip.is_ipv4() { 32 } else { 128 });
            all(bits, |b| b.is_ascii_digit()) && most.is_ok_and(|most| bits.parse::<u8>().is_ok_and(|b| b <= most))
        })
    };
}

fn is_dns_label(s: &str) -> bool {
    (1..=63).contains(&s.len())
        && all(s, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !s.starts_with('-')
        && !s.ends_with('-')
}

fn is_ecr_image(s: &str) -> bool {
    let (s, digest) = s.split_once('@').map_or((s, None), |(s, digest)| (s, Some(digest)));
    let hex = |d: &str| d.len() == 64 && all(d, |b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let Some((host, path)) = s.split_once('/') else { return false };
    let (name, tag) = path.split_once(':').map_or((path, None), |(name, tag)| (name, Some(tag)));
    let account = host.split('.').next().unwrap_or_default();
    let region = host
        .strip_prefix(account)
        .and_then(|rest| rest.strip_prefix(".dkr.ecr."))
        .and_then(|rest| rest.strip_suffix(".amazonaws.com").or_else(|| rest.strip_suffix(".amazonaws.com.cn")));
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    account.len() == 12
        && all(account, |b| b.is_ascii_digit())
        && region
            .is_some_and(|r| !r.is_empty() && all(r, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'))
        && name.len() >= 2
        && all(name, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._/-".contains(&b))
        && name.bytes().next().is_some_and(edge)
        && name.bytes().next_back().is_some_and(edge)
        && tag.is_none_or(|t| !t.is_empty() && all(t, |b| b.is_ascii_alphanumeric() || b"._-".contains(&b)))
        && digest.is_none_or(|d| d.strip_prefix("sha256:").is_some_and(hex))
}

pub(crate) fn trim_slash(value: Value, _: &mut Findings) -> Value {
    map_text(value, |text| text.trim_end_matches('/'))
}

fn map_text(value: Value, f: impl Fn(&str) -> &str) -> Value {
    match value {
        Value::Text(text) => Value::Text(f(&text).to_owned()),
        other => other,
    }
}

pub(crate) fn base_path(value: Value, findings: &mut Findings) -> Value {
    let value = map_text(value, |path| path.trim_matches('/'));
    if value.as_text().is_empty() {
        findings.invalid("must name something besides '/'");
    }
    value
}

pub(crate) fn path_prefix(value: Value, findings: &mut Findings) -> Value {
    if !value.as_text().starts_with('/') {
        findings.invalid(format!("must start with '/', not {}", quote(value.as_text())));
    }
    trim_slash(value, findings)
}

pub(crate) fn plain_http(value: Value, findings: &mut Findings) -> Value {
    if Url::parse(value.as_text()).is_ok_and(|url| url.scheme() == "http" && !is_loopback(&url)) {
        findings.add(Code::WarnUnsafe, "is not encrypted");
    }
    value
}

/// The bundled zones only: the answer must not depend on the image.
pub(crate) fn time_zone(value: Value, findings: &mut Findings) -> Value {
    let zone = TimeZoneDatabase::bundled().get(value.as_text());
    match zone.ok().and_then(|zone| zone.iana_name().map(str::to_owned)) {
        Some(name) => Value::Text(name),
        None => {
            findings.invalid(format!("must be an IANA time zone, not {}", quote(value.as_text())));
            value
        }
    }
}

pub(crate) fn scopes(value: Value, findings: &mut Findings) -> Value {
    if value.as_list().iter().all(|scope| scope != "openid") {
        findings.add(Code::WarnFormat, "should contain openid");
    }
    value
}

fn weak(value: Value, findings: &mut Findings, characters: usize) -> Value {
    if let Value::Secret(secret) = &value
        && secret.expose_secret().chars().count() < characters
    {
        findings.add(Code::WarnWeakSecret, format!("has fewer than {characters} characters and can be guessed"));
    }
    value
}

pub(crate) fn weak_below_16(value: Value, findings: &mut Findings) -> Value {
    weak(value, findings, 16)
}

pub(crate) fn weak_below_32(value: Value, findings: &mut Findings) -> Value {
    weak(value, findings, 32)
}

pub(crate) fn off_or_60(value: Value, findings: &mut Findings) -> Value {
    if let Value::Int(n @ 1..60) = value {
        findings.add(Code::Range, format!("must be 0 (off) or between 60 and 86400, not \"{n}\""));
    }
    value
}

pub(crate) fn off_or_one(value: Value, findings: &mut Findings) -> Value {
    if let Value::Float(n) = value
        && n > 0.0
        && n < 1.0
    {
        findings.add(Code::Range, format!("must be 0 (off) or 1 and more, not \"{n}\""));
    }
    value
}

pub(crate) fn one_outside_tests(value: Value, findings: &mut Findings) -> Value {
    if let Value::Int(n) = value
        && n != 1
    {
        findings.add(Code::WarnUnsafe, format!("divides every interval by {n}; for tests only"));
    }
    value
}
