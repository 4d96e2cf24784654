//! Downloads: resumed after an interruption, verified, unpacked beside their final place and moved
//! in when complete.
//!
//! Files are collected in `DATA_DIR/NAME/.download`; an interrupted download leaves a `.part` file
//! there, and the next one resumes from its end. An archive is removed after unpacking. Never keeps
//! a file with a wrong checksum, and never follows an archive out of its folder (see `unpack.rs`).

mod client;
mod unpack;

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use md5::{Digest, Md5};
use sha2::Sha256;
use ureq::http::StatusCode;

use crate::catalog::hierarchies::{self, HIERARCHIES};
use crate::catalog::{self, Checksum, Download, Origin};
use crate::error::Error;
use crate::lock;

/// The data set to download, and where from and to.
#[derive(Clone, Copy, Debug)]
pub struct FetchRequest<'a> {
    /// Name of a data set, or `hierarchies`.
    pub name: &'a str,
    pub data_dir: &'a Path,
    /// Address below which to fetch the same file names instead of the public origin: a mirror
    /// inside a cluster.
    pub origin: Option<&'a str>,
}

/// Progress of one file.
#[derive(Clone, Copy, Debug)]
pub struct FetchProgress<'a> {
    pub file: &'a str,
    pub bytes: u64,
    /// Total bytes; absent if the server does not report them.
    pub total: Option<u64>,
}

/// The result of a download.
#[derive(Debug)]
pub struct Fetched {
    pub root: PathBuf,
    pub files: Vec<FetchedFile>,
}

/// One downloaded file.
#[derive(Debug)]
pub struct FetchedFile {
    pub name: String,
    pub sha256: String,
    /// False if no checksum was ever published: compare the hash with another user's.
    pub verified: bool,
}

/// The address of a file, and the header `Authorization` for it.
#[derive(Clone, Copy)]
struct Source<'a> {
    url: &'a str,
    authorization: Option<&'a str>,
}

/// Number of consecutive connections that may fail without a single byte of progress.
const MAX_FRUITLESS_TRIES: u32 = 4;

/// Downloads, verifies and unpacks a data set into `DATA_DIR/NAME`. Skips what is already there.
pub fn fetch(
    request: &FetchRequest,
    on_progress: &mut dyn FnMut(FetchProgress),
) -> Result<Fetched, Error> {
    if sweep::dataset::cub_subset(request.name).is_some() {
        let instructions = format!("fetch `cub`; {}", catalog::remedy(request.name));
        return Err(Error::ByHand {
            dataset: request.name.to_owned(),
            instructions,
        });
    }
    let downloads: &[Download] = match (
        catalog::find(request.name).map(|entry| entry.origin),
        request.name,
    ) {
        (Some(Origin::Download(downloads)), _) => downloads,
        (Some(Origin::ByHand(instructions)), name) => {
            return Err(Error::ByHand {
                dataset: name.to_owned(),
                instructions: instructions.to_owned(),
            });
        }
        (Some(Origin::BuiltIn), name) => {
            return Err(Error::BuiltIn {
                dataset: name.to_owned(),
            });
        }
        (None, HIERARCHIES) => &hierarchies::FILES,
        (None, name) => return Err(catalog::unknown(name)),
    };
    fetch_all(request, downloads, on_progress)
}

pub(crate) fn fetch_all(
    request: &FetchRequest,
    downloads: &[Download],
    on_progress: &mut dyn FnMut(FetchProgress),
) -> Result<Fetched, Error> {
    let root = request.data_dir.join(request.name);
    let workplace = root.join(".download");
    std::fs::create_dir_all(&workplace).map_err(Error::io("create", &workplace))?;
    let lock_path = root.join(".download.lock");
    let lock = lock::open(&lock_path).map_err(Error::io("open", &lock_path))?;
    if lock.try_lock().is_err() {
        let reason = format!("another process is fetching it into {}", root.display());
        return Err(Error::Download {
            url: request.name.to_owned(),
            reason,
        });
    }
    let mut files = Vec::new();
    for download in downloads {
        let name = download.file_name();
        let url = match request.origin {
            Some(origin) => format!("{}/{name}", origin.trim_end_matches('/')),
            None => download.url.to_owned(),
        };
        let done = root.join(format!(".{name}.fetched"));
        if let Some(sha256) = known(&root, &done) {
            files.push(FetchedFile {
                name: name.to_owned(),
                sha256,
                verified: download.checksum != Checksum::Unknown,
            });
            continue;
        }
        let path = workplace.join(name);
        let from = Source {
            url: &url,
            authorization: None,
        };
        get(from, &path, download.max_bytes, on_progress)?;
        let sha256 = verify(&path, download.checksum)?;
        let installed = if download.is_archive {
            install_archive(&path, &workplace, &root, download.max_bytes)?
        } else {
            let target = root.join(name);
            std::fs::rename(&path, &target).map_err(Error::io("move", &target))?;
            vec![name.to_owned()]
        };
        // Records what was installed, so that a second call does no work and an archive need not be
        // kept.
        let memo = format!("{sha256}\n{}\n", installed.join("\n"));
        std::fs::write(&done, memo).map_err(Error::io("write", &done))?;
        files.push(FetchedFile {
            name: name.to_owned(),
            sha256,
            verified: download.checksum != Checksum::Unknown,
        });
    }
    // Only kept if a download can still be resumed.
    let _ = std::fs::remove_dir(&workplace);
    Ok(Fetched { root, files })
}

/// Downloads one file to `path` and verifies it; resumes what an earlier call left. Returns its
/// SHA-256. `authorization` is the header of that name, for servers that ask who calls.
pub fn fetch_file(
    url: &str,
    authorization: Option<&str>,
    path: &Path,
    checksum: Checksum,
    max_bytes: u64,
    on_progress: &mut dyn FnMut(FetchProgress),
) -> Result<String, Error> {
    let from = Source { url, authorization };
    get(from, path, max_bytes, on_progress)?;
    verify(path, checksum)
}

/// Returns the SHA-256 of a file.
pub fn sha256(path: &Path) -> Result<String, Error> {
    verify(path, Checksum::Unknown)
}

/// Returns the hash of a previously installed file, if everything from it is still there.
fn known(root: &Path, done: &Path) -> Option<String> {
    let memo = std::fs::read_to_string(done).ok()?;
    let mut lines = memo.lines();
    let sha256 = lines.next()?.to_owned();
    lines.all(|name| root.join(name).exists()).then_some(sha256)
}

/// Downloads into `path`; resumes from `path.part` if it exists.
fn get(
    from: Source<'_>,
    path: &Path,
    max_bytes: u64,
    on_progress: &mut dyn FnMut(FetchProgress),
) -> Result<(), Error> {
    if path.exists() {
        return Ok(());
    }
    let part = path.with_file_name(format!(
        "{}.part",
        path.file_name().unwrap_or_default().to_string_lossy()
    ));
    let url = from.url;
    let agent = client::new().map_err(|reason| Error::Download {
        url: url.to_owned(),
        reason,
    })?;
    let mut fruitless = 0;
    loop {
        let before = length(&part);
        match get_once(&agent, from, &part, max_bytes, on_progress) {
            Ok(()) => break,
            Err(Attempt::Final(error)) => return Err(error),
            Err(Attempt::Cut(reason)) => {
                fruitless = if length(&part) > before {
                    0
                } else {
                    fruitless + 1
                };
                if fruitless >= MAX_FRUITLESS_TRIES {
                    let kept = length(&part);
                    let reason = format!(
                        "{reason}; {kept} bytes are kept, fetch again to continue from there"
                    );
                    return Err(Error::Download {
                        url: url.to_owned(),
                        reason,
                    });
                }
                tracing::info!(url, reason, "the download was cut: going on");
            }
        }
    }
    std::fs::rename(&part, path).map_err(Error::io("move", path))
}

enum Attempt {
    /// A retry may help.
    Cut(String),
    Final(Error),
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn get_once(
    agent: &ureq::Agent,
    from: Source<'_>,
    part: &Path,
    max_bytes: u64,
    on_progress: &mut dyn FnMut(FetchProgress),
) -> Result<(), Attempt> {
    let url = from.url;
    let refuse = |reason: String| {
        Attempt::Final(Error::Download {
            url: url.to_owned(),
            reason,
        })
    };
    let io = |error: std::io::Error| Attempt::Final(Error::io("write", part)(error));
    let mut have = length(part);
    let mut request = agent.get(url);
    if have > 0 {
        request = request.header("Range", format!("bytes={have}-"));
    }
    if let Some(authorization) = from.authorization {
        request = request.header("Authorization", authorization);
    }
    let response = request
        .call()
        .map_err(|error| match client::distrust(&error) {
            Some(reason) => refuse(reason),
            None => Attempt::Cut(error.to_string()),
        })?;
    let (status, headers) = (response.status(), response.headers());
    let header = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let mut total = header("content-length").parse().ok();
    match status {
        StatusCode::OK => have = 0,
        StatusCode::PARTIAL_CONTENT
            if header("content-range").starts_with(&format!("bytes {have}-")) =>
        {
            total = total.map(|rest: u64| rest.saturating_add(have));
        }
        // The part is already complete, or longer than the file: start over, the checksum decides.
        StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT => {
            std::fs::remove_file(part).map_err(io)?;
            return Err(Attempt::Cut(
                "the server cannot resume the download".to_owned(),
            ));
        }
        status if status.is_server_error() => {
            return Err(Attempt::Cut(format!("the server answered {status}")));
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if from.authorization.is_some() => {
            return Err(refuse(format!(
                "the server answered {status}: it refuses the name and the password"
            )));
        }
        status => return Err(refuse(format!("the server answered {status}"))),
    }
    if total.is_some_and(|total| total > max_bytes) {
        return Err(refuse(format!("it is larger than {max_bytes} bytes")));
    }
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(part)
        .map_err(io)?;
    file.set_len(have).map_err(io)?;
    let name = url.rsplit('/').next().unwrap_or(url);
    let mut reader = response
        .into_body()
        .into_with_config()
        .limit(max_bytes.saturating_add(1))
        .reader();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = reader
            .read(&mut buffer)
            .map_err(|error| Attempt::Cut(error.to_string()))?;
        if count == 0 {
            break;
        }
        file.write_all(&buffer[..count]).map_err(io)?;
        have += count as u64;
        if have > max_bytes {
            return Err(refuse(format!("it is larger than {max_bytes} bytes")));
        }
        on_progress(FetchProgress {
            file: name,
            bytes: have,
            total,
        });
    }
    if total.is_some_and(|total| have < total) {
        return Err(Attempt::Cut(format!(
            "the connection ended after {have} bytes"
        )));
    }
    file.sync_all().map_err(io)
}

/// Compares with the published checksum and returns the SHA-256; a file that differs is removed.
fn verify(path: &Path, expected: Checksum) -> Result<String, Error> {
    let mut reader =
        BufReader::with_capacity(1 << 20, File::open(path).map_err(Error::io("open", path))?);
    let (mut md5, mut sha256) = (Md5::new(), Sha256::new());
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = reader.read(&mut buffer).map_err(Error::io("read", path))?;
        if count == 0 {
            break;
        }
        md5.update(&buffer[..count]);
        sha256.update(&buffer[..count]);
    }
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let sha256 = hex(&sha256.finalize());
    let (found, expected) = match expected {
        Checksum::Unknown => return Ok(sha256),
        Checksum::Sha256(expected) => (sha256.clone(), expected),
        Checksum::Md5(expected) => (hex(&md5.finalize()), expected),
    };
    if found == expected {
        return Ok(sha256);
    }
    std::fs::remove_file(path).map_err(Error::io("remove", path))?;
    Err(Error::Checksum {
        path: path.to_owned(),
        found,
        expected: expected.to_owned(),
    })
}

/// Unpacks beside the final place and moves the top-level entries in; returns their names.
fn install_archive(
    archive: &Path,
    workplace: &Path,
    root: &Path,
    max_bytes: u64,
) -> Result<Vec<String>, Error> {
    let staging = workplace.join("unpacked");
    if staging.exists() {
        std::fs::remove_dir_all(&staging).map_err(Error::io("remove", &staging))?;
    }
    std::fs::create_dir(&staging).map_err(Error::io("create", &staging))?;
    if let Err(error) = unpack::tar(archive, &staging, max_bytes) {
        // A partial or hostile archive is not kept; the first error is the one to report.
        let _ = std::fs::remove_dir_all(&staging);
        let _ = std::fs::remove_file(archive);
        return Err(error);
    }
    let mut installed = Vec::new();
    let entries = std::fs::read_dir(&staging).map_err(Error::io("list", &staging))?;
    for entry in entries {
        let entry = entry.map_err(Error::io("list", &staging))?;
        let target = root.join(entry.file_name());
        if target.is_dir() {
            std::fs::remove_dir_all(&target).map_err(Error::io("replace", &target))?;
        }
        std::fs::rename(entry.path(), &target).map_err(Error::io("move", &target))?;
        installed.push(entry.file_name().to_string_lossy().into_owned());
    }
    std::fs::remove_dir_all(&staging).map_err(Error::io("remove", &staging))?;
    std::fs::remove_file(archive).map_err(Error::io("remove", archive))?;
    Ok(installed)
}
