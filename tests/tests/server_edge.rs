//! The edge of a coordinator, on real processes: idle connections, tokens that change, links, files
//! that others may read, and a state directory that vanishes.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tests::{Process, System, wait_for};

const INFRASTRUCTURE: i32 = 2;
const SWEEP: &str = "
name: NAME
recipe: quick
set: {dataset: digits, model: resnet-8, samples_per_class: 5}
axes:
  loss: [xent, cos]
outputs:
  - table: {rows: loss}
";

/// Raises the limit of open files for the peers' ends of the connections, which are in this
/// process.
fn allow_many_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limits can be read");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard limit");
}

fn address(system: &System) -> String {
    system.url().trim_start_matches("http://").to_owned()
}

fn silent_connections(address: &str, count: usize) -> Vec<TcpStream> {
    (0..count)
        .map(|_| TcpStream::connect(address).expect("the coordinator listens"))
        .collect()
}

fn is_closed(connection: &mut TcpStream) -> bool {
    connection.set_nonblocking(true).expect("it is a socket");
    loop {
        match connection.read(&mut [0; 1024]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

fn page_address(coordinator: &Process) -> String {
    wait_for("the page is announced", || {
        let stderr = coordinator.stderr();
        let (_, rest) = stderr.split_once("page on http://")?;
        rest.split_once('/').map(|(address, _)| address.to_owned())
    })
}

/// The token of the system's coordinator.
fn token_of(system: &System) -> String {
    let token =
        fs::read_to_string(system.path("state/token")).expect("the coordinator made a token");
    token.trim().to_owned()
}

fn get(address: &str, host: &str, token: &str) -> String {
    let mut connection = TcpStream::connect(address).expect("the page listens");
    write!(
        connection,
        "GET /status HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    )
    .expect("it reads");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("it answers");
    answer
}

fn token_file(system: &System, name: &str, token: &str) -> PathBuf {
    system.private_file(name, token)
}

#[test]
fn silent_connections_lock_no_client_out_and_are_closed() {
    allow_many_files();
    let mut system = System::new();
    system.coordinator_flags = vec!["--http".to_owned(), "127.0.0.1:0".to_owned()];
    let coordinator = system.coordinator();
    let worker = system.worker("only", 1);
    wait_for("the worker joins", || {
        system.status()?["workers"][0]["worker"]
            .as_str()
            .map(|_| ())
    });
    let page = page_address(&coordinator);
    let mut silent = silent_connections(&address(&system), 1_200);
    silent.extend(silent_connections(&page, 600));
    // some have begun a request and stopped
    for connection in silent.iter_mut().step_by(7) {
        let _ = connection.write_all(b"PRI * HTTP/2.0\r\n");
    }
    system.ask(&["status"]);
    let token = token_of(&system);
    assert!(get(&page, "127.0.0.1", &token).starts_with("HTTP/1.1 200"));
    wait_for("all silent connections are closed", || {
        silent.iter_mut().all(is_closed).then_some(())
    });
    // it has been connected for longer than any of them, from the same address
    assert!(
        !worker.stderr().contains("no connection"),
        "{}",
        worker.stderr()
    );
    let status = system.status().expect("the coordinator answers");
    assert_eq!(status["workers"][0]["presence"], "present", "{status}");
    assert!(
        coordinator
            .stderr()
            .contains("too many connections without a request"),
        "{}",
        coordinator.stderr()
    );
}

#[test]
fn a_coordinator_without_files_for_connections_logs_it_once_and_recovers() {
    allow_many_files();
    let mut system = System::new();
    let coordinator = system.coordinator();
    // below the limit that it found when it started
    let limit = Command::new("prlimit")
        .args(["--nofile=96:96", "--pid", &coordinator.pid().to_string()])
        .status();
    assert!(limit.expect("util-linux is installed").success());
    let _silent = silent_connections(&address(&system), 300);
    let complaint = "connections cannot be accepted";
    wait_for("an accept fails", || {
        coordinator.stderr().contains(complaint).then_some(())
    });
    system.ask(&["status"]);
    assert_eq!(
        coordinator.stderr().matches(complaint).count(),
        1,
        "{}",
        coordinator.stderr()
    );
}

#[test]
fn a_token_is_exchanged_without_a_restart() {
    const OLD: &str = "between-you-and-me-0123456789abcdef";
    const NEW: &str = "another-one-entirely-0123456789abcdef";
    let mut system = System::new();
    token_file(&system, "token", OLD);
    token_file(&system, "old", OLD);
    token_file(&system, "new", NEW);
    system.coordinator_flags = ["--token-file", "token"].map(str::to_owned).to_vec();
    let coordinator = system.coordinator();
    let accepts = |file: &str| {
        system
            .client(&["status", "--token-file", file])
            .status
            .success()
    };
    assert!(accepts("old") && !accepts("new"));
    // a file that holds no token yet, as during a write
    fs::write(system.path("token"), "short").expect("the test owns its files");
    wait_for("the coordinator has looked", || {
        coordinator
            .stderr()
            .contains("the token before stays")
            .then_some(())
    });
    assert!(accepts("old") && !accepts("new"));
    fs::rename(token_file(&system, "token.next", NEW), system.path("token"))
        .expect("the test owns its files");
    wait_for("the new token is accepted", || {
        accepts("token").then_some(())
    });
    assert!(accepts("old"), "workers and commands have time to follow");
    token_file(&system, "wrong", "0123456789abcdef-something-else!!!!");
    assert!(!accepts("wrong"));
}

#[test]
fn the_status_page_answers_to_its_own_address_and_the_names_that_it_was_given() {
    let mut system = System::new();
    let flags = ["--http", "127.0.0.1:0", "--http-host", "login1.example"];
    system.coordinator_flags = flags.map(str::to_owned).to_vec();
    let coordinator = system.coordinator();
    let page = page_address(&coordinator);
    let token = token_of(&system);
    for host in [page.as_str(), "localhost:7480", "login1.example"] {
        assert!(
            get(&page, host, &token).starts_with("HTTP/1.1 200"),
            "{host}"
        );
    }
    for host in ["evil.example", "127.0.0.1.evil.example"] {
        let answer = get(&page, host, &token);
        assert!(
            answer.starts_with("HTTP/1.1 421") && answer.contains("--http-host"),
            "{host}: {answer}"
        );
        assert!(!answer.contains("workers"), "{answer}");
    }
}

#[test]
fn no_other_user_can_read_what_coordinator_and_worker_keep() {
    let mut system = System::new();
    let _coordinator = system.coordinator();
    let _worker = system.worker("only", 1);
    wait_for("the worker joins", || {
        system.status()?["workers"][0]["worker"]
            .as_str()
            .map(|_| ())
    });
    let mut seen = Vec::new();
    for folder in ["state", "work"] {
        exposed(&system.path(folder), &mut seen);
    }
    assert!(seen.len() > 8, "{seen:?}");
    let open: Vec<_> = seen
        .into_iter()
        .filter(|(_, mode)| mode & 0o077 != 0)
        .collect();
    assert!(open.is_empty(), "{open:?}");
}

/// Collects the path and everything below it that other users could access.
fn exposed(path: &Path, seen: &mut Vec<(PathBuf, u32)>) {
    let found = fs::metadata(path).expect("it is there");
    seen.push((path.to_path_buf(), found.permissions().mode() & 0o777));
    if found.is_dir() {
        for entry in fs::read_dir(path).expect("it can be read") {
            let entry = entry.expect("it can be read").path();
            if path.ends_with("state") || entry.is_dir() {
                exposed(&entry, seen);
            }
        }
    }
}

#[test]
fn a_state_directory_that_vanishes_ends_the_coordinator_with_a_copy() {
    let mut system = System::new();
    let mut coordinator = system.coordinator();
    let url = system.url();
    fs::copy(system.path("state/token"), system.path("token")).expect("a token was made");
    let submit = |name: &str| {
        system.file("sweep.yaml", &SWEEP.replace("NAME", name));
        let mut command =
            system.orchestrator(&["run", "sweep.yaml", "--detach", "--coordinator", &url]);
        command.args(["--token-file", "token"]);
        command
            .output()
            .expect("the client starts")
            .status
            .success()
    };
    assert!(submit("kept"));
    let num_events = system.journal().len();
    fs::remove_dir_all(system.path("state")).expect("the test owns its files");
    assert!(
        !submit("refused"),
        "a sweep was acknowledged that could not be found again"
    );
    coordinator.expect_exit(INFRASTRUCTURE);
    let message = coordinator.stderr();
    assert!(
        message.contains(&format!("{num_events} events were acknowledged")),
        "{message}"
    );
    let (_, saved) = message
        .rsplit_once("start the coordinator again with --state-dir ")
        .expect("a copy was saved");
    fs::rename(saved.trim(), system.path("state")).expect("the test owns its files");
    let _coordinator = system.coordinator();
    let status = system.ask(&["status"]);
    assert!(
        status.contains("kept") && !status.contains("refused"),
        "{status}"
    );
}
