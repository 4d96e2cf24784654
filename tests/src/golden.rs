//! Golden files: what people see, in files that tests compare with what the program makes.
//!
//! `UPDATE_GOLDENS=1 cargo test` writes them; read the difference before committing it. Paths are
//! relative to the folder of the tested crate, in which cargo runs tests.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

const HOW_TO_UPDATE: &str = "run this test with UPDATE_GOLDENS=1 and read the difference";

fn is_updating() -> bool {
    std::env::var_os("UPDATE_GOLDENS").is_some()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("{}: {error}; {HOW_TO_UPDATE}", path.display()))
}

fn write(path: &Path, text: &str) {
    let folder = path.parent().expect("a file is in a folder");
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(path, text))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Requires a file to hold `found`.
#[track_caller]
pub fn assert_file(path: impl AsRef<Path>, found: &str) {
    let path = path.as_ref();
    if is_updating() {
        write(path, found);
    }
    assert_same(path, &read(path), found);
}

/// Requires a document to hold `found` between the first `begin` and the next `end`.
#[track_caller]
pub fn assert_part(path: impl AsRef<Path>, begin: &str, end: &str, found: &str) {
    // tests of one document may run at the same time
    static DOCUMENTS: Mutex<()> = Mutex::new(());
    let _guard = DOCUMENTS.lock().unwrap_or_else(PoisonError::into_inner);
    let path = path.as_ref();
    let document = read(path);
    let parts = document.split_once(begin).and_then(|(before, rest)| {
        rest.split_once(end)
            .map(|(part, after)| (before, part, after))
    });
    let (before, part, after) =
        parts.unwrap_or_else(|| panic!("{} has no {begin:?} ... {end:?}", path.display()));
    if is_updating() {
        write(path, &[before, begin, found, end, after].concat());
    } else {
        assert_same(path, part, found);
    }
}

#[track_caller]
fn assert_same(path: &Path, expected: &str, found: &str) {
    assert!(
        found == expected,
        "{} differs; {HOW_TO_UPDATE}\n--- expected\n{expected}\n--- found\n{found}",
        path.display()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "differs")]
    fn a_difference_between_the_marks_is_noticed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "<a>\nold\n<b>\n").unwrap();
        assert_part(file.path(), "<a>\n", "<b>", "old\n");
        assert_part(file.path(), "<a>\n", "<b>", "new\n");
    }
}
