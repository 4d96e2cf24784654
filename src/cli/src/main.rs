//! The `orchestrator` command: reads arguments, calls one command, turns its end into an exit code.
//!
//! stdout is data, stderr is talk. Read `args.rs` for what it accepts, `exit.rs` for how it ends, `commands/` for what
//! each command does.

mod advice;
mod args;
mod cache_dir;
mod client;
mod commands;
mod estimate;
mod exit;
mod follow;
mod footer;
mod host_port;
mod offline;
mod output;
mod preflight;
mod rendezvous;
mod reports;
mod results_folder;
mod signals;
mod talk;
mod trainer;

use std::process::ExitCode;

use clap::Parser;

use args::Cli;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // `--help` and `--version` arrive here too, and are no errors.
            let code = if error.use_stderr() { 1 } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    talk::start(&cli.global, &cli.command);
    match commands::run(cli) {
        Ok(outcome) => ExitCode::from(outcome.exit_code()),
        Err(error) => {
            talk::error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}
