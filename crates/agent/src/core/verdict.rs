//! What the end of a run means: the result table.

use std::time::Duration;

use domain::report::AgentStatus;

use super::Signal;

/// How `run.sh` ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It could not be observed.
    Unknown(String),
}

/// Why the agent stopped the runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The agent was signalled.
    Signal(Signal),
    /// It ran as long as it may.
    Ceiling(Duration),
    /// It listened this long and got no job.
    NoJob(Duration),
    /// EC2 takes the machine back.
    Spot,
}

impl Cause {
    /// How long keeping the logs may take after such a stop.
    pub(super) const fn logs_within(self) -> Duration {
        match self {
            Self::Signal(_) | Self::Spot => super::HURRIED_LOGS,
            Self::Ceiling(_) => Duration::from_secs(30),
            Self::NoJob(_) => super::LOGS_WITHIN,
        }
    }
}

/// What the table looks at, besides the exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Facts {
    /// The runner got a job.
    pub(super) received: bool,
    /// The runner finished it.
    pub(super) completed: bool,
    /// The listener gave up with this code.
    pub(super) listener_failure: Option<i32>,
    /// We stopped it, why, and whether SIGKILL was needed.
    pub(super) stop: Option<(Cause, bool)>,
}

/// The outcome for the completion report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The agent's word.
    pub(super) status: AgentStatus,
    /// The runner's exit code, −1 when it has none.
    pub(super) exit_code: i32,
    /// What went wrong.
    pub(super) error: Option<String>,
    /// Who interrupted it.
    pub(super) interrupted_by: Option<&'static str>,
}

impl Verdict {
    /// A failure of ours, without an exit code.
    pub(super) fn failure(error: String) -> Self {
        Self { status: AgentStatus::Failure, exit_code: -1, error: Some(error), interrupted_by: None }
    }

    fn interrupted(by: &'static str, exit_code: i32, error: Option<String>) -> Self {
        Self { status: AgentStatus::Interrupted, exit_code, error, interrupted_by: Some(by) }
    }

    fn runner_failure(exit_code: i32, error: Option<String>) -> Self {
        Self { status: AgentStatus::Failure, exit_code, error, interrupted_by: None }
    }
}

/// The verdict on a run.
pub(super) fn verdict(exit: &Exit, facts: Facts) -> Verdict {
    match facts.stop {
        Some((cause, killed)) => stopped(exit, facts, cause, killed),
        None => ended(exit, facts),
    }
}

/// The verdict when the end came before `run.sh` was spawned.
pub(super) fn before_spawn(cause: Cause) -> Verdict {
    let verdict = stopped(&Exit::Unknown(String::new()), Facts::default(), cause, false);
    let error = (cause == Cause::Spot).then(|| "spot notice before start".to_owned());
    Verdict { error: verdict.error.or(error), ..verdict }
}

fn stopped(exit: &Exit, facts: Facts, cause: Cause, killed: bool) -> Verdict {
    let exit_code = match exit {
        Exit::Code(code) if !killed => *code,
        _ => -1,
    };
    let error = killed.then(|| "killed after timeout".to_owned());
    match cause {
        Cause::Signal(signal) => Verdict::interrupted(word(signal), exit_code, error),
        Cause::Spot => Verdict::interrupted("spot_interruption", exit_code, error),
        Cause::Ceiling(limit) => Verdict {
            status: AgentStatus::Timeout,
            exit_code: -1,
            error: Some(format!("max runtime {} exceeded", minutes(limit))),
            interrupted_by: None,
        },
        // The job came while we were giving up on it: it was cut off by us.
        Cause::NoJob(_) if facts.received => Verdict::interrupted(word(Signal::Terminate), exit_code, error),
        Cause::NoJob(waited) => {
            Verdict::failure(format!("no_job_received: listening for {} s without a job", waited.as_secs()))
        }
    }
}

/// `run.sh` exits 0 for almost everything that can happen to its listener, hence the evidence.
fn ended(exit: &Exit, facts: Facts) -> Verdict {
    match exit {
        Exit::Code(0) => match facts.listener_failure {
            Some(code) if !facts.completed => Verdict::runner_failure(code, Some(listener_error(code))),
            _ => Verdict { status: AgentStatus::Success, exit_code: 0, error: None, interrupted_by: None },
        },
        Exit::Code(7) => Verdict::runner_failure(7, Some("runner_version_deprecated".to_owned())),
        Exit::Code(code) => Verdict::runner_failure(*code, None),
        Exit::Signal(signal) => Verdict::failure(format!("runner killed by signal {signal}")),
        Exit::Unknown(error) => Verdict::failure(format!("execution_failed: {error}")),
    }
}

fn listener_error(code: i32) -> String {
    match code {
        1 => "listener_error: terminated".to_owned(),
        5 => "listener_error: session_conflict".to_owned(),
        code => format!("listener_error: code {code}"),
    }
}

const fn word(signal: Signal) -> &'static str {
    match signal {
        Signal::Terminate => "terminated",
        Signal::Interrupt => "interrupt",
    }
}

fn minutes(limit: Duration) -> String {
    match limit.as_secs() {
        seconds if seconds % 60 == 0 => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    }
}
