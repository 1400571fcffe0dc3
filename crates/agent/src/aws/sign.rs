//! Signature Version 4 of a POST. Pure.

use std::time::SystemTime;

use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
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

/// The headers that have to be added to a request with these. The host is signed as an HTTP client sends it.
pub(super) fn post(
    scope: &Scope<'_>,
    url: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Vec<(&'static str, String)>, String> {
    let params = SigningParams::builder()
        .identity(scope.identity)
        .region(scope.region)
        .name(scope.service)
        .time(scope.time)
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| error.to_string())?;
    let request = SignableRequest::new("POST", url, headers.iter().copied(), SignableBody::Bytes(body))
        .map_err(|error| error.to_string())?;
    let signed = sign(request, &params.into()).map_err(|error| error.to_string())?;
    let (headers, _) = signed.into_parts().0.into_parts();
    Ok(headers.into_iter().map(|header| (header.name(), header.value().to_owned())).collect())
}
