//! Hand-overs in Vault: the configuration in the client's terms, and in those of machines' tags.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use aws_config::SdkConfig;
use config::{Vault, VaultAuth};
use domain::clock::{Clock, Rng};
use fleet::VaultTags;
use provider::vault::{Login, SdkIdentity, Settings, VaultHandOver, Version};

/// The store. Vault is not asked before it is needed.
pub(crate) fn store(
    vault: &Vault,
    sdk: &SdkConfig,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
) -> anyhow::Result<VaultHandOver> {
    let login = match &vault.auth {
        VaultAuth::Aws { role, .. } => {
            let identity =
                SdkIdentity::new(sdk, clock).context("there is no identity of AWS to log in to Vault with")?;
            Login::Aws { role: role.clone(), identity: Arc::new(identity) }
        }
        VaultAuth::Jwt { mount, role, path } => {
            Login::Jwt { mount: mount.clone(), role: role.clone(), path: PathBuf::from(path) }
        }
        VaultAuth::AppRole { role_id, secret_id } => {
            Login::AppRole { role_id: role_id.clone(), secret_id: secret_id.clone() }
        }
        VaultAuth::Token(token) => Login::Token(token.clone()),
    };
    let settings = Settings {
        address: vault.addr.clone(),
        namespace: vault.namespace.clone(),
        mount: vault.kv_mount.clone(),
        base: vault.base_path.clone(),
        version: vault.kv_version.map(u64::from).and_then(Version::numbered),
        login,
    };
    // Tokens come and go: each is remembered for longer than a usual one lives.
    let learnt = Arc::new(|secret: &str| telemetry::redact::hide(secret, Some(REMEMBERED)));
    VaultHandOver::new(settings, rng, learnt).context("VAULT_ADDR")
}

/// How long what was learnt is kept out of the log: the longest life of a token unless an operator says otherwise.
const REMEMBERED: std::time::Duration = std::time::Duration::from_hours(32 * 24);

/// Where machines find Vault. They log in as themselves, whatever this program does.
pub(crate) fn tags(vault: &Vault) -> VaultTags {
    VaultTags {
        addr: vault.addr.clone(),
        namespace: vault.namespace.clone().unwrap_or_default(),
        kv_mount: vault.kv_mount.clone(),
        kv_version: vault.kv_version.unwrap_or_default().into(),
        base_path: vault.base_path.clone(),
    }
}
