//! The `orchestrator` command: reads arguments, runs one command, and converts its result to an
//! exit code.
//!
//! stdout is for data, stderr for messages. Read `args.rs` for the arguments, `exit.rs` for the
//! exit codes, `commands/` for each command.

mod advice;
mod archive;
mod args;
mod cache_dir;
mod client;
mod commands;
mod completion;
mod config;
mod disk;
mod doctor_args;
mod estimate;
mod exit;
mod exports;
mod fit;
mod follow;
mod home_folders;
mod host_port;
mod init_args;
mod inspect_args;
mod kept_files;
mod launch_args;
mod launching;
mod libtorch;
mod notify_args;
mod offline;
mod output;
mod page_args;
mod planned_disk;
mod preflight;
mod programs;
mod proposal;
mod rendezvous;
mod reports;
mod results_folder;
mod serve_args;
mod signals;
mod stderr;
mod timed;
mod token_args;
mod trainer;
mod trainer_args;
mod view;

use std::process::ExitCode;

use config::Refused;

fn main() -> ExitCode {
    completion::answer_shell();
    let (cli, configuration) = match config::command_line(std::env::args_os().collect()) {
        Ok(read) => read,
        Err(Refused::CommandLine(error)) => {
            // `--help` and `--version` arrive here too, and are no errors.
            let code = if error.use_stderr() { 1 } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
        Err(Refused::File(error)) => {
            stderr::error(&error);
            return ExitCode::from(error.exit_code());
        }
    };
    stderr::init(&cli.global, &cli.command);
    match commands::run(cli, &configuration) {
        Ok(outcome) => ExitCode::from(outcome.exit_code()),
        Err(error) => {
            stderr::error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}
