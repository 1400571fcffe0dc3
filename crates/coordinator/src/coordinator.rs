//! The task that runs for election, and the door to its result.

use std::sync::Arc;
use std::time::Duration;

use db::leader::Candidate;
use db::{LeaderLease, Outcome, Table};
use domain::clock::{Clock, Rng};
use telemetry::Metrics;
use telemetry::metrics::LeaderTransition;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::election::{Answer, Call, Change, Election, Next, Now};
use crate::leadership::Ending;
use crate::terms::Published;
use crate::{Leadership, Mono, Terms, Timings};

#[cfg(test)]
mod tests;

/// The lease could not be read at the start.
#[derive(Debug, thiserror::Error)]
#[error("the leader lease cannot be read: {0}")]
pub struct Error(#[from] db::Error);

/// Who runs for election.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The replica's name. It need not be unique.
    pub name: String,
    /// Its machine.
    pub host: String,
    /// Its release.
    pub version: String,
    /// The same on all replicas.
    pub timings: Timings,
}

/// What an election needs of the world.
#[derive(Clone)]
pub struct Parts {
    /// Where the lease is.
    pub table: Arc<dyn Table>,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// What terms are measured with.
    pub mono: Arc<dyn Mono>,
    /// Chance.
    pub rng: Arc<dyn Rng>,
    /// Counts for operators.
    pub metrics: Metrics,
}

/// See the crate.
pub struct Coordinator {
    leadership: Arc<Published>,
    kind: Kind,
}

enum Kind {
    Elected(Arc<Replica>),
    Alone,
}

/// One boot of a replica that runs for election.
struct Replica {
    lease: LeaderLease,
    who: Candidate,
    timings: Timings,
    clock: Arc<dyn Clock>,
    mono: Arc<dyn Mono>,
    rng: Arc<dyn Rng>,
    metrics: Metrics,
    leadership: Arc<Published>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Coordinator {
    /// One of several replicas, not running yet. What it calls itself in the lease is unique to this boot: with equal
    /// names a leader that slept would renew the lease of its successor.
    pub fn elected(settings: Settings, parts: Parts) -> Self {
        let Settings { name, host, version, timings } = settings;
        let Parts { table, clock, mono, rng, metrics } = parts;
        let leadership = Published::new(None);
        metrics.leader(Some(0.0));
        let replica = Replica {
            lease: LeaderLease::new(table, Arc::clone(&clock)),
            who: Candidate { owner: format!("{name}#{}", rng.token()), host, version },
            timings,
            clock,
            mono,
            rng,
            metrics,
            leadership: Arc::clone(&leadership),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        Self { leadership, kind: Kind::Elected(Arc::new(replica)) }
    }

    /// No election: this replica leads from the start to the end, and so does every other that does the same. What only
    /// a leader should do is then done by all, which locks and conditions keep safe.
    pub fn alone(clock: Arc<dyn Clock>, metrics: Metrics) -> Self {
        metrics.leader(Some(1.0));
        Self { leadership: Published::new(Some(Leadership::alone(clock, metrics))), kind: Kind::Alone }
    }

    /// Runs for election from now on, in a task of its own. Starting again does nothing.
    ///
    /// # Errors
    /// When the lease cannot be read: a missing table or permission is better told at the start than by a fleet that
    /// nobody leads.
    pub async fn start(&self) -> Result<(), Error> {
        let Kind::Elected(replica) = &self.kind else { return Ok(()) };
        replica.lease.read().await?;
        // Closed once, by the first start or a stop before it.
        if replica.tasks.close() {
            replica.tasks.spawn(Arc::clone(replica).run());
        }
        Ok(())
    }

    /// Whether this replica leads. Cheap, and true to the clock even when the election is stuck.
    pub fn is_leader(&self) -> bool {
        self.leadership.latest().is_some_and(|term| term.check().is_ok())
    }

    /// The term this replica leads, and every later one. A term that ended may stay until the next begins: ask it.
    pub fn leadership(&self) -> Terms {
        self.leadership.subscribe()
    }

    /// Ends the term at once, gives the lease up, and runs no more. Returns after `within` at the latest, and goes on
    /// giving up behind the scenes if need be. A lease that could not be given up runs out by itself. Stopping again,
    /// or before the start, is fine.
    pub async fn stop(&self, within: Duration) {
        let Kind::Elected(replica) = &self.kind else { return };
        replica.tasks.close();
        replica.stop.cancel();
        if timeout(within, replica.tasks.wait()).await.is_err() {
            debug!("giving the leader lease up takes its time");
        }
    }
}

impl Drop for Coordinator {
    /// Nobody can ask any more.
    fn drop(&mut self) {
        if let Kind::Elected(replica) = &self.kind {
            replica.stop.cancel();
        }
    }
}

/// Why a turn was cut short.
enum Cut {
    /// The process stops; this call was on its way.
    Stop(Option<Call>),
    /// Somebody ended the term.
    Ended(Ending),
}

impl Replica {
    /// Follows and leads until told to stop.
    async fn run(self: Arc<Self>) {
        let mut election = Election::new(self.timings, self.who.owner.clone(), self.now());
        let mut term: Option<Leadership> = None;
        let sent = loop {
            if let Some(change) = election.tick(self.now()) {
                self.changed(&mut term, change);
            }
            match self.turn(&mut election, &mut term).await {
                Ok(()) => {}
                Err(Cut::Stop(sent)) => break sent,
                Err(Cut::Ended(ending)) => {
                    election.ended(ending, self.now());
                    let ended = term.as_ref().map(Leadership::token);
                    self.changed(&mut term, Change::Ended(ending));
                    if let Some(token) = ended.filter(|_| ending == Ending::Voluntary) {
                        self.release(token).await;
                    }
                }
            }
        };
        // A term that was being asked for when the stop came may begin yet: nobody would end it.
        let asked = sent.and_then(|call| match call {
            Call::Create { token } | Call::Take { token, .. } => Some(token),
            Call::Read | Call::Renew { .. } => None,
        });
        let token = term.as_ref().map(Leadership::token).or(asked);
        self.changed(&mut term, Change::Ended(Ending::Released));
        if let Some(token) = token {
            self.release(token).await;
        }
    }

    /// Makes the call that is due, or waits for a while.
    async fn turn(&self, election: &mut Election, term: &mut Option<Leadership>) -> Result<(), Cut> {
        let now = self.now();
        let call = match election.next(now) {
            Next::Call(call) => call,
            Next::Wait(pause) => {
                return tokio::select! {
                    biased;
                    () = self.stop.cancelled() => Err(Cut::Stop(None)),
                    ending = ended(term.as_ref()) => Err(Cut::Ended(ending)),
                    () = sleep(pause) => Ok(()),
                };
            }
        };
        // Before the request exists: what the store does with it, however late, comes after.
        let sent = self.mono.now();
        let answer = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(Cut::Stop(Some(call))),
            ending = ended(term.as_ref()) => return Err(Cut::Ended(ending)),
            answer = timeout(election.patience(now), self.ask(&call)) => match answer {
                Ok(answer) => answer,
                Err(_) => Err(db::Error::Unavailable("no answer in time".to_owned())),
            },
        };
        if matches!(call, Call::Renew { .. }) {
            self.metrics.leader_renew(self.mono.now().saturating_sub(sent));
        }
        let answer = answer.unwrap_or_else(|error| self.failed(&call, &error));
        if let Some(change) = election.answered(&call, sent, answer, self.now(), self.rng.unit()) {
            self.changed(term, change);
        }
        Ok(())
    }

    async fn ask(&self, call: &Call) -> Result<Answer, db::Error> {
        let (who, lasts) = (&self.who, self.timings.lease);
        let outcome = match call {
            Call::Read => {
                let lease = self.lease.read().await?;
                if lease.as_ref().is_some_and(|lease| lease.token.is_none()) {
                    warn!("the leader lease has no readable token: another implementation holds it, or it is damaged");
                }
                return Ok(Answer::Read(lease));
            }
            Call::Create { token } => self.lease.create(who, *token, lasts).await?,
            Call::Take { seen, token } => self.lease.take(who, seen, *token, lasts).await?,
            Call::Renew { token } => self.lease.renew(&who.owner, *token, lasts).await?,
        };
        Ok(match outcome {
            Outcome::Applied(()) => Answer::Applied,
            Outcome::Lost => Answer::Lost,
        })
    }

    fn failed(&self, call: &Call, error: &db::Error) -> Answer {
        match call {
            Call::Renew { token } => {
                warn!(event = "leader.renew_failed", token, owner = self.who.owner, %error, "the lease was not renewed");
            }
            _ => warn!(%error, "the leader lease does not answer"),
        }
        Answer::Failed
    }

    /// Gives a term up: twice, should the first attempt fail.
    async fn release(&self, token: i64) {
        for _ in 0..2 {
            match timeout(self.timings.release / 2, self.lease.release(&self.who.owner, token)).await {
                Ok(Ok(_)) => return,
                Ok(Err(error)) => debug!(%error, token, "the lease was not given up"),
                Err(_) => debug!(token, "the lease was not given up in time"),
            }
        }
        warn!(token, "the lease could not be given up: it runs out by itself");
    }

    /// Tells those who work under the term, and those who watch.
    fn changed(&self, term: &mut Option<Leadership>, change: Change) {
        match change {
            Change::Won { token, valid_until } => {
                let new = Leadership::elected(token, valid_until, Arc::clone(&self.mono), self.metrics.clone());
                *term = Some(new.clone());
                self.metrics.leader(Some(1.0));
                self.metrics.leader_token(Some(token as f64));
                self.metrics.leader_transitions(LeaderTransition::Acquired);
                info!(event = "leader.acquired", token, owner = self.who.owner, "this replica leads");
                self.leadership.set(Some(new));
            }
            Change::Renewed { valid_until } => {
                if let Some(term) = term {
                    term.extend(valid_until);
                }
            }
            Change::Ended(ending) => {
                let Some(old) = term.take() else { return };
                old.end(ending);
                self.leadership.set(None);
                self.metrics.leader(Some(0.0));
                self.metrics.leader_token(None);
                self.metrics.leader_transitions(ending.transition());
                let (reason, owner) = (ending.transition().as_str(), &self.who.owner);
                info!(event = "leader.lost", reason, token = old.token(), owner, "this replica does not lead any more");
            }
        }
    }

    fn now(&self) -> Now {
        Now { mono: self.mono.now(), wall: self.clock.now() }
    }
}

/// Waits until somebody else ends the term, if there is one.
async fn ended(term: Option<&Leadership>) -> Ending {
    match term {
        Some(term) => term.ended().await,
        None => std::future::pending().await,
    }
}
