//! The journal's promises: acknowledged events are there, and faults are found and named.

use std::fs;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use journal::{Error, Journal, Mode, export, verify};
use schedule::event::{Event, Recorded};

mod fixture;

use fixture::{filled, joined};

fn read(directory: &Path) -> Vec<Recorded> {
    let mut journal = Journal::open(directory).expect("it opens");
    let mut events = Vec::new();
    journal
        .read(|recorded| {
            events.push(recorded);
            Ok(())
        })
        .expect("it is sound");
    events
}

fn sqlite(directory: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(directory.join("journal.sqlite")).expect("a SQLite file")
}

#[test]
fn events_come_back_in_order_in_both_modes() {
    for mode in [Mode::WriteAheadLog, Mode::RollbackJournal] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let events: Vec<Recorded> = (1..=5).map(joined).collect();
        let mut journal = Journal::open_as(directory.path(), mode).expect("it opens");
        journal.append(&events[..2]).expect("it is stored");
        journal.append(&events[2..]).expect("it is stored");
        assert_eq!(journal.last(), 5);
        assert_eq!(
            journal.event(3).expect("it is sound"),
            Some(events[2].clone())
        );
        assert_eq!(journal.event(6).expect("it is sound"), None);
        let state = journal.replay().expect("it is sound");
        assert_eq!(state.applied, 5);
        assert!(journal.bytes() > 4096, "{}", journal.bytes());
        drop(journal);
        let second = journal::Reader::open(directory.path())
            .and_then(|reader| reader.event(2))
            .expect("it is sound");
        assert_eq!(second, Some(events[1].clone()));
        assert_eq!(read(directory.path()), events);
    }
}

#[test]
fn a_second_coordinator_is_refused_and_the_first_is_named() {
    let (directory, journal) = filled(1);
    match Journal::open(directory.path()) {
        Err(Error::Locked { holder, .. }) => {
            assert!(holder.contains(&std::process::id().to_string()), "{holder}")
        }
        other => panic!("{:?}", other.map(|_| "opened")),
    }
    // Reading is allowed meanwhile.
    assert_eq!(verify(directory.path()).expect("it is sound").events, 1);
    assert_eq!(
        journal::read(directory.path())
            .expect("it is sound")
            .applied,
        1
    );
    drop(journal);
    Journal::open(directory.path()).expect("the lock ends with its holder");
}

#[test]
fn a_newer_version_and_another_program_s_file_are_refused() {
    let (directory, journal) = filled(1);
    drop(journal);
    sqlite(directory.path())
        .pragma_update(None, "user_version", 7)
        .expect("it can be changed");
    assert!(matches!(
        Journal::open(directory.path()),
        Err(Error::Newer {
            found: 7,
            known: 1,
            ..
        })
    ));
    assert!(matches!(
        verify(directory.path()),
        Err(Error::Newer { found: 7, .. })
    ));

    let other = tempfile::tempdir().expect("a temporary directory");
    sqlite(other.path())
        .execute_batch("CREATE TABLE mine (x)")
        .expect("it can be made");
    assert!(matches!(
        Journal::open(other.path()),
        Err(Error::NotAJournal { .. })
    ));

    let garbage = tempfile::tempdir().expect("a temporary directory");
    fs::write(garbage.path().join("journal.sqlite"), vec![b'x'; 9000]).expect("it can be written");
    assert!(matches!(
        Journal::open(garbage.path()),
        Err(Error::Damaged { .. })
    ));
}

#[test]
fn a_full_disk_stores_nothing_and_the_journal_continues_when_there_is_room() {
    let (directory, mut journal) = filled(3);
    journal.pragma("max_page_count", &3).expect("it can be set");
    let large = Recorded {
        at: 9,
        event: Event::HostUndrained {
            host: "x".repeat(100_000),
        },
    };
    let batch = [joined(4), large];
    let fault = journal.append(&batch).expect_err("there is no room");
    assert!(
        matches!(fault, Error::Full { .. }) && fault.is_passing(),
        "{fault}"
    );
    assert_eq!(journal.last(), 3);
    // The limit was this connection's own: it is gone when the file is reopened.
    assert_eq!(journal.replay().expect("it is sound").applied, 3);
    journal.append(&batch).expect("there is room again");
    journal.append(&[joined(5)]).expect("there is room");
    drop(journal);
    assert_eq!(read(directory.path()).len(), 6);
}

#[test]
fn a_journal_that_becomes_read_only_stores_nothing_and_continues_later() {
    let (directory, mut journal) = filled(1);
    journal.pragma("query_only", &true).expect("it can be set");
    let fault = journal.append(&[joined(2)]).expect_err("it is read-only");
    assert!(
        matches!(fault, Error::ReadOnly { .. }) && fault.is_passing(),
        "{fault}"
    );
    journal.append(&[joined(2)]).expect("it is writable again");
    drop(journal);
    assert_eq!(read(directory.path()).len(), 2);
}

#[test]
fn a_state_directory_that_cannot_be_used_is_named() {
    // No user can create files there, not even root.
    let fault = Journal::open(Path::new("/sys/orchestrator-test"))
        .map(|_| ())
        .expect_err("it cannot be made");
    assert!(
        matches!(fault, Error::Directory { .. })
            && fault.to_string().contains("/sys/orchestrator-test"),
        "{fault}"
    );
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    assert!(matches!(
        Journal::open(file.path()),
        Err(Error::Directory { .. })
    ));
    let empty = tempfile::tempdir().expect("a temporary directory");
    assert!(matches!(verify(empty.path()), Err(Error::Missing { .. })));
}

#[test]
fn a_changed_missing_or_exchanged_row_is_found_and_named() {
    let cases = [
        (
            "UPDATE events SET event = replace(event, 'host-3', 'host-9') WHERE number = 3",
            "event 3 ",
        ),
        ("UPDATE events SET at = at + 1 WHERE number = 2", "event 2 "),
        ("DELETE FROM events WHERE number = 4", "event 4 "),
        ("DELETE FROM events WHERE number = 5", "event 5 is missing"),
        ("DELETE FROM head", "head"),
        (
            "UPDATE events SET event = (SELECT event FROM events WHERE number = 1),
             link = (SELECT link FROM events WHERE number = 1) WHERE number = 2",
            "event 2 ",
        ),
    ];
    for (damage, named) in cases {
        let (directory, journal) = filled(5);
        drop(journal);
        sqlite(directory.path())
            .execute_batch(damage)
            .expect("it can be done");
        let found = verify(directory.path()).expect_err(damage).to_string();
        assert!(
            found.contains(named) && found.contains("journal.sqlite"),
            "{damage}: {found}"
        );
        let replayed = Journal::open(directory.path()).and_then(|mut journal| journal.replay());
        assert!(matches!(replayed, Err(Error::Damaged { .. })), "{damage}");
    }
}

#[test]
fn a_damaged_byte_anywhere_in_the_events_is_found() {
    let (directory, journal) = filled(200);
    drop(journal);
    let path = directory.path().join("journal.sqlite");
    let sound = fs::read(&path).expect("it can be read");
    let exported = |directory: &Path| {
        let mut out = Vec::new();
        export(directory, &mut out).map(|_| out)
    };
    let original = exported(directory.path()).expect("it is sound");
    let mut found = 0;
    let mut harmless = Vec::new();
    // Every 97th byte after the header, and all of that: texts, hashes, b-tree pages, and space
    // that is no longer used, where a change is not found and does no harm.
    for at in (0..100).chain((100..sound.len()).step_by(97)) {
        let mut file = fs::File::options()
            .write(true)
            .open(&path)
            .expect("it opens");
        file.seek(SeekFrom::Start(at as u64)).expect("it is a file");
        file.write_all(&[sound[at] ^ 0x20])
            .expect("it can be written");
        match verify(directory.path()) {
            Err(_) => found += 1,
            Ok(_) => {
                harmless.push(at);
                assert!(
                    exported(directory.path()).is_ok_and(|out| out == original),
                    "byte {at}"
                );
            }
        }
        file.seek(SeekFrom::Start(at as u64)).expect("it is a file");
        file.write_all(&[sound[at]]).expect("it can be written");
    }
    assert_eq!(
        verify(directory.path()).expect("it is sound again").events,
        200
    );
    println!("{found} found, harmless: {harmless:?}");
    assert!(found > 300, "{found}");
}

#[test]
fn an_impossible_history_is_refused() {
    let (directory, mut journal) = filled(1);
    let reason = "twice".to_owned();
    let unknown = Event::HostDrained {
        host: "nowhere".to_owned(),
        reason: reason.into(),
    };
    journal
        .append(&[Recorded {
            at: 1,
            event: unknown,
        }])
        .expect("the journal does not judge");
    assert!(matches!(journal.replay(), Err(Error::Impossible { .. })));
    assert!(matches!(
        verify(directory.path()),
        Err(Error::Impossible { .. })
    ));
}

#[test]
fn an_export_has_one_line_per_event_and_reads_back() {
    let (directory, _journal) = filled(3);
    let mut out = Vec::new();
    assert_eq!(export(directory.path(), &mut out).expect("it is sound"), 3);
    let lines: Vec<serde_json::Value> = out
        .lines()
        .map(|line| serde_json::from_str(&line.expect("text")).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[2]["number"], 3);
    let event: Event = serde_json::from_value(lines[2]["event"].clone()).expect("an event");
    assert_eq!(event, joined(3).event);
}

/// Runs only as a child of the test below: appends until it is killed, and prints each event that
/// was stored.
#[test]
fn appends_until_killed() {
    let Ok(directory) = std::env::var("JOURNAL_TO_APPEND_TO") else {
        return;
    };
    let mut journal = Journal::open(Path::new(&directory)).expect("it opens");
    loop {
        let number = journal.last() + 1;
        journal
            .append(&[joined(number), joined(number + 1)])
            .expect("it is stored");
        let mut out = std::io::stdout().lock();
        writeln!(out, "\nstored {}", number + 1)
            .and_then(|()| out.flush())
            .expect("the parent listens");
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut acknowledged = 0;
    for round in 1..=5 {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "appends_until_killed", "--nocapture"])
            .env("JOURNAL_TO_APPEND_TO", directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut stored = lines
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("stored ")?.parse::<u64>().ok());
        for number in stored.by_ref().take(7 * round) {
            acknowledged = number;
        }
        child.kill().expect("it runs");
        // Events that it had printed before the signal count, too.
        acknowledged = stored.last().unwrap_or(acknowledged);
        child.wait().expect("it ran");
        let events = read(directory.path());
        assert!(
            events.len() as u64 >= acknowledged,
            "{} of {acknowledged}",
            events.len()
        );
        assert_eq!(
            events.len() % 2,
            0,
            "a transaction is stored whole or not at all"
        );
        assert!(
            events
                .iter()
                .zip(1..)
                .all(|(event, number)| *event == joined(number))
        );
    }
    assert!(acknowledged > 100);
}

/// Runs only as a child of the test below: a full disk, by the limit on the size of a file.
#[test]
fn fills_its_disk() {
    let Ok(directory) = std::env::var("JOURNAL_TO_FILL") else {
        return;
    };
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use nix::sys::signal::{SigSet, Signal};
    // The signal would end the process; without it the write fails, as on a full disk.
    let mut set = SigSet::empty();
    set.add(Signal::SIGXFSZ);
    set.thread_block().expect("signals can be blocked");
    let mut journal = Journal::open(Path::new(&directory)).expect("it opens");
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).expect("limits can be read");
    setrlimit(Resource::RLIMIT_FSIZE, 200 << 10, hard).expect("limits can be lowered");
    let mut faults = 0;
    // The first fault is in the log, which then moves into the file; in the end the file is full,
    // too.
    while faults < 2 {
        let number = journal.last() + 1;
        match journal.append(&[joined(number)]) {
            Ok(()) => faults = 0,
            Err(fault) => {
                assert!(fault.is_passing(), "{fault}");
                faults += 1;
            }
        }
    }
    let stored = journal.last();
    setrlimit(Resource::RLIMIT_FSIZE, hard, hard).expect("up to the hard limit");
    assert_eq!(journal.replay().expect("it is sound").applied, stored);
    journal
        .append(&[joined(stored + 1)])
        .expect("there is room again");
    println!("\nrecovered after {stored}");
}

#[test]
fn a_disk_that_takes_no_more_loses_nothing_and_recovers() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let output = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "fills_its_disk", "--nocapture"])
        .env("JOURNAL_TO_FILL", directory.path())
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let stored = text
        .lines()
        .find_map(|line| line.strip_prefix("recovered after ")?.parse::<usize>().ok());
    let stored =
        stored.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    let events = read(directory.path());
    assert_eq!(events.len(), stored + 1);
    assert!(
        events
            .iter()
            .zip(1..)
            .all(|(event, number)| *event == joined(number))
    );
}
