//! Hand-overs in Vault: the agent's settings and identity in the server's client.

use std::io;
use std::sync::Arc;

use domain::clock::SystemRng;
use provider::vault::{Identity, Learnt, Login, Settings, Unsigned, VaultHandOver, Version};

use crate::aws::Aws;
use crate::environment::{Vault, VaultLogin};
use crate::log::Log;

/// The store. Nothing is asked before the agent waits for its hand-over, and whatever fails then is tried again.
pub(crate) fn store(vault: &Vault, aws: Option<&Arc<Aws>>, log: &Log) -> io::Result<VaultHandOver> {
    let login = match &vault.login {
        VaultLogin::Aws { role } => {
            let aws = aws.ok_or(io::ErrorKind::Unsupported)?;
            Login::Aws { role: role.clone(), identity: Arc::clone(aws) as Arc<dyn Identity> }
        }
        VaultLogin::Jwt { mount, role, path } => {
            Login::Jwt { mount: mount.clone(), role: role.clone(), path: path.clone() }
        }
        VaultLogin::AppRole { role_id, secret_id } => {
            Login::AppRole { role_id: role_id.clone(), secret_id: secret_id.expose().to_owned().into() }
        }
        VaultLogin::Token(token) => Login::Token(token.expose().to_owned().into()),
    };
    let settings = Settings {
        address: vault.address.clone(),
        namespace: vault.namespace.clone(),
        mount: vault.mount.clone(),
        base: vault.base.clone(),
        version: vault.version.and_then(Version::numbered),
        login,
    };
    let log = log.clone();
    let learnt: Learnt = Arc::new(move |secret| log.hide(secret));
    VaultHandOver::new(settings, Arc::new(SystemRng), learnt).map_err(io::Error::other)
}

#[async_trait::async_trait]
impl Identity for Aws {
    async fn sign(&self, request: &Unsigned) -> Result<Vec<(String, String)>, String> {
        let headers = self.signature(request.region, request.service, request.url, request.headers, request.body).await;
        let headers = headers.map_err(|error| error.to_string())?;
        Ok(headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
}
