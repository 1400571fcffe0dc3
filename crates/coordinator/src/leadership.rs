//! A term of leadership, as those who work under it see it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use db::Fence;
use domain::clock::Clock;
use telemetry::Metrics;
use telemetry::metrics::{FencedRow, LeaderTransition};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::Mono;

/// This replica does not lead any more, or is about to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this replica does not lead any more")]
pub struct Lost;

/// Why a term ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Another replica leads, or wrote as a later leader.
    Deposed,
    /// It could not be renewed in time.
    Lapsed,
    /// The process stops.
    Released,
    /// Given up, because the work failed here.
    Voluntary,
}

impl Ending {
    pub(crate) const fn transition(self) -> LeaderTransition {
        match self {
            Self::Deposed => LeaderTransition::Deposed,
            Self::Lapsed => LeaderTransition::Lapsed,
            Self::Released => LeaderTransition::Released,
            Self::Voluntary => LeaderTransition::Voluntary,
        }
    }
}

/// One term. Ask it before every step that others can see, and stop when it is [`Lost`]. A call that was on its way
/// when the term ended does no harm: rows refuse it by their fence, the rest is kept apart by locks and claims.
#[derive(Clone)]
pub struct Leadership {
    term: Arc<Term>,
    /// Cancelled with the term, or earlier when the work under it has to stop.
    over: CancellationToken,
}

struct Term {
    token: i64,
    measure: Measure,
    /// Once cancelled, never valid again.
    ended: CancellationToken,
    ending: OnceLock<Ending>,
    metrics: Metrics,
}

enum Measure {
    /// By the lease: until that many nanoseconds of the clock. It ends by itself, for whoever renews it may be stuck.
    Elected { valid_until: AtomicU64, mono: Arc<dyn Mono> },
    /// Nobody else is asked.
    Alone { clock: Arc<dyn Clock> },
}

impl Leadership {
    pub(crate) fn elected(token: i64, valid_until: Duration, mono: Arc<dyn Mono>, metrics: Metrics) -> Self {
        Self::new(token, Measure::Elected { valid_until: nanos(valid_until).into(), mono }, metrics)
    }

    pub(crate) fn alone(clock: Arc<dyn Clock>, metrics: Metrics) -> Self {
        Self::new(clock.now().as_millisecond(), Measure::Alone { clock }, metrics)
    }

    fn new(token: i64, measure: Measure, metrics: Metrics) -> Self {
        let ended = CancellationToken::new();
        let over = ended.child_token();
        Self { term: Arc::new(Term { token, measure, ended, ending: OnceLock::new(), metrics }), over }
    }

    /// The term's number, larger than that of every earlier term. Without election it is the start of the process, in
    /// epoch milliseconds.
    pub fn token(&self) -> i64 {
        self.term.token
    }

    /// What rows written by the leader are fenced with. Without election there are no terms to keep apart; the fence is
    /// the present moment then, so that of several replicas none is shut out, and rows compare sensibly with those of
    /// elected leaders, whose tokens are times as well.
    pub fn fence(&self) -> Fence {
        match &self.term.measure {
            Measure::Elected { .. } => Fence::new(self.term.token),
            Measure::Alone { clock } => Fence::new(clock.now().as_millisecond().max(self.term.token)),
        }
    }

    /// # Errors
    /// [`Lost`]: take no further step.
    pub fn check(&self) -> Result<(), Lost> {
        if self.left().is_some() { Ok(()) } else { Err(Lost) }
    }

    /// Whether the term surely lasts for `time` more: no call that cannot be fenced may begin when it may outlast the
    /// term.
    pub fn lasts(&self, time: Duration) -> bool {
        self.left().is_some_and(|left| left >= time)
    }

    /// Returns when the term is lost.
    pub async fn lost(&self) {
        while let Some(left) = self.left() {
            tokio::select! {
                biased;
                () = self.over.cancelled() => return,
                // Renewed meanwhile, most likely.
                () = tokio::time::sleep(left) => {}
            }
        }
    }

    /// Cancelled when the work has to end, for what takes a token. Under [`while_leading`](crate::while_leading) it is
    /// as prompt as [`Leadership::lost`].
    pub fn over(&self) -> CancellationToken {
        self.over.clone()
    }

    /// A row refused the term's fence: somebody leads who came later. Ends the term.
    pub fn rejected(&self, row: FencedRow) {
        self.term.metrics.leader_fence_rejections(row);
        warn!(event = "leader.fence_rejected", token = self.token(), row = row.as_str(), "a row has a later leader");
        self.end(Ending::Deposed);
    }

    /// Gives the term up, because what only a leader does keeps failing here: another replica gets its chance.
    pub fn resign(&self) {
        self.end(Ending::Voluntary);
    }

    /// The first reason stays. Alone there is nobody who could lead instead, and the term goes on.
    pub(crate) fn end(&self, ending: Ending) {
        if matches!(self.term.measure, Measure::Elected { .. }) {
            let _ = self.term.ending.set(ending);
            self.term.ended.cancel();
        }
    }

    /// The term was renewed.
    pub(crate) fn extend(&self, until: Duration) {
        if let Measure::Elected { valid_until, .. } = &self.term.measure {
            valid_until.store(nanos(until), Ordering::SeqCst);
        }
    }

    /// Waits until somebody ends the term, and says why.
    pub(crate) async fn ended(&self) -> Ending {
        self.term.ended.cancelled().await;
        self.term.ending.get().copied().unwrap_or(Ending::Deposed)
    }

    /// The same term for work that may have to stop earlier.
    pub(crate) fn part(&self) -> (Self, CancellationToken) {
        let over = self.over.child_token();
        (Self { term: Arc::clone(&self.term), over: over.clone() }, over)
    }

    /// How long the term lasts without another renewal; `None`: it is over.
    fn left(&self) -> Option<Duration> {
        let left = match &self.term.measure {
            Measure::Elected { valid_until, mono } => {
                Duration::from_nanos(valid_until.load(Ordering::SeqCst)).checked_sub(mono.now())?
            }
            Measure::Alone { .. } => Duration::MAX,
        };
        (!self.over.is_cancelled() && !left.is_zero()).then_some(left)
    }
}

fn nanos(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}
