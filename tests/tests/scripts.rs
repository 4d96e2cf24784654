//! Shell scripts and documents: they parse, the set-up fails cleanly, and `--help` lists every flag
//! that they use.
//!
//! Nothing here uses the network: pip's settings rule it out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;
use tests::binaries::binary;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the repository")
}

#[test]
fn scripts_parse() {
    let scripts = [
        "scripts/libtorch.sh",
        "scripts/rust.sh",
        "scripts/dist_binaries.sh",
        "scripts/old_glibc.sh",
        "tests/slurm/cluster.sh",
        "tests/slurm/prepare.sh",
        "tests/slurm/skips.sh",
    ];
    for script in scripts
        .into_iter()
        .chain(["deploy/slurm.sbatch", ".ci/run"])
    {
        let output = Command::new("bash")
            .arg("-n")
            .arg(root().join(script))
            .output()
            .expect("bash runs");
        assert!(
            output.status.success(),
            "{script}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// Checks every `orchestrator COMMAND --flag ...` in what we ship and document.
#[test]
fn documented_flags_exist() {
    let mut files = vec![root().join("README.md")];
    for folder in ["deploy", "deploy/systemd", "deploy/kubernetes", "docs"] {
        let entries =
            fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
        files.extend(
            entries
                .map(|entry| entry.expect("a readable folder").path())
                .filter(|path| path.is_file()),
        );
    }
    let commands = commands();
    let mut unknown = Vec::new();
    let mut checked = 0;
    for file in files {
        let text =
            fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        for (command, flag) in used_flags(&text, &commands) {
            checked += 1;
            if !has_flag(&help(&command), &flag) {
                unknown.push(format!("{}: orchestrator {command} {flag}", file.display()));
            }
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
    // the Slurm script, two units and the Kubernetes manifest alone use more than this
    assert!(
        checked > 20,
        "only {checked} uses of flags found: does the search still work?"
    );
}

#[test]
fn flags_are_found_in_scripts_units_and_manifests() {
    let script = "srun \"$orchestrator\" coordinator --listen \"0:1\" \\\n  --state-dir \"$state\" &\nother --flag";
    let manifest = "args:\n            - worker\n            - --slots=2\n          resources:\n            --none";
    let prose = "`orchestrator worker --devices cpu` but --not-this; `orchestrator journal verify --state-dir D`; \
                 `orchestrator drain W --reason TEXT`";
    assert_eq!(
        used_flags(&format!("{script}\n{manifest}\n{prose}"), &commands()),
        [
            ("coordinator", "--listen"),
            ("coordinator", "--state-dir"),
            ("worker", "--slots"),
            ("worker", "--devices"),
            ("journal verify", "--state-dir"),
            ("drain", "--reason")
        ]
        .map(|(command, flag)| (command.to_owned(), flag.to_owned()))
    );
}

#[test]
fn the_beginning_of_a_flag_is_no_flag() {
    let help = "  --slots <N>  Trials at a time; see --devices-per-slot\n  -v, --verbose...";
    assert!(
        ["--slots", "--devices-per-slot", "--verbose"]
            .iter()
            .all(|flag| has_flag(help, flag))
    );
    assert!(
        !["--slot", "--devices", "--devices-per", "--verbose-"]
            .iter()
            .any(|flag| has_flag(help, flag))
    );
}

fn has_flag(help: &str, flag: &str) -> bool {
    help.split(|character: char| !character.is_ascii_alphanumeric() && character != '-')
        .any(|word| word == flag)
}

/// Returns the commands that `orchestrator --help` lists.
fn commands() -> Vec<String> {
    let help = help("");
    let listed = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty());
    let commands: Vec<_> = listed
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    assert!(
        commands.len() > 10,
        "only {commands:?} found: is the list of commands still right?"
    );
    commands
}

fn used_flags(text: &str, commands: &[String]) -> Vec<(String, String)> {
    const GROUPS: [&str; 5] = ["cluster", "data", "journal", "token", "trainer"];
    let joined = text
        .replace("\\\n", " ")
        .replace("args:\n            - ", "args: ")
        .replace("\n            - ", " ");
    let mut found = Vec::new();
    for line in joined.lines() {
        let mut command = None;
        let mut before = "";
        // a shell line ends at `&`, `|`, `;` or `#`; in the text of a document the command ends
        // with a backquote
        for word in line.split_inclusive([' ', ',', '[', '"', '=', '`']) {
            let token = word.trim_end_matches([' ', ',', '[', '"', '=', '`']);
            if commands.iter().any(|command| command == token)
                && (before.ends_with("orchestrator") || before == "args:")
            {
                command = Some(token.to_owned());
            } else if let Some(group) = command
                .as_mut()
                .filter(|group| GROUPS.contains(&group.as_str()) && before == **group)
            {
                *group = format!("{group} {token}");
            } else if let Some(command) = command
                .as_ref()
                .filter(|_| token.starts_with("--") && token.len() > 2)
            {
                found.push((command.clone(), token.to_owned()));
            }
            if matches!(token, "&" | "|" | "#" | ";" | "&&") || word.ends_with('`') {
                command = None;
            }
            if !token.is_empty() {
                before = token;
            }
        }
    }
    found
}

fn help(command: &str) -> String {
    let output = Command::new(binary("orchestrator"))
        .args(command.split_whitespace())
        .arg("--help")
        .output()
        .expect("the binary starts");
    assert!(
        output.status.success(),
        "orchestrator {command} --help ended with {}",
        output.status
    );
    String::from_utf8(output.stdout).expect("help is UTF-8")
}

#[test]
fn a_tool_chain_that_is_too_old_is_named_with_its_version() {
    let folder = TempDir::new().expect("a folder for temporary files");
    let tool = |name: &str, version: &str| {
        let path = folder.path().join(format!("{name}-{version}"));
        let text = format!("#!/bin/sh\necho '{name} {version} (0123456 2026-01-01)'\n");
        tests::write_executable(&path, &text);
        path
    };
    let check = |cargo: &Path, rustc: &Path| {
        let mut command = Command::new(root().join("scripts/rust.sh"));
        command
            .envs([("CARGO", cargo), ("RUSTC", rustc)])
            .output()
            .expect("bash runs")
    };
    let (old, new) = ("1.9.1", "1.1000.0-nightly");
    let output = check(&tool("cargo", new), &tool("rustc", new));
    assert!(output.status.success(), "{}", message(&output));
    for (cargo, rustc) in [(old, new), (new, old)] {
        let output = check(&tool("cargo", cargo), &tool("rustc", rustc));
        assert!(!output.status.success());
        assert!(
            message(&output).contains("is version 1.9.1, needed is Rust 1."),
            "{}",
            message(&output)
        );
    }
    let output = check(&folder.path().join("none"), &tool("rustc", new));
    assert!(!output.status.success());
    assert!(
        message(&output).contains("none is not installed"),
        "{}",
        message(&output)
    );
}

#[test]
fn a_failed_download_leaves_nothing_behind() {
    let folder = TempDir::new().expect("a folder for temporary files");
    let output = install(folder.path(), "");
    assert!(!output.status.success());
    assert!(
        message(&output).contains("pip could not download libtorch"),
        "{}",
        message(&output)
    );
    assert_eq!(names(folder.path()), ["libtorch.lock"]);
}

#[test]
fn what_a_killed_set_up_left_is_removed_by_the_next() {
    let folder = TempDir::new().expect("a folder for temporary files");
    fs::create_dir_all(folder.path().join("libtorch.partial.a1b2c3/wheels"))
        .expect("the folder can be written");
    install(folder.path(), "");
    assert_eq!(names(folder.path()), ["libtorch.lock"]);
}

#[test]
fn a_download_with_another_checksum_is_refused() {
    let folder = TempDir::new().expect("a folder for temporary files");
    let wheels = TempDir::new().expect("a folder for temporary files");
    let wheel = wheels
        .path()
        .join("torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64.whl");
    fs::write(wheel, "cut off").expect("the folder can be written");
    let output = install(folder.path(), &wheels.path().display().to_string());
    assert!(!output.status.success());
    assert!(
        message(&output).contains("does not have the pinned checksum"),
        "{}",
        message(&output)
    );
    assert_eq!(names(folder.path()), ["libtorch.lock"]);
}

#[test]
fn a_libtorch_of_the_user_is_checked() {
    let folder = TempDir::new().expect("a folder for temporary files");
    let refused = |says: &str| {
        let output = libtorch_script(&["--check".as_ref(), folder.path().as_os_str()])
            .output()
            .expect("bash runs");
        assert!(!output.status.success());
        assert!(
            message(&output).contains(says),
            "{} does not say {says}",
            message(&output)
        );
    };
    refused("has no lib/libtorch_cpu.so");
    for part in ["lib", "include/ATen"] {
        fs::create_dir_all(folder.path().join(part)).expect("the folder can be written");
    }
    for part in ["lib/libtorch_cpu.so", "lib/libc10.so"] {
        fs::write(folder.path().join(part), "").expect("the folder can be written");
    }
    refused("does not say which version");
    fs::write(
        folder.path().join("version.py"),
        "__version__ = '2.10.0+cu130'\n",
    )
    .expect("the folder can be written");
    refused("is version 2.10.0+cu130, needed is 2.11.0");
    fs::write(
        folder.path().join("version.py"),
        "__version__ = '2.11.0+cpu'\n",
    )
    .expect("the folder can be written");
    let output = libtorch_script(&["--check".as_ref(), folder.path().as_os_str()])
        .output()
        .expect("bash runs");
    assert!(output.status.success(), "{}", message(&output));
}

fn libtorch_script(arguments: &[&std::ffi::OsStr]) -> Command {
    let mut command = Command::new(root().join("scripts/libtorch.sh"));
    command.args(arguments);
    command
}

/// Installs into `libtorch` under the folder, only from a folder of wheels.
fn install(folder: &Path, wheels: &str) -> Output {
    let target: PathBuf = folder.join("libtorch");
    libtorch_script(&[target.as_os_str()])
        .envs([
            ("PIP_NO_INDEX", "1"),
            ("PIP_FIND_LINKS", wheels),
            ("ORCHESTRATOR_CUDA", "0"),
        ])
        .output()
        .expect("bash runs")
}

fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a readable folder");
    let mut names: Vec<_> = entries
        .map(|entry| {
            entry
                .expect("a readable folder")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}
