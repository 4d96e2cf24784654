//! One file per group of commands. This one only dispatches.

mod change;
mod check;
mod cluster;
mod config;
mod data;
mod doctor;
mod doctor_job;
mod embed;
mod export;
mod follow_sweep;
mod init;
mod inspect;
mod journal;
mod logs;
mod page;
mod plan;
mod predict;
mod run;
mod serve;
mod setup;
mod show;
mod token;
mod trainer_check;
mod verify;

use std::path::Path;

use clap::CommandFactory;

use crate::args::{Cli, Command, DataCommand, JournalCommand, TrainerCommand};
use crate::completion;
use crate::config::Configuration;
use crate::exit::{ExpectedError, Outcome};
use crate::output::{self, Output};
use crate::token_args::TokenCommand;

/// Runs one command to its end.
pub fn run(cli: Cli, configuration: &Configuration) -> Result<Outcome, ExpectedError> {
    let output = Output::new(cli.global.output);
    match cli.command {
        Command::Run(arguments) => run::run(&arguments, output),
        Command::Coordinator(arguments) => block_on(serve::coordinator(&arguments)),
        Command::Worker(arguments) => block_on(serve::worker(&arguments)),
        Command::Init(arguments) => init::init(&arguments, configuration, output),
        Command::Plan(arguments) => plan::plan(&arguments, output),
        Command::Predict(arguments) => predict::predict(&arguments, output),
        Command::Status(arguments) => block_on(inspect::status(&arguments, output)),
        Command::Tail(arguments) => block_on(inspect::tail(&arguments, output)),
        Command::Table(arguments) => block_on(inspect::table(&arguments, output)),
        Command::Check(arguments) => check::check(&arguments, output),
        Command::Verify(arguments) => block_on(verify::verify(&arguments, output)),
        Command::Why(arguments) => block_on(inspect::why(&arguments, output)),
        Command::Export(arguments) => block_on(export::export(&arguments, output)),
        Command::Show(arguments) => block_on(show::show(&arguments, output)),
        Command::List(arguments) => block_on(inspect::list(&arguments, output)),
        Command::Page(arguments) => block_on(page::page(&arguments, output)),
        Command::Report(arguments) => block_on(page::report(&arguments, output)),
        Command::Logs(arguments) => block_on(logs::logs(&arguments)),
        Command::Cancel(arguments) => block_on(change::cancel(&arguments, output)),
        Command::Retry(arguments) => block_on(change::retry(&arguments, output)),
        Command::Rm(arguments) => block_on(change::remove(&arguments, output)),
        Command::Drain(arguments) => block_on(change::drain(&arguments, output)),
        Command::Undrain(arguments) => block_on(change::undrain(&arguments, output)),
        Command::Token(TokenCommand::Create(arguments)) => token::create(&arguments, output),
        Command::Token(TokenCommand::Show(arguments)) => token::show(&arguments, output),
        Command::Token(TokenCommand::Revoke(arguments)) => {
            block_on(token::revoke(&arguments, output))
        }
        Command::Cluster(command) => block_on(cluster::cluster(&command, output)),
        Command::Data(DataCommand::List(arguments)) => data::list(&arguments, output),
        Command::Data(DataCommand::Fetch(arguments)) => data::fetch(&arguments, output),
        Command::Data(DataCommand::Sheet(arguments)) => data::sheet(&arguments, output),
        Command::Data(DataCommand::Check(arguments)) => data::check(&arguments, output),
        Command::Setup(arguments) => setup::setup(&arguments, output),
        Command::Doctor(arguments) if arguments.launch.launch.is_some() => {
            block_on(doctor_job::doctor_job(&arguments, output))
        }
        Command::Doctor(arguments) => block_on(doctor::doctor(&arguments, configuration, output)),
        Command::Config(_) => config::config(configuration, output),
        Command::Trainer(TrainerCommand::Check(arguments)) => {
            block_on(trainer_check::check(&arguments, output))
        }
        Command::Embed(arguments) => embed::embed(&arguments, output),
        Command::Journal(JournalCommand::Export(arguments)) => journal::export(&arguments),
        Command::Journal(JournalCommand::Verify(arguments)) => journal::verify(&arguments, output),
        Command::Journal(JournalCommand::Repair(arguments)) => journal::repair(&arguments, output),
        Command::Completions(arguments) => completions(arguments.shell),
        Command::Man(arguments) => man(&arguments.dir),
    }
}

/// Writes `orchestrator.1`, and a page of its own for each command.
fn man(dir: &Path) -> Result<Outcome, ExpectedError> {
    std::fs::create_dir_all(dir).map_err(ExpectedError::file("create", dir))?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    clap_mangen::generate_to(with_usage_of_help(command), dir)
        .map_err(ExpectedError::file("write", dir))?;
    Ok(Outcome::Complete)
}

/// Puts the usage of `--help` into the synopsis of a manual page, which otherwise lists every flag.
fn with_usage_of_help(mut command: clap::Command) -> clap::Command {
    let usage = command.render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).to_owned();
    command
        .mut_subcommands(with_usage_of_help)
        .override_usage(usage)
}

fn completions(shell: clap_complete::Shell) -> Result<Outcome, ExpectedError> {
    output::write(&completion::registration(&shell.to_string())).map(|_| Outcome::Complete)
}

/// Runs a command that needs the network, signals or timers.
pub fn block_on(
    command: impl Future<Output = Result<Outcome, ExpectedError>>,
) -> Result<Outcome, ExpectedError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| ExpectedError::Infrastructure {
        what: "cannot start the threads of this program",
        reason: error.to_string(),
    })?;
    let outcome = runtime.block_on(command);
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    outcome
}
