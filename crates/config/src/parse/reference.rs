//! References to secrets that are kept elsewhere and fetched once, at start.

use std::fmt;

/// Where a secret is kept.
#[derive(Clone, PartialEq, Eq)]
pub enum Reference {
    /// A parameter of AWS Systems Manager, decrypted: `aws-ssm:///path/name`.
    Ssm {
        /// Its full name.
        name: String,
    },
    /// A secret of AWS Secrets Manager: `aws-sm://id-or-arn#key`.
    SecretsManager {
        /// Its name or ARN.
        id: String,
        /// The key inside its JSON; without one, the whole text.
        key: Option<String>,
    },
    /// A field of a Vault secret: `vault://mount/path#field`.
    Vault {
        /// Mount and path.
        path: String,
        /// The field.
        field: String,
    },
}

impl Reference {
    /// `None`: not a reference. `Err`: begins like one, and this is how it would have to look.
    pub(crate) fn parse(text: &str) -> Option<Result<Self, &'static str>> {
        let part = |s: &str| !s.is_empty() && !s.contains(char::is_whitespace);
        if let Some(name) = text.strip_prefix("aws-ssm://") {
            let valid = name.len() > 1 && name.starts_with('/') && part(name) && !name.contains(['#', '?']);
            return Some(valid.then(|| Self::Ssm { name: name.to_owned() }).ok_or("aws-ssm:///path/name"));
        }
        if let Some(rest) = text.strip_prefix("aws-sm://") {
            let (id, key) = rest.split_once('#').map_or((rest, None), |(id, key)| (id, Some(key)));
            let valid = part(id) && key.is_none_or(part);
            let reference = || Self::SecretsManager { id: id.to_owned(), key: key.map(str::to_owned) };
            return Some(valid.then(reference).ok_or("aws-sm://name-or-arn or aws-sm://name-or-arn#key"));
        }
        let rest = text.strip_prefix("vault://")?;
        let reference = rest.split_once('#').filter(|(path, field)| {
            let inner = path.split_once('/');
            part(path) && part(field) && inner.is_some_and(|(mount, name)| !mount.is_empty() && !name.is_empty())
        });
        let reference = reference.map(|(path, field)| Self::Vault { path: path.to_owned(), field: field.to_owned() });
        Some(reference.ok_or("vault://mount/path#field"))
    }

    /// The scheme, which may be shown.
    pub const fn scheme(&self) -> &'static str {
        match self {
            Self::Ssm { .. } => "aws-ssm",
            Self::SecretsManager { .. } => "aws-sm",
            Self::Vault { .. } => "vault",
        }
    }
}

/// Names of secrets stay out of logs too.
impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://…", self.scheme())
    }
}
