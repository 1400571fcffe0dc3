//! What the agent's ports are made of on this kind of machine.

use std::io;
use std::sync::Arc;

use domain::clock::Clock;
use provider::handover::HandOver;

#[cfg(feature = "aws")]
use crate::aws::{Aws, ec2::Instance, imds::Imds, s3::Buckets, sqs::Queue, ssm::Parameters};
use crate::environment::{Backend, Environment, Secrets};
use crate::log::Log;
use crate::logs::Bucket;
use crate::machine::{Machine, Process};
use crate::pod::{LastWord, Ready};
use crate::report::{Channel, Spool};
use crate::watch::Metadata;

/// The ports.
pub(crate) struct BackEnds {
    pub(crate) store: Arc<dyn HandOver>,
    pub(crate) channel: Arc<dyn Channel>,
    pub(crate) machine: Arc<dyn Machine>,
    /// Where logs are kept, if anywhere.
    pub(crate) bucket: Option<Arc<dyn Bucket>>,
    /// What the machine knows about itself, if it does.
    pub(crate) metadata: Option<Arc<dyn Metadata>>,
}

/// Builds them. What is not compiled in was refused when the environment was read.
#[cfg_attr(not(feature = "aws"), allow(unused_mut, reason = "only a cloud has them"))]
pub(crate) fn build(environment: &Environment, clock: Arc<dyn Clock>, log: &Log) -> io::Result<BackEnds> {
    let aws = aws(environment, clock, log)?;
    let mut bucket: Option<Arc<dyn Bucket>> = None;
    let mut metadata: Option<Arc<dyn Metadata>> = None;
    let store: Arc<dyn HandOver> = match (&environment.secrets, &aws) {
        #[cfg(feature = "local")]
        (Secrets::Files(dir), _) => Arc::new(provider::local::FileHandOver::new(dir)),
        #[cfg(feature = "aws")]
        (Secrets::Parameters { prefix, config }, Some(aws)) => {
            Arc::new(Parameters::new(Arc::clone(aws), prefix.clone(), config.clone()))
        }
        #[cfg(feature = "vault")]
        (Secrets::Vault(vault), aws) => Arc::new(crate::vault::store(vault, aws.as_ref(), log)?),
        (Secrets::Mounted(mounted), _) => {
            let mounted = mounted.clone();
            Arc::new(Ready(move || mounted.read()))
        }
        (Secrets::Given(document), _) => {
            let document = document.clone();
            Arc::new(Ready(move || Ok((*document).clone())))
        }
        #[cfg(not(all(feature = "vault", feature = "local")))]
        _ => return Err(io::ErrorKind::Unsupported.into()),
        #[cfg(all(feature = "vault", feature = "local"))]
        (Secrets::Parameters { .. }, None) => return Err(io::ErrorKind::Unsupported.into()),
    };
    let (channel, machine): (Arc<dyn Channel>, Arc<dyn Machine>) = match (environment.backend, aws) {
        (Backend::Pod, _) => (Arc::new(LastWord(environment.termination_log.clone())), Arc::new(Process)),
        (Backend::Local, _) => (Arc::new(Spool(environment.report_spool.clone())), Arc::new(Process)),
        #[cfg(feature = "aws")]
        (Backend::Ec2, Some(aws)) => {
            if let Some(base) = environment.cloud.as_ref().and_then(|cloud| cloud.metadata.as_deref()) {
                metadata = Some(Arc::new(Imds::new(base).map_err(io::Error::other)?));
            }
            bucket = Some(Arc::new(Buckets::new(Arc::clone(&aws))));
            let (key, power_off) = (environment.key.clone(), environment.power_off.clone());
            let instance = Instance::new(Arc::clone(&aws), key, environment.retry_base, power_off);
            (Arc::new(Queue::new(aws)), Arc::new(instance))
        }
        (Backend::Ec2, _) => return Err(io::ErrorKind::Unsupported.into()),
    };
    Ok(BackEnds { store, channel, machine, bucket, metadata })
}

#[cfg(feature = "aws")]
fn aws(environment: &Environment, clock: Arc<dyn Clock>, log: &Log) -> io::Result<Option<Arc<Aws>>> {
    let aws = environment.cloud.as_ref().map(|cloud| Aws::new(cloud, clock, log)).transpose();
    aws.map(|aws| aws.map(Arc::new)).map_err(io::Error::other)
}

#[cfg(not(feature = "aws"))]
fn aws(_: &Environment, _: Arc<dyn Clock>, _: &Log) -> io::Result<Option<std::convert::Infallible>> {
    Ok(None)
}
