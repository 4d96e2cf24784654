//! The archive of a sweep as a file: one zip with the report, the events that it follows from, and a
//! list of both with their hashes. `report::archive` has its meaning.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::path::Path;

use report::archive::{JournalPart, ReportFiles};
use schedule::event::Recorded;
use serde::{Deserialize, Serialize};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::exit::ExpectedError;

/// Version of the layout. A later one is refused.
const FORMAT: u32 = 1;
/// Name of the list of the other files, which is the archive's first.
const LIST: &str = "archive.json";
/// Name of the file of events: a line of JSON for each.
const JOURNAL: &str = "journal.jsonl";
/// Folder of the report's files.
const RESULTS: &str = "results/";
/// Largest content: a small file must not unpack to more than a machine holds.
const MAX_BYTES: u64 = 4 << 30;

/// The list of what an archive holds.
#[derive(Debug, Serialize, Deserialize)]
pub struct List {
    format: u32,
    pub sweep: String,
    /// The build that wrote it.
    pub build: String,
    /// True if the journal is that of all sweeps.
    pub whole_journal: bool,
    /// BLAKE3 hash of each file.
    files: BTreeMap<String, String>,
}

/// An archive as it was read.
pub struct Archive {
    pub list: List,
    pub events: Vec<Recorded>,
    pub files: ReportFiles,
    /// Names of files whose content is not that of their hash.
    pub changed: Vec<String>,
}

/// Writes an archive, whole or not at all. A file of that name is not replaced.
pub fn write(
    path: &Path,
    sweep: &str,
    part: &JournalPart,
    report: &ReportFiles,
) -> Result<(), ExpectedError> {
    let mut journal = Vec::new();
    for recorded in &part.events {
        let line = serde_json::to_vec(recorded).expect("events are records");
        journal.extend_from_slice(&line);
        journal.push(b'\n');
    }
    let named = report.iter();
    let named = named.map(|(name, content)| (format!("{RESULTS}{name}"), content));
    let files: Vec<(String, &Vec<u8>)> = [(JOURNAL.to_owned(), &journal)]
        .into_iter()
        .chain(named)
        .collect();
    let hash = |content: &[u8]| blake3::hash(content).to_hex().to_string();
    let list = List {
        format: FORMAT,
        sweep: sweep.to_owned(),
        build: sweep::build().to_owned(),
        whole_journal: part.is_whole,
        files: files
            .iter()
            .map(|(name, content)| (name.clone(), hash(content)))
            .collect(),
    };
    let list = serde_json::to_vec_pretty(&list).expect("the list is a record");
    let failed = ExpectedError::file("write", path);
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let written = || -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
        let mut archive = ZipWriter::new(io::BufWriter::new(&mut file));
        // A fixed date, so that equal archives are equal bytes.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .last_modified_time(zip::DateTime::default());
        for (name, content) in std::iter::once((LIST.to_owned(), &list)).chain(files) {
            archive
                .start_file(name, options)
                .map_err(io::Error::other)?;
            archive.write_all(content)?;
        }
        archive.finish().map_err(io::Error::other)?.flush()?;
        file.as_file().sync_all()?;
        file.persist_noclobber(path).map_err(|error| error.error)?;
        Ok(())
    };
    written().map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => ExpectedError::BadInput(format!(
            "{} exists already: name another file",
            path.display()
        )),
        _ => failed(error),
    })
}

/// Reads an archive. What is damaged so that it cannot be read is an error; files with another
/// content than the list has are in `changed`.
pub fn read(path: &Path) -> Result<Archive, ExpectedError> {
    let file = File::open(path).map_err(ExpectedError::file("read", path))?;
    read_from(file)
        .map_err(|reason| ExpectedError::BadInput(format!("{}: {reason}", path.display())))
}

fn read_from(file: impl Read + Seek) -> Result<Archive, String> {
    let mut archive = ZipArchive::new(file).map_err(|error| {
        format!(
            "no archive of a sweep, or a damaged one: it cannot be read as a zip file ({error})"
        )
    })?;
    let mut contents: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut left = MAX_BYTES;
    for index in 0..archive.len() {
        let entry = archive
            .by_index(index)
            .map_err(|error| format!("damaged: entry {index} cannot be read ({error})"))?;
        let name = entry
            .name()
            .map_err(|error| format!("damaged: entry {index} has no name ({error})"))?
            .into_owned();
        let mut content = Vec::new();
        let read = entry
            .take(left + 1)
            .read_to_end(&mut content)
            .map_err(|error| format!("damaged: `{name}` cannot be read ({error})"))?;
        left = left
            .checked_sub(read as u64)
            .ok_or_else(|| format!("it unpacks to more than {} GiB", MAX_BYTES >> 30))?;
        if contents.insert(name.clone(), content).is_some() {
            return Err(format!("damaged: `{name}` is there twice"));
        }
    }
    let list = contents
        .remove(LIST)
        .ok_or_else(|| format!("no archive of a sweep: it has no `{LIST}`"))?;
    let list: List = serde_json::from_slice(&list)
        .map_err(|error| format!("damaged: `{LIST}` is no list of files ({error})"))?;
    if list.format != FORMAT {
        return Err(format!(
            "its format is {}, and this build reads format {FORMAT}: check it with build {}",
            list.format, list.build
        ));
    }
    let missing = list.files.keys().find(|name| !contents.contains_key(*name));
    if let Some(name) = missing {
        return Err(format!("damaged: `{name}` is missing"));
    }
    let is_changed = |(name, content): &(&String, &Vec<u8>)| {
        list.files.get(*name) != Some(&blake3::hash(content).to_hex().to_string())
    };
    let changed = contents.iter().filter(is_changed);
    let changed = changed.map(|(name, _)| name.clone()).collect();
    let journal = contents
        .remove(JOURNAL)
        .ok_or_else(|| format!("damaged: it has no `{JOURNAL}`"))?;
    let mut events = Vec::new();
    for (number, line) in (1..).zip(BufReader::new(&*journal).lines()) {
        let recorded = line
            .map_err(|error| error.to_string())
            .and_then(|line| serde_json::from_str(&line).map_err(|error| error.to_string()));
        events.push(recorded.map_err(|error| {
            format!("damaged: line {number} of `{JOURNAL}` is no event ({error})")
        })?);
    }
    let report = contents.into_iter();
    let report = report
        .filter_map(|(name, content)| Some((name.strip_prefix(RESULTS)?.to_owned(), content)));
    Ok(Archive {
        list,
        events,
        files: report.collect(),
        changed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part() -> JournalPart {
        let removed = schedule::event::Event::SweepRemoved {
            sweep: "x".to_owned(),
        };
        JournalPart {
            events: vec![Recorded {
                at: 1,
                event: removed,
            }],
            is_whole: false,
        }
    }

    fn written() -> Vec<u8> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.zip");
        let report = vec![("results.csv".to_owned(), b"trial\nt1\n".repeat(20))];
        write(&path, "x", &part(), &report).expect("it is written");
        std::fs::read(path).expect("it is there")
    }

    fn problem(content: Vec<u8>) -> String {
        match read_from(io::Cursor::new(content)) {
            Ok(_) => panic!("it was read"),
            Err(reason) => reason,
        }
    }

    /// Writes the archive again with one file changed.
    fn with(change: impl Fn(&str, &mut Vec<u8>)) -> Vec<u8> {
        let mut from = ZipArchive::new(io::Cursor::new(written())).expect("a zip");
        let mut to = ZipWriter::new(io::Cursor::new(Vec::new()));
        for index in 0..from.len() {
            let mut entry = from.by_index(index).expect("an entry");
            let (name, mut content) = (entry.name().expect("a name").into_owned(), Vec::new());
            entry.read_to_end(&mut content).expect("it is sound");
            change(&name, &mut content);
            to.start_file(name, SimpleFileOptions::default())
                .expect("it begins");
            to.write_all(&content).expect("memory");
        }
        to.finish().expect("it ends").into_inner()
    }

    #[test]
    fn what_is_written_is_read_and_equal_archives_are_equal_bytes() {
        let read = read_from(io::Cursor::new(written())).expect("it is sound");
        assert_eq!(read.list.sweep, "x");
        assert_eq!(read.events, part().events);
        assert_eq!(read.files[0].0, "results.csv");
        assert!(read.changed.is_empty());
        assert_eq!(written(), written());
    }

    #[test]
    fn a_file_of_that_name_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.zip");
        std::fs::write(&path, "mine").expect("it is written");
        let error = write(&path, "x", &part(), &Vec::new()).expect_err("it exists");
        assert!(
            error.render().contains("exists already"),
            "{}",
            error.render()
        );
        assert_eq!(std::fs::read(&path).expect("it is there"), b"mine");
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_an_error_or_is_found() {
        let sound = written();
        for length in (0..sound.len()).step_by(7) {
            problem(sound[..length].to_vec());
        }
        for index in 0..sound.len() {
            let mut damaged = sound.clone();
            damaged[index] ^= 0x20;
            // Dates and attributes of entries decide nothing; any content must be the same.
            if let Ok(read) = read_from(io::Cursor::new(damaged)) {
                assert_eq!(read.events, part().events, "byte {index}");
                let same =
                    read.files == vec![("results.csv".to_owned(), b"trial\nt1\n".repeat(20))];
                assert!(same || !read.changed.is_empty(), "byte {index}");
            }
        }
    }

    #[test]
    fn damage_is_named() {
        assert!(problem(b"hello".to_vec()).contains("no archive of a sweep"));
        let other_format = with(|name, content| {
            if name == LIST {
                let text =
                    String::from_utf8_lossy(content).replace("\"format\": 1", "\"format\": 9");
                *content = text.into_bytes();
            }
        });
        assert!(problem(other_format).contains("its format is 9"));
        let no_event = with(|name, content| {
            if name == JOURNAL {
                content.insert(3, b'x');
            }
        });
        assert!(problem(no_event).contains("line 1 of `journal.jsonl`"));
        let changed = with(|name, content| {
            if name.ends_with("results.csv") {
                content[7] = b'2';
            }
        });
        let read = read_from(io::Cursor::new(changed)).expect("it can be read");
        assert_eq!(read.changed, ["results/results.csv"]);
    }
}
