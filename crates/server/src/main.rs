//! `runs-fleet-server`: GitHub Actions jobs on your own machines. See `--help`, or the README.

#[cfg(feature = "aws")]
mod aws;
mod back_ends;
mod cache;
mod cli;
mod commands;
mod http;
mod listener;
#[cfg(feature = "local")]
mod local;
mod observe;
mod pools;
mod serve;
#[cfg(feature = "aws")]
mod setup;
#[cfg(feature = "simulate")]
mod simulate;
mod tasks;
#[cfg(feature = "aws")]
mod vault;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

// A simulated world allocates more than it computes.
#[cfg(feature = "simulate")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    #[cfg(feature = "local")]
    if let Some(code) = local::machine_side() {
        return code;
    }
    let result = match Cli::parse().command {
        Command::Serve(options) => serve::main(&options),
        #[cfg(feature = "local")]
        Command::Local(options) => local::main(options),
        #[cfg(feature = "simulate")]
        Command::Simulate(options) => simulate::main(&options),
        Command::CheckConfig(options) => commands::check_config(&options),
        #[cfg(feature = "aws")]
        Command::Setup(options) => setup::main(&options),
        Command::Labels(options) => commands::labels(&options),
        Command::Why(options) => commands::why(&options),
        Command::Tasks(options) => tasks::main(&options),
        Command::Pools(options) => pools::main(&options),
        Command::Healthcheck => commands::healthcheck(),
    };
    result.unwrap_or_else(|error| {
        cli::complain(&format!("runs-fleet-server: {error:#}"));
        ExitCode::FAILURE
    })
}
