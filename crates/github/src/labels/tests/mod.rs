mod aliases;
mod grammar;
mod properties;
mod re2;
mod registered;

use super::*;

fn set(labels: &[&str]) -> Vec<String> {
    labels.iter().map(|&label| label.to_owned()).collect()
}

fn read(label: &str) -> Result<LabelSpec, LabelError> {
    parse(&set(&[label]), &Aliases::none())
}

fn spec(label: &str) -> LabelSpec {
    read(label).unwrap_or_else(|e| panic!("{label}: {e}"))
}

/// Category and warnings of a label that must be refused.
fn refused(label: &str) -> (&'static str, Vec<&'static str>) {
    match read(label) {
        Ok(spec) => panic!("{label} was read as {spec:?}"),
        Err(error) => (error.category.as_str(), codes(&error.warnings)),
    }
}

fn codes(warnings: &BTreeSet<Warning>) -> Vec<&'static str> {
    warnings.iter().map(|w| w.as_str()).collect()
}

fn warned(label: &str) -> Vec<&'static str> {
    codes(&spec(label).warnings)
}
