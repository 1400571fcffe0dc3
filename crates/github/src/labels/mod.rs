//! From a job's `runs-on` labels to the machine it asks for. Pure: no clock, no I/O, no logging.
//!
//! A job is ours when one of its labels is a **marker** (`runs-fleet`, `runs-fleet/…`, `runs-fleet=<run id>/…`) or,
//! failing that, when an operator's **alias** turns one of its labels into such a text. The first marker wins and is
//! the only label read; the whole set is still what the runner registers with ([`registered_labels`]).
//!
//! The text is a list of `key=value` segments. What happens to a bad one depends on what a wrong guess would cost:
//!
//! * A value that decides the machine's size or place (`cpu`, `ram`, `gen`, `disk`, `backend`, a contradiction
//!   between `runner` and `arch`) rejects the label set with a [`Category`]: nothing is launched, and the operator
//!   sees why.
//! * Anything else is ignored with a [`Warning`], which travels with the job. A typo must be visible, but must not
//!   leave a job waiting a day for a runner that never comes.
//!
//! So that an explanation is complete, every segment is read before the first error is reported, and of several
//! errors always the same one is: order of segments never matters, except between repeats of one key.

use std::collections::BTreeSet;

mod aliases;
mod fixed;
mod keys;
mod re2;
mod registered;
mod report;
mod spec;

#[cfg(test)]
mod tests;

pub use aliases::{Aliases, InvalidAliases};
pub use registered::{Fallback, class_key, fallback_labels, registered_labels};
pub use report::{Category, LabelError, Warning, to_json};
pub use spec::{Form, LabelSpec};

/// Longest label accepted, in characters.
const MAX_LABEL: usize = 256;

/// The text to read, and where it came from.
struct Source<'a> {
    form: Form,
    run_id: &'a str,
    label: &'a str,
    text: &'a str,
}

impl<'a> Source<'a> {
    /// The label as a marker: case-sensitive, untrimmed.
    fn marker(label: &'a str) -> Option<Self> {
        let rest = label.strip_prefix("runs-fleet")?;
        let (form, run_id, text) = match rest.chars().next() {
            None => (Form::Bare, "", ""),
            Some('/') => (Form::Slash, "", &rest[1..]),
            Some('=') => {
                let (run_id, text) = rest[1..].split_once('/').unwrap_or((&rest[1..], ""));
                (Form::Legacy, run_id, text)
            }
            Some(_) => return None,
        };
        Some(Self { form, run_id, label, text })
    }

    fn alias(label: &'a str, text: &'a str) -> Self {
        Self { form: Form::Alias, run_id: "", label, text }
    }
}

/// Reads a job's label set.
///
/// # Errors
///
/// [`Category::NoMarker`] when the job is not ours, which is no fault of anyone ([`LabelError::is_ours`]); any other
/// category when it is ours and can not be served as asked.
pub fn parse(labels: &[String], aliases: &Aliases) -> Result<LabelSpec, LabelError> {
    let mut warnings = BTreeSet::new();
    let mut markers = labels.iter().filter_map(|label| Source::marker(label));
    let expansion;
    let source = match markers.next() {
        Some(marker) => marker,
        None => match aliases.expand(labels) {
            Some((label, text)) => {
                expansion = text;
                Source::alias(label, &expansion)
            }
            None => return Err(LabelError { category: Category::NoMarker, warnings }),
        },
    };
    if markers.next().is_some() {
        warnings.insert(Warning::MultipleMarkers);
    }
    if labels.iter().any(|label| label.chars().count() > MAX_LABEL) {
        return Err(LabelError { category: Category::LabelTooLong, warnings });
    }
    spec::read(&source, warnings)
}
