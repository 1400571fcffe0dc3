//! What an error of EC2 means: one table from its code to a class, and from the class to what is done about it.
//!
//! The code decides, wherever there is one; words are looked at only where EC2 puts different causes under one code.

use std::time::Duration;

use domain::clock::Rng;
use provider::compute;

use crate::ec2::{ApiError, FleetError};

#[cfg(test)]
mod tests;

/// Longest text of an error that is passed on, in characters.
const MESSAGE_LIMIT: usize = 512;

/// Classes of errors, worst first: of several, the least decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// We may not, or nobody knows us: launching pauses.
    Credentials,
    /// The launch template, a subnet, a key is wrong: jobs wait until an operator mends it.
    Deployment,
    /// This job's own wishes cannot be met by anybody.
    Invalid,
    /// A limit of the account.
    Quota,
    /// Nothing left of this kind at the moment.
    Capacity,
    /// Too many calls.
    Throttled,
    /// Trouble on the way, or unknown.
    Transient,
    /// The client token was used before, with another request.
    TokenReused,
    /// There is no such instance.
    NotFound,
    /// The instance is not in a state for this.
    WrongState,
}

/// An error with its meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What it means.
    pub class: Class,
    /// EC2's code; empty when there was no answer.
    pub code: String,
    /// EC2's words, at most 512 characters.
    pub message: String,
    /// Whether the request may have been carried out all the same.
    pub ambiguous: bool,
}

impl Failure {
    /// A failure of our own making.
    pub fn ours(class: Class, message: impl Into<String>) -> Self {
        Self { class, code: String::new(), message: message.into(), ambiguous: false }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let (class, code, message, ambiguous) = match error {
            ApiError::Refused { code, message, status } => {
                let class = class_of(&code, &message);
                (class, code, message, class == Class::Transient && status >= 500)
            }
            ApiError::NoAnswer(message) => (Class::Transient, String::new(), message, true),
            ApiError::Credentials(message) => (Class::Credentials, String::new(), message, false),
        };
        Self { class, code, message: short(&message), ambiguous }
    }
}

impl From<&FleetError> for Failure {
    fn from(error: &FleetError) -> Self {
        let class = class_of(&error.code, &error.message);
        Self { class, code: error.code.clone(), message: short(&error.message), ambiguous: false }
    }
}

impl From<&Failure> for compute::Error {
    fn from(failure: &Failure) -> Self {
        let text = match failure.code.as_str() {
            "" => failure.message.clone(),
            code => format!("{code}: {}", failure.message),
        };
        match failure.class {
            Class::Capacity | Class::Quota => Self::Capacity(text),
            Class::Throttled | Class::Transient | Class::TokenReused | Class::NotFound | Class::WrongState => {
                Self::Transient(text)
            }
            Class::Deployment | Class::Credentials => Self::Deployment(text),
            Class::Invalid => Self::Invalid(text),
        }
    }
}

fn short(message: &str) -> String {
    message.chars().take(MESSAGE_LIMIT).collect()
}

/// Codes that mean one thing whatever the words beside them. Names are those of the EC2 API's "Error codes" page.
const CODES: &[(&str, Class)] = &[
    ("RequestLimitExceeded", Class::Throttled),
    ("Throttling", Class::Throttled),
    ("ThrottlingException", Class::Throttled),
    ("TooManyRequestsException", Class::Throttled),
    ("EC2ThrottledException", Class::Throttled),
    ("InternalError", Class::Transient),
    ("InternalFailure", Class::Transient),
    ("ServiceUnavailable", Class::Transient),
    ("Unavailable", Class::Transient),
    ("InsufficientInstanceCapacity", Class::Capacity),
    ("InsufficientCapacity", Class::Capacity),
    ("UnfulfillableCapacity", Class::Capacity),
    ("InsufficientReservedInstancesCapacity", Class::Capacity),
    ("InsufficientReservedInstanceCapacity", Class::Capacity),
    ("InsufficientHostCapacity", Class::Capacity),
    ("InsufficientFreeAddressesInSubnet", Class::Capacity),
    ("ReservationCapacityExceeded", Class::Capacity),
    // A type that is not offered in a zone.
    ("Unsupported", Class::Capacity),
    ("SpotMaxPriceTooLow", Class::Capacity),
    ("MaxSpotInstanceCountExceeded", Class::Capacity),
    ("VcpuLimitExceeded", Class::Quota),
    ("InstanceLimitExceeded", Class::Quota),
    ("MaxIOPSLimitExceeded", Class::Quota),
    ("VolumeLimitExceeded", Class::Quota),
    ("MaxFleetCountExceeded", Class::Quota),
    ("InvalidBlockDeviceMapping", Class::Invalid),
    ("InvalidLaunchTemplateName.NotFoundException", Class::Deployment),
    ("InvalidSubnetID.NotFound", Class::Deployment),
    ("InvalidGroup.NotFound", Class::Deployment),
    ("InvalidKeyPair.NotFound", Class::Deployment),
    ("MissingParameter", Class::Deployment),
    ("ValidationError", Class::Deployment),
    ("UnauthorizedOperation", Class::Credentials),
    ("AuthFailure", Class::Credentials),
    ("ExpiredToken", Class::Credentials),
    ("ExpiredTokenException", Class::Credentials),
    ("InvalidClientTokenId", Class::Credentials),
    ("UnrecognizedClientException", Class::Credentials),
    ("OptInRequired", Class::Credentials),
    ("Blocked", Class::Credentials),
    ("PendingVerification", Class::Credentials),
    ("ServiceLinkedRoleCreationNotPermitted", Class::Credentials),
    ("IdempotentParameterMismatch", Class::TokenReused),
    ("InvalidInstanceID.NotFound", Class::NotFound),
    ("InvalidInstanceID.Malformed", Class::NotFound),
    ("IncorrectInstanceState", Class::WrongState),
];

/// What an error code, with the words that came with it, means.
pub fn class_of(code: &str, message: &str) -> Class {
    if let Some((_, class)) = CODES.iter().find(|(known, _)| *known == code) {
        return *class;
    }
    let families = ["InvalidLaunchTemplateId.", "InvalidAMIID.", "InvalidFleetConfig"];
    if families.iter().any(|family| code.starts_with(family)) || code.contains("KMS") {
        return Class::Deployment;
    }
    let words = message.to_ascii_lowercase();
    if code.starts_with("InvalidParameter") {
        return if names_a_wish(&words) { Class::Invalid } else { Class::Deployment };
    }
    if words.contains("insufficient capacity") { Class::Capacity } else { Class::Transient }
}

/// Whether lower-case words of EC2 speak of something the job chose.
fn names_a_wish(words: &str) -> bool {
    ["instance type", "instancetype", "volume size", "volumesize", "volume of size"].iter().any(|w| words.contains(w))
}

/// The code as a metric's label: one of the table, else `other`.
pub fn label_of(code: &str) -> &'static str {
    CODES.iter().map(|(known, _)| *known).find(|known| *known == code).unwrap_or("other")
}

/// How often a call is made at most, when it fails like this.
pub const fn tries(class: Class) -> u32 {
    match class {
        Class::Throttled => 5,
        Class::Transient => 3,
        _ => 1,
    }
}

/// How long to wait after the `failed`-th try (from 1): full jitter up to 1, 2, 4 … 20 s when throttled, else about
/// 2 s and 4 s.
pub fn pause(class: Class, failed: u32, rng: &dyn Rng) -> Duration {
    let doublings = failed.saturating_sub(1).min(5);
    match class {
        Class::Throttled => Duration::from_secs((1 << doublings).min(20)).mul_f64(rng.unit()),
        _ => rng.jitter(Duration::from_secs(2 << doublings.min(1)), 0.2),
    }
}
