//! A certificate authority of one machine, for a few hours, and what it signs: the listener's certificate.
//!
//! The keys never leave this process. The authority may speak for no other name, so that one who stole its key could.

use std::sync::Arc;
use std::time::Duration;

use domain::clock::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, NameConstraints, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;

/// Longer than any job.
const LIFE: Duration = Duration::from_hours(25);
/// Clocks of one machine differ by less.
const BEFORE: Duration = Duration::from_mins(5);
/// What names the authority among the machine's.
const NAME: &str = "runs-fleet runner cache CA";
/// Other names of the listener.
const LOCAL: [&str; 2] = ["localhost", "127.0.0.1"];

/// See the module.
pub(super) struct Authority {
    /// Its certificate, PEM.
    pub(super) certificate: String,
    /// How the listener shows who it is.
    pub(super) server: Arc<ServerConfig>,
}

/// Makes one for `host`, which has a parent domain.
///
/// # Errors
/// A sentence.
pub(super) fn make(host: &str, now: Timestamp) -> Result<Authority, String> {
    let text = |error: rcgen::Error| error.to_string();
    let (_, parent) = host.split_once('.').ok_or("the host has no parent domain")?;
    let mut params = dated(Vec::new(), now)?;
    params.distinguished_name.push(DnType::CommonName, NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![
            GeneralSubtree::DnsName(parent.to_owned()),
            GeneralSubtree::DnsName(LOCAL[0].to_owned()),
            GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([127, 0, 0, 1], 32)),
        ],
        excluded_subtrees: Vec::new(),
    });
    let key = KeyPair::generate().map_err(text)?;
    let certificate = params.self_signed(&key).map_err(text)?.pem();
    let issuer = Issuer::new(params, key);

    let names = [host, &format!("*.{parent}"), LOCAL[0], LOCAL[1]].map(str::to_owned);
    let mut params = dated(names.to_vec(), now)?;
    params.distinguished_name.push(DnType::CommonName, host);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(text)?;
    let leaf = params.signed_by(&key, &issuer).map_err(text)?;
    let server = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .map_err(|error| error.to_string())?;
    Ok(Authority { certificate, server: Arc::new(server) })
}

fn dated(names: Vec<String>, now: Timestamp) -> Result<CertificateParams, String> {
    let mut params = CertificateParams::new(names).map_err(|error| error.to_string())?;
    let now = date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default());
    params.not_before = now - BEFORE;
    params.not_after = now + LIFE;
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params)
}

#[cfg(test)]
mod tests {
    use domain::clock::{Clock, SystemClock};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::{ClientConfig, RootCertStore};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    #[tokio::test]
    async fn who_trusts_the_authority_trusts_the_listener_under_its_names_only() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let authority = make("results.example.test", SystemClock.now()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.certificate.as_bytes()).unwrap()).unwrap();
        let client = Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());
        for (name, trusted) in [
            ("results.example.test", true),
            ("other.example.test", true),
            ("localhost", true),
            ("127.0.0.1", true),
            ("example.com", false),
        ] {
            let (here, there) = tokio::io::duplex(64 * 1024);
            let name = ServerName::try_from(name).unwrap();
            let (connector, acceptor) =
                (TlsConnector::from(client.clone()), TlsAcceptor::from(authority.server.clone()));
            let (connected, _) = tokio::join!(connector.connect(name.clone(), here), acceptor.accept(there));
            assert_eq!(connected.is_ok(), trusted, "{name:?}");
        }
    }
}
