//! Regular expressions in RE2's dialect, on top of the `regex` crate.
//!
//! Both engines take linear time and agree on almost everything; the rules operators bring along were written for
//! RE2, so where the two disagree, the pattern is rewritten to mean what RE2 means:
//!
//! * `\d \w \s \b` and their opposites are about ASCII only.
//! * Inside a bracket, `[`, `&&`, `--` and `~~` are ordinary characters, not nested sets and set operations.
//! * `\<` and `\>` are the characters themselves, not word boundaries.

use std::str::Chars;

use regex::Regex;

/// Compiles the pattern; the error is one line.
pub(super) fn compile(pattern: &str) -> Result<Regex, String> {
    Regex::new(&translate(pattern)).map_err(|error| {
        let text = error.to_string();
        text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
    })
}

fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => escape(chars.next(), false, &mut out),
            '[' => bracket(&mut chars, &mut out),
            _ => out.push(c),
        }
    }
    out
}

/// Writes one escape sequence. Unknown ones pass through for the engine to judge.
fn escape(c: Option<char>, in_bracket: bool, out: &mut String) {
    let class = match c {
        Some('d') => "[0-9]",
        Some('D') => "[^0-9]",
        Some('w') => "[0-9A-Za-z_]",
        Some('W') => "[^0-9A-Za-z_]",
        Some('s') => r"[\t\n\f\r\x20]",
        Some('S') => r"[^\t\n\f\r\x20]",
        Some('b') if !in_bracket => r"(?-u:\b)",
        Some('B') if !in_bracket => r"(?-u:\B)",
        Some(angle @ ('<' | '>')) => {
            out.push(angle);
            return;
        }
        other => {
            out.push('\\');
            out.extend(other);
            return;
        }
    };
    if !in_bracket && class.starts_with('[') {
        // Folding case would let in the letters beyond ASCII that fold to a `k` or an `s`.
        out.extend(["(?-i:", class, ")"]);
    } else {
        out.push_str(class);
    }
}

/// Copies a bracketed set whose `[` has been read.
fn bracket(chars: &mut Chars<'_>, out: &mut String) {
    out.push('[');
    if chars.as_str().starts_with('^') {
        out.extend(chars.next());
    }
    // First in a set, a closing bracket and a dash are ordinary characters.
    if chars.as_str().starts_with([']', '-']) {
        out.push('\\');
        out.extend(chars.next());
    }
    while let Some(c) = chars.next() {
        let rest = chars.as_str();
        match c {
            ']' => {
                out.push(']');
                return;
            }
            '\\' => escape(chars.next(), true, out),
            '[' if rest.starts_with(':') && rest[1..].contains(":]") => {
                // A named set such as `[:alpha:]` is copied whole.
                let end = rest.find(']').map_or(rest.len(), |at| at + 1);
                out.push('[');
                out.push_str(&rest[..end]);
                *chars = rest[end..].chars();
            }
            '[' | '&' | '~' => out.extend(['\\', c]),
            '-' if rest.starts_with('-') => {
                // A range up to the dash.
                chars.next();
                out.push_str(r"-\-");
            }
            _ => out.push(c),
        }
    }
}
