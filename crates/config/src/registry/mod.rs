//! Every environment variable there is. A variable that is not listed here does not exist.

#[rustfmt::skip] // one variable, one or two lines
mod table;

use crate::parse::{Check, JsonCheck};
pub use table::{AGENT, AGENT_SECRETS, HISTORIC, SECTIONS};

/// The first revision of the system that has the variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revision {
    /// Only the first Go revision.
    Seed,
    /// Both Go revisions.
    Both,
    /// Only the later Go revision.
    Later,
    /// New here.
    New,
}

impl Revision {
    /// One letter, for the reference.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Seed => "S",
            Self::Both => "B",
            Self::Later => "L",
            Self::New => "N",
        }
    }
}

/// How a value is written.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Any text, without the white space around it.
    Text,
    /// A decimal integer within bounds, both inclusive.
    Int {
        /// Smallest value.
        min: i64,
        /// Largest value.
        max: i64,
    },
    /// A finite decimal number within bounds, both inclusive.
    Float {
        /// Smallest value.
        min: f64,
        /// Largest value.
        max: f64,
    },
    /// `1`, `t`, `true`, `0`, `f`, `false`, in any letter case.
    Bool,
    /// Items between commas; blank ones and repetitions are dropped.
    List,
    /// A JSON value of a form of its own.
    Json(JsonCheck),
    /// One of these words, spelt so.
    Enum(&'static [&'static str]),
    /// An absolute URL with a host.
    Url {
        /// Plain `http` is tolerated for this machine only.
        https: bool,
    },
    /// `host:port`, IPv6 addresses in brackets.
    HostPort {
        /// `:port` means every address.
        any_host: bool,
    },
    /// A text that is never shown.
    Secret,
    /// An RSA private key: PEM, PEM with `\n` written as two characters, or base64 of PEM.
    Pem,
}

impl Kind {
    /// The word of the reference.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "string",
            Self::Int { .. } => "int",
            Self::Float { .. } => "float",
            Self::Bool => "bool",
            Self::List => "list",
            Self::Json(_) => "json",
            Self::Enum(_) => "enum",
            Self::Url { https: true } => "url (https)",
            Self::Url { https: false } => "url",
            Self::HostPort { .. } => "host:port",
            Self::Secret => "secret",
            Self::Pem => "PEM (secret)",
        }
    }

    /// Whether the value is never shown, and may come from a file or a reference.
    pub const fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::Pem)
    }
}

/// When a variable is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In every mode.
    Always,
    /// When EC2 machines are served.
    Ec2,
    /// When Kubernetes pods are served.
    K8s,
    /// When the coordinator is on.
    Coordinator,
    /// When single sign-on is configured.
    Oidc,
    /// When Prometheus is on.
    Prometheus,
    /// When Datadog is on.
    Datadog,
    /// When Vault is the hand-over store, or a secret refers to it.
    Vault,
}

impl Scope {
    /// The words of the reference.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Ec2 => "ec2",
            Self::K8s => "k8s",
            Self::Coordinator => "coordinator on",
            Self::Oidc => "OIDC on",
            Self::Prometheus => "Prometheus on",
            Self::Datadog => "Datadog on",
            Self::Vault => "Vault used",
        }
    }
}

/// One variable.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Its name in the environment.
    pub name: &'static str,
    /// How its value is written.
    pub kind: Kind,
    /// What stands for an absent value, written as in the environment.
    pub default: Option<&'static str>,
    /// Where an absent value comes from when the default is not a constant.
    pub derived: &'static str,
    /// When it is looked at.
    pub scope: Scope,
    /// An absent value is an error (when it is looked at, and not in local mode).
    pub required: bool,
    /// A value outside its bounds gives a warning and the default, not an error.
    pub lenient: bool,
    /// Words are read in any letter case.
    pub any_case: bool,
    /// What else must hold.
    pub(crate) check: Option<Check>,
    /// The same in words.
    pub rule: &'static str,
    /// Since when it exists.
    pub revision: Revision,
    /// What it does.
    pub meaning: &'static str,
}

impl Variable {
    const fn new(name: &'static str, kind: Kind) -> Self {
        Self {
            name,
            kind,
            default: None,
            derived: "",
            scope: Scope::Always,
            required: false,
            lenient: false,
            any_case: false,
            check: None,
            rule: "",
            revision: Revision::New,
            meaning: "",
        }
    }

    const fn or(mut self, default: &'static str) -> Self {
        self.default = Some(default);
        self
    }

    const fn derived(mut self, from: &'static str) -> Self {
        self.derived = from;
        self
    }

    const fn within(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    const fn lenient(mut self) -> Self {
        self.lenient = true;
        self
    }

    const fn any_case(mut self) -> Self {
        self.any_case = true;
        self
    }

    const fn check(mut self, check: Check, rule: &'static str) -> Self {
        self.check = Some(check);
        self.rule = rule;
        self
    }

    const fn doc(mut self, revision: Revision, meaning: &'static str) -> Self {
        self.revision = revision;
        self.meaning = meaning;
        self
    }
}

/// A chapter of the reference.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// Its heading.
    pub title: &'static str,
    /// Its variables, in the order of the reference.
    pub variables: &'static [Variable],
}

/// Every variable the server reads.
pub fn variables() -> impl Iterator<Item = &'static Variable> {
    SECTIONS.iter().flat_map(|section| section.variables)
}

/// The variable of this name.
pub fn find(name: &str) -> Option<&'static Variable> {
    variables().find(|v| v.name == name)
}
