//! The names `runner=` takes: a table of fixed sizes, and what to make of a name that is not in it.

use domain::launch::Arch;

use super::keys::digits;

/// Name, and its types with the preferred one first; the others are there so that spot has a choice.
const TABLE: [(&str, &[&str]); 15] = [
    ("2cpu-linux-arm64", &["t4g.medium", "t4g.large"]),
    ("4cpu-linux-arm64", &["c7g.xlarge", "m7g.xlarge", "c6g.xlarge"]),
    ("8cpu-linux-arm64", &["c7g.2xlarge", "m7g.2xlarge", "c6g.2xlarge"]),
    ("16cpu-linux-arm64", &["c7g.4xlarge", "m7g.4xlarge", "c6g.4xlarge"]),
    ("32cpu-linux-arm64", &["c7g.8xlarge", "m7g.8xlarge", "c6g.8xlarge"]),
    ("2cpu-linux-amd64", &["t3.medium", "t3.large"]),
    ("4cpu-linux-amd64", &["c6i.xlarge", "m6i.xlarge", "c7i.xlarge"]),
    ("8cpu-linux-amd64", &["c6i.2xlarge", "m6i.2xlarge", "c7i.2xlarge"]),
    ("16cpu-linux-amd64", &["c6i.4xlarge", "m6i.4xlarge", "c7i.4xlarge"]),
    ("32cpu-linux-amd64", &["c6i.8xlarge", "m6i.8xlarge", "c7i.8xlarge"]),
    ("2cpu-windows-amd64", &["t3.medium", "t3.large"]),
    ("4cpu-windows-amd64", &["m6i.xlarge", "m7i.xlarge", "c6i.xlarge"]),
    ("8cpu-windows-amd64", &["m6i.2xlarge", "m7i.2xlarge", "c6i.2xlarge"]),
    ("16cpu-windows-amd64", &["m6i.4xlarge", "m7i.4xlarge", "c6i.4xlarge"]),
    ("32cpu-windows-amd64", &["m6i.8xlarge", "m7i.8xlarge", "c6i.8xlarge"]),
];

/// A name given to `runner=`.
#[derive(Clone, Copy)]
pub(super) struct RunnerName<'a>(pub(super) &'a str);

/// What a name amounts to.
pub(super) enum Size {
    /// These types, in this order.
    Types(&'static [&'static str]),
    /// Exactly so many vCPUs, from the default families.
    Cpu(u32),
}

impl RunnerName<'_> {
    pub(super) fn windows(self) -> bool {
        self.0.contains("windows")
    }

    pub(super) fn names_arm64(self) -> bool {
        self.0.contains("arm64")
    }

    pub(super) fn arch(self) -> Option<Arch> {
        if self.0.contains("amd64") {
            Some(Arch::Amd64)
        } else if self.names_arm64() {
            Some(Arch::Arm64)
        } else {
            None
        }
    }

    pub(super) fn known(self) -> bool {
        TABLE.iter().any(|(name, _)| *name == self.0)
    }

    /// The machine. `arch` is the effective one: the name's own or, when it has none, the label's. A name that is not
    /// in the table gets the nearest sensible size, never an error: the job runs, and a warning tells of the typo.
    pub(super) fn size(self, arch: Option<Arch>) -> Size {
        // No name in the table begins with another one and a dash, so at most one row can match.
        let row = TABLE
            .iter()
            .find(|(name, _)| self.0.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-')));
        if let Some((_, types)) = row {
            return Size::Types(types);
        }
        if self.windows() {
            return Size::Types(&["m6i.xlarge"]);
        }
        if let Some(cpus) = self.0.split_once("cpu-").and_then(|(n, _)| digits(n, 5)) {
            return Size::Cpu(cpus);
        }
        Size::Types(if arch == Some(Arch::Amd64) { &["t3.medium"] } else { &["t4g.medium"] })
    }
}
