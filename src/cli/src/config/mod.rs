//! The configuration of a user: flags that are the same every day, read from files.
//!
//! A setting of a file has the effect of its flag, typed after the command's name. Flags win over
//! the environment, the environment over the project's file, that over the user's, and all over the
//! defaults. Read `settings.rs` for the settings, `file.rs` for the text of a file.

mod file;
mod settings;

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, CommandFactory, FromArgMatches, Parser};
use nix::unistd::Uid;
use sweep::diagnostic::{self, Errors, Problem};

use crate::args::Cli;
use crate::exit::ExpectedError;
use crate::home_folders;
use file::Entry;
pub use settings::{Kind, SETTINGS, Setting};

/// Name of a configuration file.
pub const FILE: &str = "orchestrator.toml";

/// A layer of settings, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    Flag,
    Environment,
    Project,
    User,
    Default,
}

impl Layer {
    pub fn name(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::Project => "project",
            Self::User => "user",
            Self::Default => "default",
        }
    }
}

/// The value of a setting, and its origin.
#[derive(Clone, Debug)]
pub struct InForce {
    pub setting: &'static Setting,
    /// Empty if it has none.
    pub values: Vec<OsString>,
    pub layer: Layer,
    /// The flag, the variable, or `FILE:LINE`.
    pub origin: String,
}

/// Settings in force for one command.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    /// Files that were read.
    pub files: Vec<(Layer, PathBuf)>,
    pub settings: Vec<InForce>,
}

/// The reason why a command line cannot be carried out.
pub enum Refused {
    /// Also for `--help` and `--version`.
    CommandLine(clap::Error),
    File(ExpectedError),
}

/// The flags of `orchestrator config`: those of all settings.
#[derive(Debug)]
pub struct ConfigArgs;

impl Args for ConfigArgs {
    fn augment_args(command: Command) -> Command {
        let launch = crate::args::RunArgs::augment_args(Command::new("run"));
        let launch = launch
            .get_arguments()
            .find(|argument| argument.get_id() == settings::LAUNCH);
        let command = command.args(SETTINGS.iter().map(Setting::argument));
        command.arg(launch.expect("`run` can launch").clone())
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ConfigArgs {
    fn from_arg_matches(_: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self)
    }

    fn update_from_arg_matches(&mut self, _: &ArgMatches) -> Result<(), clap::Error> {
        Ok(())
    }
}

/// A file's content with the layer and path of the file.
struct Read {
    layer: Layer,
    path: PathBuf,
    entries: Vec<Entry>,
}

/// Reads a command line, with the settings of the configuration files.
pub fn command_line(words: Vec<OsString>) -> Result<(Cli, Configuration), Refused> {
    let parse = |words: &[OsString]| Cli::try_parse_from(words).map_err(Refused::CommandLine);
    // Flags that a file supplies may be required: what is missing is an error only below.
    let Ok(matches) = Cli::command()
        .ignore_errors(true)
        .try_get_matches_from(&words)
    else {
        return parse(&words).map(|cli| (cli, Configuration::default()));
    };
    let (mut command, mut given, mut path) = (Cli::command(), &matches, Vec::new());
    while let Some((name, inner)) = given.subcommand() {
        command = command
            .find_subcommand(name)
            .expect("a parsed name")
            .clone();
        given = inner;
        path.push(name.to_owned());
    }
    if !SETTINGS.iter().any(|setting| setting.applies_to(&command)) {
        return parse(&words).map(|cli| (cli, Configuration::default()));
    }
    let named = matches
        .get_one::<PathBuf>("config")
        .or_else(|| given.get_one("config"));
    let files = read_files(named.map(PathBuf::as_path)).map_err(Refused::File)?;
    let configuration = in_force(&command, given, &files);
    let launch = given.try_get_raw("launch").ok().flatten();
    let launch = launch.and_then(|mut how| how.next()?.to_str());
    let at = after_names(&words, &path);
    let words = with_settings(&words, at, launch, &configuration);
    parse(&words).map(|cli| (cli, configuration))
}

/// Returns every setting that the command takes, with its value.
fn in_force(command: &Command, given: &ArgMatches, files: &[Read]) -> Configuration {
    let layer_of = |id: &str| match given
        .try_contains_id(id)
        .ok()
        .and_then(|_| given.value_source(id))
    {
        Some(ValueSource::CommandLine) => Layer::Flag,
        Some(ValueSource::EnvVariable) => Layer::Environment,
        _ => Layer::Default,
    };
    let found = |setting: &Setting| {
        let has = |read: &&Read| read.entries.iter().any(|entry| entry.setting == setting);
        let read = files.iter().find(has)?;
        let entry = read.entries.iter().find(|entry| entry.setting == setting)?;
        Some((read, entry))
    };
    // The strongest layer that gives a flag a value.
    let strongest = |id: &str| {
        let setting = SETTINGS.iter().find(|setting| setting.key == id);
        let in_files = setting
            .and_then(found)
            .map_or(Layer::Default, |(read, _)| read.layer);
        layer_of(id).min(in_files)
    };
    let of_setting = |setting: &'static Setting| {
        let argument = setting.argument();
        let given_values = || {
            let raw = given.get_raw(setting.key).into_iter().flatten();
            raw.map(ToOwned::to_owned).collect()
        };
        let (values, layer, origin) = match (layer_of(setting.key), found(setting)) {
            (Layer::Flag, _) => (given_values(), Layer::Flag, setting.flag()),
            (Layer::Environment, _) => {
                let variable = argument.get_env().unwrap_or_default();
                let variable = variable.to_string_lossy().into_owned();
                (given_values(), Layer::Environment, variable)
            }
            (_, Some((read, entry)))
                if setting
                    .yields_to
                    .iter()
                    .all(|id| strongest(id) >= read.layer) =>
            {
                let origin = format!("{}:{}", read.path.display(), entry.line);
                (entry.values.clone(), read.layer, origin)
            }
            _ => {
                let defaults = argument.get_default_values().iter();
                let defaults = defaults.map(|value| OsString::from(&**value));
                (defaults.collect(), Layer::Default, String::new())
            }
        };
        InForce {
            setting,
            values,
            layer,
            origin,
        }
    };
    let settings = SETTINGS
        .iter()
        .filter(|setting| setting.applies_to(command));
    Configuration {
        files: files
            .iter()
            .map(|read| (read.layer, read.path.clone()))
            .collect(),
        settings: settings.map(of_setting).collect(),
    }
}

/// Returns the index of the word after the names of the command: that of its first own flag.
fn after_names(words: &[OsString], path: &[String]) -> usize {
    let command = Cli::command();
    let takes_a_value = |word: &OsString| {
        command.get_arguments().any(|argument| {
            let flag = argument.get_long().map(|long| format!("--{long}"));
            argument.get_action().takes_values() && flag.is_some_and(|flag| *word == *flag)
        })
    };
    let mut names = path.iter();
    let mut name = names.next();
    let mut index = 1;
    while index < words.len() && name.is_some() {
        if takes_a_value(&words[index]) {
            index += 1;
        } else if name.is_some_and(|name| words[index] == name.as_str()) {
            name = names.next();
        }
        index += 1;
    }
    index.min(words.len())
}

/// Adds the settings of files to a command line, at an index.
fn with_settings(
    words: &[OsString],
    at: usize,
    launch: Option<&str>,
    configuration: &Configuration,
) -> Vec<OsString> {
    let (mut flags, mut last) = (Vec::new(), Vec::new());
    for found in &configuration.settings {
        let of_file = matches!(found.layer, Layer::Project | Layer::User);
        if !of_file || !found.setting.is_for(launch) {
            continue;
        }
        let added = file::command_line_words(found.setting, &found.values);
        match found.setting.kind {
            Kind::Texts => last.extend(added),
            _ => flags.extend(added),
        }
    }
    let (before, rest) = words.split_at(at);
    [before, &flags, rest, &last].concat()
}

/// Reads the project's file and the user's.
fn read_files(named: Option<&Path>) -> Result<Vec<Read>, ExpectedError> {
    let project = match named {
        Some(path) => Some(std::path::absolute(path).map_err(ExpectedError::file("find", path))?),
        None => upward(&std::env::current_dir().map_err(ExpectedError::file("find", "."))?),
    };
    let user = home_folders::config().map(|folder| folder.join(FILE));
    let user = user.filter(|path| path.exists() && Some(path) != project.as_ref());
    let (mut files, mut problems) = (Vec::new(), Vec::new());
    for (layer, path) in [(Layer::Project, project), (Layer::User, user)] {
        let Some(path) = path else { continue };
        let text = std::fs::read_to_string(&path).map_err(ExpectedError::file("read", &path))?;
        let source = diagnostic::source(&path.display().to_string(), text);
        if layer == Layer::Project && named.is_none() {
            problems.extend(foreign(&path).map(|reason| {
                Problem::new(&source, 0..0, reason).help(
                    "its settings name programs to start; if you trust it: --config FILE, or ORCHESTRATOR_CONFIG",
                )
            }));
        }
        let folder = path.parent().unwrap_or(Path::new("/"));
        let (entries, wrong) = file::parse(&source, folder, home_folders::home().as_deref());
        problems.extend(wrong);
        files.push(Read {
            layer,
            path,
            entries,
        });
    }
    match Errors::of(problems) {
        None => Ok(files),
        Some(errors) => {
            let style = diagnostic::Style {
                colour: crate::stderr::colour(),
                ..diagnostic::Style::default()
            };
            Err(ExpectedError::InFile(errors.render(style)))
        }
    }
}

/// Finds the file of the project that a folder belongs to.
fn upward(folder: &Path) -> Option<PathBuf> {
    folder
        .ancestors()
        .map(|folder| folder.join(FILE))
        .find(|path| path.is_file())
}

/// Returns why a file that was found, and not named, is not trusted: anybody can put one into a
/// folder above that of another user's work, such as /tmp.
fn foreign(path: &Path) -> Option<String> {
    let owner = path.metadata().ok()?.uid();
    let trusted = [0, Uid::effective().as_raw()].contains(&owner);
    (!trusted).then(|| format!("the file belongs to another user ({owner})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn flags_are_added_after_the_names_of_a_command() {
        for (line, path, expected) in [
            ("orchestrator run x.yaml", "run", 2),
            ("orchestrator -q --output json status status", "status", 5),
            ("orchestrator --config run run run.yaml", "run", 4),
            ("orchestrator --config=run run x.yaml", "run", 3),
            ("orchestrator journal -v verify", "journal verify", 4),
        ] {
            let path: Vec<String> = path.split(' ').map(str::to_owned).collect();
            assert_eq!(after_names(&words(line), &path), expected, "{line}");
        }
    }

    /// The keys of `[launch]` depend on the kind of cluster.
    #[test]
    fn a_key_of_launch_has_an_effect_with_its_launchers() {
        let of_file = |key: &str, value: &str| InForce {
            setting: settings::find(Some(settings::LAUNCH), key).unwrap(),
            values: vec![value.into()],
            layer: Layer::Project,
            origin: String::new(),
        };
        let configuration = Configuration {
            files: Vec::new(),
            settings: vec![
                of_file("nodes", "4"),
                of_file("idle_timeout", "60"),
                of_file("coordinator_job", "true"),
                of_file("push", "true"),
            ],
        };
        let added = |launch: Option<&str>| {
            let line = with_settings(&words("run x.yaml"), 1, launch, &configuration);
            line.join(std::ffi::OsStr::new(" "))
        };
        let slurm = "run --nodes=4 --idle-timeout=60 --coordinator-job x.yaml";
        assert_eq!(added(Some("slurm")), slurm);
        assert_eq!(
            added(Some("ssh:hosts")),
            "run --idle-timeout=60 --push x.yaml"
        );
        assert_eq!(added(None), "run x.yaml");
    }

    #[test]
    fn a_file_of_another_user_is_not_trusted_unless_it_is_named() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join(FILE);
        std::fs::write(&path, "").unwrap();
        assert_eq!(foreign(&path), None);
        if Uid::effective().is_root() {
            nix::unistd::chown(&path, Some(Uid::from_raw(12_345)), None).unwrap();
            assert!(foreign(&path).unwrap().contains("12345"));
        }
        let below = place.path().join("a/b");
        std::fs::create_dir_all(&below).unwrap();
        assert_eq!(upward(&below), Some(path));
    }
}
