//! `KEY=VALUE` files, as shells and containers read them; nothing is expanded.

use std::collections::BTreeMap;

/// A line that is not an assignment. The text is not repeated: it may hold a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct EnvFileError {
    /// Counted from one.
    pub line: usize,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Reads assignments, one a line: blank lines and lines starting `#` are skipped, `export ` in front is allowed, a value
/// may stand in single or double quotes, and an unquoted one ends where a blank and `#` begin a comment. Of two
/// assignments to one name the later wins.
///
/// # Errors
/// The first line that is none of these.
pub fn parse_env_file(text: &str) -> Result<BTreeMap<String, String>, EnvFileError> {
    let mut env = BTreeMap::new();
    for (n, line) in text.lines().enumerate() {
        let fail = |reason| EnvFileError { line: n + 1, reason };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let assignment = line.strip_prefix("export ").map_or(line, str::trim_start);
        let (name, value) = assignment.split_once('=').ok_or_else(|| fail("no '=' in it"))?;
        let valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') || !name.chars().all(valid) {
            return Err(fail("the name before '=' is not a variable's name"));
        }
        let value = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let (inside, after) =
                    value[1..].split_once(quote).ok_or_else(|| fail("the closing quote is missing"))?;
                if !after.trim().is_empty() && !after.trim_start().starts_with('#') {
                    return Err(fail("text behind the closing quote"));
                }
                inside
            }
            _ => {
                let comment = value
                    .match_indices('#')
                    .map(|(at, _)| at)
                    .find(|at| *at == 0 || value[..*at].ends_with([' ', '\t']));
                value[..comment.unwrap_or(value.len())].trim_end()
            }
        };
        env.insert(name.to_owned(), value.to_owned());
    }
    Ok(env)
}
