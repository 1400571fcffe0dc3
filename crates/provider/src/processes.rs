//! Finding, suspending and ending every process of a machine that is only a set of processes.
//!
//! A process belongs to a machine when it is in the machine's session or when its environment carries the marker
//! variable [`MARKER`] with the machine's key. Children inherit both; a daemon that starts its own session keeps the
//! marker, a shell that clears its environment keeps the session.
//!
//! Properties: nothing that belongs to the machine outlives [`end`], or runs on behind [`suspend`]; nothing else is ever
//! signalled. Races survived:
//!
//! * *Pid reuse.* A process is named by pid and kernel start time, and signalled through a descriptor opened before
//!   its membership is checked.
//! * *Forks during the scan.* Scans repeat until two in a row find nothing.
//! * *Zombies* count as dead: they wait for their parent, which may never look.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use procfs::process::{Process, Stat};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

/// Environment variable that every process of a machine carries; its value is the machine's key.
pub const MARKER: &str = "RUNS_FLEET_MACHINE";

/// A process that cannot be mistaken for a later one with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Process id.
    pub pid: i32,
    /// Kernel start time, clock ticks since boot (proc(5), `starttime`).
    pub start_time: u64,
}

impl ProcessId {
    /// The process that has this pid now, zombies included; `None` when there is none.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = Process::new(pid).ok()?.stat().ok()?;
        Some(Self { pid, start_time: stat.starttime })
    }

    /// Whether it still runs. A zombie does not.
    pub fn is_alive(self) -> bool {
        let stat = Process::new(self.pid).ok().and_then(|process| process.stat().ok());
        stat.is_some_and(|stat| stat.starttime == self.start_time && runs(&stat))
    }
}

/// Which processes are meant. With neither criterion, none are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// Everything in the session this process leads or led.
    pub session: Option<ProcessId>,
    /// Everything whose [`MARKER`] has this value.
    pub marker: Option<String>,
}

/// One process found by [`find`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Which one.
    pub id: ProcessId,
    /// The first 15 bytes of its command's name.
    pub command: String,
}

/// Processes that could not be ended, or suspended, in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} processes go on")]
pub struct Survivors(pub usize);

/// Every live member except the caller itself. Blocking: reads `/proc` once.
pub fn find(members: &Members) -> Vec<Found> {
    let mut found = Vec::new();
    scan(members, |member| found.push(Found { id: member.id, command: member.stat.comm.clone() }));
    found
}

/// Kills members until none is left, for at most `within`.
pub async fn end(members: &Members, within: Duration) -> Result<(), Survivors> {
    repeat(members, within, kill).await
}

/// Suspends members (SIGSTOP) until none runs, for at most `within`. They stay, and take up memory, until [`resume`] or
/// [`end`].
pub async fn suspend(members: &Members, within: Duration) -> Result<(), Survivors> {
    repeat(members, within, halt).await
}

/// Lets suspended members run on (SIGCONT); those that run are not disturbed. Answers how many there are. Blocking:
/// reads `/proc` once, which is enough, because what is suspended does not fork.
pub fn resume(members: &Members) -> usize {
    let mut alive = 0;
    scan(members, |member| {
        alive += 1;
        member.signal(Signal::CONT);
    });
    alive
}

/// Passes until two in a row find nothing left to do, for at most `within`.
async fn repeat(members: &Members, within: Duration, pass: fn(&Members) -> usize) -> Result<(), Survivors> {
    let deadline = tokio::time::Instant::now() + within;
    let mut clean_scans = 0;
    let mut pause = Duration::from_millis(1);
    loop {
        let wanted = members.clone();
        // A panic in the scan counts as "not known to be done".
        let left = tokio::task::spawn_blocking(move || pass(&wanted)).await.unwrap_or(1);
        clean_scans = if left == 0 { clean_scans + 1 } else { 0 };
        if clean_scans == 2 {
            return Ok(());
        }
        if left > 0 {
            if tokio::time::Instant::now() >= deadline {
                return Err(Survivors(left));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

/// One pass: SIGKILL to every member; answers how many were alive.
fn kill(members: &Members) -> usize {
    let mut alive = 0;
    scan(members, |member| {
        alive += 1;
        member.signal(Signal::KILL);
    });
    alive
}

/// One pass: SIGSTOP to every member that runs; answers how many did.
fn halt(members: &Members) -> usize {
    let mut running = 0;
    scan(members, |member| {
        if member.stat.state != 'T' {
            running += 1;
            member.signal(Signal::STOP);
        }
    });
    running
}

/// A live member, held so that no other process can take its place.
struct Member {
    id: ProcessId,
    stat: Stat,
    pid: Pid,
    handle: Option<OwnedFd>,
}

impl Member {
    fn signal(&self, signal: Signal) {
        // Failure means it is gone, or not ours to signal; the next scan tells which.
        let _ = match &self.handle {
            Some(fd) => rustix::process::pidfd_send_signal(fd, signal),
            None => rustix::process::kill_process(self.pid, signal),
        };
    }
}

/// Calls `visit` for every live member but ourselves.
fn scan(members: &Members, mut visit: impl FnMut(&Member)) {
    let own = rustix::process::getpid().as_raw_pid();
    let session = members.session.filter(|leader| ProcessId::of(leader.pid).is_none_or(|now| now == *leader));
    let Ok(all) = procfs::process::all_processes() else { return };
    for process in all.flatten() {
        let Some(pid) = Pid::from_raw(process.pid()).filter(|pid| pid.as_raw_pid() != own) else { continue };
        // The descriptor first: whatever is checked from here on is checked about the process it holds.
        let handle = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok();
        let Ok(stat) = process.stat() else { continue };
        if !runs(&stat) || !(in_session(&stat, session) || has_marker(&process, members.marker.as_deref())) {
            continue;
        }
        let id = ProcessId { pid: stat.pid, start_time: stat.starttime };
        visit(&Member { id, stat, pid, handle });
    }
}

fn runs(stat: &Stat) -> bool {
    !matches!(stat.state, 'Z' | 'X' | 'x')
}

fn in_session(stat: &Stat, leader: Option<ProcessId>) -> bool {
    leader.is_some_and(|leader| stat.session == leader.pid && stat.starttime >= leader.start_time)
}

fn has_marker(process: &Process, key: Option<&str>) -> bool {
    let Some(key) = key else { return false };
    process.environ().is_ok_and(|environ| environ.get(OsStr::new(MARKER)).is_some_and(|value| value == key))
}
