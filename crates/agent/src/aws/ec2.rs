//! An EC2 instance that ends itself.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::ids::RunnerKey;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{Aws, Error};
use crate::log::Log;
use crate::machine::{Machine, PowerOff};

/// Calls before EC2 is given up.
const ATTEMPTS: u32 = 4;
/// What a query has to escape: everything but the unreserved characters.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl Aws {
    /// `TerminateInstances` of one instance. EC2 accepts it again for one that is ending.
    pub async fn terminate(&self, instance: &RunnerKey) -> Result<(), Error> {
        let id = utf8_percent_encode(instance.as_str(), ESCAPED);
        let body = format!("Action=TerminateInstances&Version=2016-11-15&InstanceId.1={id}");
        self.query("ec2", &self.endpoints.ec2, body).await
    }
}

/// Whether asking again is pointless. An unknown refusal is not: the attempts are few, and the machine costs money.
fn is_final(error: &Error) -> bool {
    match error {
        Error::Denied(_) | Error::NotFound(_) => true,
        Error::Refused(code) => code == "OperationNotPermitted" || code.starts_with("InvalidInstanceID."),
        Error::Throttled(_) | Error::NoAnswer(_) => false,
    }
}

/// The instance that the agent runs on. When EC2 does not end it, it powers off, which ends it too: its launch template
/// says so. When that fails as well, the exit code tells the service manager.
pub struct Instance {
    aws: Arc<Aws>,
    id: RunnerKey,
    retry_base: Duration,
    power_off: PowerOff,
}

impl Instance {
    /// The instance called `id`; pauses between attempts are `retry_base`, twice and four times that.
    pub fn new(aws: Arc<Aws>, id: RunnerKey, retry_base: Duration, power_off: PowerOff) -> Self {
        Self { aws, id, retry_base, power_off }
    }

    async fn terminate(&self, log: &Log) -> bool {
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(self.retry_base * 2_u32.pow(attempt - 1)).await;
            }
            match self.aws.terminate(&self.id).await {
                Ok(()) => {
                    log.info("terminate_accepted", &[("attempt", (attempt + 1).into())]);
                    return true;
                }
                Err(error) => {
                    log.warn("terminate_failed", &[("error", Value::from(error.to_string()))]);
                    if is_final(&error) {
                        break;
                    }
                }
            }
        }
        false
    }
}

#[async_trait]
impl Machine for Instance {
    async fn end(&self, log: &Log) -> bool {
        if self.terminate(log).await || self.power_off.run(log).await {
            return true;
        }
        log.error("machine_left_standing", &[("reason", "neither EC2 nor the system ends it".into())]);
        false
    }
}
