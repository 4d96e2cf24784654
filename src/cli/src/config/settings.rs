//! The settings that a configuration file may hold: the one table from which the reader of files,
//! `orchestrator config` and docs/configuration.md come.
//!
//! The meaning of a setting, its environment variable, its default and its possible values belong
//! to the flag of the same name, which `args.rs` declares.

use clap::{Arg, Args, Command};

use crate::args::{CoordinatorArgs, RunArgs, WorkerArgs};

/// Table of the file for the flags of `--launch`.
pub const LAUNCH: &str = "launch";

/// The kinds of cluster that `--launch` names.
const SLURM: &str = "slurm";
const SSH: &str = "ssh";

/// One setting: a key of a file, and the flag that it replaces.
#[derive(Debug, PartialEq, Eq)]
pub struct Setting {
    /// `launch` for keys of the table `[launch]`.
    pub table: Option<&'static str>,
    pub key: &'static str,
    pub kind: Kind,
    /// Beginnings of the values of `--launch` with which a key of `[launch]` has an effect.
    pub launchers: &'static [&'static str],
    /// Flags that contradict it: where one is given, the setting of a file has no effect.
    pub yields_to: &'static [&'static str],
    /// Commands whose flag of this name means something else.
    pub not_for: &'static [&'static str],
}

/// The form of a value in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// Relative paths are relative to the folder of the file.
    Path,
    Number,
    /// A list of texts: the flag once for each.
    Repeated,
    /// A list of texts after `--`.
    Texts,
    /// `true` gives the flag, `false` does not.
    Switch,
    /// The same, or a text that becomes the flag's value.
    SwitchOrText,
}

const fn top(key: &'static str, kind: Kind) -> Setting {
    Setting {
        table: None,
        key,
        kind,
        launchers: &[],
        yields_to: &[],
        not_for: &[],
    }
}

const fn launch(key: &'static str, kind: Kind) -> Setting {
    Setting {
        table: Some(LAUNCH),
        launchers: &[SLURM],
        ..top(key, kind)
    }
}

pub static SETTINGS: [Setting; 29] = [
    top("data_dir", Kind::Path),
    top("cache_dir", Kind::Path),
    Setting {
        // a state directory, or workers to launch, mean a coordinator of this machine
        yields_to: &["state_dir", "launch"],
        ..top("coordinator", Kind::Text)
    },
    top("token_file", Kind::Path),
    top("state_dir", Kind::Path),
    Setting {
        // there it asks for files that are not written otherwise
        not_for: &["table"],
        ..top("results", Kind::Path)
    },
    top("work_dir", Kind::Path),
    top("devices", Kind::Text),
    top("slots", Kind::Number),
    top("devices_per_slot", Kind::Number),
    top("trainer", Kind::Path),
    top("view", Kind::Text),
    Setting {
        yields_to: &["detach"],
        ..top("export", Kind::Repeated)
    },
    Setting {
        // that coordinator has its own
        yields_to: &["coordinator"],
        ..top("notify", Kind::Repeated)
    },
    top("notify_after", Kind::Text),
    launch("nodes", Kind::Number),
    Setting {
        yields_to: &["cpus_per_node"],
        ..launch("gpus_per_node", Kind::Number)
    },
    Setting {
        yields_to: &["gpus_per_node"],
        ..launch("cpus_per_node", Kind::Number)
    },
    launch("time", Kind::Text),
    launch("partition", Kind::Text),
    launch("account", Kind::Text),
    launch("prologue", Kind::Path),
    launch("wrap", Kind::Text),
    Setting {
        launchers: &[SLURM, SSH],
        ..launch("idle_timeout", Kind::Number)
    },
    launch("observe_every", Kind::Number),
    Setting {
        // that job has an address of its own
        yields_to: &["coordinator_job"],
        ..launch("advertise", Kind::Text)
    },
    Setting {
        yields_to: &["advertise"],
        ..launch("coordinator_job", Kind::SwitchOrText)
    },
    Setting {
        launchers: &[SSH],
        ..launch("push", Kind::Switch)
    },
    launch("options", Kind::Texts),
];

impl Setting {
    /// Returns the key as people write it: `launch.nodes`.
    pub fn name(&self) -> String {
        match self.table {
            Some(table) => format!("{table}.{}", self.key),
            None => self.key.to_owned(),
        }
    }

    /// Returns the flag: `--data-dir`, or `--` for the options that follow it.
    pub fn flag(&self) -> String {
        match self.kind {
            Kind::Texts => "--".to_owned(),
            _ => format!("--{}", self.key.replace('_', "-")),
        }
    }

    /// Returns the declaration of its flag.
    pub fn argument(&self) -> Arg {
        let owners = [
            RunArgs::augment_args(Command::new("run")),
            CoordinatorArgs::augment_args(Command::new("coordinator")),
            WorkerArgs::augment_args(Command::new("worker")),
        ];
        let arguments = owners.iter().flat_map(Command::get_arguments);
        arguments
            .into_iter()
            .find(|argument| argument.get_id() == self.key)
            .cloned()
            .expect("a test looks up every setting")
    }

    /// Returns true if it has an effect with this value of `--launch`.
    pub fn is_for(&self, launch: Option<&str>) -> bool {
        let kind = launch.map(|how| how.split(':').next().unwrap_or_default());
        self.table.is_none() || kind.is_some_and(|kind| self.launchers.contains(&kind))
    }

    /// Returns true if the command takes it.
    pub fn applies_to(&self, command: &Command) -> bool {
        let has = |id: &str| {
            command
                .get_arguments()
                .any(|argument| argument.get_id() == id)
        };
        !self.not_for.contains(&command.get_name()) && has(self.key) && self.table.is_none_or(has)
    }
}

/// Returns the setting of a table and key.
pub fn find(table: Option<&str>, key: &str) -> Option<&'static Setting> {
    SETTINGS
        .iter()
        .find(|setting| setting.table == table && setting.key == key)
}

/// Returns the table of docs/configuration.md.
#[cfg(test)]
pub fn reference() -> String {
    let mut text = "| key | flag | variable | what | default |\n|---|---|---|---|---|\n".to_owned();
    for setting in &SETTINGS {
        let argument = setting.argument();
        let help = argument.get_help().map(ToString::to_string);
        let help = help
            .unwrap_or_default()
            .replace('\n', " ")
            .replace('|', "\\|");
        let (what, in_help) = match help.split_once(" [default: ") {
            Some((what, default)) => (what.to_owned(), Some(default.trim_end_matches(']'))),
            None => (help.clone(), None),
        };
        let declared = argument.get_default_values().first();
        let declared = declared.map(|value| value.to_string_lossy().into_owned());
        let quoted = |text: &str| format!("`{text}`");
        let variable = argument
            .get_env()
            .map(|name| quoted(&name.to_string_lossy()));
        let default = declared.as_deref().or(in_help).map(quoted);
        let flag = match setting.kind {
            Kind::Texts => "after `--`".to_owned(),
            _ => quoted(&setting.flag()),
        };
        text.push_str(&format!(
            "| `{}` | {flag} | {} | {what} | {} |\n",
            setting.name(),
            variable.unwrap_or_default(),
            default.unwrap_or_default(),
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_lists_every_setting() {
        let table = reference();
        let (begin, rest) = table.split_at("| key |".len());
        let rows = rest.trim_end_matches('\n');
        ::tests::golden::assert_part("../../docs/configuration.md", begin, "\n\n", rows);
    }

    /// The command line and the files agree on names, and a flag that contradicts another exists.
    #[test]
    fn every_setting_is_a_flag() {
        let run = RunArgs::augment_args(Command::new("run"));
        for setting in &SETTINGS {
            let argument = setting.argument();
            match setting.kind {
                Kind::Texts => assert!(argument.is_last_set()),
                _ => assert_eq!(argument.get_long(), Some(&setting.flag()[2..])),
            }
            for id in setting.yields_to {
                assert!(run.get_arguments().any(|argument| argument.get_id() == *id));
            }
        }
        assert!(find(Some(LAUNCH), "nodes").unwrap().applies_to(&run));
        let table = crate::args::TableArgs::augment_args(Command::new("table"));
        assert!(!find(None, "results").unwrap().applies_to(&table));
        let worker = WorkerArgs::augment_args(Command::new("worker"));
        assert!(
            !find(Some(LAUNCH), "idle_timeout")
                .unwrap()
                .applies_to(&worker)
        );
    }
}
