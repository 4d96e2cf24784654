//! `--push`: copies this build to a host that lacks it, over the same ssh, and libtorch to a host
//! whose build finds none. Both go into the host's cache, libtorch where `orchestrator setup` would
//! put it. A whole copy is renamed into place, so that two copies at once are harmless.

use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tempfile::TempDir;
use tokio::process::Command;

use super::hosts::Host;
use super::remote::{Settings, UNUSABLE, ssh_command};
use super::{CONNECTION, Ended};
use crate::script::quoted;

/// A build that can be copied, and the libtorch that it runs with here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    programs: Copied,
    /// `None` if there is none on this machine.
    libtorch: Option<Copied>,
}

/// Files that become one folder of a host's cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The name of the folder there.
    pub name: String,
    /// The path of each file in the folder, and its path here.
    pub files: Vec<(PathBuf, PathBuf)>,
}

impl Build {
    /// The build of these programs; `version` is what the first of them prints.
    pub fn of(
        version: &str,
        programs: [&Path; 2],
        libtorch: Option<Copied>,
    ) -> Result<Self, (PathBuf, io::Error)> {
        let mut hasher = DefaultHasher::new();
        for program in programs {
            let bytes = std::fs::read(program).map_err(|error| (program.to_owned(), error))?;
            hasher.write(&bytes);
        }
        let plain = |letter: char| letter.is_ascii_alphanumeric() || ".+-".contains(letter);
        let version = version.split(' ').nth(1).unwrap_or_default();
        let version: String = version.chars().filter(|letter| plain(*letter)).collect();
        let names = ["bin/orchestrator", "bin/orchestrator-trainer"].map(PathBuf::from);
        let programs = programs.map(Path::to_owned);
        Ok(Self {
            programs: Copied {
                name: format!("{version}-{:016x}", hasher.finish()),
                files: names.into_iter().zip(programs).collect(),
            },
            libtorch,
        })
    }
}

/// The parts of a build that a host has.
#[derive(Debug, PartialEq, Eq)]
enum There {
    /// All of it; the folder of the build.
    All(String),
    NoBuild,
    /// The build finds no libtorch, for this reason.
    NoLibtorch(String),
}

/// Returns the folder of this build on the host, and copies it and libtorch there first, as far as the
/// host lacks them.
pub(super) async fn folder(
    build: &Build,
    settings: &Settings,
    host: &Host,
) -> Result<String, Ended> {
    let (mut build_sent, mut libtorch_sent) = (false, false);
    loop {
        let mut ssh = ssh(settings, host, &looking(build, settings, host));
        ssh.stdin(Stdio::null());
        match there(&answer(ssh.output().await)?) {
            Some(There::All(folder)) => return Ok(folder),
            Some(There::NoBuild) if !build_sent => {
                build_sent = true;
                tracing::warn!(%host, "this build is copied to it");
                send(&build.programs, settings, host).await?;
            }
            Some(There::NoLibtorch(reason)) => {
                let Some(libtorch) = build.libtorch.as_ref().filter(|_| !libtorch_sent) else {
                    let and = match libtorch_sent {
                        true => "libtorch was copied there, and still",
                        false => "this machine has no libtorch to copy there",
                    };
                    return Err(unusable(&format!("{and}: {reason}")));
                };
                libtorch_sent = true;
                tracing::warn!(%host, "libtorch is copied to it, which takes a while");
                send(libtorch, settings, host).await?;
            }
            Some(There::NoBuild) | None => {
                let reason = "the copy of this build does not print its version there";
                return Err(unusable(reason));
            }
        }
    }
}

/// Understands the last line of [`LOOK`].
fn there(answer: &str) -> Option<There> {
    if let Some(folder) = answer.strip_prefix("have ") {
        return Some(There::All(folder.to_owned()));
    }
    match answer.strip_prefix("lacks ")?.split_once(' ') {
        None => Some(There::NoBuild),
        Some((_, reason)) => Some(There::NoLibtorch(reason.to_owned())),
    }
}

/// Copies files into a folder of the host's cache.
async fn send(copied: &Copied, settings: &Settings, host: &Host) -> Result<(), Ended> {
    let failed = |error: io::Error| Ended::Connection {
        reason: error.to_string(),
        served: false,
    };
    let staged = staged(copied).map_err(failed)?;
    let mut tar = Command::from(packing(staged.path()));
    let mut tar = tar.kill_on_drop(true).spawn().map_err(failed)?;
    let copy: Stdio = match tar.stdout.take() {
        Some(copy) => copy.try_into().map_err(failed)?,
        None => Stdio::null(),
    };
    let mut ssh = ssh(settings, host, &receiving(copied));
    ssh.stdin(copy);
    answer(ssh.output().await)?;
    let packed = tar.wait().await.map_err(failed)?;
    match packed.success() {
        true => Ok(()),
        false => Err(failed(io::Error::other(format!(
            "{} cannot be packed: tar ended with {packed}",
            copied.name
        )))),
    }
}

/// The last file of a copy: one without it is not whole.
const WHOLE: &str = "whole";

/// Returns a folder of links to the files, as tar packs them.
fn staged(copied: &Copied) -> io::Result<TempDir> {
    let staged = tempfile::tempdir()?;
    let content = staged.path().join("content");
    for (name, file) in &copied.files {
        let link = content.join(name);
        std::fs::create_dir_all(link.parent().unwrap_or(&content))?;
        symlink(file, link)?;
    }
    std::fs::write(staged.path().join(WHOLE), "")?;
    Ok(staged)
}

fn packing(staged: &Path) -> std::process::Command {
    let mut tar = std::process::Command::new("tar");
    // what the links lead to
    tar.arg("-C")
        .arg(staged)
        .args(["-chf", "-", "content", WHOLE]);
    tar.stdin(Stdio::null()).stdout(Stdio::piped());
    tar
}

fn ssh(settings: &Settings, host: &Host, script: &str) -> Command {
    let mut ssh = Command::new("ssh");
    ssh.args(ssh_command(settings, host, &[], script));
    ssh.process_group(0).kill_on_drop(true);
    ssh
}

fn unusable(reason: &str) -> Ended {
    Ended::Worker {
        code: Some(UNUSABLE),
        last_lines: reason.to_owned(),
    }
}

/// Returns the last line that a script printed.
fn answer(ended: io::Result<Output>) -> Result<String, Ended> {
    let output = ended.map_err(|error| Ended::Connection {
        reason: format!("ssh cannot be started: {error}"),
        served: false,
    })?;
    let last = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let line = text.lines().rev().find(|line| !line.trim().is_empty());
        line.unwrap_or_default().trim().to_owned()
    };
    let reason = last(&output.stderr);
    match output.status.code() {
        Some(0) => Ok(last(&output.stdout)),
        Some(CONNECTION) | None => Err(Ended::Connection {
            reason,
            served: false,
        }),
        Some(_) => Err(unusable(reason.trim_start_matches("error: "))),
    }
}

fn looking(build: &Build, settings: &Settings, host: &Host) -> String {
    let dir = host.dir.as_deref().unwrap_or(&settings.dir);
    format!("{CACHE}{LOOK}")
        .replace("@DIR@", &quoted(dir))
        .replace("@VERSION@", &quoted(&settings.version))
        .replace("@KIND@", host.kind_of_libtorch())
        .replace("@NAME@", &build.programs.name)
}

fn receiving(copied: &Copied) -> String {
    format!("{CACHE}{RECEIVE}").replace("@NAME@", &copied.name)
}

/// The folder that the programs use as their cache.
const CACHE: &str = r#"case ${XDG_CACHE_HOME:-} in
  /*) cache=$XDG_CACHE_HOME/orchestrator ;;
  *) cache=$HOME/.cache/orchestrator ;;
esac
"#;

const LOOK: &str = r#"for dir in @DIR@ "$cache/@NAME@"; do
  if [ "$("$dir/bin/orchestrator" --version 2>/dev/null)" = @VERSION@ ]; then
    if found=$("$dir/bin/orchestrator" setup --check @KIND@ 2>&1); then
      echo "have $dir"
    else
      echo "lacks libtorch $(printf '%s\n' "$found" | tail -n 1)"
    fi
    exit 0
  fi
done
echo "lacks build"
"#;

const RECEIVE: &str = r#"umask 077
fail() { echo "error: $1" >&2; exit 78; }
mkdir -p "$cache" || fail "the folder $cache cannot be made"
fresh=$(mktemp -d "$cache/.partial-XXXXXX") || fail "there is no room in $cache"
trap 'rm -rf "$fresh"' EXIT
tar -C "$fresh" -xf - && [ -e "$fresh/whole" ] || fail "the copy is not whole, or there is no room in $cache"
# Another copy may have been faster.
mv -T "$fresh/content" "$cache/@NAME@" 2>/dev/null || [ -d "$cache/@NAME@" ] || fail "the folder $cache/@NAME@ cannot be made"
"#;

#[cfg(test)]
mod tests {
    use super::*;

    /// A build whose `setup --check` looks for libtorch in the cache of its home.
    fn program(path: &Path, version: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = format!(
            "#!/bin/sh\n[ \"$1\" = setup ] || {{ echo {version}; exit; }}\n\
             [ -e \"$HOME/.cache/orchestrator/libtorch-9-cpu/torch/lib/libtorch_cpu.so\" ] || {{ echo error: no libtorch; exit 2; }}\n"
        );
        ::tests::write_executable(path, &text);
    }

    /// The scripts of a host that has another build and no libtorch, run here.
    #[test]
    fn a_host_gets_what_it_lacks_once() {
        let place = tempfile::tempdir().unwrap();
        let (here, there_dir) = (place.path().join("here"), place.path().join("there"));
        let names = ["bin/orchestrator", "bin/orchestrator-trainer"];
        for name in names {
            program(&here.join(name), "orchestrator 0.2.0+b");
            program(&there_dir.join(name), "orchestrator 0.1.0+a");
        }
        let library = here.join("libtorch_cpu.so");
        std::fs::write(&library, "a library").unwrap();
        let libtorch = Copied {
            name: "libtorch-9-cpu".to_owned(),
            files: vec![("torch/lib/libtorch_cpu.so".into(), library)],
        };
        let programs = names.map(|name| here.join(name));
        let build = Build::of(
            "orchestrator 0.2.0+b",
            programs.each_ref().map(PathBuf::as_path),
            Some(libtorch.clone()),
        )
        .unwrap();
        let settings = Settings {
            dir: there_dir.display().to_string(),
            push: Some(build.clone()),
            version: "orchestrator 0.2.0+b".to_owned(),
            ..super::super::remote::tests::settings()
        };
        let host = super::super::hosts::parse("here").unwrap().remove(0);
        let run = |script: &str, stdin: Stdio| {
            let mut shell = std::process::Command::new("sh");
            shell.arg("-c").arg(script).env_remove("XDG_CACHE_HOME");
            shell.env("HOME", place.path()).stdin(stdin);
            let output = shell.output().unwrap();
            let stdout = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            (output.status.code(), stdout)
        };
        let look = || {
            let (code, text) = run(&looking(&build, &settings, &host), Stdio::null());
            assert_eq!(code, Some(0));
            there(&text).unwrap()
        };
        let receive = |copied: &Copied, length: Option<usize>| {
            let staged = staged(copied).unwrap();
            let tar = packing(staged.path()).output().unwrap();
            let file = place.path().join("copy.tar");
            std::fs::write(&file, &tar.stdout[..length.unwrap_or(tar.stdout.len())]).unwrap();
            let file = std::fs::File::open(file).unwrap();
            run(&receiving(copied), file.into()).0
        };
        assert_eq!(look(), There::NoBuild);
        assert_eq!(
            receive(&build.programs, Some(512)),
            Some(78),
            "a part of it"
        );
        // tar itself takes the first files for a whole archive
        assert_eq!(
            receive(&build.programs, Some(1024)),
            Some(78),
            "a part of it"
        );
        assert_eq!(look(), There::NoBuild, "nothing is left of it");
        assert_eq!(receive(&build.programs, None), Some(0));
        assert_eq!(look(), There::NoLibtorch("error: no libtorch".to_owned()));
        assert_eq!(receive(&libtorch, None), Some(0));
        let cache = place.path().join(".cache/orchestrator");
        let folder = cache.join(&build.programs.name).display().to_string();
        assert_eq!(look(), There::All(folder));
        assert_eq!(receive(&build.programs, None), Some(0), "another copy");
        assert_eq!(
            std::fs::read_dir(cache).unwrap().count(),
            2,
            "no part of a copy is left"
        );
    }
}
