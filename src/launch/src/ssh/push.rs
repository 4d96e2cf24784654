//! `--push`: copies this build to a host that lacks it, over the same ssh, into a folder of the host's
//! cache. What is whole is renamed into place, so that two copies at once do no harm.

use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tokio::process::Command;

use super::hosts::Host;
use super::remote::{Settings, UNUSABLE, ssh_command};
use super::{CONNECTION, Ended};
use crate::script::quoted;

/// The parts of a copy, as far as they exist: programs, and libtorch.
const PROGRAMS: [&str; 2] = ["bin", "lib"];
const LIBTORCH: &str = ".libtorch";

/// A build that can be copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// The folder of the unpacked tarball here.
    home: PathBuf,
    /// Names the build: hosts keep one folder for each.
    key: String,
}

impl Build {
    /// The build in the folder of an unpacked tarball; `version` is what its program prints.
    pub fn of(home: &Path, version: &str) -> io::Result<Self> {
        let mut hasher = DefaultHasher::new();
        for name in ["orchestrator", "orchestrator-trainer"] {
            hasher.write(&std::fs::read(home.join("bin").join(name))?);
        }
        let plain = |letter: char| letter.is_ascii_alphanumeric() || ".+-".contains(letter);
        let version = version.split(' ').nth(1).unwrap_or_default();
        let version: String = version.chars().filter(|letter| plain(*letter)).collect();
        Ok(Self {
            home: home.to_owned(),
            key: format!("{version}-{:016x}", hasher.finish()),
        })
    }

    fn parts(&self, with_libtorch: bool) -> Vec<&'static str> {
        let libtorch = with_libtorch.then_some(LIBTORCH);
        let all = PROGRAMS.into_iter().chain(libtorch);
        all.filter(|part| self.home.join(part).exists()).collect()
    }
}

/// Returns the folder of this build on the host, and copies it there first if the host lacks it.
pub(super) async fn folder(
    build: &Build,
    settings: &Settings,
    host: &Host,
) -> Result<String, Ended> {
    let mut ssh = ssh(settings, host, &looking(build, settings, host));
    ssh.stdin(Stdio::null());
    let found = answer(ssh.output().await)?;
    if let Some(folder) = found.strip_prefix("have ") {
        return Ok(folder.to_owned());
    }
    tracing::warn!(%host, "this build is copied to it");
    let failed = |reason: io::Error| Ended::Connection {
        reason: reason.to_string(),
        served: false,
    };
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(&build.home).args(["-chf", "-", "--"]);
    tar.args(build.parts(found == "lacks libtorch"));
    tar.stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut tar = tar.spawn().map_err(failed)?;
    let copy: Stdio = match tar.stdout.take() {
        Some(copy) => copy.try_into().map_err(failed)?,
        None => Stdio::null(),
    };
    let mut ssh = self::ssh(settings, host, &receiving(build, settings, host));
    ssh.stdin(copy);
    let received = answer(ssh.output().await)?;
    let packed = tar.wait().await.map_err(failed)?;
    if !packed.success() {
        let home = build.home.display();
        return Err(failed(io::Error::other(format!(
            "{home} cannot be packed: tar ended with {packed}"
        ))));
    }
    match received.strip_prefix("have ") {
        Some(folder) => Ok(folder.to_owned()),
        None => Err(failed(io::Error::other("the copy was not confirmed"))),
    }
}

fn ssh(settings: &Settings, host: &Host, script: &str) -> Command {
    let mut ssh = Command::new("ssh");
    ssh.args(ssh_command(settings, host, &[], script));
    ssh.process_group(0).kill_on_drop(true);
    ssh
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
        Some(_) => Err(Ended::Worker {
            code: Some(UNUSABLE),
            last_lines: reason.trim_start_matches("error: ").to_owned(),
        }),
    }
}

fn looking(build: &Build, settings: &Settings, host: &Host) -> String {
    filled(LOOK, build, settings, host)
}

fn receiving(build: &Build, settings: &Settings, host: &Host) -> String {
    filled(RECEIVE, build, settings, host)
}

fn filled(script: &str, build: &Build, settings: &Settings, host: &Host) -> String {
    let dir = host.dir.as_deref().unwrap_or(&settings.dir);
    script
        .replace("@DIR@", &quoted(dir))
        .replace("@VERSION@", &quoted(&settings.version))
        .replace("@KEY@", &build.key)
}

const LOOK: &str = r#"for dir in @DIR@ "$HOME/.cache/orchestrator/@KEY@"; do
  if [ "$("$dir/bin/orchestrator" --version 2>/dev/null)" = @VERSION@ ]; then
    echo "have $dir"
    exit 0
  fi
done
if [ -e @DIR@/.libtorch ]; then echo lacks; else echo "lacks libtorch"; fi
"#;

const RECEIVE: &str = r#"umask 077
fail() { echo "error: $1" >&2; exit 78; }
base=$HOME/.cache/orchestrator
mkdir -p "$base" || fail "the folder $base cannot be made"
fresh=$(mktemp -d "$base/.partial-XXXXXX") || fail "there is no room in $base"
trap 'rm -rf "$fresh"' EXIT
tar -C "$fresh" -xf - || fail "the copy is not whole, or there is no room in $base"
[ -x "$fresh/bin/orchestrator" ] || fail "the copy has no bin/orchestrator"
[ -e "$fresh/.libtorch" ] || [ ! -e @DIR@/.libtorch ] || ln -s @DIR@/.libtorch "$fresh/.libtorch"
# Another copy may have been faster.
mv -T "$fresh" "$base/@KEY@" 2>/dev/null || [ -x "$base/@KEY@/bin/orchestrator" ] || fail "the folder $base/@KEY@ cannot be made"
echo "have $base/@KEY@"
"#;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn program(path: &Path, version: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("#!/bin/sh\necho {version}\n")).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// The scripts of a host that has another build, run here.
    #[test]
    fn a_host_that_lacks_the_build_gets_it_once() {
        let place = tempfile::tempdir().unwrap();
        let (here, there) = (place.path().join("here"), place.path().join("there"));
        for name in ["orchestrator", "orchestrator-trainer"] {
            program(&here.join("bin").join(name), "orchestrator 0.2.0+b");
            program(&there.join("bin").join(name), "orchestrator 0.1.0+a");
        }
        std::fs::create_dir(there.join(".libtorch")).unwrap();
        let build = Build::of(&here, "orchestrator 0.2.0+b").unwrap();
        let settings = Settings {
            folder: place.path().into(),
            port: 0,
            token_file: place.path().join("token"),
            version: "orchestrator 0.2.0+b".to_owned(),
            state: "7f3a9c1e".to_owned(),
            dir: there.display().to_string(),
            push: Some(build.clone()),
            ssh_options: Vec::new(),
            worker_options: Vec::new(),
        };
        let host = super::super::hosts::parse("here").unwrap().remove(0);
        let run = |script: &str, stdin: Stdio| {
            let mut shell = std::process::Command::new("sh");
            shell
                .arg("-c")
                .arg(script)
                .env("HOME", place.path())
                .stdin(stdin);
            let output = shell.output().unwrap();
            let stdout = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            (output.status.code(), stdout)
        };
        let look = || run(&looking(&build, &settings, &host), Stdio::null()).1;
        assert_eq!(look(), "lacks");
        let receive = |bytes: &[u8]| {
            let file = place.path().join("copy.tar");
            std::fs::write(&file, bytes).unwrap();
            let file = std::fs::File::open(file).unwrap();
            run(&receiving(&build, &settings, &host), file.into())
        };
        let tar = std::process::Command::new("tar")
            .arg("-C")
            .arg(&here)
            .args(["-chf", "-", "--"])
            .args(build.parts(false))
            .output()
            .unwrap();
        assert_eq!(receive(&tar.stdout[..512]).0, Some(78), "a part of it");
        assert_eq!(look(), "lacks", "nothing is left of it");
        let (code, text) = receive(&tar.stdout);
        assert_eq!(code, Some(0), "{text}");
        assert_eq!(look(), text);
        let folder = Path::new(text.strip_prefix("have ").unwrap());
        assert!(
            folder.join(".libtorch").is_dir(),
            "that of the host is used"
        );
        assert_eq!(
            receive(&tar.stdout),
            (Some(0), text.clone()),
            "another copy"
        );
        let cache = std::fs::read_dir(folder.parent().unwrap()).unwrap();
        assert_eq!(cache.count(), 1, "no part of a copy is left");
        std::fs::remove_dir(there.join(".libtorch")).unwrap();
        std::fs::remove_dir_all(folder).unwrap();
        assert_eq!(look(), "lacks libtorch");
    }
}
