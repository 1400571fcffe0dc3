//! EC2, as one process reaches it.

use std::sync::Arc;

use async_trait::async_trait;
use domain::clock::Rng;
use fleet::ec2::{
    ApiError, Ec2, FleetAnswer, FleetRequest, Instance, Selection, SpotPrice, SpotRequest, Subnet, Template,
};

use crate::cloud::Cloud;
use crate::world::mutation::Mutation;
use crate::world::process::{Port, Process};

/// See the module.
pub struct ProcessEc2 {
    /// Whose.
    pub process: Arc<Process>,
    /// The cloud of everybody.
    pub cloud: Arc<Cloud>,
    /// Makes what a deliberate bug needs.
    pub rng: Arc<dyn Rng>,
    /// A deliberate bug.
    pub mutation: Option<Mutation>,
}

fn no_answer<T>() -> Result<T, ApiError> {
    Err(ApiError::NoAnswer("the connection broke".to_owned()))
}

impl ProcessEc2 {
    async fn call<T>(
        &self,
        name: &'static str,
        call: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        self.process.call(Port::Compute, name, no_answer, call).await
    }

    /// The running instance of a kind that was started last.
    fn last_running(&self, kind: impl Fn(&Instance) -> bool) -> Option<String> {
        let running = self.cloud.instances().into_iter().filter(|i| i.state == "running" && kind(i));
        running.max_by(|a, b| (a.launched_at, &a.id).cmp(&(b.launched_at, &b.id))).map(|last| last.id)
    }
}

#[async_trait]
impl Ec2 for ProcessEc2 {
    async fn create_fleet(&self, request: &FleetRequest) -> Result<FleetAnswer, ApiError> {
        let mut request = request.clone();
        match self.mutation {
            Some(Mutation::NoClientToken) => request.client_token = self.rng.token(),
            Some(Mutation::OneTooMany) => request.capacity += 1,
            Some(Mutation::NoTags) => request.tags.clear(),
            _ => {}
        }
        let for_job = |(name, _): &(String, String)| name == provider::tags::LAUNCH_ID;
        if self.mutation == Some(Mutation::MakeNoSpares) && !request.tags.iter().any(for_job) {
            return self.call("ec2.create_fleet", async { Ok(FleetAnswer::default()) }).await;
        }
        self.call("ec2.create_fleet", self.cloud.create_fleet(&request)).await
    }
    async fn create_tags(&self, ids: &[String], tags: &[(String, String)]) -> Result<(), ApiError> {
        let create = async {
            match self.mutation {
                Some(Mutation::NoTags) => Ok(()),
                _ => self.cloud.create_tags(ids, tags).await,
            }
        };
        self.call("ec2.create_tags", create).await
    }
    async fn delete_tags(&self, ids: &[String], keys: &[String]) -> Result<(), ApiError> {
        self.call("ec2.delete_tags", self.cloud.delete_tags(ids, keys)).await
    }
    async fn describe_instances(&self, selection: &Selection) -> Result<Vec<Instance>, ApiError> {
        let describe = async {
            let mut found = self.cloud.describe_instances(selection).await?;
            if self.mutation == Some(Mutation::BelieveGone) {
                for instance in &mut found {
                    instance.state = "terminated".to_owned();
                }
            }
            Ok(found)
        };
        self.call("ec2.describe_instances", describe).await
    }
    async fn start_instances(&self, ids: &[String]) -> Result<(), ApiError> {
        self.call("ec2.start_instances", self.cloud.start_instances(ids)).await
    }
    async fn stop_instances(&self, ids: &[String]) -> Result<(), ApiError> {
        let stop = async {
            match self.mutation {
                Some(Mutation::StopNothing) => return Ok(()),
                Some(Mutation::StopAnother) => {
                    if let Some(last) = self.last_running(|instance| !instance.spot) {
                        self.cloud.stop_instances(&[last]).await?;
                    }
                }
                _ => {}
            }
            self.cloud.stop_instances(ids).await
        };
        self.call("ec2.stop_instances", stop).await
    }
    async fn terminate_instances(&self, ids: &[String]) -> Result<(), ApiError> {
        let terminate = async {
            match self.mutation {
                Some(Mutation::TerminateNothing) => return Ok(()),
                Some(Mutation::TerminateAnother) => {
                    if let Some(last) = self.last_running(|_| true) {
                        self.cloud.terminate_instances(&[last]).await?;
                    }
                }
                _ => {}
            }
            self.cloud.terminate_instances(ids).await
        };
        self.call("ec2.terminate_instances", terminate).await
    }
    async fn describe_subnets(&self, ids: &[String]) -> Result<Vec<Subnet>, ApiError> {
        self.call("ec2.describe_subnets", self.cloud.describe_subnets(ids)).await
    }
    async fn offerings(&self) -> Result<Vec<(String, String)>, ApiError> {
        self.call("ec2.offerings", self.cloud.offerings()).await
    }
    async fn spot_prices(&self, types: &[String], product: &str) -> Result<Vec<SpotPrice>, ApiError> {
        self.call("ec2.spot_prices", self.cloud.spot_prices(types, product)).await
    }
    async fn template(&self, name: &str) -> Result<Option<Template>, ApiError> {
        self.call("ec2.template", self.cloud.template(name)).await
    }
    async fn spot_requests(&self, filters: &[(String, Vec<String>)]) -> Result<Vec<SpotRequest>, ApiError> {
        self.call("ec2.spot_requests", self.cloud.spot_requests(filters)).await
    }
    async fn cancel_spot_requests(&self, requests: &[String]) -> Result<(), ApiError> {
        self.call("ec2.cancel_spot_requests", self.cloud.cancel_spot_requests(requests)).await
    }
}
