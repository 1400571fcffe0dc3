//! The App's private key, in any of the three ways it is kept.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use secrecy::SecretString;

/// Why a text is not the key we need. Says nothing about the text itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unusable {
    NotBase64,
    NotPem,
    WrongKeyType,
    Encrypted,
    TooShort,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotBase64 => "not_base64",
            Self::NotPem => "not_pem",
            Self::WrongKeyType => "wrong_key_type",
            Self::Encrypted => "encrypted",
            Self::TooShort => "too_short",
        })
    }
}

/// The key as PEM: `text` is PEM, or PEM with `\n` written as two characters, or base64 of PEM. The key is tried out, so
/// that what is accepted here signs later.
pub(crate) fn read(text: &str) -> Result<SecretString, Unusable> {
    let pem = if text.contains("-----BEGIN") {
        if text.contains('\n') { text.to_owned() } else { text.replace("\\r", "").replace("\\n", "\n") }
    } else {
        let packed: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let bytes = STANDARD.decode(packed).map_err(|_| Unusable::NotBase64)?;
        String::from_utf8(bytes).map_err(|_| Unusable::NotPem)?
    };
    let label = pem.split_once("-----BEGIN ").and_then(|(_, rest)| rest.split_once("-----")).map(|(label, _)| label);
    match label.ok_or(Unusable::NotPem)? {
        "ENCRYPTED PRIVATE KEY" => return Err(Unusable::Encrypted),
        "RSA PRIVATE KEY" if pem.contains("Proc-Type:") && pem.contains("ENCRYPTED") => {
            return Err(Unusable::Encrypted);
        }
        "RSA PRIVATE KEY" | "PRIVATE KEY" => {}
        label if label.ends_with("PRIVATE KEY") || label.ends_with("PUBLIC KEY") || label == "CERTIFICATE" => {
            return Err(Unusable::WrongKeyType);
        }
        _ => return Err(Unusable::NotPem),
    }
    let unusable = |error: jsonwebtoken::errors::Error| match error.kind() {
        ErrorKind::InvalidRsaKey(reason) if reason == "TooSmall" => Unusable::TooShort,
        ErrorKind::InvalidRsaKey(_) | ErrorKind::RsaFailedSigning => Unusable::WrongKeyType,
        _ => Unusable::NotPem,
    };
    let key = EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(|error| match error.kind() {
        // Readable as PKCS#8, but of another algorithm.
        ErrorKind::InvalidKeyFormat if is_pkcs8(&pem) => Unusable::WrongKeyType,
        _ => unusable(error),
    })?;
    crypto::sign(b"a trial", &key, Algorithm::RS256).map_err(unusable)?;
    Ok(pem.into())
}

fn is_pkcs8(pem: &str) -> bool {
    EncodingKey::from_ec_pem(pem.as_bytes()).is_ok() || EncodingKey::from_ed_pem(pem.as_bytes()).is_ok()
}
