//! What requests are built from, fetched from EC2 and remembered. Every fetch may fail, and then the request is built
//! without: EC2 itself will say what is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use domain::launch::Arch;
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::cache::Cache;
use crate::calls::Caller;
use crate::candidates::{self, Offerings};
use crate::ec2::Subnet;
use crate::error::Class;
use crate::pace::{Bucket, Priority};
use crate::request::Pool;

const SUBNETS_FOR: Duration = Duration::from_secs(60);
const OFFERINGS_FOR: Duration = Duration::from_secs(24 * 3600);
const PRICES_FOR: Duration = Duration::from_secs(5 * 60);
const TEMPLATES_FOR: Duration = Duration::from_secs(5 * 60);
/// How long the image of a template is known, should EC2 not say anything new.
const IMAGE_KNOWN_FOR: Duration = Duration::from_secs(10 * 60);
/// How long a pool without capacity is left alone.
const EXHAUSTED_FOR: Duration = Duration::from_secs(3 * 60);
/// A launch waits this long for a fact it can do without.
const PATIENCE: Duration = Duration::from_secs(15);

/// An image, or that there is none, and when that was learnt.
type Learnt = (Option<String>, Instant);

/// A price, or that there is none, and when that was learnt.
type Priced = (Option<f64>, Instant);

pub(crate) struct Known {
    subnets: Cache<Vec<Subnet>>,
    offerings: Cache<Offerings>,
    windows: Cache<bool>,
    images: BTreeMap<Arch, Cache<Learnt>>,
    /// By product and type.
    prices: Mutex<BTreeMap<(&'static str, String), Priced>>,
    pricing: tokio::sync::Mutex<()>,
    /// By lifecycle: whether spot.
    exhausted: Mutex<BTreeMap<(bool, Pool), Instant>>,
}

impl Known {
    pub(crate) fn new() -> Self {
        Self {
            subnets: Cache::new(SUBNETS_FOR),
            offerings: Cache::new(OFFERINGS_FOR),
            windows: Cache::new(TEMPLATES_FOR),
            images: [Arch::Arm64, Arch::Amd64].map(|arch| (arch, Cache::new(TEMPLATES_FOR))).into(),
            prices: Mutex::default(),
            pricing: tokio::sync::Mutex::new(()),
            exhausted: Mutex::default(),
        }
    }

    /// Zones and free addresses of these subnets; none when EC2 would not say.
    pub(crate) async fn subnets(&self, caller: &Caller, ids: &[String]) -> Vec<Subnet> {
        if ids.is_empty() {
            return Vec::new();
        }
        let fetch = || async {
            let call = caller.call(Bucket::Facts, Priority::Launch, || caller.ec2.describe_subnets(ids));
            brought("subnets", timeout(PATIENCE, call).await)
        };
        self.subnets.get(fetch).await.map(|known| (*known).clone()).unwrap_or_default()
    }

    /// What is offered where, if EC2 said so. An empty answer is no answer.
    pub(crate) async fn offerings(&self, caller: &Caller) -> Option<Offerings> {
        let fetch = || async {
            let call = caller.call(Bucket::Facts, Priority::Launch, || caller.ec2.offerings());
            let pairs = brought("instance type offerings", timeout(PATIENCE, call).await)?;
            (!pairs.is_empty()).then(|| Offerings::new(pairs))
        };
        self.offerings.get(fetch).await.map(|known| (*known).clone())
    }

    /// Whether there is a launch template of this name; `None` when EC2 would not say.
    pub(crate) async fn windows_template(&self, caller: &Caller, name: &str) -> Option<bool> {
        let fetch = || async {
            let call = caller.call(Bucket::Facts, Priority::Launch, || caller.ec2.template(name));
            match timeout(PATIENCE, call).await {
                Ok(Err(failure)) if failure.class == Class::Deployment => Some(false),
                answer => brought("launch templates", answer).map(|template| template.is_some()),
            }
        };
        self.windows.get(fetch).await.map(|exists| *exists)
    }

    /// The image that the launch template of this name, of this architecture, names now. Nothing that was learnt long
    /// ago: machines are ended for having another one.
    pub(crate) async fn image(&self, caller: &Caller, arch: Arch, name: &str) -> Option<String> {
        let fetch = || async {
            let call = caller.call(Bucket::Facts, Priority::Background, || caller.ec2.template(name));
            let template = brought("launch templates", timeout(PATIENCE, call).await)?;
            // What is not the id of an image would be every machine's difference.
            let image = template.and_then(|template| template.image).filter(|image| image.starts_with("ami-"));
            Some((image, Instant::now()))
        };
        let learnt = self.images.get(&arch)?.get(fetch).await?;
        (learnt.1.elapsed() <= IMAGE_KNOWN_FOR).then(|| learnt.0.clone()).flatten()
    }

    /// Spot prices of those types that have one: the mean of a type's zones.
    pub(crate) async fn prices(&self, caller: &Caller, types: &[String], windows: bool) -> BTreeMap<String, f64> {
        let product = if windows { "Windows" } else { "Linux/UNIX" };
        if !self.unpriced(types, product).is_empty() {
            let _one_at_a_time = self.pricing.lock().await;
            let wanted = self.unpriced(types, product);
            if !wanted.is_empty() {
                let call = caller.call(Bucket::Facts, Priority::Launch, || caller.ec2.spot_prices(&wanted, product));
                if let Some(rows) = brought("spot prices", timeout(PATIENCE, call).await) {
                    let mut prices = self.prices.lock().unwrap_or_else(PoisonError::into_inner);
                    for name in wanted {
                        let mut zones = BTreeSet::new();
                        let of_type = rows.iter().filter(|row| row.instance_type == name && row.usd > 0.0);
                        let newest = of_type.filter(|row| zones.insert(row.zone.as_str())).map(|row| row.usd);
                        let price = candidates::average(newest);
                        prices.insert((product, name), (price, Instant::now()));
                    }
                }
            }
        }
        let prices = self.prices.lock().unwrap_or_else(PoisonError::into_inner);
        let price = |name: &String| Some((name.clone(), prices.get(&(product, name.clone()))?.0?));
        types.iter().filter_map(price).collect()
    }

    fn unpriced(&self, types: &[String], product: &'static str) -> Vec<String> {
        let prices = self.prices.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |name: &&String| {
            prices.get(&(product, (*name).clone())).is_some_and(|(_, learnt)| learnt.elapsed() < PRICES_FOR)
        };
        types.iter().filter(|name| !fresh(name)).cloned().collect()
    }

    /// Notes pools that had nothing left.
    pub(crate) fn exhaust(&self, spot: bool, pools: BTreeSet<Pool>) {
        let now = Instant::now();
        let mut exhausted = self.exhausted.lock().unwrap_or_else(PoisonError::into_inner);
        exhausted.retain(|_, since| now.duration_since(*since) < EXHAUSTED_FOR);
        exhausted.extend(pools.into_iter().map(|pool| ((spot, pool), now)));
    }

    /// The pools of a lifecycle that had nothing left a moment ago.
    pub(crate) fn exhausted(&self, spot: bool) -> BTreeSet<Pool> {
        let exhausted = self.exhausted.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = |((of, pool), since): (&(bool, Pool), &Instant)| {
            (*of == spot && since.elapsed() < EXHAUSTED_FOR).then(|| pool.clone())
        };
        exhausted.iter().filter_map(recent).collect()
    }
}

fn brought<T, E>(what: &str, answer: Result<Result<T, crate::error::Failure>, E>) -> Option<T> {
    match answer {
        Ok(Ok(value)) => Some(value),
        Ok(Err(failure)) => {
            warn!(what, code = failure.code, message = failure.message, "EC2 would not say; going on without");
            None
        }
        Err(_) => {
            warn!(what, "EC2 did not say in time; going on without");
            None
        }
    }
}
