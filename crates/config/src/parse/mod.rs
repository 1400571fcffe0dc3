//! From the text of one variable to its value. No variable has its own idea of a boolean or an integer.

pub(crate) mod pem;
mod reference;
pub(crate) mod structured;
pub(crate) mod text;

use secrecy::SecretString;
use serde_json::Value as Json;

use crate::problem::Code;
use crate::registry::{Kind, Variable};
pub use reference::Reference;

/// A parsed value.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    List(Vec<String>),
    Json(Json),
    Secret(SecretString),
    Reference(Reference),
}

impl Value {
    /// The text of a text; empty otherwise.
    pub(crate) fn as_text(&self) -> &str {
        if let Self::Text(text) = self { text } else { "" }
    }

    fn as_list(&self) -> &[String] {
        if let Self::List(items) = self { items } else { &[] }
    }

    /// As shown: secrets redacted, credentials inside URLs too.
    pub(crate) fn shown(&self) -> Json {
        match self {
            Self::Text(text) => without_userinfo(text).into(),
            Self::Int(n) => (*n).into(),
            Self::Float(n) => (*n).into(),
            Self::Bool(b) => (*b).into(),
            Self::List(items) => items.clone().into(),
            Self::Json(json) => json.clone(),
            Self::Secret(_) | Self::Reference(_) => "<redacted>".into(),
        }
    }
}

/// A rule beyond the type: may normalise the value, and notes what is wrong with it.
pub(crate) type Check = fn(Value, &mut Findings) -> Value;

/// Reads a JSON variable of a form of its own.
pub(crate) type JsonCheck = fn(&str, &mut Findings) -> Json;

/// What is wrong with one variable.
#[derive(Debug, Default)]
pub struct Findings {
    pub(crate) list: Vec<(Code, String)>,
    /// The value was refused leniently: the default stands in for it.
    use_default: bool,
}

impl Findings {
    pub(crate) fn add(&mut self, code: Code, message: impl Into<String>) {
        self.list.push((code, message.into()));
    }

    fn invalid(&mut self, message: impl Into<String>) {
        self.add(Code::Invalid, message);
    }

    /// Whether there is no usable value.
    pub(crate) fn failed(&self) -> bool {
        self.list.iter().any(|(code, _)| code.is_error())
    }
}

/// Reads the value of `variable`; `raw` is not blank. `None`: there is an error among the findings.
pub(crate) fn parse(variable: &Variable, raw: &str) -> (Option<Value>, Findings) {
    let mut findings = Findings::default();
    let mut value = typed(variable, raw, &mut findings);
    if findings.use_default {
        value = variable.default.and_then(|default| typed(variable, default, &mut Findings::default()));
    }
    if let Some(check) = variable.check {
        // What a reference leads to is checked once it is known.
        value = match value {
            None | Some(Value::Reference(_)) => value,
            Some(value) => Some(check(value, &mut findings)),
        };
    }
    (value.filter(|_| !findings.failed()), findings)
}

fn typed(variable: &Variable, raw: &str, findings: &mut Findings) -> Option<Value> {
    let text = raw.trim_ascii();
    let defaulted = variable.default.unwrap_or_default();
    let out_of_bounds = |findings: &mut Findings, rule: String| {
        if variable.lenient {
            findings.use_default = true;
            findings.add(Code::WarnDefaulted, format!("must be {rule}; {defaulted} is used, not {}", quote(text)));
        } else {
            findings.add(Code::Range, format!("must be {rule}, not {}", quote(text)));
        }
    };
    match variable.kind {
        Kind::Text => Some(Value::Text(text.to_owned())),
        Kind::Int { min, max } => {
            let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                findings.invalid(format!("must be a whole number, not {}", quote(text)));
                return None;
            }
            match text.parse::<i64>() {
                Ok(n) if (min..=max).contains(&n) => Some(Value::Int(n)),
                _ => {
                    out_of_bounds(findings, bounds(min, max, i64::MAX));
                    None
                }
            }
        }
        Kind::Float { min, max } => {
            let decimal = |b: u8| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E');
            match text.parse::<f64>() {
                Ok(n) if text.bytes().all(decimal) && n.is_finite() => {
                    if (min..=max).contains(&n) {
                        return Some(Value::Float(n));
                    }
                    // The smallest positive number is how a bound that is itself excluded is written.
                    let rule = if min == f64::MIN_POSITIVE {
                        format!("above 0 and at most {max}")
                    } else {
                        bounds(min, max, f64::MAX)
                    };
                    out_of_bounds(findings, rule);
                }
                _ => findings.invalid(format!("must be a decimal number, not {}", quote(text))),
            }
            None
        }
        Kind::Bool => match text.to_ascii_lowercase().as_str() {
            "1" | "t" | "true" => Some(Value::Bool(true)),
            "0" | "f" | "false" => Some(Value::Bool(false)),
            _ => {
                findings.invalid(format!("must be true or false (or t, f, 1, 0), not {}", quote(text)));
                None
            }
        },
        Kind::List => {
            let mut items: Vec<String> = Vec::new();
            for item in text.split(',').map(str::trim_ascii).filter(|item| !item.is_empty()) {
                if items.iter().all(|known| known != item) {
                    items.push(item.to_owned());
                }
            }
            Some(Value::List(items))
        }
        Kind::Json(read) => Some(Value::Json(read(text, findings))),
        Kind::Enum(words) => {
            let same = |word: &&&str| {
                if variable.any_case { word.eq_ignore_ascii_case(text) } else { **word == text }
            };
            let found = words.iter().find(same).map(|word| Value::Text((*word).to_owned()));
            if found.is_none() && variable.lenient {
                out_of_bounds(findings, format!("one of {}", words.join(", ")));
            } else if found.is_none() {
                findings.invalid(format!("must be one of {}, not {}", words.join(", "), quote(text)));
            }
            found
        }
        Kind::Url { https } => text::url(text, https, findings).map(|()| Value::Text(text.to_owned())),
        Kind::HostPort { any_host } => text::host_port(text, any_host, findings).map(Value::Text),
        Kind::Secret | Kind::Pem => {
            let secret = raw.strip_suffix('\n').map_or(raw, |s| s.strip_suffix('\r').unwrap_or(s));
            match Reference::parse(secret) {
                Some(Ok(reference)) => Some(Value::Reference(reference)),
                Some(Err(form)) => {
                    findings.invalid(format!("must have the form {form} to be a reference"));
                    None
                }
                None if matches!(variable.kind, Kind::Pem) => match pem::read(secret) {
                    Ok(pem) => Some(Value::Secret(pem)),
                    Err(reason) => {
                        findings.invalid(format!("must be an RSA private key of 2048 bits or more ({reason})"));
                        None
                    }
                },
                None => Some(Value::Secret(secret.into())),
            }
        }
    }
}

fn bounds<T: std::fmt::Display + PartialEq + Copy>(min: T, max: T, unbounded: T) -> String {
    if max == unbounded { format!("{min} or more") } else { format!("between {min} and {max}") }
}

/// An offending value as a message may show it: at most 80 characters, nothing unprintable, no credentials of a URL.
pub(crate) fn quote(value: &str) -> String {
    let value = without_userinfo(value);
    let short: String = value.chars().take(80).collect();
    let more = if short.len() < value.len() { "…" } else { "" };
    format!("\"{}{more}\"", short.escape_debug())
}

pub(crate) fn without_userinfo(text: &str) -> String {
    let authority = text.find("://").map(|at| at + 3);
    let end = authority.and_then(|from| {
        let host = &text[from..];
        host[..host.find(['/', '?', '#']).unwrap_or(host.len())].rfind('@').map(|at| from + at)
    });
    match (authority, end) {
        (Some(from), Some(end)) => format!("{}<redacted>{}", &text[..from], &text[end..]),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
