//! EC2 itself: the port of [`crate::ec2`] on AWS's client.
//!
//! Properties:
//!
//! * **One call, one request.** The client never tries again; whoever calls decides, knowing what the error means.
//! * **Equal requests are equal bytes**, so that EC2 takes a repeated `CreateFleet` for the same one: everything that is
//!   sent is in the request value and keeps its order.
//! * **What may have happened is not called refused.** A timeout, a broken connection and an answer that cannot be read
//!   are [`ApiError::NoAnswer`]; only an error that EC2 put into words is a refusal; only a request that was never
//!   signed is a matter of credentials.
//! * **Lists are whole.** Pages are followed to the end; a page that points to itself is an error, not a loop.

mod call;
mod convert;

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::Builder;
use aws_sdk_ec2::types::{self, LocationType};
use aws_smithy_runtime_api::client::interceptors::SharedInterceptor;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::SdkConfig;
use domain::clock::Clock;

use crate::ec2::{
    ApiError, Ec2, FleetAnswer, FleetRequest, Instance, Selection, SpotPrice, SpotRequest, Subnet, Template,
};
use call::{Pages, call};

/// The most that a page of a list may hold.
const PAGE: i32 = 1000;

/// How long to wait for EC2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Duration,
    /// For the first byte of an answer.
    pub read: Duration,
    /// For one request.
    pub operation: Duration,
    /// For one `CreateFleet` (both for its first byte and for the whole): it takes longer than other calls, and giving
    /// up early leaves it unknown whether there are instances.
    pub create_fleet: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            read: Duration::from_secs(10),
            operation: Duration::from_secs(15),
            create_fleet: Duration::from_secs(30),
        }
    }
}

/// EC2 in the region of its configuration.
#[derive(Debug, Clone)]
pub struct AwsEc2 {
    client: Client,
    create_fleet: TimeoutConfig,
}

impl AwsEc2 {
    /// A client with the usual [`Timeouts`]. `interceptor` sees every call.
    pub fn new(config: &SdkConfig, interceptor: SharedInterceptor) -> Self {
        Self::with_timeouts(config, interceptor, Timeouts::default())
    }

    /// A client that waits as long as it is told.
    pub fn with_timeouts(config: &SdkConfig, interceptor: SharedInterceptor, timeouts: Timeouts) -> Self {
        let timeout = |read, operation| {
            TimeoutConfig::builder()
                .connect_timeout(timeouts.connect)
                .read_timeout(read)
                .operation_timeout(operation)
                .build()
        };
        let mut config = Builder::from(config)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeout(timeouts.read, timeouts.operation));
        config.push_interceptor(interceptor);
        Self {
            client: Client::from_conf(config.build()),
            create_fleet: timeout(timeouts.create_fleet, timeouts.create_fleet),
        }
    }
}

#[async_trait]
impl Ec2 for AwsEc2 {
    async fn create_fleet(&self, request: &FleetRequest) -> Result<FleetAnswer, ApiError> {
        let timeouts = Builder::new().timeout_config(self.create_fleet.clone());
        let answer = call!(convert::fleet_request(self.client.create_fleet(), request), timeouts)?;
        Ok(convert::fleet_answer(answer))
    }

    async fn create_tags(&self, ids: &[String], tags: &[(String, String)]) -> Result<(), ApiError> {
        let tags = Some(convert::to_tags(tags));
        call!(self.client.create_tags().set_resources(Some(ids.to_vec())).set_tags(tags)).map(drop)
    }

    async fn delete_tags(&self, ids: &[String], keys: &[String]) -> Result<(), ApiError> {
        // A tag without a value is removed whatever its value is.
        let tags = keys.iter().map(|key| types::Tag::builder().key(key).build()).collect();
        call!(self.client.delete_tags().set_resources(Some(ids.to_vec())).set_tags(Some(tags))).map(drop)
    }

    async fn describe_instances(&self, selection: &Selection) -> Result<Vec<Instance>, ApiError> {
        let request = match selection {
            // With ids there are no pages: EC2 refuses both together.
            Selection::Ids(ids) => self.client.describe_instances().set_instance_ids(Some(ids.clone())),
            Selection::Filters(filters) => filters
                .iter()
                .fold(self.client.describe_instances(), |request, (name, values)| {
                    request.filters(convert::filter(name, values))
                })
                .max_results(PAGE),
        };
        let mut instances = Vec::new();
        let mut pages = Pages::default();
        while pages.more() {
            let page = call!(request.clone().set_next_token(pages.token()))?;
            pages.turn(page.next_token)?;
            let found = page.reservations.unwrap_or_default().into_iter();
            instances.extend(found.flat_map(|r| r.instances.unwrap_or_default()).filter_map(convert::instance));
        }
        Ok(instances)
    }

    async fn start_instances(&self, ids: &[String]) -> Result<(), ApiError> {
        call!(self.client.start_instances().set_instance_ids(Some(ids.to_vec()))).map(drop)
    }

    async fn stop_instances(&self, ids: &[String]) -> Result<(), ApiError> {
        call!(self.client.stop_instances().set_instance_ids(Some(ids.to_vec()))).map(drop)
    }

    async fn terminate_instances(&self, ids: &[String]) -> Result<(), ApiError> {
        call!(self.client.terminate_instances().set_instance_ids(Some(ids.to_vec()))).map(drop)
    }

    async fn describe_subnets(&self, ids: &[String]) -> Result<Vec<Subnet>, ApiError> {
        let request = self.client.describe_subnets().set_subnet_ids(Some(ids.to_vec()));
        let mut subnets = Vec::new();
        let mut pages = Pages::default();
        while pages.more() {
            let page = call!(request.clone().set_next_token(pages.token()))?;
            pages.turn(page.next_token)?;
            subnets.extend(page.subnets.unwrap_or_default().into_iter().filter_map(convert::subnet));
        }
        Ok(subnets)
    }

    async fn offerings(&self) -> Result<Vec<(String, String)>, ApiError> {
        let request = self
            .client
            .describe_instance_type_offerings()
            .location_type(LocationType::AvailabilityZone)
            .max_results(PAGE);
        let mut offerings = Vec::new();
        let mut pages = Pages::default();
        while pages.more() {
            let page = call!(request.clone().set_next_token(pages.token()))?;
            pages.turn(page.next_token)?;
            let offered = page.instance_type_offerings.unwrap_or_default().into_iter();
            offerings.extend(offered.filter_map(|o| Some((o.instance_type?.as_str().to_owned(), o.location?))));
        }
        Ok(offerings)
    }

    async fn spot_prices(&self, types: &[String], product: &str) -> Result<Vec<SpotPrice>, ApiError> {
        // A history that begins now is the price of now. EC2 keeps time to the second.
        let now = domain::clock::SystemClock.now().as_second();
        let request = self
            .client
            .describe_spot_price_history()
            .set_instance_types(Some(types.iter().map(|t| types::InstanceType::from(t.as_str())).collect()))
            .product_descriptions(product)
            .start_time(aws_smithy_types::DateTime::from_secs(now))
            .max_results(PAGE);
        let mut prices = Vec::new();
        let mut pages = Pages::default();
        while pages.more() {
            let page = call!(request.clone().set_next_token(pages.token()))?;
            pages.turn(page.next_token)?;
            prices.extend(page.spot_price_history.unwrap_or_default());
        }
        Ok(convert::prices(prices))
    }

    async fn template(&self, name: &str) -> Result<Option<Template>, ApiError> {
        let request = self
            .client
            .describe_launch_template_versions()
            .launch_template_name(name)
            .versions("$Latest")
            .resolve_alias(true);
        match call!(request) {
            Ok(answer) => Ok(answer.launch_template_versions.unwrap_or_default().pop().map(convert::template)),
            Err(error) if convert::no_such_template(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn spot_requests(&self, filters: &[(String, Vec<String>)]) -> Result<Vec<SpotRequest>, ApiError> {
        let request = filters
            .iter()
            .fold(self.client.describe_spot_instance_requests(), |request, (name, values)| {
                request.filters(convert::filter(name, values))
            })
            .max_results(PAGE);
        let mut requests = Vec::new();
        let mut pages = Pages::default();
        while pages.more() {
            let page = call!(request.clone().set_next_token(pages.token()))?;
            pages.turn(page.next_token)?;
            let found = page.spot_instance_requests.unwrap_or_default().into_iter();
            requests.extend(found.filter_map(convert::spot_request));
        }
        Ok(requests)
    }

    async fn cancel_spot_requests(&self, requests: &[String]) -> Result<(), ApiError> {
        let ids = Some(requests.to_vec());
        call!(self.client.cancel_spot_instance_requests().set_spot_instance_request_ids(ids)).map(drop)
    }
}
