//! `doctor --bundle FILE`: one archive for a bug report. It holds the report, versions, settings, the
//! environment and the ends of recent logs, and no secret: every text passes [`Secrets`].

use std::fs;
use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::facts;
use crate::args::DoctorArgs;
use crate::commands::config;
use crate::config::Configuration;
use crate::exit::ExpectedError;
use crate::home_folders;
use crate::output::SCHEMA;

/// Logs that are taken, the newest first, and the bytes of each.
const MAX_LOGS: usize = 20;
const LOG_BYTES: u64 = 64 << 10;
/// Shorter values would be found in the middle of words.
const MIN_SECRET: usize = 6;
/// Parts of names of variables whose values are secrets.
const SECRET_NAMES: [&str; 8] = [
    "TOKEN",
    "SECRET",
    "PASSWORD",
    "PASSWD",
    "CREDENTIAL",
    "API_KEY",
    "ACCESS_KEY",
    "PRIVATE",
];
const HIDDEN: &str = "[hidden]";

pub fn write(
    file: &Path,
    report: &Value,
    arguments: &DoctorArgs,
    configuration: &Configuration,
) -> Result<(), ExpectedError> {
    let secrets = Secrets::of(arguments);
    let system = fs::read_to_string("/proc/version").unwrap_or_default();
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let release = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let versions = json!({
        "schema": SCHEMA,
        "build": sweep::build(),
        "training_version": sweep::trial::TRAINING_VERSION,
        "kernel": system.trim(),
        "system": release.map(|name| name.trim_matches(['"', '\''])),
    });
    let mut files = vec![
        ("doctor.json".to_owned(), format!("{report:#}\n")),
        ("versions.json".to_owned(), format!("{versions:#}\n")),
        (
            "config.json".to_owned(),
            format!("{:#}\n", config::document(configuration)),
        ),
        (
            "environment.json".to_owned(),
            format!("{:#}\n", json!(facts::environment())),
        ),
    ];
    for work in [
        arguments.work_dir.clone(),
        arguments.target.state_dir.join("work"),
    ] {
        files.extend(logs(&work.join("logs")));
    }
    let files = files
        .into_iter()
        .map(|(name, text)| (name, secrets.hide(&text)));
    archive(file, files.collect()).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => ExpectedError::BadInput(format!(
            "{} exists already: name another file",
            file.display()
        )),
        _ => ExpectedError::file("write", file)(error),
    })
}

/// Writes a gzipped tar archive that only its owner can read.
fn archive(file: &Path, files: Vec<(String, String)>) -> io::Result<()> {
    let opened = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?;
    let mut archive = tar::Builder::new(GzEncoder::new(opened, Compression::default()));
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(facts::now_ms() / 1000);
        archive.append_data(&mut header, format!("doctor/{name}"), text.as_bytes())?;
    }
    archive.into_inner()?.finish()?.sync_all()
}

/// Returns the ends of the newest logs of trainers, by their names in the archive.
fn logs(folder: &Path) -> Vec<(String, String)> {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<(SystemTime, PathBuf)> = entries(folder)
        .flat_map(|trial| entries(&trial.path()).collect::<Vec<_>>())
        .filter_map(|log| Some((log.metadata().ok()?.modified().ok()?, log.path())))
        .collect();
    found.sort_by(|one, other| other.cmp(one));
    let newest = found.into_iter().take(MAX_LOGS);
    newest
        .filter_map(|(_, path)| {
            let below = path.strip_prefix(folder).ok()?.display().to_string();
            Some((format!("logs/{below}"), end(&path).ok()?))
        })
        .collect()
}

fn end(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Texts that must not leave this machine.
struct Secrets {
    /// The longest first, so that no part of one is left.
    values: Vec<String>,
    home: Option<String>,
}

impl Secrets {
    /// Collects the contents of token files, and the values of variables whose names look secret.
    fn of(arguments: &DoctorArgs) -> Self {
        let target = &arguments.target;
        let files = [
            target.token_file.clone(),
            Some(target.state_dir.join("token")),
        ];
        let tokens = files
            .into_iter()
            .flatten()
            .filter_map(|file| fs::read_to_string(file).ok());
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.to_string_lossy().to_uppercase();
            // a path is no secret
            let is_secret =
                SECRET_NAMES.iter().any(|part| name.contains(part)) && !name.ends_with("_FILE");
            is_secret.then(|| value.to_string_lossy().into_owned())
        });
        let home = home_folders::home().map(|home| home.display().to_string());
        Self::new(tokens.chain(variables), home)
    }

    fn new(values: impl Iterator<Item = String>, home: Option<String>) -> Self {
        let lines = values.flat_map(|value| {
            let lines: Vec<String> = value.lines().map(|line| line.trim().to_owned()).collect();
            lines
        });
        let mut values: Vec<String> = lines.filter(|line| line.len() >= MIN_SECRET).collect();
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        Self { values, home }
    }

    /// Hides secrets, user names and passwords in addresses, and the home directory.
    fn hide(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for value in &self.values {
            text = text.replace(value, HIDDEN);
            // as it stands in a JSON document
            let escaped = Value::from(value.as_str()).to_string();
            text = text.replace(&escaped[1..escaped.len() - 1], HIDDEN);
        }
        if let Some(home) = &self.home {
            text = text.replace(home, "~");
        }
        without_passwords(&text)
    }
}

/// Replaces `USER:PASSWORD@` in every address.
fn without_passwords(text: &str) -> String {
    let mut hidden = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        hidden.push_str(before);
        let end = after.find(|symbol: char| symbol.is_whitespace() || "/?#\"'".contains(symbol));
        let host = &after[..end.unwrap_or(after.len())];
        rest = match host.rfind('@') {
            Some(at) => {
                hidden.push_str(HIDDEN);
                &after[at..]
            }
            None => after,
        };
    }
    hidden + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_wherever_they_stand() {
        let values = [
            "s3cret-token\n",
            "s3cret-token-longer",
            "short",
            "with \"quotes\"",
        ];
        let secrets = Secrets::new(
            values.map(str::to_owned).into_iter(),
            Some("/home-of/me".into()),
        );
        for (text, expected) in [
            ("Bearer s3cret-token!", "Bearer [hidden]!"),
            ("s3cret-token-longer", "[hidden]"),
            ("a short word", "a short word"),
            (r#"{"a":"with \"quotes\""}"#, r#"{"a":"[hidden]"}"#),
            ("/home-of/me/state", "~/state"),
            (
                "http://me:pass@proxy:3128/x y@z",
                "http://[hidden]@proxy:3128/x y@z",
            ),
            ("http://proxy:3128 mail@host", "http://proxy:3128 mail@host"),
            ("a://b@c d://e@f", "a://[hidden]@c d://[hidden]@f"),
        ] {
            assert_eq!(secrets.hide(text), expected, "{text}");
        }
    }

    #[test]
    fn the_end_of_each_recent_log_is_taken() {
        let place = tempfile::tempdir().unwrap();
        for trial in 0..MAX_LOGS + 3 {
            let folder = place.path().join(format!("t{trial}"));
            fs::create_dir(&folder).unwrap();
            let text = "x".repeat(LOG_BYTES as usize) + "the end";
            fs::write(folder.join("attempt-1.stderr"), text).unwrap();
        }
        let found = logs(place.path());
        assert_eq!(found.len(), MAX_LOGS);
        assert!(
            found
                .iter()
                .all(|(name, text)| name.ends_with("/attempt-1.stderr")
                    && text.len() == LOG_BYTES as usize
                    && text.ends_with("the end"))
        );
        assert!(logs(&place.path().join("absent")).is_empty());
    }
}
