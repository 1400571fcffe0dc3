//! The settings of calls to AWS: region, endpoints, credentials.

use domain::handover::Credential;
use reqwest::Url;

use super::{Fatal, Reader};

/// The region of an agent that was told none.
const REGION: &str = "ap-northeast-1";

/// Where every instance finds its metadata.
const METADATA: &str = "http://169.254.169.254";

/// Domains of the partitions that have one of their own, by the beginning of their regions' names.
const PARTITIONS: [(&str, &str); 4] =
    [("cn-", "amazonaws.com.cn"), ("eusc-", "amazonaws.eu"), ("us-iso-", "c2s.ic.gov"), ("us-isob-", "sc2s.sgov.gov")];

/// What calls to AWS need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cloud {
    /// The region, for endpoints and signatures.
    pub region: String,
    /// Where the services are.
    pub endpoints: Endpoints,
    /// Who calls.
    pub identity: Identity,
    /// Base URL of the instance metadata service; absent when it must not be asked.
    pub metadata: Option<String>,
}

/// Who calls AWS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The owner of these keys.
    Keys(Keys),
    /// Whoever the metadata service at this base URL says the instance is.
    Role {
        /// Base URL.
        metadata: String,
    },
}

/// Where the services are: a base URL each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// Parameter Store.
    pub ssm: String,
    /// Queues.
    pub sqs: String,
    /// Instances.
    pub ec2: String,
    /// Objects.
    pub s3: String,
}

/// An access key.
#[derive(Debug, Clone, PartialEq)]
pub struct Keys {
    /// Its id, which is no secret.
    pub id: String,
    /// The key itself.
    pub secret: Credential,
    /// The token of a temporary key; empty for a lasting one.
    pub session_token: Credential,
}

impl Eq for Keys {}

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    pub(super) fn cloud(&mut self) -> Result<Cloud, Fatal> {
        let region = self.region();
        let metadata = self.metadata();
        let identity = match (self.text("AWS_ACCESS_KEY_ID"), &metadata) {
            (None, Some(metadata)) => Identity::Role { metadata: metadata.clone() },
            (id, _) => Identity::Keys(Keys {
                id: id.ok_or(Fatal::Missing("AWS_ACCESS_KEY_ID"))?,
                secret: self.secret("AWS_SECRET_ACCESS_KEY").ok_or(Fatal::Missing("AWS_SECRET_ACCESS_KEY"))?,
                session_token: self.secret("AWS_SESSION_TOKEN").unwrap_or_default(),
            }),
        };
        Ok(Cloud {
            endpoints: Endpoints {
                ssm: self.endpoint("ssm", "AWS_ENDPOINT_URL_SSM", &region),
                sqs: self.endpoint("sqs", "AWS_ENDPOINT_URL_SQS", &region),
                ec2: self.endpoint("ec2", "AWS_ENDPOINT_URL_EC2", &region),
                s3: self.endpoint("s3", "AWS_ENDPOINT_URL_S3", &region),
            },
            identity,
            metadata,
            region,
        })
    }

    /// Where the metadata service is; `None` when it is switched off.
    pub(super) fn metadata(&self) -> Option<String> {
        let off = self.text("AWS_EC2_METADATA_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true"));
        let base = || self.text("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| METADATA.to_owned());
        (!off).then(base)
    }

    fn secret(&self, name: &str) -> Option<Credential> {
        self.text(name).map(Credential::new)
    }

    fn region(&mut self) -> String {
        for name in ["AWS_REGION", "AWS_DEFAULT_REGION"] {
            let Some(region) = self.text(name) else { continue };
            // It becomes a part of host names.
            if region.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
                return region;
            }
            self.warnings.push(format!("{name} is ignored: it must be the name of a region"));
        }
        REGION.to_owned()
    }

    /// The service's own override, else the common one, else where AWS has it.
    fn endpoint(&mut self, service: &str, own: &str, region: &str) -> String {
        for name in [own, "AWS_ENDPOINT_URL"] {
            let Some(url) = self.text(name) else { continue };
            if Url::parse(&url).is_ok_and(|url| url.has_host() && matches!(url.scheme(), "http" | "https")) {
                return url;
            }
            let warning = format!("{name} is ignored: it must be an http(s) URL");
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
        format!("https://{service}.{region}.{}", domain_of(region))
    }
}

fn domain_of(region: &str) -> &'static str {
    PARTITIONS.into_iter().find(|(prefix, _)| region.starts_with(prefix)).map_or("amazonaws.com", |(_, domain)| domain)
}
