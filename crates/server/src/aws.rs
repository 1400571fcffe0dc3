//! The back ends of AWS: one SDK configuration, one HTTP client, and what is built on them.

use std::sync::Arc;

use admin::WatchedQueue;
use anyhow::Context;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_smithy_http_client::tls::{self, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::interceptors::SharedInterceptor;
use aws_smithy_types::retry::RetryConfig;
use cache::store::S3Store;
use config::{Config, Fleet, StoreKind};
use db::dynamodb::{DynamoDb, TableNames};
use db::schema;
use dispatch::Ports;
use domain::clock::{Clock, Rng, SystemClock, SystemRng};
use fleet::aws::AwsEc2;
use fleet::{Breaker, Ec2Compute, Settings, TagSettings};
use provider::blobs::S3Blobs;
use provider::ssm::{InstancePlace, SsmHandOver};
use provider::{BlobStore, HandOver};
use queue::Queue;
use queue::sqs::{self, SqsQueue};
use telemetry::Metrics;
use tracing::warn;

use crate::back_ends::{self, BackEnds, KeepsHouse};
use crate::pools;

/// What every client is made from. Endpoints follow the standard variables `AWS_ENDPOINT_URL` and
/// `AWS_ENDPOINT_URL_<SERVICE>`, credentials the default chain. Nothing below a back end tries again.
pub(crate) async fn sdk(region: Option<&str>) -> SdkConfig {
    let tls = tls::Provider::Rustls(CryptoMode::Ring);
    let http = aws_smithy_http_client::Builder::new().tls_provider(tls).build_https();
    let loader =
        aws_config::defaults(BehaviorVersion::v2026_01_12()).http_client(http).retry_config(RetryConfig::disabled());
    match region {
        Some(region) => loader.region(Region::new(region.to_owned())).load().await,
        None => loader.load().await,
    }
}

/// Everything for jobs that run on EC2.
pub(crate) async fn back_ends(config: &Config, simulated: bool, metrics: Metrics) -> anyhow::Result<BackEnds> {
    let fleet = config.fleet.as_ref().context("EC2 is not configured")?;
    anyhow::ensure!(
        config.tuning.time_divisor <= 2,
        "RUNS_FLEET_TEST_TIME_DIVISOR above 2 leaves an attempt no time for a request to EC2"
    );
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let rng: Arc<dyn Rng> = Arc::new(SystemRng);
    let sdk = sdk(Some(&config.core.region)).await;
    let calls = telemetry::aws::calls(metrics.clone(), Arc::clone(&clock));

    let bucket_calls = calls.clone();
    let (table, alone) = store(config, &sdk, &calls, &clock, &rng).await?;
    let lease = config.core.locks_table.as_ref().map(|name| -> Arc<dyn db::Table> {
        let names = TableNames::new().table(&schema::LOCKS, name);
        Arc::new(DynamoDb::new(&sdk, calls.clone(), names, Arc::clone(&clock), Arc::clone(&rng)))
    });
    let queues = Queues::open(config, &sdk, &calls)?;
    for warning in sqs::check(&queues.main).await {
        warn!(queue = "main", warning, "the main queue is not as it should be");
    }
    let circuits = Arc::new(db::Circuits::new(Arc::clone(&table), Arc::clone(&rng)));
    let compute = Arc::new(Ec2Compute::new(
        Arc::new(AwsEc2::new(&sdk, calls.clone())),
        ec2_settings(config, fleet),
        Some(Breaker::new(circuits, Arc::clone(&clock), metrics.clone())),
        Arc::clone(&clock),
        Arc::clone(&rng),
        metrics.clone(),
    ));
    let place = place(&fleet.instance_profile_arn, &config.core.region);
    let mut github = back_ends::client(config, &clock, &rng)?;
    if simulated {
        github = github.with_changes_per_minute(usize::MAX >> 1);
    }
    let small = small_rows(config, Arc::clone(&table), &clock);
    let archive = config.store.archive_bucket.as_ref().map(|bucket| S3Blobs::new(&sdk, calls.clone(), bucket));
    let jobs = db::Jobs::new(Arc::clone(&table), Arc::clone(&clock));
    let hand_over: Arc<dyn HandOver> = match &config.secrets.vault {
        Some(vault) => Arc::new(crate::vault::store(vault, &sdk, Arc::clone(&clock), Arc::clone(&rng))?),
        None => Arc::new(SsmHandOver::new(&sdk, calls, &config.secrets.path_prefix, place.clone())),
    };
    // Claims that die with this process would not keep two replicas apart.
    let kept = config.store.kind != StoreKind::DynamoDb || config.store.pools_table.is_some();
    let pools = kept.then(|| {
        pools::build(
            config,
            pools::Parts {
                table: Arc::clone(&small),
                jobs: jobs.clone(),
                compute: compute.clone(),
                hand_over: Arc::clone(&hand_over),
                clock: Arc::clone(&clock),
                rng: Arc::clone(&rng),
                metrics: metrics.clone(),
            },
        )
    });
    let ports = Ports {
        jobs,
        runners: db::Runners::new(Arc::clone(&table), Arc::clone(&clock)),
        markers: db::Markers::new(Arc::clone(&small), Arc::clone(&clock)),
        main: queues.main.clone(),
        dead_letters: queues.dead_letters.clone(),
        compute: compute.clone(),
        pools,
        hand_over,
        github: Arc::new(github.with_metrics(metrics.clone())),
        clock,
        rng,
        metrics,
    };
    let mut cache = crate::cache::directory(config)?;
    if let Some(bucket) = config.cache.bucket.as_ref().filter(|_| config.cache.served && cache.is_none()) {
        cache = Some(Arc::new(S3Store::new(&sdk, &bucket_calls, bucket, Arc::clone(&ports.clock))));
    }
    let mut settings = back_ends::settings(config, &ports)?;
    settings.account = place.map(|place| place.account);
    Ok(BackEnds {
        settings,
        secrets: back_ends::secrets(config)?,
        cache,
        ports,
        reports: queues.termination,
        events: queues.events,
        webhooks: queues.webhook,
        queues: queues.watched,
        alone,
        lease,
        upkeep: vec![Box::pin(async move { compute.maintain().await })],
        keeps_house: KeepsHouse {
            table: small,
            archive: archive.map(|archive| Arc::new(archive) as Arc<dyn BlobStore>),
            requests: queues.housekeeping,
        },
    })
}

/// Whose the machines are: the account of the role they get, `arn:aws:iam::123456789012:instance-profile/name`.
fn place(instance_profile: &str, region: &str) -> Option<InstancePlace> {
    let mut parts = instance_profile.split(':');
    let (partition, account) = (parts.nth(1)?, parts.nth(2)?);
    let complete = !partition.is_empty() && account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
    complete.then(|| InstancePlace {
        partition: partition.to_owned(),
        region: region.to_owned(),
        account: account.to_owned(),
    })
}

/// Where small rows live. Without a table for them they live in this process and die with it: enough for one replica.
fn small_rows(config: &Config, table: Arc<dyn db::Table>, clock: &Arc<dyn Clock>) -> Arc<dyn db::Table> {
    match (config.store.kind, &config.store.pools_table) {
        (StoreKind::DynamoDb, None) => Arc::new(db::Memory::new(Arc::clone(clock))),
        _ => table,
    }
}

/// The store, and whether nobody else can be using it.
async fn store(
    config: &Config,
    sdk: &SdkConfig,
    calls: &SharedInterceptor,
    clock: &Arc<dyn Clock>,
    rng: &Arc<dyn Rng>,
) -> anyhow::Result<(Arc<dyn db::Table>, bool)> {
    match config.store.kind {
        StoreKind::DynamoDb => {}
        #[cfg(feature = "local")]
        StoreKind::Embedded => {
            let path = std::path::Path::new(&config.store.path);
            return Ok((Arc::new(db::Sqlite::open(path, Arc::clone(clock))?), true));
        }
        other => anyhow::bail!("this build has no store `{}`: see RUNS_FLEET_STORE", other.as_str()),
    }
    let store = DynamoDb::new(sdk, calls.clone(), table_names(config), Arc::clone(clock), Arc::clone(rng));
    for warning in store.check().await.context("the tables are not as they must be")? {
        warn!(warning, "a table is not as it should be");
    }
    Ok((Arc::new(store), false))
}

fn table_names(config: &Config) -> TableNames {
    let store = &config.store;
    let mut names = TableNames::new()
        .table(&schema::RUNNERS, &store.runners_table)
        .table(&schema::CIRCUITS, &store.circuit_breaker_table);
    let tables = [
        (&schema::JOBS, &store.jobs_table),
        (&schema::POOLS, &store.pools_table),
        (&schema::AUDIT, &store.audit_table),
    ];
    for (table, name) in tables {
        if let Some(name) = name {
            names = names.table(table, name);
        }
    }
    let indexes = [
        (schema::STATUS_CREATED, &store.jobs_status_gsi),
        (schema::INSTANCE_ID, &store.jobs_instance_id_gsi),
        (schema::POOL_STATUS, &store.jobs_pool_status_gsi),
    ];
    for (index, name) in indexes {
        if let Some(name) = name {
            names = names.index(index, name);
        }
    }
    names
}

struct Queues {
    main: Arc<SqsQueue>,
    dead_letters: Option<Arc<dyn Queue>>,
    termination: Option<Arc<dyn Queue>>,
    events: Option<Arc<dyn Queue>>,
    webhook: Option<Arc<dyn Queue>>,
    housekeeping: Option<Arc<dyn Queue>>,
    watched: Vec<WatchedQueue>,
}

impl Queues {
    fn open(config: &Config, sdk: &SdkConfig, calls: &SharedInterceptor) -> anyhow::Result<Self> {
        let urls = &config.queues;
        let open = |name: &str, url: &str| SqsQueue::new(sdk, calls.clone(), name, url);
        let shared = |name: &str, url: &Option<String>| -> Option<Arc<dyn Queue>> {
            url.as_ref().map(|url| Arc::new(open(name, url)) as Arc<dyn Queue>)
        };
        let main = urls.main.as_ref().context("RUNS_FLEET_QUEUE_URL is not set")?;
        let mut main = open("main", main);
        if let Some(url) = &urls.main_dlq {
            main = main.with_dead_letters(url);
        }
        let main = Arc::new(main);
        let dead_letters = shared("main-dlq", &urls.main_dlq);
        let (events, termination) = (shared("events", &urls.events), shared("termination", &urls.termination));
        let (webhook, pool) = (shared("webhook", &urls.webhook), shared("pool", &urls.pool));
        let housekeeping = shared("housekeeping", &urls.housekeeping);
        if events.is_none() {
            warn!(
                "RUNS_FLEET_EVENTS_QUEUE_URL is not set: spot warnings do not arrive, lost machines are noticed late"
            );
        }
        if pool.is_some() {
            warn!("RUNS_FLEET_POOL_QUEUE_URL names a queue that nothing uses; its depth is shown");
        }
        let others = [&termination, &events, &webhook, &pool, &housekeeping].into_iter().flatten();
        let mut watched: Vec<_> =
            others.map(|queue| WatchedQueue { queue: Arc::clone(queue), dead_letters: None }).collect();
        watched.insert(0, WatchedQueue { queue: main.clone(), dead_letters: dead_letters.clone() });
        Ok(Self { main, dead_letters, termination, events, webhook, housekeeping, watched })
    }
}

fn ec2_settings(config: &Config, fleet: &Fleet) -> Settings {
    Settings {
        launch_template: fleet.launch_template_name.clone(),
        spot_enabled: fleet.spot_enabled,
        default_subnets: fleet.default_subnets.clone(),
        private_subnets: fleet.private_subnets.clone(),
        instance_profile: Some(fleet.instance_profile_arn.clone()),
        tags: TagSettings {
            custom: fleet.tags.clone(),
            attribution: fleet.attribution_tags.clone(),
            runner_image: Some(fleet.runner_image.clone()),
            termination_queue_url: config.queues.termination.clone(),
            cache_url: config.cache.url.clone(),
            secrets_backend: Some(if config.secrets.vault.is_some() { "vault" } else { "ssm" }.to_owned()),
            vault: config.secrets.vault.as_ref().map(crate::vault::tags),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn machines_belong_to_the_account_of_their_role() {
        let found = place("arn:aws-cn:iam::123456789012:instance-profile/runner", "cn-north-1");
        let found = found.map(|place| (place.partition, place.region, place.account));
        assert_eq!(found, Some(("aws-cn".into(), "cn-north-1".into(), "123456789012".into())));
        for odd in ["", "runner", "arn:aws:iam:::instance-profile/runner", "arn:aws:iam::12:instance-profile/runner"] {
            assert!(place(odd, "us-east-1").is_none(), "{odd}");
        }
    }
}
