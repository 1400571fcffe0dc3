//! What the operator decided about EC2 machines.

use std::collections::BTreeMap;

/// Settings of the EC2 back end.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// Base name of the launch templates; architecture or system is appended.
    pub launch_template: String,
    /// Whether spot capacity is used at all.
    pub spot_enabled: bool,
    /// Subnets of ordinary jobs, in order of preference.
    pub default_subnets: Vec<String>,
    /// Subnets of jobs that ask for private ones.
    pub private_subnets: Vec<String>,
    /// ARN of the instance profile of machines: by it they are known when they have lost their tags.
    pub instance_profile: Option<String>,
    /// What instances are tagged with.
    pub tags: TagSettings,
}

impl Settings {
    /// The subnets of one kind of job. Whether the kind had to be given up: a private job gets the others when there
    /// are no private subnets, which deserves a warning.
    pub fn subnets(&self, private: bool) -> (&[String], bool) {
        let (wanted, other) = match private {
            true => (&self.private_subnets, &self.default_subnets),
            false => (&self.default_subnets, &self.private_subnets),
        };
        if wanted.is_empty() { (other, private && !other.is_empty()) } else { (wanted, false) }
    }

    /// Every configured subnet, each once, in order.
    pub fn all_subnets(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for subnet in self.default_subnets.iter().chain(&self.private_subnets) {
            if !all.contains(subnet) {
                all.push(subnet.clone());
            }
        }
        all
    }
}

/// What instances are tagged with beside the facts of their job. Tags are readable on the machine and by everybody who
/// may describe instances: nothing secret belongs here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TagSettings {
    /// The operator's own tags; they win over ours that have no prefix.
    pub custom: BTreeMap<String, String>,
    /// Cost attribution, `Application` and `Service` under the keys the operator gave them.
    pub attribution: BTreeMap<String, String>,
    /// Container image of runners.
    pub runner_image: Option<String>,
    /// Where agents report to.
    pub termination_queue_url: Option<String>,
    /// Base address of the Actions cache.
    pub cache_url: Option<String>,
    /// Where agents find their hand-over: `ssm` or `vault`.
    pub secrets_backend: Option<String>,
    /// Where Vault is, when it keeps the hand-overs.
    pub vault: Option<VaultTags>,
}

/// What an agent must know to reach Vault.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VaultTags {
    /// Address.
    pub addr: String,
    /// Namespace; empty: none.
    pub namespace: String,
    /// Mount of the key-value store.
    pub kv_mount: String,
    /// Its version; 0 is unknown.
    pub kv_version: u32,
    /// Path below the mount.
    pub base_path: String,
}
