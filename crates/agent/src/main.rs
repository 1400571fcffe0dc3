//! The agent as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    agent::main(std::env::args_os().skip(1))
}
