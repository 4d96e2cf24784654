//! Damage to a journal's files: it is found, named, never taken for the journal's end, and repaired
//! as far as possible.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use journal::{Error, Journal, Mode, Repaired, repair, verify};
use schedule::event::Recorded;
use tempfile::TempDir;

mod fixture;

use fixture::{filled, joined};

const FILES: [&str; 4] = [
    "journal.sqlite",
    "journal.sqlite-wal",
    "journal.sqlite-shm",
    "journal.head",
];

/// The files of a journal whose process was killed: the events are in the write-ahead log alone.
struct Killed(Vec<(&'static str, Vec<u8>)>);

impl Killed {
    fn after(events: u64) -> Self {
        let (directory, _journal) = filled(events);
        Self(
            FILES
                .map(|name| {
                    (
                        name,
                        fs::read(directory.path().join(name)).expect("it is open"),
                    )
                })
                .to_vec(),
        )
    }

    fn without(mut self, name: &str) -> Self {
        self.0.retain(|(file, _)| *file != name);
        self
    }

    fn replace(mut self, name: &'static str, content: Vec<u8>) -> Self {
        self = self.without(name);
        self.0.push((name, content));
        self
    }

    fn content(&self, name: &str) -> &[u8] {
        &self
            .0
            .iter()
            .find(|(file, _)| *file == name)
            .expect("it is one of the files")
            .1
    }

    fn write(&self, directory: &Path) {
        FILES
            .iter()
            .for_each(|name| drop(fs::remove_file(directory.join(name))));
        self.0.iter().for_each(|(name, content)| {
            fs::write(directory.join(name), content).expect("there is room")
        });
    }

    fn directory(&self) -> TempDir {
        let directory = tempfile::tempdir().expect("a temporary directory");
        self.write(directory.path());
        directory
    }
}

fn opened(directory: &Path) -> Result<Vec<Recorded>, Error> {
    let mut events = Vec::new();
    Journal::open(directory)?.read(|recorded| {
        events.push(recorded);
        Ok(())
    })?;
    Ok(events)
}

fn refusal(directory: &Path) -> String {
    let error = opened(directory).expect_err("it must not open");
    assert!(!error.is_passing(), "{error}");
    let message = error.to_string();
    assert!(message.contains("journal repair --state-dir"), "{message}");
    message
}

fn content(directory: &Path, name: &str) -> Vec<u8> {
    fs::read(directory.join(name)).expect("it is there")
}

#[test]
fn every_flipped_bit_of_the_log_is_found() {
    const STRIDE: usize = 199;
    let killed = Killed::after(20);
    let log = killed.content("journal.sqlite-wal").to_vec();
    assert!(log.len() > 100 * STRIDE, "{}", log.len());
    let directory = tempfile::tempdir().expect("a temporary directory");
    for with_index in [true, false] {
        for at in (0..32)
            .chain((32..56).step_by(3))
            .chain((56..log.len()).step_by(STRIDE))
        {
            killed.write(directory.path());
            if !with_index {
                fs::remove_file(directory.path().join("journal.sqlite-shm"))
                    .expect("it was written");
            }
            let mut flipped = log.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(directory.path().join("journal.sqlite-wal"), &flipped)
                .expect("there is room");
            assert!(
                verify(directory.path()).is_err(),
                "byte {at} of {}",
                log.len()
            );
            assert!(
                content(directory.path(), "journal.sqlite-wal") == flipped,
                "looking changed the log"
            );
        }
    }
    killed.write(directory.path());
    assert_eq!(verify(directory.path()).expect("it is sound").events, 20);
}

/// Later transactions rewrite most pages of a log, so that most damage costs nothing.
#[test]
fn a_flipped_bit_of_the_log_hides_no_event_and_most_are_repaired_without_loss() {
    let killed = Killed::after(12);
    let log = killed.content("journal.sqlite-wal").to_vec();
    let sound: Vec<Recorded> = (1..=12).map(joined).collect();
    let (mut whole, mut rounds) = (0, 0);
    for at in (5..log.len()).step_by(3001) {
        let directory = killed.directory();
        let mut flipped = log.clone();
        flipped[at] ^= 0x10;
        fs::write(directory.path().join("journal.sqlite-wal"), &flipped).expect("there is room");
        let message = refusal(directory.path());
        assert!(
            message.contains("missing") || message.contains("journal.head"),
            "byte {at}: {message}"
        );
        assert!(
            content(directory.path(), "journal.sqlite-wal") == flipped,
            "a refusal changes nothing"
        );
        rounds += 1;
        match repair(directory.path(), false).expect("it can be looked at") {
            Repaired::Done {
                kept: 12,
                lost: None,
                aside,
            } => {
                whole += 1;
                assert!(content(&aside, "journal.sqlite-wal") == flipped);
                assert_eq!(opened(directory.path()).expect("it is sound"), sound);
            }
            Repaired::WouldLose { kept, lost } => {
                assert_eq!(lost.events, Some(12 - kept), "{}", lost.reason);
                refusal(directory.path());
                let done = repair(directory.path(), true).expect("it can be repaired");
                assert!(
                    matches!(done, Repaired::Done { kept: now, .. } if now == kept),
                    "{done:?}"
                );
                assert_eq!(
                    opened(directory.path()).expect("it is sound"),
                    sound[..kept as usize]
                );
            }
            other => panic!("byte {at}: {other:?}"),
        }
        let mut journal = Journal::open(directory.path()).expect("it is sound");
        let next = journal.last() + 1;
        journal
            .append(&[joined(next)])
            .expect("it can be continued");
        drop(journal);
        assert_eq!(verify(directory.path()).expect("it is sound").events, next);
        assert_eq!(
            repair(directory.path(), true).expect("it is sound"),
            Repaired::Sound { events: next }
        );
    }
    assert!(2 * whole > rounds, "{whole} of {rounds}");
}

/// Returns the file of a journal whose tables are still in its write-ahead log.
fn begun() -> Vec<u8> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let database = rusqlite::Connection::open(directory.path().join("journal.sqlite"))
        .expect("it can be made");
    database
        .pragma_update(None, "journal_mode", "WAL")
        .expect("a local file system");
    database
        .execute_batch("CREATE TABLE events (number INTEGER PRIMARY KEY)")
        .expect("it can be made");
    content(directory.path(), "journal.sqlite")
}

#[test]
fn a_journal_that_is_empty_missing_or_lacks_its_log_is_not_replaced_by_a_new_one() {
    let main = |killed: Killed| killed.content("journal.sqlite").to_vec();
    let cases: [(&str, Killed, &str); 8] = [
        (
            "the file",
            Killed::after(3).without("journal.sqlite"),
            "is missing, but 3 events",
        ),
        (
            "an empty file",
            Killed::after(3).replace("journal.sqlite", Vec::new()),
            "is empty, but 3 events",
        ),
        (
            "the log",
            Killed::after(3).without("journal.sqlite-wal"),
            "ends at event 0, but 3 events",
        ),
        (
            "file and head",
            Killed::after(3)
                .without("journal.sqlite")
                .without("journal.head"),
            "is missing, but",
        ),
        (
            "head and log of a journal that an earlier version began",
            Killed::after(3)
                .without("journal.head")
                .without("journal.sqlite-wal")
                .replace("journal.sqlite", begun()),
            "holds no events",
        ),
        (
            "the head's content",
            Killed::after(3).replace("journal.head", Vec::new()),
            "journal.head is damaged",
        ),
        (
            "the file's content",
            Killed::after(3).replace("journal.sqlite", vec![b'x'; 9000]),
            "is damaged",
        ),
        (
            "the first page",
            Killed::after(3)
                .without("journal.sqlite-wal")
                .replace("journal.sqlite", main(Killed::after(3))[..100].to_vec()),
            "journal.sqlite",
        ),
    ];
    for (lost, killed, expected) in cases {
        let directory = killed.directory();
        let message = refusal(directory.path());
        assert!(message.contains(expected), "without {lost}: {message}");
        for name in ["journal.sqlite", "journal.sqlite-wal"] {
            let before = killed
                .0
                .iter()
                .find(|(file, _)| *file == name)
                .map_or(&[][..], |(_, content)| content);
            let after = fs::read(directory.path().join(name)).unwrap_or_default();
            assert!(after == before, "without {lost}: {name} was changed");
        }
        assert!(verify(directory.path()).is_err(), "without {lost}");
        assert!(journal::read(directory.path()).is_err(), "without {lost}");
    }
}

/// The log alone holds a young journal, so a lost main file costs nothing.
#[test]
fn events_are_recovered_from_a_log_without_its_file() {
    for killed in [
        Killed::after(5).without("journal.sqlite"),
        Killed::after(5).replace("journal.sqlite", Vec::new()),
    ] {
        let directory = killed.directory();
        let done = repair(directory.path(), false).expect("it can be repaired");
        assert!(
            matches!(
                done,
                Repaired::Done {
                    kept: 5,
                    lost: None,
                    ..
                }
            ),
            "{done:?}"
        );
        for gone in ["journal.sqlite-wal", "journal.sqlite-shm", "journal.repair"] {
            assert!(!directory.path().join(gone).exists(), "{gone} is left");
        }
        assert_eq!(opened(directory.path()).expect("it is sound").len(), 5);
    }
}

/// A process can end between the commit and the write of the head file; the head file is never
/// written first.
#[test]
fn the_head_may_be_behind_the_journal_and_never_ahead() {
    let (behind, ahead) = (Killed::after(4), Killed::after(5));
    let note = |killed: &Killed| killed.content("journal.head").to_vec();
    let (note_of_4, note_of_5) = (note(&behind), note(&ahead));
    let directory = ahead.replace("journal.head", note_of_4).directory();
    assert_eq!(verify(directory.path()).expect("it is sound").events, 5);
    assert_eq!(opened(directory.path()).expect("it is sound").len(), 5);

    let directory = behind.replace("journal.head", note_of_5).directory();
    let message = refusal(directory.path());
    assert!(
        message.contains("ends at event 4, but 5 events were acknowledged: 1 event is missing"),
        "{message}"
    );
    let would = repair(directory.path(), false).expect("it can be looked at");
    assert!(
        matches!(&would, Repaired::WouldLose { kept: 4, lost } if lost.events == Some(1)),
        "{would:?}"
    );
}

#[test]
fn an_older_copy_in_the_place_of_a_journal_is_refused_and_one_in_an_empty_directory_is_not() {
    let (directory, journal) = filled(3);
    drop(journal);
    let copy = content(directory.path(), "journal.sqlite");
    let mut journal = Journal::open(directory.path()).expect("it is sound");
    journal
        .append(&[joined(4), joined(5)])
        .expect("it is stored");
    drop(journal);
    fs::write(directory.path().join("journal.sqlite"), &copy).expect("there is room");
    let message = refusal(directory.path());
    assert!(
        message.contains("ends at event 3, but 5 events") && message.contains("older copy"),
        "{message}"
    );

    let empty = tempfile::tempdir().expect("a temporary directory");
    fs::write(empty.path().join("journal.sqlite"), &copy).expect("there is room");
    assert_eq!(
        verify(empty.path()).expect("it is sound").remarks.len(),
        1,
        "no file shows what was stored since"
    );
    assert_eq!(opened(empty.path()).expect("it is sound").len(), 3);
    assert_eq!(verify(empty.path()).expect("it is sound").remarks, [""; 0]);
}

#[test]
fn another_journal_beside_a_head_is_refused() {
    let (directory, journal) = filled(3);
    drop(journal);
    let (other, mut journal) = (tempfile::tempdir().expect("a temporary directory"), None);
    for number in 2..=6 {
        let journal = journal.get_or_insert_with(|| Journal::open(other.path()).expect("it opens"));
        journal.append(&[joined(number)]).expect("it is stored");
    }
    drop(journal);
    fs::copy(
        other.path().join("journal.sqlite"),
        directory.path().join("journal.sqlite"),
    )
    .expect("there is room");
    let message = refusal(directory.path());
    assert!(message.contains("another journal"), "{message}");
    let would = repair(directory.path(), false).expect("it can be looked at");
    assert!(
        matches!(&would, Repaired::WouldLose { kept: 5, lost } if lost.events.is_none()),
        "{would:?}"
    );
    repair(directory.path(), true).expect("it is accepted");
    assert_eq!(opened(directory.path()).expect("it is sound").len(), 5);
}

#[test]
fn a_damaged_event_costs_those_after_it_and_no_other() {
    let (directory, journal) = filled(9);
    drop(journal);
    let database =
        rusqlite::Connection::open(directory.path().join("journal.sqlite")).expect("a SQLite file");
    let damage = "UPDATE events SET event = replace(event, 'host-6', 'host-7') WHERE number = 6";
    database.execute_batch(damage).expect("it can be done");
    drop(database);
    let would = repair(directory.path(), false).expect("it can be looked at");
    let Repaired::WouldLose { kept: 5, lost } = would else {
        panic!("{would:?}")
    };
    assert!(
        lost.events == Some(4) && lost.reason.contains("event 6"),
        "{lost:?}"
    );
    repair(directory.path(), true).expect("it is accepted");
    let events = opened(directory.path()).expect("it is sound");
    assert_eq!(events, (1..=5).map(joined).collect::<Vec<_>>());
}

#[test]
fn repair_begins_nothing_where_nothing_is_and_waits_for_no_coordinator() {
    let empty = tempfile::tempdir().expect("a temporary directory");
    assert!(matches!(
        repair(empty.path(), true),
        Err(Error::Missing { .. })
    ));
    assert_eq!(fs::read_dir(empty.path()).expect("it is there").count(), 0);
    let (directory, _journal) = filled(1);
    assert!(matches!(
        repair(directory.path(), true),
        Err(Error::Locked { .. })
    ));
}

/// The coordinator would continue to write to files that are lost.
#[test]
fn files_that_are_removed_moved_or_replaced_end_the_journal_with_a_copy() {
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 5] = [
        ("was removed", |state| {
            fs::remove_dir_all(state).expect("it is there")
        }),
        ("was removed", |state| {
            fs::rename(state, state.with_extension("moved")).expect("it is there")
        }),
        ("journal.sqlite-wal was removed", |state| {
            fs::remove_file(state.join("journal.sqlite-wal")).expect("it is there")
        }),
        ("journal.sqlite was replaced", |state| {
            let (file, copy) = (state.join("journal.sqlite"), state.join("copy"));
            fs::copy(&file, &copy)
                .and_then(|_| fs::rename(&copy, &file))
                .expect("there is room");
        }),
        ("was removed", |state| {
            fs::rename(state, state.with_extension("moved")).expect("it is there");
            fs::create_dir(state).expect("there is room");
        }),
    ];
    for mode in [Mode::WriteAheadLog, Mode::RollbackJournal] {
        for (named, harm) in harms {
            if mode == Mode::RollbackJournal && named.contains("-wal") {
                continue;
            }
            let parent = tempfile::tempdir().expect("a temporary directory");
            let state = parent.path().join("state");
            let mut journal = Journal::open_as(&state, mode).expect("it opens");
            (1..=3).for_each(|number| journal.append(&[joined(number)]).expect("it is stored"));
            harm(&state);
            let error = journal
                .append(&[joined(4)])
                .expect_err("nobody would find it again");
            let message = error.to_string();
            assert!(
                matches!(error, Error::Removed { .. }) && !error.is_passing(),
                "{message}"
            );
            assert!(
                message.contains(named) && message.contains("3 events were acknowledged"),
                "{message}"
            );
            let (_, saved) = message
                .split_once("--state-dir ")
                .expect("a copy was saved");
            drop(journal);
            let events = opened(Path::new(saved)).expect("the copy is sound");
            assert_eq!(events, (1..=3).map(joined).collect::<Vec<_>>());
        }
    }
}

#[test]
fn no_other_user_can_read_a_state_directory() {
    for mode in [Mode::WriteAheadLog, Mode::RollbackJournal] {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let state = parent.path().join("new/state");
        let mut journal = Journal::open_as(&state, mode).expect("it opens");
        journal.append(&[joined(1)]).expect("it is stored");
        let entries = fs::read_dir(&state)
            .expect("it is there")
            .map(|entry| entry.expect("it can be read").path());
        let paths: Vec<_> = entries.chain([state.clone()]).collect();
        assert!(paths.len() > 3, "{paths:?}");
        for path in paths {
            let mode = fs::metadata(&path)
                .expect("it is there")
                .permissions()
                .mode();
            assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
        }
    }
}

/// Directories of earlier versions have no head file: the journal's own count is all there is.
#[test]
fn a_journal_without_a_head_file_is_repaired_by_its_own_count() {
    let (directory, journal) = filled(4);
    drop(journal);
    fs::remove_file(directory.path().join("journal.head")).expect("it is there");
    assert_eq!(
        repair(directory.path(), true).expect("it is sound"),
        Repaired::Sound { events: 4 }
    );
    let database = rusqlite::Connection::open(directory.path().join("journal.sqlite"))
        .expect("it is a database");
    database
        .execute("UPDATE events SET event = '{}' WHERE number = 3", [])
        .expect("it can be changed");
    drop(database);
    let would = repair(directory.path(), false).expect("it can be looked at");
    assert!(
        matches!(&would, Repaired::WouldLose { kept: 2, lost } if lost.events == Some(2)),
        "{would:?}"
    );
}

/// A damaged header may lose the mark of a journal; beside a head file it is one all the same.
#[test]
fn a_file_without_the_mark_of_a_journal_is_repaired_only_beside_a_head_file() {
    let (directory, journal) = filled(2);
    drop(journal);
    rusqlite::Connection::open(directory.path().join("journal.sqlite"))
        .expect("it is a database")
        .pragma_update(None, "application_id", 7)
        .expect("it can be changed");
    assert!(!matches!(
        repair(directory.path(), false),
        Err(Error::NotAJournal { .. })
    ));
    fs::remove_file(directory.path().join("journal.head")).expect("it is there");
    assert!(matches!(
        repair(directory.path(), false),
        Err(Error::NotAJournal { .. })
    ));
}

#[test]
fn a_damaged_copy_in_the_head_file_is_remarked() {
    let (directory, journal) = filled(2);
    drop(journal);
    assert_eq!(
        verify(directory.path()).expect("it is sound").remarks,
        [""; 0]
    );
    let path = directory.path().join("journal.head");
    let mut head = fs::read(&path).expect("it is there");
    head[4100] ^= 1;
    fs::write(&path, head).expect("there is room");
    let remarks = verify(directory.path()).expect("it is sound").remarks;
    assert!(
        remarks.len() == 1 && remarks[0].contains("one of the two copies"),
        "{remarks:?}"
    );
}

/// SQLite reads the log up to the changed frame, and no head file shows how far it must reach.
#[test]
fn verify_names_a_changed_frame_though_no_head_file_shows_the_loss() {
    let killed = Killed::after(3).without("journal.head");
    let mut log = killed.content("journal.sqlite-wal").to_vec();
    let last_page = log.len() - 100;
    log[last_page] ^= 1;
    let directory = killed.replace("journal.sqlite-wal", log).directory();
    let found = verify(directory.path()).expect_err("a frame was changed");
    assert!(found.to_string().contains("frame"), "{found}");
}

/// The journal's own count may be what is damaged.
#[test]
fn a_loss_that_nothing_counts_has_no_number() {
    let (directory, journal) = filled(4);
    drop(journal);
    fs::remove_file(directory.path().join("journal.head")).expect("it is there");
    rusqlite::Connection::open(directory.path().join("journal.sqlite"))
        .expect("it is a database")
        .execute_batch(
            "UPDATE head SET number = 2; UPDATE events SET event = '{}' WHERE number = 3",
        )
        .expect("it can be changed");
    let would = repair(directory.path(), false).expect("it can be looked at");
    assert!(
        matches!(&would, Repaired::WouldLose { kept: 2, lost } if lost.events.is_none()),
        "{would:?}"
    );
}

/// The first events are the same, and both files were written by this program.
#[test]
fn another_continuation_of_a_journal_is_refused() {
    let [mine, other] = [4, 5].map(|next| {
        let (directory, mut journal) = filled(3);
        journal.append(&[joined(next)]).expect("it is stored");
        directory
    });
    fs::copy(
        other.path().join("journal.sqlite"),
        mine.path().join("journal.sqlite"),
    )
    .expect("there is room");
    let message = refusal(mine.path());
    assert!(message.contains("other events at its end"), "{message}");
    let would = repair(mine.path(), false).expect("it can be looked at");
    assert!(
        matches!(&would, Repaired::WouldLose { kept: 4, lost }
            if lost.events.is_none() && lost.reason.contains("another continuation")),
        "{would:?}"
    );
}

#[test]
fn repair_names_a_file_that_it_cannot_copy_or_remove() {
    type Harm = fn(&Path);
    let harms: [Harm; 2] = [
        |state| fs::create_dir(state.join("journal.sqlite-wal")).expect("there is room"),
        |state| fs::write(state.join("journal.repair"), "").expect("there is room"),
    ];
    for (harm, kind) in harms.into_iter().zip([
        std::io::ErrorKind::InvalidInput,
        std::io::ErrorKind::NotADirectory,
    ]) {
        let (directory, journal) = filled(2);
        drop(journal);
        harm(directory.path());
        let fault = repair(directory.path(), true).expect_err("it must not be passed over");
        assert!(
            matches!(&fault, Error::Repair { source, .. } if source.kind() == kind),
            "{fault:?}"
        );
    }
}
