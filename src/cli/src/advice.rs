//! Completes the commands that messages advise. The state machine names a command (`orchestrator
//! undrain HOST`); only the command line knows the coordinator that advised it.

use crate::args::Target;

/// Commands that contact a coordinator and take the flags of [`Target`].
const CONTACTING: [&str; 9] = [
    "status", "tail", "table", "why", "logs", "cancel", "retry", "drain", "undrain",
];

/// Adds the flags of `target` to each command in backquotes that contacts a coordinator. `reach`
/// replaces `--coordinator URL` in the advice to start a worker.
pub fn complete(text: &str, target: &Target, reach: Option<&str>) -> String {
    const BEGIN: &str = "`orchestrator ";
    let flags = target.flags();
    let mut complete = String::with_capacity(text.len() + flags.len());
    let mut rest = text;
    while let Some(begin) = rest.find(BEGIN) {
        let Some(length) = rest[begin + 1..].find('`') else {
            break;
        };
        let (before, command) = (&rest[..begin], &rest[begin..begin + 1 + length]);
        let name = command[BEGIN.len()..].split(' ').next().unwrap_or_default();
        complete.push_str(before);
        match reach {
            Some(reach) if name == "worker" => {
                complete.push_str(&command.replace("--coordinator URL", reach))
            }
            _ => complete.push_str(command),
        }
        if CONTACTING.contains(&name) {
            complete.push_str(&flags);
        }
        rest = &rest[begin + 1 + length..];
    }
    complete + rest
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn advised_commands_reach_the_coordinator_that_advised_them() {
        let target = Target {
            coordinator: None,
            token_file: None,
            state_dir: "my state".into(),
        };
        let text = "slot 3: gone; fix it, then `orchestrator undrain node-1` (2 more: `orchestrator status`)";
        assert_eq!(
            complete(text, &target, None),
            "slot 3: gone; fix it, then `orchestrator undrain node-1 --state-dir 'my state'` (2 more: `orchestrator \
             status --state-dir 'my state'`)"
        );
        let target = Target {
            coordinator: Some("http://a:7400".into()),
            token_file: Some("t".into()),
            ..target
        };
        let worker = "start one with `orchestrator worker --coordinator URL`";
        assert_eq!(
            complete(
                worker,
                &target,
                Some("--coordinator http://a:7400 --token-file t")
            ),
            "start one with `orchestrator worker --coordinator http://a:7400 --token-file t`"
        );
        assert_eq!(complete(worker, &target, None), worker);
        for text in [
            "",
            "`",
            "an open `orchestrator status",
            "`orchestrator run FILE` continues",
        ] {
            assert_eq!(complete(text, &target, None), text);
        }
    }

    /// The command line accepts every command that a message of this workspace advises, with its
    /// placeholders filled in.
    #[test]
    fn every_advised_command_exists() {
        let mut files = Vec::new();
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        collect(&workspace, &mut files);
        let mut checked = 0;
        let mut wrong = Vec::new();
        for file in files {
            let text = std::fs::read_to_string(&file).expect("sources are text");
            // text in tests is not advice
            let text = text
                .split("#[cfg(test)]")
                .next()
                .unwrap_or_default()
                .replace("\\\n", "\u{1}");
            for command in text.lines().flat_map(advised) {
                checked += 1;
                let words = words(&command);
                if let Err(error) = Cli::try_parse_from(&words)
                    && error.use_stderr()
                {
                    let first = error
                        .to_string()
                        .lines()
                        .next()
                        .unwrap_or_default()
                        .to_owned();
                    wrong.push(format!("{}: {}: {first}", file.display(), words.join(" ")));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert!(
            checked > 15,
            "only {checked} commands found: does the search still work?"
        );
    }

    fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("the sources are there") {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                if !["target", "tests", "examples"]
                    .iter()
                    .any(|skipped| path.ends_with(skipped))
                {
                    collect(&path, files);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }

    /// Returns the commands in the string literals of a line: those after a backquote or a colon.
    fn advised(line: &str) -> Vec<String> {
        let line = line.replace('\u{1}', "");
        if line.trim_start().starts_with("//") {
            return Vec::new();
        }
        let mut found = Vec::new();
        for (at, _) in line.match_indices("orchestrator ") {
            let (before, command) = line.split_at(at);
            let in_literal = before.matches('"').count() % 2 == 1;
            let introduced =
                before.ends_with('`') || before.ends_with(": ") || before.ends_with("? ");
            if in_literal && introduced {
                let end = command
                    .find(['`', '"', ';', '(', '\\'])
                    .unwrap_or(command.len());
                found.extend(
                    Some(command[..end].trim().to_owned()).filter(|command| command.contains(' ')),
                );
            }
        }
        found
    }

    /// Returns the words of a command, with a value for each placeholder.
    fn words(command: &str) -> Vec<String> {
        let mut filled = String::new();
        let mut rest = command;
        while let Some(begin) = rest.find('{') {
            let end = rest[begin..]
                .find('}')
                .map_or(rest.len(), |length| begin + length + 1);
            // flags follow a name without a space
            let is_flags = filled.len() + begin > 0 && !rest[..begin].ends_with([' ', '\'']);
            filled.push_str(&rest[..begin]);
            filled.push_str(if is_flags { "" } else { "X" });
            rest = &rest[end..];
        }
        filled.push_str(rest);
        filled
            .replace("--devices-per-slot X", "--devices-per-slot 2")
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    }
}
