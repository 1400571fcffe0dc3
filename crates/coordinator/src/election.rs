//! The lease protocol. Pure: what to ask the store next, and what an answer means.
//!
//! A replica follows or leads. It [asks](Election::next) for what is due, tells the machine
//! [what was answered](Election::answered) and that [time has passed](Election::tick), and obeys the [`Change`]s. Who
//! calls forgets nothing and decides nothing.
//!
//! Wanted:
//! * *At most one replica believes that it leads*, as long as clocks run at about the same rate. A holder's belief ends
//!   [`Timings::validity`] after it **sent** the request that was accepted; another takes over only when it saw nothing
//!   move for the longer [`Timings::gone`]. Both are measured with each replica's own monotonic clock; wall clocks are
//!   not compared.
//! * *A term is never resumed.* One that lapsed, was refused, or whose beginning was not answered is forgotten; the
//!   replica then finds its own name in the row, and takes a new term with a larger token.
//! * *A failure is no defeat.* Only a refused condition or the end of validity ends a term.
//!
//! Races survived: answers come late (too late to lead on), or never (nothing is assumed); a replica is paused at any
//! point (every decision starts from the present time); wall clocks jump (tokens grow by one at least; a lease is
//! believed dead by its date only when that is two minutes past, and if that is wrong rows refuse the older token).

use std::time::Duration;

use db::leader::Lease;
use domain::clock::{Timestamp, after};

use crate::Timings;
use crate::leadership::Ending;

#[cfg(test)]
mod tests;

/// First pause after a failed read.
const READ_AGAIN: Duration = Duration::from_secs(1);
/// First and longest pause after a failed renewal.
const RENEW_AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));
/// Longest time without a look at the clock: timers stand still while the machine sleeps, terms do not.
const LOOK: Duration = Duration::from_secs(1);

/// A replica's clocks, read together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) mono: Duration,
    pub(crate) wall: Timestamp,
}

/// A call of the store.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Call {
    /// Look at the lease.
    Read,
    /// Begin the first term.
    Create { token: i64 },
    /// Begin the term after the one that was seen.
    Take { seen: Lease, token: i64 },
    /// Show that we live.
    Renew { token: i64 },
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    /// The lease as it is; none: there is no row.
    Read(Option<Lease>),
    /// Written.
    Applied,
    /// The condition did not hold.
    Lost,
    /// Nobody knows.
    Failed,
}

/// What is due.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Next {
    /// Make this call.
    Call(Call),
    /// Nothing for so long.
    Wait(Duration),
}

/// What became of the leadership.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Change {
    /// A term began.
    Won { token: i64, valid_until: Duration },
    /// It lasts longer.
    Renewed { valid_until: Duration },
    /// It ended.
    Ended(Ending),
}

#[derive(Debug, Clone, PartialEq)]
enum Role {
    /// With what was last seen, and since when.
    Following { seen: Option<(Mark, Duration)> },
    /// Until the moment, unless renewed.
    Leading { token: i64, valid_until: Duration },
}

/// What moves whenever the holder writes: token and sequence number.
type Mark = (Option<i64>, Option<i64>);

/// What a look at the lease leads to.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Verdict {
    Create,
    Take,
    Watch,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Election {
    timings: Timings,
    /// Unique to this boot.
    me: String,
    role: Role,
    next: Call,
    due: Duration,
    /// Calls of one kind that failed in a row.
    failures: u32,
    /// Until then it only watches.
    out_until: Duration,
}

impl Election {
    pub(crate) fn new(timings: Timings, me: String, now: Now) -> Self {
        let role = Role::Following { seen: None };
        Self { timings, me, role, next: Call::Read, due: now.mono, failures: 0, out_until: Duration::ZERO }
    }

    /// What is due.
    pub(crate) fn next(&self, now: Now) -> Next {
        match self.due.checked_sub(now.mono).filter(|wait| !wait.is_zero()) {
            None => Next::Call(self.next.clone()),
            Some(wait) => Next::Wait(match self.role {
                Role::Following { .. } => wait.min(LOOK),
                Role::Leading { valid_until, .. } => wait.min(LOOK).min(valid_until.saturating_sub(now.mono)),
            }),
        }
    }

    /// How long an answer to the call that is due is worth waiting for.
    pub(crate) fn patience(&self, now: Now) -> Duration {
        match self.role {
            Role::Following { .. } => self.timings.attempt,
            Role::Leading { valid_until, .. } => self.timings.attempt.min(valid_until.saturating_sub(now.mono)),
        }
    }

    /// Time passes.
    pub(crate) fn tick(&mut self, now: Now) -> Option<Change> {
        match self.role {
            Role::Leading { valid_until, .. } if now.mono >= valid_until => {
                self.follow(now.mono);
                Some(Change::Ended(Ending::Lapsed))
            }
            _ => None,
        }
    }

    /// The answer to the call that was due, sent at `sent`. `chance` is uniform in `[0, 1)`.
    pub(crate) fn answered(
        &mut self,
        call: &Call,
        sent: Duration,
        answer: Answer,
        now: Now,
        chance: f64,
    ) -> Option<Change> {
        if let Some(lapsed) = self.tick(now) {
            return Some(lapsed);
        }
        self.failures = if answer == Answer::Failed { self.failures.saturating_add(1) } else { 0 };
        let soon = now.mono + spread(self.timings.watch, 0.1, chance);
        let valid_until = sent + self.timings.validity();
        match (call, answer) {
            (Call::Read, Answer::Read(lease)) => {
                let verdict = self.observe(lease.as_ref(), now);
                let seen = lease.unwrap_or_default();
                let token = seen.token.unwrap_or(0).saturating_add(1).max(now.wall.as_millisecond());
                (self.next, self.due) = match verdict {
                    Verdict::Create => (Call::Create { token }, now.mono),
                    Verdict::Take => (Call::Take { seen, token }, now.mono),
                    Verdict::Watch => (Call::Read, soon),
                };
                None
            }
            (Call::Read, _) => {
                let pause = doubled(READ_AGAIN, self.failures).min(self.timings.retry);
                self.due = soon + pause.mul_f64(chance);
                None
            }
            (Call::Create { token } | Call::Take { token, .. }, Answer::Applied) if now.mono < valid_until => {
                self.role = Role::Leading { token: *token, valid_until };
                self.renew(*token, sent, chance);
                Some(Change::Won { token: *token, valid_until })
            }
            // Lost, unknown, or known too late to lead on: the row will tell.
            (Call::Create { .. } | Call::Take { .. }, _) => {
                (self.next, self.due) = (Call::Read, soon);
                None
            }
            (Call::Renew { token }, Answer::Applied) => {
                let valid_until = match self.role {
                    Role::Leading { valid_until: until, .. } => until.max(valid_until),
                    Role::Following { .. } => return None,
                };
                self.role = Role::Leading { token: *token, valid_until };
                self.renew(*token, sent, chance);
                Some(Change::Renewed { valid_until })
            }
            (Call::Renew { .. }, Answer::Lost) => {
                self.follow(now.mono);
                Some(Change::Ended(Ending::Deposed))
            }
            (Call::Renew { .. }, _) => {
                let pause = doubled(RENEW_AGAIN.0, self.failures).min(RENEW_AGAIN.1);
                self.due = now.mono + spread(pause, 0.5, chance);
                None
            }
        }
    }

    /// The term ends for another reason than time and answers.
    pub(crate) fn ended(&mut self, ending: Ending, now: Now) {
        if ending == Ending::Voluntary {
            self.out_until = now.mono + self.timings.stay_out;
        }
        self.follow(now.mono);
    }

    /// Nothing of the term is kept: it is never renewed again.
    fn follow(&mut self, at: Duration) {
        self.role = Role::Following { seen: None };
        (self.next, self.due, self.failures) = (Call::Read, at, 0);
    }

    fn renew(&mut self, token: i64, sent: Duration, chance: f64) {
        (self.next, self.due) = (Call::Renew { token }, sent + spread(self.timings.heartbeat, 0.05, chance));
    }

    /// Notes what the row says now, and what follows.
    fn observe(&mut self, lease: Option<&Lease>, now: Now) -> Verdict {
        let mark = lease.map(|lease| (lease.token, lease.seq)).unwrap_or_default();
        let since = match self.role {
            Role::Following { seen: Some((last, since)) } if last == mark => since,
            _ => now.mono,
        };
        self.role = Role::Following { seen: Some((mark, since)) };
        if now.mono < self.out_until {
            return Verdict::Watch;
        }
        let wall = now.wall.as_second();
        let Some(lease) = lease else { return Verdict::Create };
        let Some(_) = lease.token else {
            // Of the Go implementation: its date is all there is to go by.
            return if lease.expires_at.is_none_or(|at| at < wall) { Verdict::Create } else { Verdict::Watch };
        };
        let released = lease.expires_at == Some(0);
        let ours = lease.owner.as_ref() == Some(&self.me);
        let unmoved = now.mono.saturating_sub(since) >= self.timings.gone();
        let dead = |at| after(Timestamp::from_second(at).unwrap_or(Timestamp::MAX), self.timings.wall_skew) < now.wall;
        if released || ours || unmoved || lease.expires_at.is_some_and(dead) { Verdict::Take } else { Verdict::Watch }
    }
}

/// `base` × uniform `[1 − by, 1 + by)`.
fn spread(base: Duration, by: f64, chance: f64) -> Duration {
    base.mul_f64(1.0 - by + 2.0 * by * chance)
}

/// `base`, doubled with every failure after the first.
fn doubled(base: Duration, failures: u32) -> Duration {
    base.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(16)))
}
