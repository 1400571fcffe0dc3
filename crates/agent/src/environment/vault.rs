//! The settings of Vault.
//!
//! Strict, unlike most: a token must not go to a machine that nobody meant, nor a hand-over be looked for where somebody
//! else may have put one.

use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use domain::handover::Credential;
use reqwest::Url;

use super::{Fatal, Reader};

/// Where service accounts' tokens are.
const TOKENS: &str = "/var/run/secrets";

/// Where hand-overs are in Vault, and how to get in.
#[derive(Debug, Clone, PartialEq)]
pub struct Vault {
    /// Address, without a slash at the end.
    pub address: String,
    /// Namespace, in editions that have some.
    pub namespace: Option<String>,
    /// Mount of the key-value engine.
    pub mount: String,
    /// Its version, 1 or 2; without one it is found out.
    pub version: Option<u64>,
    /// Path below the mount that hand-overs are under.
    pub base: String,
    /// How to log in.
    pub login: VaultLogin,
}

/// How to log in to Vault.
#[derive(Debug, Clone, PartialEq)]
pub enum VaultLogin {
    /// With the identity that calls AWS.
    Aws {
        /// Vault's role.
        role: String,
    },
    /// With a token in a file.
    Jwt {
        /// Mount of the auth method.
        mount: String,
        /// Vault's role.
        role: String,
        /// The file.
        path: PathBuf,
    },
    /// With an application role.
    AppRole {
        /// Its id.
        role_id: String,
        /// Its secret id.
        secret_id: Credential,
    },
    /// With this token.
    Token(Credential),
}

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    pub(super) fn vault(&mut self) -> Result<Vault, Fatal> {
        let address = self.text("VAULT_ADDR").ok_or(Fatal::Missing("VAULT_ADDR"))?;
        Ok(Vault {
            address: acceptable("VAULT_ADDR", &address).map(|()| address.trim_end_matches('/').to_owned())?,
            namespace: self.text("VAULT_NAMESPACE"),
            mount: self.vault_path("VAULT_KV_MOUNT", "secret")?,
            version: self.number("VAULT_KV_VERSION", 0..=2).filter(|version| *version != 0),
            base: self.vault_path("VAULT_BASE_PATH", "runs-fleet/runners")?,
            login: self.vault_login()?,
        })
    }

    fn vault_login(&self) -> Result<VaultLogin, Fatal> {
        const NAME: &str = "VAULT_AUTH_METHOD";
        let text = |name: &'static str| self.text(name).ok_or(Fatal::Missing(name));
        match self.text(NAME).as_deref() {
            None | Some("aws") => {
                Ok(VaultLogin::Aws { role: self.text("VAULT_AWS_ROLE").unwrap_or_else(|| "runs-fleet".to_owned()) })
            }
            Some("kubernetes" | "k8s" | "jwt") => Ok(VaultLogin::Jwt {
                mount: self.vault_path("VAULT_K8S_AUTH_MOUNT", "kubernetes")?,
                role: text("VAULT_K8S_ROLE")?,
                path: self.token_file("VAULT_K8S_JWT_PATH")?,
            }),
            Some("approle") => Ok(VaultLogin::AppRole {
                role_id: text("VAULT_APP_ROLE_ID")?,
                secret_id: Credential::new(text("VAULT_APP_SECRET_ID")?),
            }),
            Some("token") => Ok(VaultLogin::Token(Credential::new(text("VAULT_TOKEN")?))),
            Some(_) => Err(Fatal::Unsupported { name: NAME, rule: "aws, kubernetes, k8s, jwt, approle or token" }),
        }
    }

    fn vault_path(&self, name: &'static str, usual: &str) -> Result<String, Fatal> {
        let path = self.text(name).unwrap_or_else(|| usual.to_owned());
        acceptable(name, &path).map(|()| path.trim_matches('/').to_owned())
    }

    /// The file is sent to Vault, so it must not be any.
    fn token_file(&self, name: &'static str) -> Result<PathBuf, Fatal> {
        let Some(path) = self.text(name) else {
            return Ok(Path::new(TOKENS).join("kubernetes.io/serviceaccount/token"));
        };
        let mut clean = PathBuf::new();
        for component in Path::new(&path).components() {
            match component {
                Component::ParentDir => drop(clean.pop()),
                component => clean.push(component),
            }
        }
        let below = clean.strip_prefix(TOKENS).is_ok_and(|rest| !rest.as_os_str().is_empty());
        if below {
            Ok(clean)
        } else {
            Err(Fatal::Unsupported { name, rule: "an absolute path below /var/run/secrets" })
        }
    }
}

/// Whether this may be the value of one of Vault's variables that tags can set.
pub(crate) fn acceptable(name: &'static str, value: &str) -> Result<(), Fatal> {
    let (rule, good) = match name {
        "VAULT_ADDR" => ("https and a host, or http on this machine", is_address(value)),
        "VAULT_KV_MOUNT" | "VAULT_BASE_PATH" | "VAULT_K8S_AUTH_MOUNT" => {
            ("letters, digits, `/`, `_` and `-`", is_path(value))
        }
        _ => ("", true),
    };
    if good { Ok(()) } else { Err(Fatal::Unsupported { name, rule }) }
}

fn is_path(text: &str) -> bool {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_-".contains(&byte));
    plain && !text.trim_matches('/').is_empty()
}

fn is_address(text: &str) -> bool {
    let Ok(url) = Url::parse(text) else { return false };
    let plain =
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    let host = url.host_str().unwrap_or_default();
    let here = || {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    plain && !host.is_empty() && (url.scheme() == "https" || (url.scheme() == "http" && here()))
}
