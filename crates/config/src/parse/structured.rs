//! Variables whose value has a structure: JSON documents and `key=value` lists.
//!
//! A problem in them gives the position, not the text: tags may hold internal names.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value as Json, json};

use super::{Findings, Value};
use crate::problem::Code;

/// The members of a JSON object in the order they were written.
struct Members(Vec<(String, Json)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_unit<E>(self) -> Result<Members, E> {
                Ok(Members(Vec::new()))
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Members, M::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

/// Reads `text` as `T`; what is wrong is said by position only.
fn read<'a, T: Deserialize<'a>>(text: &'a str, what: &str, findings: &mut Findings) -> Option<T> {
    match serde_json::from_str(text) {
        Ok(value) => Some(value),
        Err(error) if error.is_data() => {
            findings.invalid(format!("must be {what}"));
            None
        }
        Err(error) => {
            let (line, column) = (error.line(), error.column());
            findings.invalid(format!("must be {what}; it is not JSON (line {line}, column {column})"));
            None
        }
    }
}

/// Largest number of custom tags, and of all tags of one machine.
const TAGS: (usize, usize) = (36, 50);

/// What keeps `key` from being a tag's key.
pub(crate) fn tag_key_problem(key: &str) -> Option<&'static str> {
    let reserved = |prefix: &str| key.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    if key.is_empty() {
        Some("the key is empty")
    } else if key.chars().count() > 128 {
        Some("the key has more than 128 characters")
    } else if reserved("aws:") {
        Some("keys starting with aws: are reserved")
    } else if reserved("runs-fleet:") {
        Some("keys starting with runs-fleet: are reserved")
    } else {
        None
    }
}

pub(crate) fn tags(text: &str, findings: &mut Findings) -> Json {
    let Some(Members(members)) = read(text, "a JSON object of strings", findings) else { return Json::Null };
    for (n, (key, value)) in members.iter().enumerate() {
        let problem = tag_key_problem(key).or_else(|| match value {
            Json::String(value) if value.chars().count() > 256 => Some("the value has more than 256 characters"),
            Json::String(_) => None,
            _ => Some("the value is not a string"),
        });
        if let Some(problem) = problem {
            findings.invalid(format!("tag {}: {problem}", n + 1));
        }
    }
    let tags: Map<String, Json> = members.into_iter().collect();
    let (custom, together) = TAGS;
    if tags.len() > custom {
        let rule = format!("at most {custom} are allowed, so that with ours there are at most {together}");
        findings.add(Code::Range, format!("has {} tags; {rule}", tags.len()));
    }
    tags.into()
}

/// Field, default and largest value of each hot-pool limit.
const HOT_POOL_CAPS: [(&str, u64, u64); 5] = [
    ("maxLingerMinutes", 30, 120),
    ("maxHot", 3, 10),
    ("minJobsToActivate", 20, u32::MAX as u64),
    ("lookbackDays", 7, 90),
    ("burstGapMinutes", 20, 120),
];

/// The document with every default filled in.
pub(crate) fn hot_pool_caps(text: &str, findings: &mut Findings) -> Json {
    let Some(Members(members)) = read(text, "a JSON object of whole numbers", findings) else { return Json::Null };
    let mut caps: Map<String, Json> =
        HOT_POOL_CAPS.iter().map(|(name, or, _)| ((*name).into(), (*or).into())).collect();
    for (n, (name, value)) in members.iter().enumerate() {
        let Some((field, default, max)) = HOT_POOL_CAPS.iter().find(|(field, ..)| field == name) else {
            findings.invalid(format!("field {} is not known", n + 1));
            continue;
        };
        match value.as_u64() {
            Some(0) => drop(caps.insert((*field).into(), (*default).into())),
            Some(value) if value <= *max => drop(caps.insert((*field).into(), value.into())),
            Some(_) => findings.add(Code::Range, format!("{field} must be at most {max}")),
            None => findings.invalid(format!("{field} must be a whole number, 0 or more")),
        }
    }
    caps.into()
}

/// The shape of the list only: what the rules mean is judged by those who apply them.
pub(crate) fn aliases(text: &str, findings: &mut Findings) -> Json {
    let what = "a JSON array of {\"match\", \"regex\", \"spec\"}";
    let Some(rules) = read::<Json>(text, what, findings) else { return Json::Null };
    let Json::Array(rules) = rules else {
        if !rules.is_null() {
            findings.invalid(format!("must be {what}"));
        }
        return json!([]);
    };
    for (n, rule) in rules.iter().enumerate() {
        let Json::Object(rule) = rule else {
            findings.invalid(format!("rule {n} must be an object"));
            continue;
        };
        for field in ["match", "spec"] {
            if rule.get(field).and_then(Json::as_str).is_none_or(|text| text.trim().is_empty()) {
                findings.invalid(format!("rule {n}: {field} must be a text that is not blank"));
            }
        }
        if rule.get("regex").is_some_and(|regex| !regex.is_boolean()) {
            findings.invalid(format!("rule {n}: regex must be true or false"));
        }
        if rule.keys().any(|field| !matches!(field.as_str(), "match" | "regex" | "spec")) {
            findings.add(Code::WarnUnknown, format!("rule {n} has a field that nothing reads"));
        }
    }
    Json::Array(rules)
}

fn is_name(text: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && edge(text.bytes().next())
        && edge(text.bytes().next_back())
}

/// Kubernetes' rule for label keys: `[prefix/]name`.
fn is_label_key(key: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    match key.rsplit_once('/') {
        None => is_name(key),
        Some((prefix, name)) => {
            is_name(name)
                && prefix.len() <= 253
                && prefix.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b))
                && edge(prefix.bytes().next())
                && edge(prefix.bytes().next_back())
        }
    }
}

fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_name(value)
}

pub(crate) fn node_selector(value: Value, findings: &mut Findings) -> Value {
    for (n, item) in value.as_list().iter().enumerate() {
        let problem = match item.split_once('=') {
            None => Some("has no '='"),
            Some((key, _)) if !is_label_key(key) => Some("has a key that is not a label key"),
            Some((_, value)) if !is_label_value(value) => Some("has a value that is not a label value"),
            Some(_) => None,
        };
        if let Some(problem) = problem {
            findings.invalid(format!("item {} {problem}", n + 1));
        }
    }
    value
}

pub(crate) fn tolerations(text: &str, findings: &mut Findings) -> Json {
    let Some(list) = read::<Vec<Json>>(text, "a JSON array of tolerations", findings) else { return Json::Null };
    for (n, toleration) in list.iter().enumerate() {
        if let Some(problem) = toleration_problem(toleration) {
            findings.invalid(format!("toleration {}: {problem}", n + 1));
        }
    }
    list.into()
}

fn toleration_problem(toleration: &Json) -> Option<&'static str> {
    let Json::Object(fields) = toleration else { return Some("must be an object") };
    for (name, value) in fields {
        let typed = match name.as_str() {
            "key" | "operator" | "value" | "effect" => value.is_string() || value.is_null(),
            "tolerationSeconds" => value.is_i64() || value.is_null(),
            _ => return Some("has a field that is not known"),
        };
        if !typed {
            return Some("has a field of the wrong type");
        }
    }
    let text = |name: &str| fields.get(name).and_then(Json::as_str).unwrap_or_default();
    if !matches!(text("operator"), "" | "Exists" | "Equal") {
        Some("operator must be Exists or Equal")
    } else if !matches!(text("effect"), "" | "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        Some("effect must be NoSchedule, PreferNoSchedule or NoExecute")
    } else if text("operator") == "Exists" && !text("value").is_empty() {
        Some("Exists takes no value")
    } else if text("key").is_empty() && text("operator") != "Exists" {
        Some("without a key the operator must be Exists")
    } else if fields.get("tolerationSeconds").is_some_and(|s| !s.is_null()) && text("effect") != "NoExecute" {
        Some("tolerationSeconds needs the effect NoExecute")
    } else {
        None
    }
}

pub(crate) fn resource_labels(text: &str, findings: &mut Findings) -> Json {
    let Some(Members(members)) = read(text, "a JSON object of strings", findings) else { return Json::Null };
    for (n, (key, value)) in members.iter().enumerate() {
        let lower = key.to_ascii_lowercase();
        let prefixes = ["app.kubernetes.io/", "runs-fleet.io/", "kubernetes.io/", "k8s.io/", "sidecar.istio.io/"];
        let problem = if lower == "app" || prefixes.iter().any(|p| lower.starts_with(p)) {
            Some("the key is reserved")
        } else if !is_label_key(key) {
            Some("the key is not a label key")
        } else if !value.as_str().is_some_and(is_label_value) {
            Some("the value is not a label value")
        } else {
            None
        };
        if let Some(problem) = problem {
            findings.invalid(format!("label {}: {problem}", n + 1));
        }
    }
    members.into_iter().collect::<Map<String, Json>>().into()
}
