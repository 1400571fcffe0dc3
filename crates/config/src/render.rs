//! What people and scripts see of a loaded configuration, and the reference of all variables.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use crate::load::Loaded;
use crate::problem::Problem;
use crate::registry::{AGENT, HISTORIC, Kind, SECTIONS, Variable};

fn sides(loaded: &Loaded, strict: bool) -> (Vec<&Problem>, Vec<&Problem>) {
    loaded.problems.iter().partition(|p| strict || p.code.is_error())
}

/// The problems, one a line, and a last line that says whether one may start. With `strict`, warnings are errors.
pub fn render_text(loaded: &Loaded, strict: bool) -> String {
    let (errors, warnings) = sides(loaded, strict);
    let mut text = String::new();
    for (heading, problems) in [("error", &errors), ("warning", &warnings)] {
        for p in problems {
            let _ = writeln!(text, "{heading}: {}: {} [{}]", p.variables.join(", "), p.message, p.code.as_str());
        }
    }
    let verdict = if errors.is_empty() { "ok" } else { "not ok" };
    let _ = writeln!(text, "{verdict}: mode {}, {} errors, {} warnings", loaded.mode, errors.len(), warnings.len());
    text
}

/// The problems and, when there is no error, every value. With `strict`, warnings are errors.
pub fn render_json(loaded: &Loaded, strict: bool) -> Json {
    let (errors, warnings) = sides(loaded, strict);
    let ok = errors.is_empty();
    let mut json = json!({ "ok": ok, "mode": loaded.mode, "errors": errors, "warnings": warnings });
    if ok {
        json["values"] = loaded.values.clone().into();
        json["effective"] = json!(loaded.effective);
    }
    json
}

/// Every variable there is, as Markdown.
pub fn reference_markdown() -> String {
    let mut text = String::from("# Environment variables\n");
    for section in SECTIONS {
        let _ = write!(text, "\n## {}\n\n", section.title);
        text.push_str("| Variable | Type | Default | Read | Rule | Since | Meaning |\n|---|---|---|---|---|---|---|\n");
        for v in section.variables {
            let default = match (v.default, v.derived) {
                (_, derived) if !derived.is_empty() => derived.to_owned(),
                (Some(default), _) => format!("`{default}`"),
                (None, _) => "–".to_owned(),
            };
            let read = format!("{}{}", v.scope.as_str(), if v.required { ", required" } else { "" });
            let (name, kind) = (v.name, v.kind.as_str());
            let _ = writeln!(
                text,
                "| `{name}` | {kind} | {default} | {read} | {} | {} | {} |",
                rule(v),
                v.revision.as_str(),
                v.meaning
            );
        }
    }
    text.push_str(
        "\nSecrets may also be given as the path of a file in the variable with `_FILE` behind its name, or as ",
    );
    text.push_str("a reference: `aws-ssm:///path/name`, `aws-sm://name-or-arn#key`, `vault://mount/path#field`.\n");
    text.push_str("\nSince: S the first Go revision only, L the later one, B both, N new.\n");
    for (title, names) in [("Without effect", HISTORIC), ("Of agents", AGENT)] {
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        let _ = write!(text, "\n## {title}\n\n{}\n", names.join(", "));
    }
    text
}

fn rule(v: &Variable) -> String {
    let bounds = match v.kind {
        Kind::Int { min, max: i64::MAX } => format!("≥ {min}"),
        Kind::Int { min, max } => format!("{min}–{max}"),
        Kind::Float { min: f64::MIN_POSITIVE, max } => format!("(0, {max}]"),
        Kind::Float { min, max: f64::MAX } => format!("≥ {min}"),
        Kind::Float { min, max } => format!("{min}–{max}"),
        Kind::Enum(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" "),
        _ => String::new(),
    };
    let lenient = if v.lenient { "otherwise the default, with a warning" } else { "" };
    // Pipes separate columns.
    let parts: Vec<&str> = [&bounds, v.rule, lenient].into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("; ").replace('|', "\\|")
}
