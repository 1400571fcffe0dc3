//! What the invariants know of the world.

use std::collections::{BTreeMap, BTreeSet};

use db::table::{Item, Value};
use domain::clock::Timestamp;
use domain::ids::{JobId, LaunchId, RunId, RunnerKey};
use smol_str::SmolStr;

fn text(row: &Item, name: &str) -> Option<SmolStr> {
    match row.get(name) {
        Some(Value::S(text)) => Some(text.clone()),
        _ => None,
    }
}

fn whole(row: &Item, name: &str) -> i64 {
    match row.get(name) {
        Some(Value::N(number)) => *number,
        _ => 0,
    }
}

/// What of a job's row matters here, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JobRow {
    pub(super) id: JobId,
    pub(super) status: SmolStr,
    pub(super) machine: Option<RunnerKey>,
    pub(super) version: i64,
    pub(super) retries: i64,
    pub(super) generation: i64,
    pub(super) displaced: i64,
    pub(super) on_demand: bool,
    pub(super) queued_at: Option<SmolStr>,
    pub(super) prepared: bool,
    pub(super) redrive: bool,
    pub(super) launch: Option<LaunchId>,
    pub(super) lease: Option<SmolStr>,
    /// Epoch milliseconds.
    pub(super) lease_until: i64,
    pub(super) completed_at: Option<SmolStr>,
    settled_reason: Option<SmolStr>,
    pub(super) rerun_pending: bool,
}

/// Why a job may be given up that GitHub still has queued: a number of its machines was used up.
const EXCUSES: [&str; 3] = ["bootstrap_failed", "unconfirmed", "displaced"];

const OPEN: [&str; 5] = ["requeued", "claiming", "launched", "running", "terminating"];

impl JobRow {
    pub(super) fn read(row: &Item) -> Option<Self> {
        Some(Self {
            id: JobId::new(u64::try_from(whole(row, "job_id")).ok()?)?,
            status: text(row, "status").unwrap_or_default(),
            machine: text(row, "instance_id").map(|key| RunnerKey::from(&*key)),
            version: whole(row, "version"),
            retries: whole(row, "retry_count"),
            generation: whole(row, "dispatch_seq"),
            displaced: whole(row, "displaced_count"),
            on_demand: row.get("force_on_demand") == Some(&Value::Bool(true)),
            queued_at: text(row, "queued_at"),
            prepared: row.contains_key("prepared_at"),
            redrive: row.contains_key("redrive_at"),
            launch: text(row, "launch_id").map(LaunchId::new),
            lease: text(row, "lease_token"),
            lease_until: whole(row, "lease_expires_at"),
            completed_at: text(row, "completed_at"),
            settled_reason: text(row, "settled_reason"),
            rerun_pending: text(row, "rerun_state").as_deref() == Some("pending"),
        })
    }

    /// A condemned record names the machine it has lost; it is no longer on it.
    fn occupies(&self) -> bool {
        matches!(&*self.status, "launched" | "running")
    }

    pub(super) fn is_open(&self) -> bool {
        OPEN.contains(&&*self.status)
    }
}

/// What of a runner's row matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RunnerRow {
    pub(super) key: RunnerKey,
    pub(super) state: SmolStr,
    pub(super) version: i64,
}

impl RunnerRow {
    pub(super) fn read(row: &Item) -> Option<Self> {
        Some(Self {
            key: RunnerKey::from(&*text(row, "runner_key")?),
            state: text(row, "state").unwrap_or_default(),
            version: whole(row, "version"),
        })
    }
}

/// A job.
#[derive(Debug, Clone, Default)]
pub(super) struct JobView {
    pub(super) run: Option<RunId>,
    pub(super) attempt: u32,
    /// Whether GitHub queued it, as one of ours.
    pub(super) known: bool,
    pub(super) began: Option<Option<RunnerKey>>,
    pub(super) concluded: Option<Timestamp>,
    pub(super) accepted: bool,
    pub(super) row: Option<JobRow>,
    pub(super) had_row: bool,
    /// When the attempt under way was claimed.
    pub(super) claimed: Option<Timestamp>,
    pub(super) launches: u32,
    /// Ever bound to a machine.
    pub(super) was_launched: bool,
}

/// A machine.
#[derive(Debug, Clone)]
pub(super) struct MachineView {
    pub(super) launch: Option<LaunchId>,
    /// A spare of a pool, as long as no job was given it.
    pub(super) spare: bool,
    /// It was stopped, and has not booted since.
    pub(super) off: bool,
    pub(super) ended: Option<&'static str>,
    pub(super) warned: bool,
    /// Its agent said how its work ended.
    pub(super) reported: bool,
    pub(super) was_bound: bool,
    /// The unsettled jobs whose rows name it: one, but in the middle of a transaction.
    pub(super) bound: BTreeSet<JobId>,
    /// The job GitHub gave its runner.
    pub(super) serving: Option<JobId>,
    pub(super) secret: bool,
    pub(super) idle_since: Option<Timestamp>,
}

/// A run: first attempts that were lost with their machine, and re-runs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RunView {
    pub(super) lost: u32,
    pub(super) reruns: u32,
    pub(super) cancelled: bool,
    pub(super) open: u32,
}

#[derive(Debug, Clone, Default)]
struct LaunchView {
    members: BTreeSet<JobId>,
    made: u32,
}

/// See the module.
#[derive(Default)]
pub(super) struct View {
    pub(super) jobs: BTreeMap<JobId, JobView>,
    pub(super) machines: BTreeMap<RunnerKey, MachineView>,
    pub(super) runs: BTreeMap<RunId, RunView>,
    launches: BTreeMap<LaunchId, LaunchView>,
    open_at_github: BTreeSet<JobId>,
    pub(super) open_rows: BTreeSet<JobId>,
    rerun_pending: BTreeSet<JobId>,
    pub(super) live: BTreeSet<RunnerKey>,
    pub(super) secrets: BTreeSet<RunnerKey>,
    /// Since when nothing goes wrong outside.
    pub(super) healthy: Option<Timestamp>,
    /// When a call of GitHub last failed.
    pub(super) github_failed: Option<Timestamp>,
}

impl View {
    /// With or without the spares of pools.
    pub(super) fn is_quiet(&self, spares: bool) -> bool {
        let at_rest = |key: &RunnerKey| spares && self.machines.get(key).is_some_and(|machine| machine.spare);
        self.open_at_github.iter().all(|job| self.is_given_up(*job))
            && self.open_rows.is_empty()
            && self.rerun_pending.iter().all(|job| self.run_is_open(*job))
            && self.live.iter().all(at_rest)
            && self.secrets.is_empty()
    }

    /// Whether the orchestrator has given up on a job, while the world gave it reason to: GitHub will end it. Machines
    /// that do not come up cost money each, so there is an end to them. Processes that die are no reason.
    pub(super) fn is_given_up(&self, job: JobId) -> bool {
        self.jobs.get(&job).and_then(|job| job.row.as_ref()).is_some_and(|row| {
            let excused = row.settled_reason.as_deref().is_some_and(|reason| EXCUSES.contains(&reason));
            let decided = row.completed_at.as_ref().and_then(|at| at.parse::<Timestamp>().ok());
            let in_trouble = self.healthy.is_none_or(|healthy| decided.is_none_or(|at| at <= healthy));
            &*row.status == "error" && excused && in_trouble
        })
    }

    fn run_is_open(&self, job: JobId) -> bool {
        let run = self.jobs.get(&job).and_then(|job| self.runs.get(&job.run?));
        run.is_some_and(|run| run.open > 0)
    }

    pub(super) fn open_at_github(&self) -> impl Iterator<Item = JobId> {
        self.open_at_github.iter().copied()
    }

    pub(super) fn queued(&mut self, job: JobId, run: RunId, attempt: u32, _now: Timestamp) {
        let view = self.jobs.entry(job).or_default();
        (view.run, view.attempt, view.known) = (Some(run), attempt, true);
        self.open_at_github.insert(job);
        let of_run = self.runs.entry(run).or_default();
        of_run.open += 1;
        of_run.reruns += u32::from(attempt > 1);
    }

    pub(super) fn accepted(&mut self, job: JobId) -> bool {
        let Some(view) = self.jobs.get_mut(&job) else { return false };
        view.accepted = true;
        view.known
    }

    pub(super) fn began(&mut self, job: JobId, machine: Option<&RunnerKey>, _now: Timestamp) {
        if let Some(view) = self.jobs.get_mut(&job) {
            view.began = Some(machine.cloned());
        }
        if let Some(machine) = machine.and_then(|machine| self.machines.get_mut(machine)) {
            machine.serving = Some(job);
            machine.idle_since = None;
        }
    }

    /// Answers the machine that served it.
    pub(super) fn concluded(
        &mut self,
        job: JobId,
        cancelled: bool,
        runner_lost: bool,
        now: Timestamp,
    ) -> Option<RunnerKey> {
        self.open_at_github.remove(&job);
        let given_up = self.is_given_up(job);
        let view = self.jobs.get_mut(&job)?;
        view.concluded = Some(now);
        let machine = view.began.clone().flatten();
        let (run, attempt) = (view.run, view.attempt);
        let gone = machine.as_ref().and_then(|key| self.machines.get_mut(key)).map(|machine| {
            machine.serving = None;
            matches!(machine.ended, Some("reclaimed" | "crashed")) && !machine.reported
        });
        if let Some(run) = run.and_then(|run| self.runs.get_mut(&run)) {
            run.cancelled |= cancelled;
            run.open = run.open.saturating_sub(1);
            run.lost += u32::from(runner_lost && attempt == 1 && gone == Some(true) && !given_up);
        }
        self.tidy(job);
        machine
    }

    pub(super) fn launched(
        &mut self,
        machine: &RunnerKey,
        launch: Option<&LaunchId>,
        spare: bool,
    ) -> Option<(u32, u32)> {
        self.live.insert(machine.clone());
        let view = MachineView {
            launch: launch.cloned(),
            spare,
            off: false,
            ended: None,
            warned: false,
            reported: false,
            was_bound: false,
            bound: BTreeSet::new(),
            serving: None,
            secret: false,
            idle_since: None,
        };
        self.machines.insert(machine.clone(), view);
        let of_launch = self.launches.entry(launch?.clone()).or_default();
        of_launch.made += 1;
        Some((of_launch.made, u32::try_from(of_launch.members.len()).unwrap_or(u32::MAX)))
    }

    pub(super) fn warned(&mut self, machine: &RunnerKey) {
        if let Some(view) = self.machines.get_mut(machine) {
            view.warned = true;
        }
    }

    pub(super) fn reported(&mut self, machine: &RunnerKey) {
        if let Some(view) = self.machines.get_mut(machine) {
            view.reported = true;
        }
    }

    pub(super) fn ended(&mut self, machine: &RunnerKey, why: &'static str) {
        self.live.remove(machine);
        if let Some(view) = self.machines.get_mut(machine) {
            view.ended = Some(why);
        }
    }

    /// A machine of a pool that was given back before it did anything is a spare again; its agent has begun nothing.
    pub(super) fn stopped(&mut self, machine: &RunnerKey) {
        if let Some(view) = self.machines.get_mut(machine) {
            (view.spare, view.off, view.was_bound, view.idle_since) = (true, true, false, None);
        }
    }

    pub(super) fn booted(&mut self, machine: &RunnerKey) {
        if let Some(view) = self.machines.get_mut(machine) {
            view.off = false;
        }
    }

    pub(super) fn has_ended(&self, machine: &RunnerKey) -> bool {
        self.machines.get(machine).is_none_or(|view| view.ended.is_some())
    }

    pub(super) fn handed_over(&mut self, machine: &RunnerKey, there: bool) {
        if there {
            self.secrets.insert(machine.clone())
        } else {
            self.secrets.remove(machine)
        };
        if let Some(view) = self.machines.get_mut(machine) {
            view.secret = there;
        }
    }

    /// When it became idle, if it is: `now` when that is new.
    pub(super) fn idle_since(&mut self, machine: &RunnerKey, now: Timestamp) -> Option<Timestamp> {
        let view = self.machines.get_mut(machine)?;
        // Given to a job, never started, and given back.
        view.spare |= view.off && view.bound.is_empty();
        if view.spare || view.ended.is_some() || !view.bound.is_empty() || view.serving.is_some() {
            return None;
        }
        view.idle_since = Some(now);
        Some(now)
    }

    /// A job's row as it is.
    pub(super) fn row(&self, id: JobId) -> Option<JobRow> {
        self.jobs.get(&id)?.row.clone()
    }

    /// Takes in a job's row; when it was bound anew, how often that makes.
    pub(super) fn job_wrote(&mut self, id: JobId, after: Option<JobRow>, now: Timestamp) -> Option<u32> {
        let view = self.jobs.entry(id).or_default();
        let before = std::mem::replace(&mut view.row, after);
        let (old, new) = (before.as_ref(), view.row.as_ref());
        view.had_row |= new.is_some();
        let open = new.is_some_and(JobRow::is_open);
        if open {
            self.open_rows.insert(id)
        } else {
            self.open_rows.remove(&id)
        };
        if new.is_some_and(|row| row.rerun_pending) {
            self.rerun_pending.insert(id);
        } else {
            self.rerun_pending.remove(&id);
        }
        if let Some(row) = new
            && &*row.status == "claiming"
            && old.is_none_or(|old| old.lease != row.lease)
        {
            view.claimed = Some(now);
        }
        let launch = new.and_then(|row| row.launch.clone());
        let machine_before = old.filter(|row| row.occupies()).and_then(|row| row.machine.clone());
        let machine_after = new.filter(|row| row.occupies()).and_then(|row| row.machine.clone());
        let mut launches = None;
        if machine_before != machine_after {
            if machine_after.is_some() {
                view.launches += 1;
                view.was_launched = true;
                launches = Some(view.launches);
            }
            if let Some(machine) = machine_before.and_then(|key| self.machines.get_mut(&key)) {
                machine.bound.remove(&id);
            }
            if let Some(machine) = machine_after.and_then(|key| self.machines.get_mut(&key)) {
                machine.bound.insert(id);
                (machine.was_bound, machine.spare) = (true, false);
                machine.idle_since = None;
            }
        }
        if let Some(launch) = launch {
            self.launches.entry(launch).or_default().members.insert(id);
        }
        self.tidy(id);
        launches
    }

    /// Forgets a job that is over here and there.
    fn tidy(&mut self, id: JobId) {
        let Some(view) = self.jobs.get(&id) else { return };
        if view.row.is_none() && view.had_row && view.concluded.is_some() {
            if let Some(run) = view.run
                && self.runs.get(&run).is_some_and(|run| run.open == 0)
            {
                self.runs.remove(&run);
            }
            self.jobs.remove(&id);
        }
    }

    pub(super) fn forget_machine(&mut self, machine: &RunnerKey) {
        if let Some(view) = self.machines.remove(machine)
            && let Some(launch) = view.launch
        {
            // Its machines end within hours of each other; a launch is not repeated after that.
            self.launches.remove(&launch);
        }
    }
}
