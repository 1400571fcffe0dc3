//! Signature Version 4. Pure.

use std::time::SystemTime;

use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4::SigningParams;
use aws_smithy_runtime_api::client::identity::Identity;

/// What a signature is good for.
pub(super) struct Scope<'a> {
    pub(super) region: &'a str,
    /// The service's name in signatures.
    pub(super) service: &'a str,
    pub(super) time: SystemTime,
    pub(super) identity: &'a Identity,
}

/// The headers that have to be added to a POST with these. The host is signed as an HTTP client sends it.
pub(super) fn post(
    scope: &Scope<'_>,
    url: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Vec<(&'static str, String)>, String> {
    request(scope, "POST", url, headers, SignableBody::Bytes(body), SigningSettings::default())
}

/// The same for a PUT of an object whose content has this SHA-256, hex. S3 signs paths as they are.
pub(super) fn put(
    scope: &Scope<'_>,
    url: &str,
    headers: &[(&str, &str)],
    sha256: &str,
) -> Result<Vec<(&'static str, String)>, String> {
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    request(scope, "PUT", url, headers, SignableBody::Precomputed(sha256.to_owned()), settings)
}

fn request(
    scope: &Scope<'_>,
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: SignableBody<'_>,
    settings: SigningSettings,
) -> Result<Vec<(&'static str, String)>, String> {
    let params = SigningParams::builder()
        .identity(scope.identity)
        .region(scope.region)
        .name(scope.service)
        .time(scope.time)
        .settings(settings)
        .build()
        .map_err(|error| error.to_string())?;
    let request =
        SignableRequest::new(method, url, headers.iter().copied(), body).map_err(|error| error.to_string())?;
    let signed = sign(request, &params.into()).map_err(|error| error.to_string())?;
    let (headers, _) = signed.into_parts().0.into_parts();
    Ok(headers.into_iter().map(|header| (header.name(), header.value().to_owned())).collect())
}
