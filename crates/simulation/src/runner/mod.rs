//! The stand-in for the Actions runner.
//!
//! [`runner_tarball`] packs it: the files an agent looks for in a runner directory, whose `run.sh` starts a given
//! executable with the sub-command [`SUB_COMMAND`]. [`main`] is that sub-command. It registers with the
//! just-in-time configuration in `ACTIONS_RUNNER_INPUT_JITCONFIG`, prints what the real runner prints, "runs" one
//! job by waiting for as long as the job takes, and exits.
//!
//! Races it survives: GitHub not answering for a while (it asks again, up to half a minute); a job concluded behind
//! its back, a registration deleted while it idles (it leaves); a signal at any moment.

mod listener;
mod tarball;
pub(crate) mod wire;

#[cfg(test)]
mod tests;

pub use listener::main;
pub use tarball::{RunnerTarball, SUB_COMMAND, runner_tarball};
