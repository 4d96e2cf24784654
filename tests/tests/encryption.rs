//! Connections of a coordinator that other machines reach.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;
use tests::{Process, System, wait_for};

const SWEEP: &str = "
name: whispered
recipe: quick
set: {dataset: digits, model: resnet-8, samples_per_class: 5, schedule: {constant: {epochs: 1}}}
axes:
  loss: [xent, cos]
outputs:
  - table: {rows: loss}
";

/// Starts a coordinator on every network of this machine, and returns its address here.
fn coordinator(system: &System, flags: &[&str]) -> (Process, String) {
    let mut command = system.orchestrator(&["coordinator", "--listen", "0.0.0.0:0"]);
    command.args(["--state-dir", "state"]).args(flags);
    let process = system.start("coordinator", command);
    let address = wait_for("the coordinator announces itself", || {
        let text = fs::read(system.path("state/coordinator.json")).ok()?;
        let found: Value = serde_json::from_slice(&text).ok()?;
        found["address"].as_str().map(str::to_owned)
    });
    (process, address)
}

/// Relays connections to an address, and keeps the bytes of both directions.
fn relay(target: String) -> (u16, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let all = seen.clone();
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(&target) else {
                return;
            };
            for (mut from, mut to) in [
                (
                    near.try_clone().expect("a socket"),
                    far.try_clone().expect("a socket"),
                ),
                (far, near),
            ] {
                let all = all.clone();
                thread::spawn(move || {
                    let mut bytes = [0; 4096];
                    while let Ok(length @ 1..) = from.read(&mut bytes) {
                        let mut all = all.lock().expect("no other panic");
                        all.extend_from_slice(&bytes[..length]);
                        drop(all);
                        if to.write_all(&bytes[..length]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    (port, seen)
}

#[test]
fn what_passes_between_machines_is_unreadable_and_gives_the_table_of_a_local_run() {
    let system = System::new();
    system.file("job.yaml", SWEEP);
    let (_coordinator, address) = coordinator(&system, &[]);
    let port = address.strip_prefix("https://127.0.0.1:").expect(&address);
    let (relayed, seen) = relay(format!("127.0.0.1:{port}"));
    let through = format!("https://localhost:{relayed}");
    let access = ["--coordinator", &through, "--token-file", "state/token"];
    let mut worker = system.orchestrator(&["worker"]);
    worker.args(access).args([
        "--devices",
        "cpu",
        "--slots",
        "1",
        "--devices-per-slot",
        "1",
    ]);
    worker.args([
        "--work-dir",
        "work",
        "--data-dir",
        "data",
        "--cache-dir",
        "cache",
    ]);
    let _worker = system.start("worker", worker);
    let mut run = system.orchestrator(&["run", "job.yaml"]);
    run.args(access);
    system.start("run", run).expect_exit(0);

    let token = fs::read_to_string(system.path("state/token")).expect("the token file");
    let secret = token.trim();
    let seen = seen.lock().expect("no panic").clone();
    assert!(seen.len() > 10_000, "{} bytes were relayed", seen.len());
    assert_eq!(seen[..2], [22, 3], "it begins with a handshake");
    for readable in [secret, "whispered", "accuracy", "resnet-8"] {
        let bytes = readable.as_bytes();
        let found = seen.windows(bytes.len()).any(|window| window == bytes);
        assert!(!found, "{readable} can be read");
    }
    let local = System::new();
    local.file("job.yaml", SWEEP);
    let run = local.orchestrator(&["run", "job.yaml"]);
    local.start("local", run).expect_exit(0);
    tests::results::assert_same(
        &tests::results::undisturbed_files(&local.results("whispered")),
        &tests::results::undisturbed_files(&system.results("whispered")),
    );
}

#[test]
fn a_coordinator_is_known_by_its_token_and_none_is_shown_to_another() {
    let system = System::new();
    let (_coordinator, address) = coordinator(&system, &[]);
    let place = address.strip_prefix("https://").expect("a URL");
    let status = |address: &str, file: &str| {
        let arguments = ["status", "--coordinator", address, "--token-file", file];
        system.orchestrator(&arguments).output().expect("it starts")
    };
    let named = place.replace("127.0.0.1", "localhost");
    for address in [&address, &format!("https://{named}")] {
        assert!(status(address, "state/token").status.success());
    }
    let text = |output: Output| {
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    wait_for(
        "a command without encryption gets the right address",
        || {
            // the connection may be gone before its last bytes are read
            let clear = text(status(&format!("http://{place}"), "state/token"));
            clear
                .contains(&format!("it is at https://{place}"))
                .then_some(())
        },
    );
    // each has a token that the other lacks, and neither reads a byte of it
    system.private_file("wrong", "0123456789abcdef-something-else!!!!\n");
    let (relayed, seen) = relay(place.to_owned());
    let wrong = text(status(&format!("https://localhost:{relayed}"), "wrong"));
    assert!(
        wrong.contains("the token is not the coordinator's: check --token-file"),
        "{wrong}"
    );
    let seen = seen.lock().expect("no panic").clone();
    let token = b"0123456789abcdef-something-else!!!!";
    assert!(!seen.windows(token.len()).any(|window| window == token));
    let worker = [
        "worker",
        "--coordinator",
        &address,
        "--token-file",
        "wrong",
        "--devices",
        "cpu",
    ];
    let mut worker = system.start("worker", system.orchestrator(&worker));
    worker.expect_exit(2);
    assert!(
        worker
            .stderr()
            .contains("the token is not the coordinator's"),
        "{}",
        worker.stderr()
    );
    // one that listens on loopback alone is reached without
    let mut local = System::new();
    let _local = local.coordinator();
    let encrypted = local.url().replace("http://", "https://");
    let arguments = [
        "status",
        "--coordinator",
        &encrypted,
        "--token-file",
        "state/token",
    ];
    let output = local.orchestrator(&arguments).output().expect("it starts");
    let reason = text(output);
    assert!(
        reason.contains("its address begins with http://"),
        "{reason}"
    );
}

/// Workers and commands with the token of before connect until the grace is over.
#[test]
fn a_token_is_replaced_while_connections_are_encrypted() {
    let system = System::new();
    system.private_file("token", "the-first-token-0123456789\n");
    system.private_file("old", "the-first-token-0123456789\n");
    let (_coordinator, address) = coordinator(&system, &["--token-file", "token"]);
    let reaches = |file: &str| {
        let arguments = ["status", "--coordinator", &address, "--token-file", file];
        let output = system.orchestrator(&arguments).output().expect("it starts");
        output.status.success()
    };
    assert!(reaches("token"));
    let next = system.private_file("next", "the-second-token-0123456789\n");
    fs::rename(next, system.path("token")).expect("the test's folder can be written");
    wait_for("the new token is accepted", || {
        reaches("token").then_some(())
    });
    assert!(reaches("old"));
}

/// A handshake that never comes, and bytes that are none, cost their own connection.
#[test]
fn a_peer_that_breaks_the_handshake_disturbs_no_other() {
    let system = System::new();
    let (_coordinator, address) = coordinator(&system, &[]);
    let place = address.strip_prefix("https://").expect("a URL");
    let connect = || TcpStream::connect(place).expect("it listens");
    let silent: Vec<TcpStream> = (0..50).map(|_| connect()).collect();
    let mut garbage = connect();
    garbage.write_all(&[0xff; 65_536]).ok();
    let mut answer = Vec::new();
    // an alert at most, and the end
    garbage.read_to_end(&mut answer).ok();
    assert!(answer.len() < 64, "{answer:?}");
    let arguments = ["status", "--state-dir", "state"];
    let status = system.orchestrator(&arguments).output().expect("it starts");
    assert!(
        status.status.success(),
        "{}",
        String::from_utf8_lossy(&status.stderr)
    );
    drop(silent);
}
