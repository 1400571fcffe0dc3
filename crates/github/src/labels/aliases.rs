//! Labels of other runner systems, served unchanged.
//!
//! An operator maps labels that workflows already carry to specs of ours, so that a fleet can move without an edit
//! in every repository. Rules are read once, at start; whatever can be checked then is checked then.

use std::borrow::Cow;
use std::collections::BTreeSet;

use regex::Regex;
use serde_json::{Map, Value};

use super::{Source, re2, spec};

/// The configured rules, in order.
#[derive(Debug, Clone, Default)]
pub struct Aliases {
    rules: Vec<Rule>,
    unknown_fields: Vec<String>,
}

#[derive(Debug, Clone)]
struct Rule {
    pattern: Pattern,
    spec: String,
}

#[derive(Debug, Clone)]
enum Pattern {
    Literal(String),
    Regex(Regex),
}

/// The alias configuration can not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid_alias_config: {}{problem}", rule.map(|n| format!("rule {n}: ")).unwrap_or_default())]
pub struct InvalidAliases {
    /// The rule at fault, counted from zero; `None` when the text as a whole is no list.
    pub rule: Option<usize>,
    /// What is wrong with it.
    pub problem: String,
}

impl Aliases {
    /// No rule at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads a JSON array of `{"match": string, "regex": bool = false, "spec": string}`. Blank text, `null` and `[]`
    /// are no rules. A literal rule always expands to the same spec, so it must also resolve to instance types; a
    /// regex rule's spec depends on the label.
    ///
    /// # Errors
    ///
    /// The first problem found, with the rule it is in.
    pub fn parse(json: &str) -> Result<Self, InvalidAliases> {
        if json.trim().is_empty() {
            return Ok(Self::none());
        }
        let whole = |problem: String| InvalidAliases { rule: None, problem };
        let entries = match serde_json::from_str(json) {
            Ok(Value::Array(entries)) => entries,
            Ok(Value::Null) => return Ok(Self::none()),
            Ok(_) => return Err(whole("must be a JSON array of objects".to_owned())),
            Err(error) => return Err(whole(format!("not JSON: {error}"))),
        };
        let mut aliases = Self::none();
        for (index, entry) in entries.into_iter().enumerate() {
            let in_rule = |problem| InvalidAliases { rule: Some(index), problem };
            let Value::Object(mut entry) = entry else {
                return Err(in_rule("must be an object".to_owned()));
            };
            aliases.rules.push(Rule::read(&mut entry).map_err(in_rule)?);
            aliases.unknown_fields.extend(entry.into_iter().map(|(name, _)| format!("{index}.{name}")));
        }
        Ok(aliases)
    }

    /// Fields no rule knows, as `<rule>.<field>`: ignored, but worth a warning at start.
    pub fn unknown_fields(&self) -> &[String] {
        &self.unknown_fields
    }

    /// The first label that the first rule matching it turns into a spec.
    pub(super) fn expand<'a>(&self, labels: &'a [String]) -> Option<(&'a str, Cow<'_, str>)> {
        labels.iter().find_map(|label| self.rules.iter().find_map(|rule| Some((label.as_str(), rule.apply(label)?))))
    }
}

impl Rule {
    fn read(entry: &mut Map<String, Value>) -> Result<Self, String> {
        let mut text = |field: &str| match entry.remove(field) {
            Some(Value::String(text)) if !text.trim().is_empty() => Ok(text),
            None | Some(Value::String(_) | Value::Null) => Err(format!("{field} must not be blank")),
            Some(_) => Err(format!("{field} must be a string")),
        };
        let (matched, spec) = (text("match")?, text("spec")?);
        match entry.remove("regex") {
            None | Some(Value::Bool(false) | Value::Null) => {
                spec::read(&Source::alias(&matched, &spec), BTreeSet::new()).map_err(|e| format!("spec: {e}"))?;
                Ok(Self { pattern: Pattern::Literal(matched), spec })
            }
            Some(Value::Bool(true)) => {
                let regex = re2::compile(&matched).map_err(|e| format!("match does not compile: {e}"))?;
                Ok(Self { pattern: Pattern::Regex(regex), spec })
            }
            Some(_) => Err("regex must be true or false".to_owned()),
        }
    }

    /// The spec for this label, if the rule matches it: literally and whole, or anywhere by expression. The
    /// expression's groups fill the template: `$1`, `${name}`, and `$$` for a dollar.
    fn apply(&self, label: &str) -> Option<Cow<'_, str>> {
        match &self.pattern {
            Pattern::Literal(whole) => (whole == label).then_some(Cow::Borrowed(self.spec.as_str())),
            Pattern::Regex(regex) => regex.captures(label).map(|groups| {
                let mut text = String::new();
                groups.expand(&self.spec, &mut text);
                Cow::Owned(text)
            }),
        }
    }
}
