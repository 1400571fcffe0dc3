//! Names in the environment that nobody reads.

use super::Loader;
use crate::problem::Code;
use crate::registry::{AGENT, HISTORIC, variables};

/// A name at most so many edits away is suggested.
const CLOSE: usize = 3;

impl Loader<'_> {
    pub(super) fn check_names(&mut self) {
        let known = |name: &str| {
            let secret = name.strip_suffix("_FILE");
            AGENT.contains(&name)
                || variables().any(|v| v.name == name || (v.kind.is_secret() && secret == Some(v.name)))
        };
        let env = self.env;
        for (name, value) in env.iter().filter(|(_, value)| !value.trim_ascii().is_empty()) {
            if HISTORIC.contains(&name.as_str()) {
                let message = match name.as_str() {
                    "RUNS_FLEET_ADMIN_SECRET" => "does nothing any more; in particular it protects nothing",
                    _ => "does nothing any more",
                };
                self.problem(Code::WarnDeprecated, &[name], message);
            } else if name == "RUNS_FLEET_LOG_GROUP" {
                self.problem(Code::WarnDeprecated, &[name], "does nothing any more");
            } else if name.starts_with("RUNS_FLEET_") && !known(name) && !is_service_link(name, value) {
                let message = match closest(name) {
                    Some(closest) => format!("nothing reads this variable; was {closest} meant?"),
                    None => "nothing reads this variable".to_owned(),
                };
                self.problem(Code::WarnUnknown, &[name], message);
            }
        }
    }
}

fn closest(name: &str) -> Option<&'static str> {
    let names =
        variables().map(|v| v.name).filter(|known| known.starts_with("RUNS_FLEET_")).chain(AGENT.iter().copied());
    let near = names.map(|known| (strsim::levenshtein(name, known), known)).filter(|(edits, _)| *edits <= CLOSE);
    near.min().map(|(_, known)| known)
}

/// Variables Kubernetes injects for a Service whose name starts `runs-fleet`.
fn is_service_link(name: &str, value: &str) -> bool {
    let Some(rest) = name.strip_prefix("RUNS_FLEET") else { return false };
    if rest.ends_with("_SERVICE_HOST") || rest.contains("_SERVICE_PORT") {
        return true;
    }
    let address = |v: &str| ["tcp://", "udp://", "sctp://"].iter().any(|scheme| v.starts_with(scheme));
    let number = |v: &str| v.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let protocol = |v: &str| matches!(v, "tcp" | "udp" | "sctp");
    rest.contains("_PORT") && [address, number, protocol].iter().any(|form| form(value.trim_ascii()))
}
