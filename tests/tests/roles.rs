//! Tokens that were granted from the coordinator's own: what each role may do, and how one ends.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Output;

use serde_json::Value;
use tests::{Process, System, wait_for};

const SWEEP: &str = "
name: tiny
recipe: quick
set: {dataset: digits, model: resnet-8, samples_per_class: 5}
axes:
  loss: [xent, cos]
outputs:
  - table: {rows: loss}
";

const INFRASTRUCTURE: i32 = 2;

/// A coordinator, and a token of each role in a file of its name.
struct Place {
    system: System,
    coordinator: Option<Process>,
}

impl Place {
    fn new() -> Self {
        let mut system = System::new();
        let coordinator = system.coordinator();
        let place = Self {
            system,
            coordinator: Some(coordinator),
        };
        for role in ["user", "worker", "reader"] {
            place.grant(role, role, "1h");
        }
        place.system.file("tiny.yaml", SWEEP);
        place
    }

    /// Grants a token into a file, and returns its id.
    fn grant(&self, role: &str, file: &str, ttl: &str) -> String {
        let arguments = ["token", "create", role, "--ttl", ttl, "--file", file];
        let flags = ["--state-dir", "state", "--output", "json"];
        let printed = self.run(&[&arguments[..], &flags].concat());
        assert!(printed.status.success(), "{}", stderr(&printed));
        let document: Value = serde_json::from_slice(&printed.stdout).expect("it prints JSON");
        document["id"].as_str().expect("an id").to_owned()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.system.orchestrator(arguments);
        command.output().expect("it starts")
    }

    /// Runs a command for the coordinator with the token in this file.
    fn with(&self, file: &str, arguments: &[&str]) -> Output {
        let url = self.system.url();
        let access = ["--coordinator", &url, "--token-file", file];
        self.run(&[arguments, &access].concat())
    }

    fn works(&self, file: &str, arguments: &[&str]) -> String {
        let output = self.with(file, arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            stderr(&output)
        );
        String::from_utf8(output.stdout).expect("stdout is UTF-8")
    }

    fn refused(&self, file: &str, arguments: &[&str]) -> String {
        let output = self.with(file, arguments);
        let stderr = stderr(&output);
        assert_eq!(output.status.code(), Some(INFRASTRUCTURE), "{stderr}");
        stderr
    }

    /// Starts a worker with the token in this file.
    fn worker(&self, name: &str, file: &str) -> Process {
        let mut command = self.system.worker_command(name, 1, 1);
        command.args(["--token-file", file]);
        self.system.start(name, command)
    }

    fn has_joined(&self, name: &str) -> bool {
        let status = self.works("reader", &["status", "--output", "json"]);
        let status: Value = serde_json::from_str(&status).expect("it prints JSON");
        let workers = status["workers"].as_array().expect("a list of workers");
        let is_it = |worker: &Value| {
            let id = worker["worker"].as_str().expect("an id");
            id.starts_with(name) && worker["presence"] == "present"
        };
        workers.iter().any(is_it)
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn each_role_does_its_own_and_nothing_else() {
    let place = Place::new();
    let submit = ["run", "tiny.yaml", "--detach"];
    let message = place.refused("reader", &submit);
    assert!(
        message.contains("reader") && message.contains("Submit"),
        "{message}"
    );
    place.works("user", &submit);
    assert!(place.works("reader", &["status"]).contains("tiny"));
    place.works("reader", &["table", "tiny"]);
    for change in [
        &["cancel", "tiny"][..],
        &["retry", "tiny"],
        &["rm", "tiny", "--cancel"],
        &["drain", "w"],
        &["cluster", "stop"],
    ] {
        let message = place.refused("reader", change);
        assert!(message.contains("reader"), "{message}");
    }
    for question in [&["status"][..], &["table", "tiny"], &submit] {
        let message = place.refused("worker", question);
        assert!(message.contains("worker"), "{message}");
    }
    // nothing to train: who joins matters here
    place.works("user", &["cancel", "tiny"]);
    let _worker = place.worker("hand", "worker");
    wait_for("the worker joins", || {
        place.has_joined("hand").then_some(())
    });
    for file in ["reader", "user"] {
        let mut stranger = place.worker("stranger", file);
        stranger.expect_exit(INFRASTRUCTURE);
        assert!(stranger.stderr().contains(file), "{}", stranger.stderr());
    }
    // only the owner ends tokens, and only a coordinator's own token grants others
    let message = place.refused("user", &["token", "revoke", "00000000"]);
    assert!(message.contains("RevokeToken"), "{message}");
    let granting = ["token", "create", "user", "--token-file", "user"];
    let message = stderr(&place.run(&granting));
    assert!(
        message.contains("user") && message.contains("own"),
        "{message}"
    );
    let served = [
        "coordinator",
        "--state-dir",
        "other",
        "--token-file",
        "user",
    ];
    let message = stderr(&place.run(&served));
    assert!(message.contains("granted"), "{message}");
}

#[test]
fn a_revoked_token_ends_its_connections_and_stays_revoked() {
    let mut place = Place::new();
    let id = place.grant("worker", "lost", "never");
    let shown = place.run(&["token", "show", "lost"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains(&id) && shown.contains("worker"), "{shown}");
    let worker = place.worker("lost", "lost");
    let kept = place.worker("kept", "worker");
    wait_for("both join", || {
        (place.has_joined("lost") && place.has_joined("kept")).then_some(())
    });
    place.works("state/token", &["token", "revoke", &id]);
    // again: it is what it was
    place.works("state/token", &["token", "revoke", &id]);
    // it asks for a while whether its file has another by now
    wait_for("the worker is refused", || {
        let logged = worker.stderr();
        (logged.contains(&id) && logged.contains("revoked")).then_some(())
    });
    assert!(!place.has_joined("lost"));
    assert!(place.has_joined("kept"));
    kept.kill();
    place.coordinator.take().expect("it runs").kill();
    place.coordinator = Some(place.system.coordinator());
    let mut again = place.worker("again", "lost");
    again.expect_exit(INFRASTRUCTURE);
    assert!(again.stderr().contains("revoked"), "{}", again.stderr());
    let unknown = place.with("state/token", &["token", "revoke", "lost"]);
    assert!(stderr(&unknown).contains("`lost`"), "{}", stderr(&unknown));
}

#[test]
fn an_expired_token_ends_its_connections() {
    let place = Place::new();
    let id = place.grant("worker", "short", "8s");
    let worker = place.worker("short", "short");
    wait_for("the worker is refused", || {
        let logged = worker.stderr();
        (logged.contains(&id) && logged.contains("expired")).then_some(())
    });
    assert!(!place.has_joined("short"));
}

#[test]
fn granted_tokens_encrypt_connections_and_know_the_coordinator() {
    let place = Place::new();
    let mut command = place
        .system
        .orchestrator(&["coordinator", "--listen", "0.0.0.0:0"]);
    command.args(["--state-dir", "far", "--token-file", "state/token"]);
    let _far = place.system.start("far", command);
    let address = wait_for("the coordinator announces itself", || {
        let text = fs::read(place.system.path("far/coordinator.json")).ok()?;
        let found: Value = serde_json::from_slice(&text).ok()?;
        found["address"].as_str().map(str::to_owned)
    });
    assert!(address.starts_with("https://"), "{address}");
    let status =
        |file: &str| place.run(&["status", "--coordinator", &address, "--token-file", file]);
    let output = status("reader");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&status("worker")).contains("worker"));
    // the words of a token, with another seal: the coordinator has no certificate for it
    let text = fs::read_to_string(place.system.path("reader")).expect("the token");
    let (words, seal) = text.trim().rsplit_once('-').expect("a seal");
    let other = seal.chars().rev().collect::<String>();
    place
        .system
        .private_file("forged", &format!("{words}-{other}\n"));
    let output = status("forged");
    assert_eq!(
        output.status.code(),
        Some(INFRASTRUCTURE),
        "{}",
        stderr(&output)
    );
}

/// Sends a request to the page, and returns its answer.
fn ask(address: &str, head: &str, token: &str, body: &str) -> String {
    let mut connection = TcpStream::connect(address).expect("the page listens");
    write!(
        connection,
        "{head} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("it reads");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("it answers");
    answer
}

#[test]
fn a_reader_sees_the_page_without_its_forms_and_a_worker_does_not() {
    let place = Place::new();
    place.works("user", &["run", "tiny.yaml", "--detach"]);
    let coordinator = place.coordinator.as_ref().expect("it runs");
    let address = wait_for("the page is announced", || {
        let stderr = coordinator.stderr();
        let (_, rest) = stderr.split_once("page on http://")?;
        rest.split_once('/').map(|(address, _)| address.to_owned())
    });
    let token = |file: &str| {
        let text = fs::read_to_string(place.system.path(file)).expect("a token");
        text.trim().to_owned()
    };
    let form = "action=\"/sweep/tiny/cancel\"";
    let page = ask(&address, "GET /sweep/tiny", &token("user"), "");
    assert!(page.contains(" 200 ") && page.contains(form), "{page}");
    let page = ask(&address, "GET /sweep/tiny", &token("reader"), "");
    assert!(page.contains(" 200 ") && !page.contains(form), "{page}");
    let metrics = ask(&address, "GET /metrics", &token("reader"), "");
    assert!(metrics.contains(" 200 "), "{metrics}");
    for (head, file) in [
        ("POST /sweep/tiny/cancel", "reader"),
        ("GET /sweep/tiny", "worker"),
        ("GET /metrics", "worker"),
    ] {
        let answer = ask(&address, head, &token(file), "");
        assert!(
            answer.contains(" 403 ") && answer.contains(file),
            "{answer}"
        );
    }
    let login = format!("secret={}", token("reader"));
    let answer = ask(&address, "POST /login", "none", &login);
    let cookie = answer
        .lines()
        .find_map(|line| line.strip_prefix("set-cookie: "));
    let cookie = cookie.expect(&answer);
    let seal = token("reader")
        .rsplit('-')
        .next()
        .unwrap_or_default()
        .to_owned();
    assert!(
        cookie.contains("HttpOnly") && !cookie.contains(&seal),
        "{cookie}"
    );
    let id = place.grant("reader", "brief", "1h");
    place.works("state/token", &["token", "revoke", &id]);
    let answer = ask(&address, "GET /", &token("brief"), "");
    assert!(answer.contains(" 401 "), "{answer}");
}
