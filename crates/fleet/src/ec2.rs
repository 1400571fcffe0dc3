//! The port to EC2: the calls this crate makes, in plain values. The real one is `aws` (feature `aws`); tests and the
//! simulation bring their own.
//!
//! A call is one request: nothing below this port tries again. What an error means is decided above it
//! (`crate::error`), by its code.

use std::collections::BTreeMap;

use async_trait::async_trait;
use domain::clock::Timestamp;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// EC2 answered with an error.
    #[error("{code}: {message}")]
    Refused {
        /// EC2's code, such as `RequestLimitExceeded`.
        code: String,
        /// EC2's words.
        message: String,
        /// HTTP status.
        status: u16,
    },
    /// No answer that could be read: a timeout, a broken connection, bytes that are not XML. The request may have been
    /// carried out.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// There were no credentials to sign with; nothing was sent.
    #[error("no credentials: {0}")]
    Credentials(String),
}

/// `CreateFleet` of the type `instant`: the whole request, so that a repeated one is equal to the last byte.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetRequest {
    /// At most 64 ASCII characters. EC2 answers a repeated request with the same token with the same instances.
    pub client_token: String,
    /// Name of the launch template; always its `$Latest` version.
    pub launch_template: String,
    /// Where and what, in order of preference.
    pub overrides: Vec<Override>,
    /// How many instances.
    pub capacity: u32,
    /// `spot` with `price-capacity-optimized`, else `on-demand` with `prioritized`.
    pub spot: bool,
    /// Tags of the instances, in a fixed order.
    pub tags: Vec<(String, String)>,
}

/// One pool of capacity a fleet may draw from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Override {
    /// Instance type.
    pub instance_type: String,
    /// Subnet, and with it the zone; absent: EC2's choice.
    pub subnet: Option<String>,
    /// For `prioritized`: lower comes first.
    pub priority: Option<u32>,
    /// Root volume.
    pub volume: Option<Volume>,
}

/// An encrypted `gp3` volume that goes with its instance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Volume {
    /// Device name.
    pub device: String,
    /// Size in GiB.
    pub gib: u32,
}

/// What came of a fleet request. Instances count whether or not there are errors beside them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FleetAnswer {
    /// EC2's id of the fleet.
    pub fleet_id: String,
    /// What was launched.
    pub instances: Vec<FleetInstance>,
    /// Which overrides failed, and why.
    pub errors: Vec<FleetError>,
}

/// A launched instance.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetInstance {
    /// Its id.
    pub id: String,
    /// Its type.
    pub instance_type: String,
    /// Its zone, where the answer names one.
    pub zone: Option<String>,
    /// Its subnet, where the answer names one.
    pub subnet: Option<String>,
    /// Whether it is a spot instance.
    pub spot: bool,
}

/// An override that did not yield.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetError {
    /// EC2's code.
    pub code: String,
    /// EC2's words.
    pub message: String,
    /// Of the override.
    pub instance_type: Option<String>,
    /// Of the override.
    pub subnet: Option<String>,
    /// Of the override, where named.
    pub zone: Option<String>,
}

/// An instance as `DescribeInstances` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// Its id.
    pub id: String,
    /// EC2's word: `pending`, `running`, `stopping`, `stopped`, `shutting-down`, `terminated`.
    pub state: String,
    /// Its type.
    pub instance_type: String,
    /// Its zone.
    pub zone: Option<String>,
    /// Whether it is a spot instance.
    pub spot: bool,
    /// EC2's word: `arm64`, `x86_64`, …
    pub arch: Option<String>,
    /// The image it was launched from.
    pub image: Option<String>,
    /// ARN of its instance profile.
    pub profile: Option<String>,
    /// When it was launched (or last started).
    pub launched_at: Option<Timestamp>,
    /// EC2's words for its last change of state by somebody's wish, such as
    /// `User initiated (2026-01-31 10:23:34 GMT)`; empty for a running instance.
    pub transition: Option<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// Which instances to describe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// By id, at most 100.
    Ids(Vec<String>),
    /// By filters: name and values.
    Filters(Vec<(String, Vec<String>)>),
}

/// A subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// Its id.
    pub id: String,
    /// Its zone.
    pub zone: String,
    /// Addresses left.
    pub free_addresses: u32,
}

/// The newest version of a launch template.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Template {
    /// The image it names, parameters of Systems Manager resolved.
    pub image: Option<String>,
}

/// A request for spot capacity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpotRequest {
    /// Its id.
    pub id: String,
    /// The instance it brought, once it is fulfilled.
    pub instance: Option<String>,
    /// Whether it outlives its instance. A one-time request ends with it.
    pub persistent: bool,
}

/// A price of spot capacity now.
#[derive(Debug, Clone, PartialEq)]
pub struct SpotPrice {
    /// Instance type.
    pub instance_type: String,
    /// Zone.
    pub zone: String,
    /// US dollars per hour.
    pub usd: f64,
}

/// The calls. Every list is complete: pages are followed.
#[async_trait]
pub trait Ec2: Send + Sync + 'static {
    /// `CreateFleet`; at most 30 s.
    async fn create_fleet(&self, request: &FleetRequest) -> Result<FleetAnswer, ApiError>;
    /// `CreateTags`: sets or overwrites tags of at most 1,000 instances.
    async fn create_tags(&self, ids: &[String], tags: &[(String, String)]) -> Result<(), ApiError>;
    /// `DeleteTags`: removes tags by key, whatever their values.
    async fn delete_tags(&self, ids: &[String], keys: &[String]) -> Result<(), ApiError>;
    /// `DescribeInstances`.
    async fn describe_instances(&self, selection: &Selection) -> Result<Vec<Instance>, ApiError>;
    /// `StartInstances`.
    async fn start_instances(&self, ids: &[String]) -> Result<(), ApiError>;
    /// `StopInstances`.
    async fn stop_instances(&self, ids: &[String]) -> Result<(), ApiError>;
    /// `TerminateInstances`.
    async fn terminate_instances(&self, ids: &[String]) -> Result<(), ApiError>;
    /// `DescribeSubnets`.
    async fn describe_subnets(&self, ids: &[String]) -> Result<Vec<Subnet>, ApiError>;
    /// `DescribeInstanceTypeOfferings` by availability zone: pairs of type and zone.
    async fn offerings(&self) -> Result<Vec<(String, String)>, ApiError>;
    /// `DescribeSpotPriceHistory` of now, for Linux (`Linux/UNIX`) or Windows (`Windows`); newest first per type and
    /// zone.
    async fn spot_prices(&self, types: &[String], product: &str) -> Result<Vec<SpotPrice>, ApiError>;
    /// `DescribeLaunchTemplateVersions` of `$Latest`; `None` when there is no such template.
    async fn template(&self, name: &str) -> Result<Option<Template>, ApiError>;
    /// `DescribeSpotInstanceRequests` by filters: name and values.
    async fn spot_requests(&self, filters: &[(String, Vec<String>)]) -> Result<Vec<SpotRequest>, ApiError>;
    /// `CancelSpotInstanceRequests`, at most 100.
    async fn cancel_spot_requests(&self, requests: &[String]) -> Result<(), ApiError>;
}
