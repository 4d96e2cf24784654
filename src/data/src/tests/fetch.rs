//! Downloads from a minimal server: cut connections, wrong checksums, hostile archives.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

use crate::Error;
use crate::catalog::{Checksum, Download};
use crate::fetch::{FetchRequest, Fetched, fetch, fetch_all};

/// Faults of the server, in the order of requests; later requests get correct replies.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// Announces the full length, sends N bytes, and closes the connection.
    CutAfter(usize),
    IgnoreRange,
    Status(&'static str),
}

struct Server {
    address: String,
    /// `Range` headers as received, empty if there was none.
    ranges: Arc<Mutex<Vec<String>>>,
}

/// Serves one body under every path. Its thread ends with the process.
fn serve(body: Vec<u8>, answers: &[Answer]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let ranges = Arc::new(Mutex::new(Vec::new()));
    let (seen, mut answers) = (
        ranges.clone(),
        answers.iter().copied().collect::<VecDeque<_>>(),
    );
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            answer(stream.unwrap(), &body, answers.pop_front(), &seen);
        }
    });
    Server { address, ranges }
}

fn answer(mut stream: TcpStream, body: &[u8], answer: Option<Answer>, seen: &Mutex<Vec<String>>) {
    let mut range = String::new();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    while let Some(Ok(line)) = lines.next() {
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("range")
        {
            range = value.trim().to_owned();
        }
    }
    seen.lock().unwrap().push(range.clone());
    let start: Option<usize> = range
        .strip_prefix("bytes=")
        .and_then(|rest| rest.trim_end_matches('-').parse().ok());
    let (head, rest) = match (answer, start) {
        (Some(Answer::Status(status)), _) => (
            format!("HTTP/1.1 {status}\r\nContent-Length: 0"),
            &body[..0],
        ),
        (Some(Answer::IgnoreRange), _) | (_, None) => (
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}", body.len()),
            body,
        ),
        (_, Some(start)) if start >= body.len() => (
            "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0".to_owned(),
            &body[..0],
        ),
        (_, Some(start)) => {
            let (last, total) = (body.len() - 1, body.len());
            let length = total - start;
            let head = format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{last}/{total}"
            );
            (
                format!("{head}\r\nContent-Length: {length}"),
                &body[start..],
            )
        }
    };
    let sent = match answer {
        Some(Answer::CutAfter(count)) => &rest[..count.min(rest.len())],
        _ => rest,
    };
    // The client may have closed the connection, which is fine.
    let _ =
        write!(stream, "{head}\r\nConnection: close\r\n\r\n").and_then(|()| stream.write_all(sent));
}

fn sha256(bytes: &[u8]) -> &'static str {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    hex.leak()
}

fn body() -> Vec<u8> {
    (0..200_000u32)
        .map(|index| (index.wrapping_mul(index) % 251) as u8)
        .collect()
}

struct Attempt {
    place: tempfile::TempDir,
}

impl Attempt {
    fn new() -> Self {
        Self {
            place: tempfile::tempdir().unwrap(),
        }
    }

    fn root(&self) -> PathBuf {
        self.place.path().join("some")
    }

    fn run(
        &self,
        server: &Server,
        url: &'static str,
        checksum: Checksum,
    ) -> Result<Fetched, Error> {
        let is_archive = url.contains(".tar");
        let download = Download {
            url,
            checksum,
            is_archive,
            max_bytes: 1 << 20,
        };
        let request = FetchRequest {
            name: "some",
            data_dir: self.place.path(),
            origin: Some(&server.address),
        };
        fetch_all(&request, &[download], &mut |_| ())
    }
}

const FILE: &str = "http://nowhere.invalid/folder/file.bin";
const ARCHIVE: &str = "http://nowhere.invalid/archive.tar.gz";

#[test]
fn a_file_is_fetched_once() {
    let (server, attempt) = (serve(body(), &[]), Attempt::new());
    for _ in 0..2 {
        let fetched = attempt
            .run(&server, FILE, Checksum::Sha256(sha256(&body())))
            .unwrap();
        assert!(fetched.files[0].verified);
        assert_eq!(fetched.files[0].sha256, sha256(&body()));
    }
    assert_eq!(
        std::fs::read(attempt.root().join("file.bin")).unwrap(),
        body()
    );
    assert_eq!(*server.ranges.lock().unwrap(), [""]);
    std::fs::remove_file(attempt.root().join("file.bin")).unwrap();
    attempt.run(&server, FILE, Checksum::Unknown).unwrap();
    assert!(
        attempt.root().join("file.bin").exists(),
        "what was deleted is fetched again"
    );
}

#[test]
fn an_interrupted_download_resumes() {
    let server = serve(
        body(),
        &[
            Answer::CutAfter(70_000),
            Answer::Status("503 Busy"),
            Answer::CutAfter(50_000),
        ],
    );
    let attempt = Attempt::new();
    attempt
        .run(&server, FILE, Checksum::Sha256(sha256(&body())))
        .unwrap();
    assert_eq!(
        std::fs::read(attempt.root().join("file.bin")).unwrap(),
        body()
    );
    let ranges = server.ranges.lock().unwrap();
    assert_eq!(
        *ranges,
        ["", "bytes=70000-", "bytes=70000-", "bytes=120000-"]
    );
}

#[test]
fn a_download_resumes_after_its_process_was_killed() {
    let down = serve(body(), &[Answer::CutAfter(90_000); 1]);
    let (attempt, checksum) = (Attempt::new(), Checksum::Sha256(sha256(&body())));
    let workplace = attempt.root().join(".download");
    std::fs::create_dir_all(&workplace).unwrap();
    std::fs::write(workplace.join("file.bin.part"), &body()[..60_000]).unwrap();
    attempt.run(&down, FILE, checksum).unwrap();
    assert_eq!(
        std::fs::read(attempt.root().join("file.bin")).unwrap(),
        body()
    );
    assert_eq!(
        *down.ranges.lock().unwrap(),
        ["bytes=60000-", "bytes=150000-"]
    );
}

#[test]
fn servers_without_ranges_and_overlong_parts_begin_again() {
    for (part, answers) in [
        (1_000, vec![Answer::IgnoreRange]),
        (200_000, vec![]),
        (300_000, vec![]),
    ] {
        let (server, attempt) = (serve(body(), &answers), Attempt::new());
        let workplace = attempt.root().join(".download");
        std::fs::create_dir_all(&workplace).unwrap();
        std::fs::write(workplace.join("file.bin.part"), vec![1; part]).unwrap();
        attempt
            .run(&server, FILE, Checksum::Sha256(sha256(&body())))
            .unwrap();
        assert_eq!(
            std::fs::read(attempt.root().join("file.bin")).unwrap(),
            body()
        );
    }
}

#[test]
fn a_server_that_sends_nothing_is_given_up_on() {
    let (server, attempt) = (serve(body(), &[Answer::CutAfter(0); 20]), Attempt::new());
    let error = attempt.run(&server, FILE, Checksum::Unknown).unwrap_err();
    assert!(
        matches!(&error, Error::Download { url, .. } if url.ends_with("/file.bin")),
        "{error}"
    );
    let missing = serve(body(), &[Answer::Status("404 Not Found")]);
    let error = attempt.run(&missing, FILE, Checksum::Unknown).unwrap_err();
    assert!(error.to_string().contains("404"), "{error}");
    assert_eq!(
        missing.ranges.lock().unwrap().len(),
        1,
        "a missing file is not asked for again"
    );
}

#[test]
fn a_wrong_checksum_leaves_nothing_behind() {
    let (server, attempt) = (serve(body(), &[]), Attempt::new());
    let error = attempt
        .run(
            &server,
            FILE,
            Checksum::Md5("00000000000000000000000000000000"),
        )
        .unwrap_err();
    assert!(matches!(error, Error::Checksum { .. }), "{error}");
    assert!(!attempt.root().join("file.bin").exists());
    assert!(!attempt.root().join(".download/file.bin").exists());
}

#[test]
fn files_that_are_too_large_are_refused() {
    let (server, attempt) = (serve(vec![0; (1 << 20) + 1], &[]), Attempt::new());
    let error = attempt.run(&server, FILE, Checksum::Unknown).unwrap_err();
    assert!(
        error.to_string().contains("larger than 1048576 bytes"),
        "{error}"
    );
}

/// Returns an archive with entries of the given kinds and paths, written without the checks of a
/// normal library.
fn archive(entries: &[(tar::EntryType, &str, &str, &[u8])]) -> Vec<u8> {
    let mut plain = Vec::new();
    for (kind, path, link, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o777);
        header.set_cksum();
        plain.extend(header.as_bytes());
        plain.extend(*content);
        plain.resize(plain.len().next_multiple_of(512), 0);
    }
    plain.extend([0; 1024]);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&plain).unwrap();
    packed.finish().unwrap()
}

#[test]
fn archives_are_unpacked_and_moved_in() {
    use tar::EntryType::{Directory, Regular};
    let packed = archive(&[
        (Directory, "top/", "", b""),
        (Regular, "./top/a.txt", "", b"one"),
        (Regular, "b", "", b"2"),
    ]);
    let (server, attempt) = (serve(packed, &[]), Attempt::new());
    for _ in 0..2 {
        attempt.run(&server, ARCHIVE, Checksum::Unknown).unwrap();
    }
    assert_eq!(
        std::fs::read(attempt.root().join("top/a.txt")).unwrap(),
        b"one"
    );
    assert_eq!(std::fs::read(attempt.root().join("b")).unwrap(), b"2");
    assert_eq!(server.ranges.lock().unwrap().len(), 1);
    assert!(!attempt.root().join(".download").exists());
    std::fs::remove_dir_all(attempt.root().join("top")).unwrap();
    attempt.run(&server, ARCHIVE, Checksum::Unknown).unwrap();
    assert!(
        attempt.root().join("top/a.txt").exists(),
        "what was deleted is fetched again"
    );
}

#[test]
fn hostile_archives_are_refused_and_leave_nothing() {
    use tar::EntryType::{Block, Char, Fifo, Link, Regular, Symlink};
    let big = vec![0; (1 << 20) + 1];
    let hostile: Vec<(&str, Vec<u8>)> = vec![
        ("leads out", archive(&[(Regular, "../evil", "", b"x")])),
        ("leads out", archive(&[(Regular, "a/../../evil", "", b"x")])),
        ("leads out", archive(&[(Regular, "/tmp/evil", "", b"x")])),
        (
            "neither a file",
            archive(&[
                (Symlink, "link", "/etc", b""),
                (Regular, "link/evil", "", b"x"),
            ]),
        ),
        (
            "neither a file",
            archive(&[(Link, "passwd", "/etc/passwd", b"")]),
        ),
        ("neither a file", archive(&[(Char, "null", "", b"")])),
        ("neither a file", archive(&[(Block, "disk", "", b"")])),
        ("neither a file", archive(&[(Fifo, "pipe", "", b"")])),
        (
            "more than 1048576 bytes",
            archive(&[(Regular, "bomb", "", &big)]),
        ),
    ];
    for (reason, packed) in hostile {
        let (server, attempt) = (serve(packed, &[]), Attempt::new());
        let error = attempt
            .run(&server, ARCHIVE, Checksum::Unknown)
            .unwrap_err();
        assert!(matches!(error, Error::HostileArchive { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
        let names = |folder: &Path| -> Vec<String> {
            let entries = std::fs::read_dir(folder).unwrap();
            entries
                .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
                .collect()
        };
        assert!(
            names(&attempt.root())
                .iter()
                .all(|name| name.starts_with(".download")),
            "{reason}"
        );
        assert_eq!(names(attempt.place.path()), ["some"]);
    }
}

#[test]
fn damaged_archives_are_errors() {
    let whole = archive(&[(tar::EntryType::Regular, "a.txt", "", &[7; 3000])]);
    for damaged in [
        whole[..whole.len() / 2].to_vec(),
        b"no archive at all".to_vec(),
        Vec::new(),
    ] {
        let (server, attempt) = (serve(damaged, &[]), Attempt::new());
        let error = attempt
            .run(&server, ARCHIVE, Checksum::Unknown)
            .unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
        assert!(!attempt.root().join("a.txt").exists());
    }
}

#[test]
fn data_sets_obtained_by_hand_come_with_instructions() {
    let place = tempfile::tempdir().unwrap();
    let fetch = |name| {
        let request = FetchRequest {
            name,
            data_dir: place.path(),
            origin: None,
        };
        fetch(&request, &mut |_| ()).unwrap_err()
    };
    for name in ["nabirds", "cars", "vipriors"] {
        assert!(matches!(fetch(name), Error::ByHand { .. }));
    }
    assert!(matches!(fetch("digits"), Error::BuiltIn { .. }));
    assert!(matches!(fetch("cubs"), Error::UnknownDataset { .. }));
}

#[test]
fn the_catalogues_checksums_are_compared() {
    let (place, server) = (tempfile::tempdir().unwrap(), serve(body(), &[]));
    let request = FetchRequest {
        name: "fashion-mnist",
        data_dir: place.path(),
        origin: Some(&server.address),
    };
    let error = fetch(&request, &mut |_| ()).unwrap_err();
    assert!(
        matches!(&error, Error::Checksum { path, .. } if path.ends_with("train-images-idx3-ubyte.gz")),
        "{error}"
    );
}
