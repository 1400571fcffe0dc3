//! What is remembered between a claim and its end.

use std::time::Duration;

use domain::report::Bootstrap;

use super::verdict::{Cause, Facts};
use super::{Action, Assignment, COLD_START_WITHIN, Evidence, Moment};

/// A hand-over that was taken.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) assignment: Assignment,
    pub(super) at: Moment,
    pub(super) bootstrap: Bootstrap,
    pub(super) version: Option<String>,
}

/// What is known of a runner that was spawned.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) spawned: Moment,
    pub(super) started_reported: bool,
    pub(super) listening: Option<Duration>,
    pub(super) received: Option<Duration>,
    pub(super) completed: bool,
    pub(super) retrying: bool,
    pub(super) listener_failure: Option<i32>,
    pub(super) asked_for_worker: bool,
    pub(super) stop: Option<Stop>,
}

/// A stop under way.
#[derive(Debug, Clone)]
pub(super) struct Stop {
    pub(super) cause: Cause,
    pub(super) kill_at: Duration,
    pub(super) killed: bool,
}

impl Claim {
    /// `boot` is how long the kernel had run when the agent started.
    pub(super) fn new(assignment: Assignment, at: Moment, boot: Option<Duration>) -> Self {
        let cold = at.elapsed <= COLD_START_WITHIN;
        let config = cold.then_some(at.elapsed.as_secs_f64());
        let boot = boot.filter(|_| cold).map(|boot| boot.as_secs_f64());
        Self { assignment, at, bootstrap: Bootstrap { boot, config, ..Bootstrap::default() }, version: None }
    }
}

impl Run {
    pub(super) fn new(spawned: Moment) -> Self {
        Self {
            spawned,
            started_reported: false,
            listening: None,
            received: None,
            completed: false,
            retrying: false,
            listener_failure: None,
            asked_for_worker: false,
            stop: None,
        }
    }

    pub(super) fn learn(&mut self, evidence: Evidence, at: Duration) {
        match evidence {
            Evidence::Listening => self.listening = self.listening.or(Some(at)),
            Evidence::JobReceived => self.received = self.received.or(Some(at)),
            Evidence::JobCompleted => {
                self.received = self.received.or(Some(at));
                self.completed = true;
            }
            Evidence::ListenerFailed(code) => self.listener_failure = Some(code),
            Evidence::Retrying => self.retrying = true,
        }
    }

    pub(super) fn stop(&mut self, now: Moment, cause: Cause, grace: Duration, actions: &mut Vec<Action>) {
        self.stop = Some(Stop { cause, kill_at: now.elapsed.saturating_add(grace), killed: false });
        actions.push(Action::Terminate);
    }

    pub(super) fn facts(&self) -> Facts {
        Facts {
            received: self.received.is_some(),
            completed: self.completed,
            listener_failure: self.listener_failure,
            stop: self.stop.as_ref().map(|stop| (stop.cause, stop.killed)),
        }
    }
}

impl Stop {
    pub(super) fn kill(&mut self, actions: &mut Vec<Action>) {
        if !self.killed {
            self.killed = true;
            actions.push(Action::Kill);
        }
    }
}
