//! What a machine for a job must be like, as the label said it.

use serde::{Deserialize, Serialize};

use crate::ids::PoolName;

/// Processor architecture of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// AWS Graviton and other AArch64 machines.
    Arm64,
    /// x86-64.
    Amd64,
}

impl Arch {
    /// The word used in labels, messages, tags and launch-template names.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Arm64 => "arm64",
            Self::Amd64 => "amd64",
        }
    }
    /// Reads the exact words and their synonyms (`aarch64`, `x64`, `x86_64`), ASCII case-insensitively.
    pub fn parse(word: &str) -> Option<Self> {
        let is = |name: &str| word.eq_ignore_ascii_case(name);
        if is("arm64") || is("aarch64") {
            Some(Self::Arm64)
        } else if is("amd64") || is("x64") || is("x86_64") {
            Some(Self::Amd64)
        } else {
            None
        }
    }
}

/// The machine a job asks for. Zero and empty mean "not asked for".
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LaunchSpec {
    /// First choice; the head of `instance_types`.
    pub instance_type: String,
    /// Every type that fits, in the order a fleet request should offer them.
    pub instance_types: Vec<String>,
    /// Architecture, if the label fixed one.
    pub arch: Option<Arch>,
    /// `linux` or `windows`; empty reads as `linux`.
    pub os: String,
    /// The fixed spec or its synthetic form, for display and old agents.
    pub runner_spec: String,
    /// Warm pool to draw from.
    pub pool: Option<PoolName>,
    /// Whether spot capacity is acceptable.
    pub spot: bool,
    /// Private subnets are required.
    pub private: bool,
    /// A public subnet is preferred; `private` wins.
    pub public: bool,
    /// Root volume in GiB.
    pub storage_gib: u32,
    /// vCPU bounds.
    pub cpu_min: u32,
    /// vCPU bounds.
    pub cpu_max: u32,
    /// Memory bounds in GiB.
    pub ram_min: f64,
    /// Memory bounds in GiB.
    pub ram_max: f64,
    /// Instance families, as written.
    pub families: Vec<String>,
    /// Instance generation.
    pub gen_: u32,
    /// Free text; a tag and a message field only.
    pub region: String,
    /// `dev`, `staging`, `prod`; a tag and a message field only.
    pub environment: String,
    /// `ec2` or `k8s` when the label chose one.
    pub backend: String,
}
