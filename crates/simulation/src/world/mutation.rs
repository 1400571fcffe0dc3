//! Deliberate bugs. A simulation that cannot fail proves nothing: each of these must be caught by some invariant within
//! a few seeds.
//!
//! Most are faulty ports: what the orchestrator believes of the world outside is not so, or what it asked for is done
//! wrongly, exactly as if its own code asked wrongly. The others leave out a sweep.

use std::str::FromStr;

use dispatch::sweeps::Sweep;

use super::scenario::Faults;

macro_rules! mutations {
    ($($(#[doc = $doc:literal])+ $name:ident, $word:literal, $faults:ident;)+) => {
        /// A deliberate bug.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutation { $($(#[doc = $doc])+ $name),+ }

        impl Mutation {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// Its name.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word),+ }
            }

            /// Under which faults it shows.
            pub const fn shows_under(self) -> Faults {
                match self { $(Self::$name => $faults),+ }
            }
        }
    };
}

const NONE: Faults = Faults::NONE;
const NETWORK: Faults = Faults { network: true, ..Faults::NONE };
const CRASHES: Faults = Faults { crashes: true, ..Faults::NONE };
const CLOUD: Faults = Faults { cloud: true, ..Faults::NONE };
const GITHUB: Faults = Faults { github: true, ..Faults::NONE };
const ALL: Faults = Faults::ALL;

mutations! {
    /// A claim is written whatever the record says.
    ClaimUnconditionally, "claim-unconditionally", ALL;
    /// A bind is written whatever the job's record says: no lease token is asked for.
    BindUnconditionally, "bind-unconditionally", ALL;
    /// A machine is bound whatever its runner's record says.
    BindTakenMachine, "bind-taken-machine", ALL;
    /// Every write of a job is written whatever its record says.
    IgnoreVersion, "ignore-version", ALL;
    /// A lost condition is taken for a success.
    TakeLostForApplied, "take-lost-for-applied", ALL;
    /// Of a transaction only the first write is done.
    HalfTransaction, "half-transaction", ALL;
    /// New records are not written, although a webhook is answered with 200.
    AcceptNothing, "accept-nothing", NONE;
    /// The counter of retries starts again with every claim.
    ForgetRetries, "forget-retries", ALL;
    /// A job's first acceptance is overwritten.
    ForgetAcceptance, "forget-acceptance", ALL;
    /// A requeued job keeps its machine.
    KeepMachineOnRequeue, "keep-machine-on-requeue", ALL;
    /// A message whose job somebody else works on is deleted.
    AckOnContention, "ack-on-contention", ALL;
    /// A lease is believed to hold for hours.
    LeaseNeverDies, "lease-never-dies", CRASHES;
    /// Every request for a fleet has a client token of its own.
    NoClientToken, "no-client-token", NETWORK;
    /// A fleet of one more than needed is asked for.
    OneTooMany, "one-too-many", NONE;
    /// Machines do not say which launch they belong to, nor that they are ours.
    NoTags, "no-tags", ALL;
    /// Machines are not terminated.
    TerminateNothing, "terminate-nothing", ALL;
    /// Another machine is terminated as well: whichever began last.
    TerminateAnother, "terminate-another", ALL;
    /// Running machines are taken for gone.
    BelieveGone, "believe-gone", NONE;
    /// Hand-overs are not stored.
    HandOverNothing, "hand-over-nothing", NONE;
    /// Hand-overs are not deleted.
    KeepHandOver, "keep-hand-over", ALL;
    /// GitHub's word that a job has ended is not believed.
    BelieveQueued, "believe-queued", GITHUB;
    /// Webhooks are answered with 200 and thrown away.
    DropWebhooks, "drop-webhooks", NONE;
    /// Nobody sends wake-ups again, nor asks GitHub what it has queued.
    NoOutbox, "no-outbox", ALL;
    /// Nobody takes up what a dead process left, sends wake-ups again, or asks GitHub what it has queued.
    NoLeaseSweep, "no-lease-sweep", ALL;
    /// Nobody asks for re-runs.
    NoRecovery, "no-recovery", CLOUD;
    /// Nobody ends machines that were never bound.
    NoSurplusSweep, "no-surplus-sweep", ALL;
    /// Nobody looks after machines that never become runners.
    NoUnconfirmedSweep, "no-unconfirmed-sweep", CLOUD;
    /// Nobody notices that machines are gone.
    NoVanishedSweep, "no-vanished-sweep", CLOUD;
    /// A machine is claimed whoever holds it.
    ClaimHeldMachines, "claim-held-machines", ALL;
    /// A pool's lock is taken whoever holds it.
    LockHeldPools, "lock-held-pools", ALL;
    /// A task's lock is taken whoever holds it.
    LockHeldTasks, "lock-held-tasks", ALL;
    /// The leader lease is taken whoever holds it.
    TakeHeldLease, "take-held-lease", NETWORK;
    /// Machines are not stopped.
    StopNothing, "stop-nothing", NONE;
    /// Another machine is stopped as well: whichever was started last.
    StopAnother, "stop-another", NONE;
    /// No machine is made for a pool.
    MakeNoSpares, "make-no-spares", NONE;
    /// Nobody asks GitHub for webhooks that failed, or for jobs it has queued.
    NoWebhookRecovery, "no-webhook-recovery", GITHUB;
}

impl Mutation {
    /// The sweeps that still run.
    pub fn sweeps(of: Option<Self>) -> Vec<Sweep> {
        let left_out: &[Sweep] = match of {
            Some(Self::NoOutbox) => &[Sweep::Outbox, Sweep::QueuedScan],
            Some(Self::NoLeaseSweep) => &[Sweep::Lease, Sweep::Outbox, Sweep::QueuedScan],
            Some(Self::NoRecovery) => &[Sweep::Recovery],
            Some(Self::NoSurplusSweep) => &[Sweep::Surplus],
            Some(Self::NoUnconfirmedSweep) => &[Sweep::Unconfirmed, Sweep::Refresh],
            Some(Self::NoVanishedSweep) => &[Sweep::Vanished, Sweep::Refresh],
            Some(Self::NoWebhookRecovery) => &[Sweep::Redelivery, Sweep::QueuedScan],
            _ => &[],
        };
        Sweep::ALL.iter().copied().filter(|sweep| !left_out.contains(sweep)).collect()
    }
}

impl FromStr for Mutation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|mutation| mutation.as_str() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|mutation| mutation.as_str()).collect();
            format!("one of {}", names.join(", "))
        })
    }
}
