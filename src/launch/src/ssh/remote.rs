//! The command on a host: the ssh command line, and the shell script at its end.

use std::path::PathBuf;
use std::sync::Arc;

use schedule::allocation::AllocationId;

use super::folders::REPORTED;
use super::hosts::Host;
use super::push::Build;
use crate::script::quoted;

/// Returns the token of a worker, or why there is none.
pub type WorkerToken = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// Everything that the hosts of a file have in common.
#[derive(Clone)]
pub struct Settings {
    /// Absolute path of the folder with a folder for each allocation.
    pub folder: PathBuf,
    /// The coordinator's port on this machine's loopback.
    pub port: u16,
    /// Connections to it are encrypted, also through the tunnel.
    pub is_encrypted: bool,
    /// Called for every connection.
    pub worker_token: WorkerToken,
    /// Output of `orchestrator --version` here; hosts must print the same.
    pub version: String,
    /// Names the coordinator's state: a host has at most one worker of each.
    pub state: String,
    /// Names the launcher: two of its hosts that are one machine are not taken for a host that
    /// is connected again.
    pub session: String,
    /// The work directory of runs on this machine, which hosts may share.
    pub work: PathBuf,
    /// The folder of the unpacked archive on hosts without `dir=`.
    pub dir: String,
    /// The build that hosts which lack it get; `None`: they are left out.
    pub push: Option<Build>,
    /// Further options for ssh, one word each.
    pub ssh_options: Vec<String>,
    /// Further words for the worker: `--idle-timeout 5m`.
    pub worker_options: Vec<String>,
}

/// Exit code of the script if a check fails: the host cannot be used until a user changes it.
pub(crate) const UNUSABLE: i32 = 78;

/// Returns ssh's arguments. The system's ssh is used, so that the user's configuration, agent, jump
/// hosts and known hosts count; it never asks for a password.
pub fn ssh_arguments(settings: &Settings, host: &Host, script: &str) -> Vec<String> {
    let forward = format!("0:127.0.0.1:{}", settings.port);
    ssh_command(settings, host, &["-R".to_owned(), forward], script)
}

/// Returns ssh's arguments for a script on the host, with these flags.
pub(super) fn ssh_command(
    settings: &Settings,
    host: &Host,
    flags: &[String],
    script: &str,
) -> Vec<String> {
    let options = [
        "BatchMode=yes",
        "ConnectTimeout=15",
        "ServerAliveInterval=10",
        "ServerAliveCountMax=3",
        "ExitOnForwardFailure=yes",
        // A connection of its own: that of another ssh would end with it.
        "ControlMaster=no",
        "ControlPath=none",
        // At this level ssh prints the port of the tunnel.
        "LogLevel=INFO",
    ];
    let mut words = vec!["-T".to_owned()];
    // ssh takes the first value of an option, so those of the user win
    words.extend(settings.ssh_options.iter().cloned());
    for option in options {
        words.extend(["-o".to_owned(), option.to_owned()]);
    }
    words.extend_from_slice(flags);
    words.extend(["--".to_owned(), host.address.clone()]);
    // The login shell there may be any; this one is a POSIX shell.
    words.push(format!("exec sh -c {}", quoted(script)));
    words
}

/// Finds the port of the tunnel in a line of ssh's stderr.
pub fn allocated_port(line: &str) -> Option<u16> {
    let rest = line.trim().strip_prefix("Allocated port ")?;
    let (port, rest) = rest.split_once(' ')?;
    rest.starts_with("for remote forward to")
        .then(|| port.parse().ok())?
}

/// Returns the script that runs on the host. It holds no secret: the tunnel's address and the token are
/// the first two lines of its stdin. The end of stdin, however ssh ends, makes the worker leave.
pub fn script(settings: &Settings, host: &Host, allocation: &AllocationId) -> String {
    let dir = host.dir.as_deref().unwrap_or(&settings.dir);
    let mut worker = vec!["--allocation".to_owned(), allocation.to_string()];
    let mut flag = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            worker.extend([name.to_owned(), value]);
        }
    };
    flag("--slots", host.slots.map(|slots| slots.to_string()));
    flag("--devices", host.devices.clone());
    flag("--data-dir", host.data.clone());
    worker.extend(settings.worker_options.iter().cloned());
    let worker: Vec<_> = worker.iter().map(|word| quoted(word)).collect();
    SCRIPT
        .replace("@DIR@", &quoted(dir))
        .replace("@VERSION@", &quoted(&settings.version))
        .replace("@ARCHITECTURE@", std::env::consts::ARCH)
        .replace("@DATA@", &quoted(host.data.as_deref().unwrap_or_default()))
        .replace(
            "@WORK@",
            &quoted(host.work.as_deref().unwrap_or("orchestrator-work")),
        )
        .replace("@FOLDER@", REPORTED)
        .replace("@KIND@", host.kind_of_libtorch())
        .replace("@SESSION@", &settings.session)
        .replace("@LINE@", &quoted(&host.address))
        .replace("@NAME@", &quoted(&name_of_worker(settings, host)))
        .replace("@WORKER@", &worker.join(" "))
}

/// Names the one worker that a line of the hosts file may have: hosts may share their work
/// directory, and a host may be there twice with different devices.
fn name_of_worker(settings: &Settings, host: &Host) -> String {
    let devices = host.devices.as_deref().unwrap_or("all");
    let plain = |letter: char| {
        if letter.is_ascii_alphanumeric() {
            letter
        } else {
            '-'
        }
    };
    format!(
        "{}-{}",
        settings.state,
        devices.chars().map(plain).collect::<String>()
    )
}

const SCRIPT: &str = r#"umask 077
trap '' HUP
fail() { echo "error: $1" >&2; exit 78; }
# The start of a process, so that its number cannot be mistaken for that of a later one.
born() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20; }
read -r address && read -r token || exit 255
[ "$(uname -m)" = @ARCHITECTURE@ ] || fail "this machine is $(uname -m), and the program is for @ARCHITECTURE@"
cd @DIR@ 2>/dev/null || fail "there is no folder "@DIR@" here: dir= of the hosts file names the unpacked archive"
found=$(bin/orchestrator --version 2>&1) || fail "bin/orchestrator does not run in $(pwd): $found"
[ "$found" = @VERSION@ ] || fail "$(pwd) has $found, and the coordinator is "@VERSION@": install the same build, or copy it with --push"
found=$(bin/orchestrator setup --check @KIND@ 2>&1) || fail "the trainer in $(pwd) does not run: $(printf '%s\n' "$found" | tail -n 1)"
data=@DATA@
[ -z "$data" ] || [ -d "$data" ] || fail "there is no folder $data here: data= of the hosts file names the data sets"
work=@WORK@
mkdir -p "$work" 2>/dev/null && [ -w "$work" ] || fail "the work directory $work cannot be written: work= of the hosts file names another"
private=$(mktemp -d) || fail "no folder for temporary files can be made"
room=$work/.room-$$
trap 'rm -rf "$private" "$room"' EXIT
trap 'exit 143' TERM INT
printf '%s\n' "$token" 2>/dev/null >"$private/token" || fail "there is no room in $private"
echo room 2>/dev/null >"$room" || fail "there is no room in the work directory $work"
rm -f "$room"
# Hosts that read the same name here share the folder.
if [ ! -s "$work/folder-name" ]; then
  name=$(mktemp "$work/folder-name.XXXXXX" 2>/dev/null) || fail "there is no room in $work"
  { head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n'; echo; } >"$name" 2>/dev/null || fail "there is no room in $work"
  ln "$name" "$work/folder-name" 2>/dev/null
  rm -f "$name"
fi
echo "@FOLDER@$(cat "$work/folder-name" 2>/dev/null)" >&2
pidfile=$work/ssh-$(uname -n)-@NAME@.pid
# Two connections to one machine come one after the other.
if command -v flock >/dev/null 2>&1; then
  exec 9>"$pidfile.lock"
  flock 9 2>/dev/null
fi
# A worker that an earlier connection left is on its way out: this one takes its place.
if read -r pid start session line 2>/dev/null <"$pidfile" && [ -n "$start" ] && [ "$(born "$pid")" = "$start" ]; then
  if [ "$session" = @SESSION@ ] && [ "$line" != @LINE@ ]; then
    fail "$line of the hosts file is this machine too, and has a worker in the work directory $work: leave one of them out, or give each devices= and work= of its own"
  fi
  kill -TERM "$pid" 2>/dev/null || fail "process $pid in $(pwd)/$pidfile belongs to another program"
  tries=0
  while [ "$(born "$pid")" = "$start" ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 60 ] || fail "process $pid, a worker of an earlier connection, does not end"
    sleep 1
  done
fi
exec 3<&0
bin/orchestrator worker --coordinator "$address" --token-file "$private/token" --work-dir "$work" @WORKER@ 3<&- 9>&- </dev/null &
worker=$!
mine="$worker $(born "$worker") @SESSION@ "@LINE@
echo "$mine" >"$pidfile"
exec 9>&-
{ cat; kill -TERM "$worker"; } <&3 >/dev/null 2>&1 3<&- &
watch=$!
wait "$worker"
code=$?
kill "$watch" 2>/dev/null
# A later connection may have put its own worker there.
if [ "$(cat "$pidfile" 2>/dev/null)" = "$mine" ]; then rm -f "$pidfile"; fi
exit "$code"
"#;

#[cfg(test)]
pub(super) mod tests {
    use std::process::Command;

    use super::super::folders::folder_name;
    use super::*;

    pub fn settings() -> Settings {
        Settings {
            folder: "/shared/state/allocations".into(),
            port: 7400,
            is_encrypted: false,
            worker_token: Arc::new(|| Ok("secret".to_owned())),
            version: "orchestrator 0.1.0".to_owned(),
            state: "7f3a9c1e".to_owned(),
            session: "0a1b2c3d".to_owned(),
            work: "/shared/state/work".into(),
            dir: "/opt/it's here".to_owned(),
            push: None,
            ssh_options: vec!["-p".to_owned(), "2222".to_owned()],
            worker_options: vec!["--idle-timeout".to_owned(), "5m".to_owned()],
        }
    }

    fn host(line: &str) -> Host {
        super::super::hosts::parse(line).unwrap().remove(0)
    }

    #[test]
    fn the_tunnels_port_is_found() {
        let line = "Allocated port 43121 for remote forward to 127.0.0.1:7400\r";
        assert_eq!(allocated_port(line), Some(43121));
        for other in [
            "",
            "Allocated port",
            "Allocated port x for remote forward to a",
            "Warning: remote port forwarding failed",
        ] {
            assert_eq!(allocated_port(other), None, "{other}");
        }
    }

    #[test]
    fn the_script_is_plain_shell_without_a_secret() {
        let allocation = AllocationId::from("orch-a-1");
        let script = script(
            &settings(),
            &host("a slots=2 devices=cuda:0-1 data=/d$x"),
            &allocation,
        );
        for shell in ["sh", "bash"] {
            let parsed = Command::new(shell)
                .args(["-n", "-c", &script])
                .status()
                .unwrap();
            assert!(parsed.success(), "{shell}: {script}");
        }
        assert!(!script.contains('@'), "{script}");
        assert!(script.contains(
            "--allocation orch-a-1 --slots 2 --devices cuda:0-1 --data-dir '/d$x' --idle-timeout 5m"
        ));
        let arguments = ssh_arguments(&settings(), &host("a"), &script);
        let at = arguments.iter().position(|word| word == "--").unwrap();
        assert_eq!(arguments[at + 1], "a");
        assert_eq!(
            arguments[..3],
            ["-T", "-p", "2222"],
            "the user's options come first"
        );
    }

    /// Each check ends with one line that names what is missing.
    #[test]
    fn every_check_has_a_line_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        let mut settings = settings();
        settings.dir = home.to_str().unwrap().to_owned();
        let run_after = |before: &str, host: &Host| {
            let script = script(&settings, host, &AllocationId::from("orch-a-1"));
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(format!("{before}\n{script}"));
            shell.env("TMPDIR", dir.path());
            shell
                .stdin(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped());
            let mut child = shell.spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            std::io::Write::write_all(&mut stdin, b"http://127.0.0.1:7400\nsecret\n").unwrap();
            let output = child.wait_with_output().unwrap();
            // its end would have made the worker leave
            drop(stdin);
            (
                output.status.code(),
                String::from_utf8_lossy(&output.stderr).into_owned(),
            )
        };
        let run = |host: &Host| run_after("", host);
        let plain = host("here");
        let expect_after = |before: &str, host: &Host, text: &str| {
            let (code, stderr) = run_after(before, host);
            assert_eq!(code, Some(UNUSABLE), "{stderr}");
            let stderr: Vec<&str> = stderr
                .lines()
                .filter(|line| folder_name(line).is_none())
                .collect();
            let stderr = stderr.join("\n");
            assert!(
                stderr.starts_with("error: ") && stderr.lines().count() == 1,
                "{stderr}"
            );
            assert!(stderr.contains(text), "{stderr}");
        };
        let expect = |host: &Host, text: &str| expect_after("", host, text);
        expect(&plain, "there is no folder");
        std::fs::create_dir_all(home.join("bin")).unwrap();
        expect(&plain, "bin/orchestrator does not run");
        let program = |name: &str, text: &str| {
            let path = home.join("bin").join(name);
            ::tests::write_executable(&path, &format!("#!/bin/sh\n{text}\n"));
        };
        program("orchestrator", "echo orchestrator 0.0.9");
        expect(
            &plain,
            "has orchestrator 0.0.9, and the coordinator is orchestrator 0.1.0",
        );
        program(
            "orchestrator",
            "[ \"$1\" = setup ] && exec bin/orchestrator-trainer\necho orchestrator 0.1.0",
        );
        expect(&plain, "the trainer in");
        program("orchestrator-trainer", "exit 0");
        expect(&host("here data=/nowhere"), "there is no folder /nowhere");
        std::fs::write(home.join("file"), "").unwrap();
        expect(&host("here work=file/work"), "cannot be written");
        // no byte can be written, as on a full disk: neither the token nor, with room for that, a worker's files
        let full = "trap '' XFSZ; ulimit -f 0";
        expect_after(full, &plain, "there is no room in ");
        let without_token = format!("printf() {{ :; }}; {full}");
        let in_work = "there is no room in the work directory orchestrator-work";
        expect_after(&without_token, &plain, in_work);
        // then the worker: its arguments, and its exit code
        program(
            "orchestrator",
            "[ \"$1\" = --version ] && echo orchestrator 0.1.0 && exit\n[ \"$1\" = setup ] && exit\necho \"$*\" >args; cat \"$5\" >token; exit 75",
        );
        let name = |stderr: &str| stderr.lines().find_map(folder_name).map(str::to_owned);
        let other = name(&run(&host("here work=other")).1);
        let (code, stderr) = run(&plain);
        assert_eq!(code, Some(75));
        assert!(name(&stderr).is_some(), "{stderr}");
        assert_eq!(name(&run(&plain).1), name(&stderr), "the same folder");
        assert_ne!(other, name(&stderr));
        let arguments = std::fs::read_to_string(home.join("args")).unwrap();
        assert!(
            arguments.starts_with("worker --coordinator http://127.0.0.1:7400 --token-file "),
            "{arguments}"
        );
        assert!(
            arguments.ends_with(
                "--work-dir orchestrator-work --allocation orch-a-1 --idle-timeout 5m\n"
            ),
            "{arguments}"
        );
        assert_eq!(
            std::fs::read_to_string(home.join("token")).unwrap(),
            "secret\n"
        );
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 1, "the folder with the token is removed");
        // a worker of the same launcher, by another name of this machine
        let uname = Command::new("uname").arg("-n").output().unwrap().stdout;
        let machine = String::from_utf8(uname).unwrap();
        let pidfile = format!("orchestrator-work/ssh-{}-7f3a9c1e-all.pid", machine.trim());
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let born = stat
            .rsplit(") ")
            .next()
            .unwrap()
            .split(' ')
            .nth(19)
            .unwrap();
        let pid = std::process::id();
        let held = format!("{pid} {born} 0a1b2c3d alias\n");
        std::fs::write(home.join(&pidfile), held).unwrap();
        expect(&plain, "alias of the hosts file is this machine too");
    }

    /// The end of stdin, and not only a signal, makes the worker leave.
    #[test]
    fn the_worker_leaves_when_stdin_ends() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings();
        settings.dir = dir.path().to_str().unwrap().to_owned();
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        for name in ["orchestrator", "orchestrator-trainer"] {
            let path = dir.path().join("bin").join(name);
            let text = "#!/bin/sh\n[ \"$1\" = worker ] || { echo orchestrator 0.1.0; exit; }\n\
                        trap 'echo left >left; exit 75' TERM\n: >ready\nwhile :; do sleep 0.05; done\n";
            ::tests::write_executable(&path, text);
        }
        let script = script(&settings, &host("here"), &AllocationId::from("orch-a-1"));
        let mut shell = Command::new("sh");
        shell
            .arg("-c")
            .arg(script)
            .stdin(std::process::Stdio::piped());
        let mut child = shell.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, b"http://127.0.0.1:7400\nsecret\n").unwrap();
        let host_name = Command::new("uname").arg("-n").output().unwrap().stdout;
        let host_name = String::from_utf8_lossy(host_name.trim_ascii_end());
        let pidfile = format!("orchestrator-work/ssh-{host_name}-7f3a9c1e-all.pid");
        let pidfile = dir.path().join(pidfile);
        while !std::fs::read_to_string(&pidfile).is_ok_and(|text| text.trim().contains(' ')) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        while !dir.path().join("ready").exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        drop(stdin);
        assert_eq!(child.wait().unwrap().code(), Some(75));
        assert_eq!(
            std::fs::read_to_string(dir.path().join("left")).unwrap(),
            "left\n"
        );
        assert!(!pidfile.exists());
    }
}
