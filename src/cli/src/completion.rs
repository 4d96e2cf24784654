//! Completion of sweeps and cells for shells: the names that a coordinator or a journal has, for the
//! command line as far as it is typed.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use clap::CommandFactory;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};

use crate::args::{Cli, Command, Target};
use crate::config;
use crate::offline;

/// Longest wait for a coordinator: a person waits at a prompt.
const PATIENCE: Duration = Duration::from_secs(1);
/// The variable with which a shell asks for completions.
const VARIABLE: &str = "COMPLETE";
/// The flags that lead to the sweeps.
const PLACES: [&str; 4] = ["--state-dir", "--coordinator", "--token-file", "--config"];
/// The commands whose first word is a sweep, and further words its cells.
const WITH_CELLS: [&str; 4] = ["why", "retry", "show", "logs"];

/// Answers a shell and ends the process, if a shell asks.
pub fn answer_shell() {
    CompleteEnv::with_factory(Cli::command)
        .var(VARIABLE)
        .complete();
}

/// Returns what makes a shell ask this program.
pub fn registration(shell: &str) -> Vec<u8> {
    const NAME: &str = "orchestrator";
    let mut script = Vec::new();
    let shells = Shells::builtins();
    let completer = shells.completer(shell).expect("clap knows its own shells");
    completer
        .write_registration(VARIABLE, NAME, NAME, NAME, &mut script)
        .expect("memory can be written");
    script
}

/// Completes the name of a sweep.
pub fn sweeps() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| begun(current, sweep_names(&typed())))
}

/// Completes the name of a sweep, and after it the names of its cells.
pub fn sweep_and_cells() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let typed = typed();
        let names = match typed.sweep.as_deref() {
            Some(sweep) => cell_names(&typed, sweep),
            None => sweep_names(&typed),
        };
        begun(current, names)
    })
}

fn begun(current: &OsStr, names: Vec<String>) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    let mut names = names;
    names.retain(|name| name.starts_with(&*current));
    names.into_iter().map(CompletionCandidate::new).collect()
}

/// The part of the command line that is typed already.
#[derive(Debug, Default, PartialEq)]
struct Typed {
    /// Flags that lead to the sweeps, with their values.
    places: Vec<String>,
    /// The word before the one that is completed, if that is a cell.
    sweep: Option<String>,
}

/// Reads the words that the shell passes: `orchestrator -- orchestrator WORD...`.
fn typed() -> Typed {
    let words: Vec<String> = std::env::args_os()
        .map(|word: OsString| word.to_string_lossy().into_owned())
        .collect();
    let start = words
        .iter()
        .position(|word| word == "--")
        .map_or(0, |at| at + 2);
    read(words.get(start..).unwrap_or_default())
}

/// The last word is the one that is completed.
fn read(words: &[String]) -> Typed {
    let mut typed = Typed::default();
    let mut plain = Vec::new();
    let mut words = words.iter().take(words.len().saturating_sub(1));
    while let Some(word) = words.next() {
        if PLACES.contains(&word.as_str()) {
            typed.places.push(word.clone());
            typed.places.extend(words.next().cloned());
        } else if PLACES.iter().any(|flag| {
            word.strip_prefix(flag)
                .is_some_and(|rest| rest.starts_with('='))
        }) {
            typed.places.push(word.clone());
        } else if !word.starts_with('-') {
            plain.push(word.clone());
        }
    }
    if let [command, sweep, ..] = plain.as_slice()
        && WITH_CELLS.contains(&command.as_str())
    {
        typed.sweep = Some(sweep.clone());
    }
    typed
}

/// Returns where the typed flags, the environment and the settings of the project lead.
fn target(typed: &Typed) -> Option<Target> {
    let words = ["orchestrator", "list"].iter().map(OsString::from);
    let words = words.chain(typed.places.iter().map(OsString::from));
    match config::command_line(words.collect()).ok()?.0.command {
        Command::List(arguments) => Some(arguments.target),
        _ => None,
    }
}

/// Returns the sweeps, the newest first; none if neither a coordinator nor a journal has any.
fn sweep_names(typed: &Typed) -> Vec<String> {
    let Some(target) = target(typed) else {
        return Vec::new();
    };
    let mut sweeps = live_names(&target).unwrap_or_else(|| {
        let state = journal::read(&target.state_dir).unwrap_or_default();
        let named = state.sweeps.values();
        named
            .map(|entry| (entry.submitted_at, entry.sweep.name.clone()))
            .collect()
    });
    sweeps.sort_by(|one, other| other.cmp(one));
    sweeps.into_iter().map(|(_, name)| name).collect()
}

/// Asks the coordinator, if one answers soon.
fn live_names(target: &Target) -> Option<Vec<(u64, String)>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    let names = async {
        let mut client = offline::live(target).await.ok()??;
        let reply = client.status(None).await.ok()?;
        let named = reply.sweeps.into_iter();
        Some(
            named
                .map(|sweep| (sweep.submitted_at_ms, sweep.name))
                .collect(),
        )
    };
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, names).await });
    answer.ok().flatten()
}

/// Returns the cells of a sweep in the journal of the state directory.
fn cell_names(typed: &Typed, sweep: &str) -> Vec<String> {
    let state = target(typed).and_then(|target| journal::read(&target.state_dir).ok());
    let entry = state.as_ref().and_then(|state| state.sweeps.get(sweep));
    let cells = entry.into_iter().flat_map(|entry| {
        let names = entry.sweep.cells.iter();
        names.map(|cell| entry.sweep.cell_name(cell))
    });
    cells.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_before_the_cursor_lead_to_the_sweeps() {
        let typed = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            read(&words)
        };
        assert_eq!(typed("tail qu"), Typed::default());
        assert_eq!(
            typed("tail --state-dir s --coordinator=http://h:1 -v qu"),
            Typed {
                places: ["--state-dir", "s", "--coordinator=http://h:1"]
                    .map(str::to_owned)
                    .to_vec(),
                sweep: None,
            }
        );
        assert_eq!(typed("why table2 cub/").sweep.as_deref(), Some("table2"));
        assert_eq!(typed("why ta").sweep, None);
        assert_eq!(typed("tail table2 ").sweep, None);
    }
}
