//! Every interval and threshold of dispatch and its sweeps, as one value, with the arithmetic that keeps a live
//! attempt from being pre-empted asserted at compile time.

use std::time::Duration;

/// Failure retries of one job (three attempts in all). One constant for every path.
pub const MAX_JOB_RETRIES: u32 = 2;
/// Strikes in one retry generation, claims whose lease died and permanent failures: then a dead lease makes the job wait,
/// and a permanent failure ends it.
pub const MAX_CLAIM_ATTEMPTS: u32 = 3;
/// Re-dispatches because another job took the runner.
pub const MAX_DISPLACED: u32 = 10;
/// From here on a displacement is worth an alert.
pub const ALERT_DISPLACED: u32 = 3;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The intervals. [`Timings::PRODUCTION`] is what production runs; [`Timings::divided`] makes a chaos run bearable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// Budget of one dispatch attempt.
    pub process: Duration,
    /// Fresh budget for compensation after a failed or timed-out attempt.
    pub cleanup: Duration,
    /// A launch that follows another try is asked for only with so much of the attempt's budget left.
    pub launch_least: Duration,
    /// Length of the claim lease.
    pub lease: Duration,
    /// Invisibility of a message under work, renewed every `heartbeat`.
    pub visibility: Duration,
    /// Period of the visibility heartbeat.
    pub heartbeat: Duration,
    /// Long poll of a receive.
    pub receive_wait: Duration,
    /// Assumed clock difference between replicas.
    pub skew: Duration,
    /// A machine may be missing from EC2's answers for this long after its launch, on two clocks that differ.
    pub unlisted: Duration,
    /// Pause between tries of a send or an ack.
    pub send_pause: Duration,

    /// A job older than this, or dispatched before, is looked up at GitHub before anything is launched.
    pub liveness_age: Duration,
    /// First back-off after a failed attempt; doubles with every generation.
    pub back_off: Duration,
    /// Longest back-off.
    pub back_off_max: Duration,
    /// Pause for a job GitHub runs on somebody else's runner.
    pub elsewhere: Duration,
    /// Prepared without a `started`: the runner is unconfirmed.
    pub confirm: Duration,
    /// Alert when a job is unconfirmed and GitHub unreachable for this long.
    pub confirm_alert: Duration,
    /// Age of a `running` record before `stale_jobs` asks GitHub about it.
    pub stale: Duration,
    /// A concluded job is settled by its runner's own report unless that takes longer than this.
    pub report_grace: Duration,
    /// Age of a bound record before `orphaned_jobs` looks at its machine.
    pub orphan: Duration,
    /// How long GitHub keeps a job queued.
    pub deadline: Duration,
    /// First re-send of a pending job's wake-up; doubles.
    pub outbox: Duration,
    /// Longest interval between re-sends.
    pub outbox_max: Duration,
    /// How long recovery waits for GitHub to conclude a job whose machine is lost.
    pub recovery_give_up: Duration,
    /// How long a re-run is asked for.
    pub rerun_give_up: Duration,
    /// Pause between tries of a re-run.
    pub rerun_retry: Duration,
    /// GitHub's answer on the record is fresh enough to decide on for this long.
    pub sighting: Duration,
    /// A finished runner without a report counts as done after this.
    pub retire: Duration,
    /// Launched machines without a runner record are ended after this.
    pub surplus: Duration,
    /// A queued job without a record is taken over after this (the webhook may still be on its way).
    pub scan_age: Duration,

    /// Periods of the sweeps.
    pub every: Periods,
}

/// How often each sweep looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Periods {
    /// Pending records whose wake-up is due.
    pub outbox: Duration,
    /// Records whose lease died.
    pub lease: Duration,
    /// Lost jobs.
    pub recovery: Duration,
    /// Machines nobody was bound to.
    pub surplus: Duration,
    /// Prepared machines that never confirmed.
    pub unconfirmed: Duration,
    /// Running records GitHub may know better about.
    pub stale: Duration,
    /// Bound records whose machine may be gone.
    pub orphan: Duration,
    /// Bound jobs GitHub has not been seen to run.
    pub refresh: Duration,
    /// Bound runners whose machine is gone.
    pub vanished: Duration,
    /// Failed webhook deliveries.
    pub redelivery: Duration,
    /// Queued jobs at GitHub that we never heard of.
    pub queued_scan: Duration,
    /// Wake-ups that were delivered in vain too often.
    pub dead_letters: Duration,
    /// Hand-overs whose machine is gone.
    pub secrets: Duration,
}

impl Timings {
    /// What production runs.
    pub const PRODUCTION: Self = Self {
        process: s(90),
        cleanup: s(5),
        launch_least: s(35),
        lease: s(100),
        visibility: s(120),
        heartbeat: s(30),
        receive_wait: s(20),
        skew: s(5),
        unlisted: s(60),
        send_pause: s(1),
        liveness_age: s(60),
        back_off: s(30),
        back_off_max: s(300),
        elsewhere: s(300),
        confirm: s(300),
        confirm_alert: s(1800),
        stale: s(600),
        report_grace: s(300),
        orphan: s(7200),
        deadline: s(24 * 3600),
        outbox: s(120),
        outbox_max: s(900),
        recovery_give_up: s(600),
        rerun_give_up: s(24 * 3600),
        rerun_retry: s(60),
        sighting: s(60),
        retire: s(600),
        surplus: s(180),
        scan_age: s(120),
        every: Periods {
            outbox: s(15),
            lease: s(30),
            recovery: s(15),
            surplus: s(60),
            unconfirmed: s(120),
            stale: s(300),
            orphan: s(900),
            refresh: s(60),
            vanished: s(30),
            redelivery: s(300),
            queued_scan: s(300),
            dead_letters: s(60),
            secrets: s(900),
        },
    };

    /// Everything that is waited for, `divisor` times faster. GitHub's own deadline and
    /// the long poll stay: they are facts about the outside, not waits of ours. The budgets of an attempt keep a floor, and the
    /// lease and the invisibility follow from them as in production.
    pub fn divided(self, divisor: u32) -> Self {
        let d = |t: Duration| t / divisor.max(1);
        // What real work has to fit into does not get faster: disks, processes and GitHub take their time.
        let process = d(self.process).max(s(10).min(self.process));
        let cleanup = d(self.cleanup).max(s(2).min(self.cleanup));
        let lease = process + cleanup + d(self.skew);
        let e = self.every;
        Self {
            process,
            cleanup,
            launch_least: d(self.launch_least),
            lease,
            visibility: lease + d(self.visibility.saturating_sub(self.lease)),
            heartbeat: d(self.heartbeat),
            receive_wait: self.receive_wait,
            skew: d(self.skew),
            unlisted: d(self.unlisted),
            send_pause: d(self.send_pause),
            liveness_age: d(self.liveness_age),
            back_off: d(self.back_off).max(s(1)),
            back_off_max: d(self.back_off_max),
            elsewhere: d(self.elsewhere),
            confirm: d(self.confirm),
            confirm_alert: d(self.confirm_alert),
            stale: d(self.stale),
            report_grace: d(self.report_grace),
            orphan: d(self.orphan),
            deadline: self.deadline,
            outbox: d(self.outbox),
            outbox_max: d(self.outbox_max),
            recovery_give_up: d(self.recovery_give_up),
            rerun_give_up: d(self.rerun_give_up),
            rerun_retry: d(self.rerun_retry),
            sighting: d(self.sighting),
            retire: d(self.retire),
            surplus: d(self.surplus),
            scan_age: d(self.scan_age),
            every: Periods {
                outbox: d(e.outbox),
                lease: d(e.lease),
                recovery: d(e.recovery),
                surplus: d(e.surplus),
                unconfirmed: d(e.unconfirmed),
                stale: d(e.stale),
                orphan: d(e.orphan),
                refresh: d(e.refresh),
                vanished: d(e.vanished),
                redelivery: d(e.redelivery),
                queued_scan: d(e.queued_scan),
                dead_letters: d(e.dead_letters),
                secrets: d(e.secrets),
            },
        }
    }
}

// A live worker is never pre-empted: its budget and clean-up end before anybody may steal the lease. After a crash the
// first redelivery finds the lease dead, because a message is claimed within 20 s of its receive (the permit is taken
// before the receive). Three missed heartbeats still fit.
const _: () = {
    let t = Timings::PRODUCTION;
    assert!(t.process.as_secs() + t.cleanup.as_secs() + t.skew.as_secs() <= t.lease.as_secs());
    assert!(t.lease.as_secs() + 20 <= t.visibility.as_secs());
    assert!(3 * t.heartbeat.as_secs() < t.visibility.as_secs());
    assert!(t.receive_wait.as_secs() < t.process.as_secs());
    assert!(t.launch_least.as_secs() < t.process.as_secs());
};
