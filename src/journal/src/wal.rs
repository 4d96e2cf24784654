//! Reads SQLite's write-ahead log without SQLite, to find frames that have changed since they were
//! written.
//!
//! SQLite itself takes the first frame with a wrong checksum for the end of the log and reports
//! nothing. The format is in <https://www.sqlite.org/walformat.html>: a header of 32 bytes, then
//! frames, each a header of 24 bytes and a page. Checksums continue from frame to frame.
//! `journal.sqlite-shm` is the log's index, which a running coordinator keeps and a killed one
//! leaves behind.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// SQLite's page size, for a log whose header does not have it.
const USUAL_PAGE: usize = 4096;

/// The log's header, valid or not.
struct Header {
    page_bytes: usize,
    salts: [u8; 8],
    big_endian: bool,
    sums: (u32, u32),
    is_sound: bool,
}

impl Header {
    fn parse(bytes: &[u8; HEADER]) -> Self {
        let big_endian = bytes[3] & 1 == 1;
        let sums = add(bytes, (0, 0), 0..24, big_endian);
        let is_sound =
            number(bytes, 0) & !1 == 0x377f_0682 && sums == (number(bytes, 24), number(bytes, 28));
        let page_bytes = number(bytes, 8) as usize;
        let salts = salts_of(bytes, 16);
        Self {
            page_bytes,
            salts,
            big_endian,
            sums,
            is_sound,
        }
    }

    /// Returns true for a size that SQLite allows; this bounds the bytes that are read at a time.
    fn has_page_size(&self) -> bool {
        self.page_bytes.is_power_of_two() && (512..=65536).contains(&self.page_bytes)
    }
}

/// Finds a changed header or frame in the part of the log that SQLite reads, or has read, as part
/// of the journal. `None`: no change, as far as the index has the number of frames.
pub(crate) fn damage(log: &Path, index: &Path) -> io::Result<Option<String>> {
    let Some(mut file) = open(log)? else {
        return Ok(None);
    };
    let indexed = Index::read(index)?;
    let mut bytes = [0; HEADER];
    if file.read_exact(&mut bytes).is_err() {
        return Ok(None);
    }
    let header = Header::parse(&bytes);
    let Some(indexed) = indexed.filter(|index| index.num_frames > 0) else {
        return Ok(None);
    };
    if !header.is_sound || !header.has_page_size() {
        return Ok(Some(
            "the header of its write-ahead log was changed after it was written".to_owned(),
        ));
    }
    if indexed.salts != header.salts {
        // This index belongs to an earlier log; SQLite will replace it.
        return Ok(None);
    }
    let mut sums = header.sums;
    let mut frame = vec![0; FRAME_HEADER + header.page_bytes];
    for place in 1..=indexed.num_frames {
        let whole = file.read_exact(&mut frame).is_ok();
        sums = add(&frame, sums, 0..8, header.big_endian);
        sums = add(&frame, sums, FRAME_HEADER..frame.len(), header.big_endian);
        if !whole
            || frame[8..16] != header.salts
            || sums != (number(&frame, 16), number(&frame, 20))
        {
            let count = indexed.num_frames;
            return Ok(Some(format!(
                "frame {place} of the {count} of its write-ahead log is not what was written"
            )));
        }
    }
    Ok(None)
}

/// Writes the pages of the log into a copy of the database, up to the last frame that ends a
/// transaction, and ignores checksums: a later frame often rewrites a changed page, and the hashes
/// of the events show what is right.
pub(crate) fn apply(log: &Path, database: &File) -> io::Result<()> {
    let Some(mut file) = open(log)? else {
        return Ok(());
    };
    let mut bytes = [0; HEADER];
    if file.read_exact(&mut bytes).is_err() {
        return Ok(());
    }
    let header = Header::parse(&bytes);
    let page_bytes = if header.has_page_size() {
        header.page_bytes
    } else {
        USUAL_PAGE
    };
    let mut frame = vec![0; FRAME_HEADER + page_bytes];
    let most_pages =
        (database.metadata()?.len() + file.get_ref().metadata()?.len()) / page_bytes as u64 + 1;
    // A changed header may have lost the salts; those of the first frame are the same.
    let mut salts = header.is_sound.then_some(header.salts);
    let mut transaction: Vec<(u64, Vec<u8>)> = Vec::new();
    while file.read_exact(&mut frame).is_ok() {
        let own = salts_of(&frame, 8);
        let equal = salts
            .get_or_insert(own)
            .iter()
            .zip(&own)
            .filter(|(one, other)| one == other)
            .count();
        // One changed byte is accepted; frames that an earlier log left behind differ in five.
        if equal + 1 < own.len() {
            continue;
        }
        transaction.push((u64::from(number(&frame, 0)), frame[FRAME_HEADER..].to_vec()));
        let ends_transaction = number(&frame, 4) != 0;
        if ends_transaction {
            for (page, content) in transaction
                .drain(..)
                .filter(|(page, _)| (1..=most_pages).contains(page))
            {
                database.write_all_at(&content, (page - 1) * page_bytes as u64)?;
            }
        }
    }
    Ok(())
}

/// The fields of the log's index.
struct Index {
    num_frames: u32,
    salts: [u8; 8],
}

impl Index {
    /// Reads the index; `None`: there is none, or its write was interrupted.
    fn read(path: &Path) -> io::Result<Option<Self>> {
        let Some(mut file) = open(path)? else {
            return Ok(None);
        };
        let mut bytes = [0; 96];
        if file.read_exact(&mut bytes).is_err() {
            return Ok(None);
        }
        let (one, other) = bytes.split_at(48);
        let native = cfg!(target_endian = "big");
        let field = |at: usize| u32::from_ne_bytes(one[at..at + 4].try_into().expect("four bytes"));
        let sums = add(one, (0, 0), 0..40, native);
        let is_sound = one == other && one[12] == 1 && sums == (field(40), field(44));
        Ok(is_sound.then(|| Self {
            num_frames: field(16),
            salts: salts_of(one, 32),
        }))
    }
}

fn open(path: &Path) -> io::Result<Option<BufReader<File>>> {
    match File::open(path) {
        Ok(file) => Ok(Some(BufReader::with_capacity(1 << 20, file))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Computes SQLite's checksum of these bytes, continued from the one before.
fn add(
    bytes: &[u8],
    (mut one, mut two): (u32, u32),
    range: std::ops::Range<usize>,
    big_endian: bool,
) -> (u32, u32) {
    let word = |bytes: &[u8]| {
        let bytes = bytes.try_into().expect("four bytes");
        if big_endian {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        }
    };
    for pair in bytes[range].chunks_exact(8) {
        one = one.wrapping_add(word(&pair[..4])).wrapping_add(two);
        two = two.wrapping_add(word(&pair[4..])).wrapping_add(one);
    }
    (one, two)
}

fn salts_of(bytes: &[u8], at: usize) -> [u8; 8] {
    bytes[at..at + 8].try_into().expect("eight bytes")
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the header that SQLite writes on a machine of either byte order.
    fn header(big_endian: bool, page_bytes: u32) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&(0x377f_0682 | u32::from(big_endian)).to_be_bytes());
        bytes[4..8].copy_from_slice(&3_007_000u32.to_be_bytes());
        bytes[8..12].copy_from_slice(&page_bytes.to_be_bytes());
        bytes[16..24].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        with_sums(bytes, big_endian)
    }

    fn with_sums(mut bytes: [u8; HEADER], big_endian: bool) -> [u8; HEADER] {
        let (mut one, mut two) = (0u32, 0u32);
        for pair in 0..3 {
            let word = |at: usize| {
                let word = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
                if big_endian {
                    u32::from_be_bytes(word)
                } else {
                    u32::from_le_bytes(word)
                }
            };
            one = one.wrapping_add(word(8 * pair)).wrapping_add(two);
            two = two.wrapping_add(word(8 * pair + 4)).wrapping_add(one);
        }
        bytes[24..28].copy_from_slice(&one.to_be_bytes());
        bytes[28..].copy_from_slice(&two.to_be_bytes());
        bytes
    }

    #[test]
    fn headers_of_both_byte_orders_are_read() {
        for big_endian in [false, true] {
            let sound = header(big_endian, 4096);
            let parsed = Header::parse(&sound);
            assert!(parsed.is_sound && parsed.big_endian == big_endian);
            assert_eq!(
                (parsed.page_bytes, parsed.salts),
                (4096, [1, 2, 3, 4, 5, 6, 7, 8])
            );
            for at in (0..HEADER).filter(|at| *at != 3) {
                let mut flipped = sound;
                flipped[at] ^= 4;
                assert!(!Header::parse(&flipped).is_sound, "byte {at}");
            }
            // Checksums alone make no log.
            let mut other = sound;
            other[0] ^= 4;
            assert!(!Header::parse(&with_sums(other, big_endian)).is_sound);
        }
    }

    #[test]
    fn page_sizes_are_those_of_sqlite() {
        let allows = |page_bytes| Header::parse(&header(false, page_bytes)).has_page_size();
        assert!([512, 4096, 65536].into_iter().all(allows));
        assert!(![0, 256, 1000, 4095, 131_072].into_iter().any(allows));
    }

    /// A log that SQLite wrote, and its index.
    struct Written {
        directory: tempfile::TempDir,
        log: Vec<u8>,
        index: Vec<u8>,
    }

    impl Written {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let database = directory.path().join("database");
            let connection = rusqlite::Connection::open(&database).unwrap();
            connection
                .pragma_update(None, "journal_mode", "WAL")
                .unwrap();
            connection
                .execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)")
                .unwrap();
            let log = std::fs::read(directory.path().join("database-wal")).unwrap();
            let index = std::fs::read(directory.path().join("database-shm")).unwrap();
            Self {
                directory,
                log,
                index,
            }
        }

        fn damage(&self, log: &[u8], index: &[u8]) -> Option<String> {
            let [log_path, index_path] =
                ["log", "index"].map(|name| self.directory.path().join(name));
            std::fs::write(&log_path, log).unwrap();
            std::fs::write(&index_path, index).unwrap();
            damage(&log_path, &index_path).unwrap()
        }
    }

    fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1;
        bytes
    }

    #[test]
    fn a_changed_byte_of_the_log_is_named() {
        let written = Written::new();
        let frame_bytes = FRAME_HEADER + USUAL_PAGE;
        let num_frames = (written.log.len() - HEADER) / frame_bytes;
        assert!(num_frames >= 2);
        assert_eq!(written.damage(&written.log, &written.index), None);
        // The last of these is the checksum, which frames do not continue.
        for at in [8, 16, 24] {
            let found = written.damage(&flipped(&written.log, at), &written.index);
            assert!(found.unwrap().contains("header"), "byte {at}");
        }
        let second = HEADER + frame_bytes;
        // A page's number, a salt, a checksum, a byte of the page.
        for at in [3, 10, 17, 500] {
            let found = written.damage(&flipped(&written.log, second + at), &written.index);
            let expected = format!("frame 2 of the {num_frames} ");
            assert!(found.unwrap().contains(&expected), "byte {at}");
        }
        let cut = &written.log[..written.log.len() - 1];
        let expected = format!("frame {num_frames} of the {num_frames} ");
        assert!(
            written
                .damage(cut, &written.index)
                .unwrap()
                .contains(&expected)
        );
        assert_eq!(written.damage(&written.log[..10], &written.index), None);
        assert_eq!(written.damage(&written.log, &written.index[..95]), None);
    }

    /// Without a valid index it is unknown how far the log reached, so no damage is reported.
    #[test]
    fn only_a_valid_index_of_this_log_shows_damage() {
        let written = Written::new();
        let log = flipped(&written.log, HEADER + FRAME_HEADER);
        assert!(written.damage(&log, &written.index).is_some());
        let index = |change: &dyn Fn(&mut [u8])| {
            let mut one = written.index[..48].to_vec();
            change(&mut one);
            let (sum, other) = add(&one, (0, 0), 0..40, cfg!(target_endian = "big"));
            one[40..44].copy_from_slice(&sum.to_ne_bytes());
            one[44..].copy_from_slice(&other.to_ne_bytes());
            [one.clone(), one].concat()
        };
        assert!(written.damage(&log, &index(&|_| {})).is_some());
        let without_frames = index(&|one| one[16..20].fill(0));
        let header_changed = flipped(&written.log, 24);
        for (reason, index) in [
            ("copies differ", flipped(&written.index, 48 + 20)),
            ("not initialized", index(&|one| one[12] = 0)),
            ("of an earlier log", index(&|one| one[32] ^= 1)),
            ("without frames", without_frames.clone()),
            (
                "its checksum is wrong",
                flipped(&flipped(&written.index, 40), 48 + 40),
            ),
        ] {
            assert_eq!(written.damage(&log, &index), None, "{reason}");
        }
        assert_eq!(written.damage(&header_changed, &without_frames), None);
    }

    #[test]
    fn a_log_that_cannot_be_opened_is_not_taken_for_a_missing_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let below = file.path().join("log");
        assert!(damage(&below, &below).is_err());
        assert!(apply(&below, file.as_file()).is_err());
        let missing = file.path().with_extension("missing");
        assert_eq!(damage(&missing, &missing).unwrap(), None);
        apply(&missing, file.as_file()).unwrap();
    }

    const PAGE: usize = 512;

    fn frame(page: u32, ends_transaction: bool, salts: [u8; 8], content: u8) -> Vec<u8> {
        let mut bytes = vec![content; FRAME_HEADER + PAGE];
        bytes[..4].copy_from_slice(&page.to_be_bytes());
        bytes[4..8].copy_from_slice(&u32::from(ends_transaction).to_be_bytes());
        bytes[8..16].copy_from_slice(&salts);
        bytes
    }

    /// Applies a log to a database of two pages of zeros, and returns the first byte of each page.
    fn applied(frames: &[Vec<u8>]) -> Vec<u8> {
        let database = tempfile::tempfile().unwrap();
        database.set_len(2 * PAGE as u64).unwrap();
        let log = tempfile::NamedTempFile::new().unwrap();
        let bytes = [header(false, PAGE as u32).to_vec(), frames.concat()].concat();
        std::fs::write(log.path(), bytes).unwrap();
        apply(log.path(), &database).unwrap();
        let pages = database.metadata().unwrap().len() / PAGE as u64;
        let first_byte = |page| {
            let mut byte = [0];
            database
                .read_exact_at(&mut byte, page * PAGE as u64)
                .unwrap();
            byte[0]
        };
        (0..pages).map(first_byte).collect()
    }

    #[test]
    fn pages_of_finished_transactions_are_applied() {
        let salts = [1, 2, 3, 4, 5, 6, 7, 8];
        let one_differs = [1, 2, 3, 4, 5, 6, 7, 9];
        let two_differ = [1, 2, 3, 4, 5, 6, 9, 9];
        let first = frame(1, false, salts, 7);
        let second = frame(2, true, salts, 8);
        assert_eq!(applied(&[first.clone(), second.clone()]), [7, 8]);
        assert_eq!(applied(&[second.clone(), first]), [0, 8]);
        assert_eq!(
            applied(&[second.clone(), frame(1, true, one_differs, 7)]),
            [7, 8]
        );
        assert_eq!(applied(&[second, frame(1, true, two_differ, 7)]), [0, 8]);
    }

    /// The number of a page may be what changed: both files together bound it.
    #[test]
    fn a_page_beyond_both_files_is_ignored() {
        let salts = [1, 2, 3, 4, 5, 6, 7, 8];
        // 1,024 bytes and 1,104 bytes: 4 whole pages, and one more at most.
        let last = frame(5, true, salts, 7);
        let beyond = frame(6, true, salts, 8);
        let page_0 = frame(0, true, salts, 9);
        assert_eq!(applied(&[last.clone(), beyond]), [0, 0, 0, 0, 7]);
        assert_eq!(applied(&[last, page_0]), [0, 0, 0, 0, 7]);
    }
}
