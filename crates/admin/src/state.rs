//! What the API answers from.

use std::collections::BTreeMap;
use std::sync::Arc;

use cache::Cache;
use dispatch::Dispatch;
use domain::clock::Timestamp;
use queue::Queue;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

/// Who may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody who reaches the listener: it is bound to the loopback interface, or somebody decided so.
    Open,
    /// Nobody. The API answers 404, and the page says why.
    Closed,
}

impl Access {
    /// The word in `/api/auth/config`.
    pub(crate) const fn mode(self) -> &'static str {
        match self {
            Self::Open => "anonymous",
            Self::Closed => "disabled",
        }
    }
}

/// Everything the API needs.
#[derive(Clone)]
pub struct AdminState {
    /// Records, machines, settings and news.
    pub dispatch: Arc<Dispatch>,
    /// The queues to show, in the order to show them.
    pub queues: Vec<WatchedQueue>,
    /// The Actions cache, if there is one.
    pub cache: Option<Arc<Cache>>,
    /// Who may read.
    pub access: Access,
    /// What this process says about itself.
    pub about: About,
    /// Ends the event streams, so that a server that drains is not held up by them.
    pub stop: CancellationToken,
}

/// A queue and where its failures go.
#[derive(Clone)]
pub struct WatchedQueue {
    /// The queue.
    pub queue: Arc<dyn Queue>,
    /// Its dead-letter queue, if there is one to look into.
    pub dead_letters: Option<Arc<dyn Queue>>,
}

/// What this process says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Its version.
    pub version: String,
    /// `ec2`, `k8s` or `local`.
    pub mode: String,
    /// When it started.
    pub started_at: Timestamp,
    /// Which optional parts are on.
    pub features: BTreeMap<String, bool>,
    /// What its configuration should be told.
    pub warnings: Vec<ConfigWarning>,
}

/// A remark on the configuration. Names only, never values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigWarning {
    /// Its code (`W_UNSAFE`, …).
    pub code: String,
    /// The variable it is about.
    pub name: String,
}
