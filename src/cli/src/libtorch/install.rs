//! Puts a libtorch into a folder: fetches the pinned wheels, checks them, and unpacks their
//! libraries beside the folder. One rename puts it in place, so that an interrupted run leaves
//! nothing half-installed; the next one resumes where it was cut off.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use data::FetchProgress;
use data::catalog::Checksum;
use sweep::with_causes;
use zip::ZipArchive;

use super::index::{self, Index};
use super::pins::{Kind, Pin, Size};
use crate::disk::free_bytes;
use crate::exit::ExpectedError;
use crate::stderr;

/// The file that holds what is installed in a folder.
const STAMP: &str = "installed-from";
/// Limits of what a server may send: a page of an index, and the largest of the wheels.
const MAX_PAGE: u64 = 64 << 20;
const MAX_WHEEL: u64 = 4 << 30;

/// Where the wheels come from.
#[derive(Clone, Debug)]
pub enum Source {
    Index(Index),
    /// A folder that a user put them into.
    Folder(PathBuf),
}

/// Installs a kind of libtorch unless it is there already. Returns false if there was nothing to do.
pub fn install(
    kind: Kind,
    target: &Path,
    source: impl FnOnce() -> Result<Source, ExpectedError>,
    on_progress: &mut dyn FnMut(FetchProgress),
) -> Result<bool, ExpectedError> {
    let wheels = Wheels {
        kind,
        pins: kind.pins(),
        size: kind.size(),
    };
    install_wheels(&wheels, target, source, on_progress)
}

/// The wheels to install, and their size.
struct Wheels {
    kind: Kind,
    pins: Vec<Pin>,
    size: Size,
}

fn install_wheels(
    wheels: &Wheels,
    target: &Path,
    source: impl FnOnce() -> Result<Source, ExpectedError>,
    on_progress: &mut dyn FnMut(FetchProgress),
) -> Result<bool, ExpectedError> {
    let Wheels { kind, pins, size } = wheels;
    let stamp = stamp(*kind, pins);
    let is_installed = || fs::read_to_string(target.join(STAMP)).is_ok_and(|found| found == stamp);
    if is_installed() {
        return Ok(false);
    }
    let beside = |end: &str| {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        target.with_file_name(format!("{name}.{end}"))
    };
    let (workplace, lock_path) = (beside("partial"), beside("lock"));
    if target.exists() && !target.join(STAMP).exists() && !is_empty(target) {
        return Err(ExpectedError::BadInput(format!(
            "{} is there and is no libtorch of `orchestrator setup`: remove it, or choose another folder",
            target.display()
        )));
    }
    create(&workplace)?;
    let lock = File::create(&lock_path).map_err(ExpectedError::file("create", &lock_path))?;
    if lock.try_lock().is_err() {
        stderr::print("another process is setting libtorch up: waiting for it");
        lock.lock()
            .map_err(ExpectedError::file("lock", &lock_path))?;
        if is_installed() {
            return Ok(false);
        }
        create(&workplace)?;
    }
    let unpacked = workplace.join("unpacked");
    remove(&unpacked)?;
    let source = source()?;
    check_room(*size, &source, &workplace)?;
    let mut files = Vec::new();
    for pin in pins {
        files.push(match &source {
            Source::Index(index) => fetch(pin, index, &workplace, on_progress)?,
            Source::Folder(folder) => in_folder(pin, folder)?,
        });
    }
    create(&unpacked)?;
    for (pin, wheel) in pins.iter().zip(&files) {
        stderr::print(&format!("unpacking {}", pin.name));
        unpack(wheel, &unpacked, *kind)?;
    }
    let stamp_path = unpacked.join(STAMP);
    fs::write(&stamp_path, stamp).map_err(ExpectedError::file("write", &stamp_path))?;
    // An older one goes at the last moment.
    remove(target)?;
    fs::rename(&unpacked, target).map_err(ExpectedError::file("move", target))?;
    remove(&workplace)?;
    Ok(true)
}

/// The pins themselves: another list is another installation.
fn stamp(kind: Kind, pins: &[Pin]) -> String {
    let line = |pin: &Pin| format!("{} {} {}\n", pin.name, pin.version, pin.sha256);
    let lines: String = pins.iter().map(line).collect();
    format!("{kind}\n{lines}")
}

/// Refuses a disk that would be full before the end. What an earlier run fetched need not be fetched
/// again.
fn check_room(size: Size, source: &Source, workplace: &Path) -> Result<(), ExpectedError> {
    let to_fetch = match source {
        Source::Index(_) => size.fetched.saturating_sub(bytes_in(workplace)),
        Source::Folder(_) => 0,
    };
    let needed = to_fetch + size.unpacked;
    let free = free_bytes(workplace).unwrap_or(u64::MAX);
    if free >= needed {
        return Ok(());
    }
    let gigabytes = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
    Err(ExpectedError::Infrastructure {
        what: "no room for libtorch",
        reason: format!(
            "{} has {} free, and {} are needed ({} to fetch, {} unpacked): make room, or name a folder on another disk \
             with {}",
            workplace.parent().unwrap_or(workplace).display(),
            gigabytes(free),
            gigabytes(needed),
            gigabytes(to_fetch),
            gigabytes(size.unpacked),
            super::VARIABLE
        ),
    })
}

/// Returns the size of the files in a folder, without those of folders in it.
fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.metadata().ok())
        .filter(fs::Metadata::is_file)
        .map(|file| file.len())
        .sum()
}

fn fetch(
    pin: &Pin,
    index: &Index,
    workplace: &Path,
    on_progress: &mut dyn FnMut(FetchProgress),
) -> Result<PathBuf, ExpectedError> {
    let wheel = workplace.join(format!("{}-{}.whl", pin.name, pin.version));
    let address = index.page_of(pin);
    let page_path = workplace.join("page");
    remove(&page_path)?;
    data::fetch_file(
        &address,
        index.authorization_for(&address),
        &page_path,
        Checksum::Unknown,
        MAX_PAGE,
        &mut |_| {},
    )
    .map_err(failure)?;
    let page = fs::read_to_string(&page_path).map_err(ExpectedError::file("read", &page_path))?;
    let url = index::link(&page, &address, pin).ok_or_else(|| ExpectedError::Infrastructure {
        what: "cannot fetch libtorch",
        reason: format!(
            "{address} has no link to a file of {} {} with the pinned checksum: does this index hold all that the \
             public one does? Name another with --index, or a folder of wheels with --from",
            pin.name, pin.version
        ),
    })?;
    data::fetch_file(
        &url,
        index.authorization_for(&url),
        &wheel,
        Checksum::Sha256(pin.sha256),
        MAX_WHEEL,
        on_progress,
    )
    .map_err(failure)?;
    Ok(wheel)
}

/// Finds a wheel by its content among the files of its name.
fn in_folder(pin: &Pin, folder: &Path) -> Result<PathBuf, ExpectedError> {
    let start = format!("{}-{}-", pin.name.replace('-', "_"), pin.version);
    let entries = fs::read_dir(folder).map_err(ExpectedError::file("list", folder))?;
    let mut named = None;
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&start) {
            if data::sha256(&entry.path()).map_err(failure)? == pin.sha256 {
                return Ok(entry.path());
            }
            named = Some(entry.path());
        }
    }
    Err(ExpectedError::BadInput(match named {
        Some(path) => format!("{} does not have the pinned checksum", path.display()),
        None => format!(
            "{} has no wheel of {} {}",
            folder.display(),
            pin.name,
            pin.version
        ),
    }))
}

/// Unpacks what a kind needs of a wheel. What leads out of the folder is refused.
fn unpack(wheel: &Path, into: &Path, kind: Kind) -> Result<(), ExpectedError> {
    let broken = |error: zip::result::ZipError| ExpectedError::Infrastructure {
        what: "cannot unpack libtorch",
        reason: format!("{}: {error}", wheel.display()),
    };
    let file = File::open(wheel).map_err(ExpectedError::file("open", wheel))?;
    let mut archive = ZipArchive::new(io::BufReader::new(file)).map_err(broken)?;
    for number in 0..archive.len() {
        let mut entry = archive.by_index(number).map_err(broken)?;
        let Some(name) = entry.enclosed_name() else {
            return Err(ExpectedError::Infrastructure {
                what: "cannot unpack libtorch",
                reason: format!(
                    "{}: entry {number} leads out of the folder",
                    wheel.display()
                ),
            });
        };
        if !entry.is_file() || !kind.needs(&name.to_string_lossy()) {
            continue;
        }
        let path = into.join(&name);
        create(path.parent().unwrap_or(into))?;
        let mut target = File::create(&path).map_err(ExpectedError::file("create", &path))?;
        io::copy(&mut entry, &mut target).map_err(ExpectedError::file("write", &path))?;
    }
    Ok(())
}

fn failure(error: data::Error) -> ExpectedError {
    ExpectedError::Infrastructure {
        what: "cannot fetch libtorch",
        reason: with_causes(&error),
    }
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

fn create(folder: &Path) -> Result<(), ExpectedError> {
    fs::create_dir_all(folder).map_err(ExpectedError::file("create", folder))
}

/// Removes a file or a folder, if it is there.
fn remove(path: &Path) -> Result<(), ExpectedError> {
    let removed = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(ExpectedError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Cursor, Write};
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    /// A folder with the wheels of two pins, and a place for what is installed.
    struct Rig {
        place: tempfile::TempDir,
        wheels: Wheels,
    }

    const LIBRARY: &str = "torch/lib/libtorch_cpu.so";

    impl Rig {
        fn new() -> Self {
            let place = tempfile::tempdir().unwrap();
            fs::create_dir(place.path().join("wheels")).unwrap();
            let mut rig = Self {
                place,
                wheels: Wheels {
                    kind: Kind::Cpu,
                    pins: Vec::new(),
                    size: Size {
                        fetched: 1_000,
                        unpacked: 140_100,
                    },
                },
            };
            let library = "library".repeat(20_000);
            rig.add("torch", &[(LIBRARY, &library), ("torch/nn.py", "x")]);
            rig.add(
                "nvidia-cuda-runtime",
                &[("nvidia/cu13/lib/libcudart.so.13", "runtime")],
            );
            rig
        }

        fn add(&mut self, name: &'static str, files: &[(&str, &str)]) {
            let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
            for (file, content) in files {
                archive
                    .start_file(*file, SimpleFileOptions::default())
                    .unwrap();
                archive.write_all(content.as_bytes()).unwrap();
            }
            let path = self.wheel(name);
            fs::write(&path, archive.finish().unwrap().into_inner()).unwrap();
            let sha256 = data::sha256(&path).unwrap().leak();
            self.wheels.pins.push(Pin {
                name,
                version: "1.0",
                sha256,
            });
        }

        fn wheel(&self, name: &str) -> PathBuf {
            let file = format!("{}-1.0-py3-none-any.whl", name.replace('-', "_"));
            self.place.path().join("wheels").join(file)
        }

        fn target(&self) -> PathBuf {
            self.place.path().join("cache/libtorch")
        }

        fn install(&self, source: Source) -> Result<bool, ExpectedError> {
            install_wheels(&self.wheels, &self.target(), || Ok(source), &mut |_| {})
        }

        fn install_from_folder(&self) -> Result<bool, ExpectedError> {
            self.install(Source::Folder(self.place.path().join("wheels")))
        }

        /// Serves a page for each wheel, and the wheels; the first wheel that is asked for is cut
        /// once. Returns the index, and the ranges and logins of requests.
        fn serve(&self, login: &str) -> (Source, Arc<Mutex<Vec<String>>>) {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = format!("http://{login}{}/simple", listener.local_addr().unwrap());
            let noted = Arc::new(Mutex::new(Vec::new()));
            let seen = noted.clone();
            let wheels: Vec<_> = self
                .wheels
                .pins
                .iter()
                .map(|pin| (*pin, fs::read(self.wheel(pin.name)).unwrap()))
                .collect();
            std::thread::spawn(move || {
                let mut cut = false;
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                    let head: Vec<_> = lines
                        .map_while(Result::ok)
                        .take_while(|line| !line.is_empty())
                        .collect();
                    let path = head[0].split(' ').nth(1).unwrap();
                    let login = head
                        .iter()
                        .filter_map(|line| line.split_once(": "))
                        .find(|(name, _)| name.eq_ignore_ascii_case("authorization"));
                    seen.lock()
                        .unwrap()
                        .extend(login.map(|(_, value)| value.to_owned()));
                    let range = head.iter().find_map(|line| {
                        let line = line.to_ascii_lowercase();
                        let from = line.strip_prefix("range: bytes=")?.strip_suffix('-')?;
                        from.parse::<usize>().ok()
                    });
                    let (pin, wheel) = wheels
                        .iter()
                        .find(|(pin, _)| path.contains(pin.name))
                        .unwrap();
                    if path.starts_with("/simple/") {
                        let link =
                            format!("<a href='/files/{}.whl#sha256={}'>", pin.name, pin.sha256);
                        let length = link.len();
                        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{link}").unwrap();
                        continue;
                    }
                    let from = range.unwrap_or(0);
                    if let Some(from) = range {
                        seen.lock().unwrap().push(format!("{} {from}", pin.name));
                    }
                    let total = wheel.len();
                    let head = match range {
                        None => "200 OK".to_owned(),
                        Some(_) => format!(
                            "206 Partial\r\ncontent-range: bytes {from}-{}/{total}",
                            total - 1
                        ),
                    };
                    let length = total - from;
                    write!(
                        stream,
                        "HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
                    )
                    .unwrap();
                    let end = if cut { total } else { total.min(100) };
                    cut = true;
                    // a reader that left is no concern of the server
                    let _ = stream.write_all(&wheel[from..end]);
                }
            });
            (Source::Index(Index::new(&address).unwrap()), noted)
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn libraries_are_installed_once_and_nothing_else() {
        let rig = Rig::new();
        assert!(rig.install_from_folder().unwrap());
        let target = rig.target();
        assert_eq!(names(&target), [STAMP, "nvidia", "torch"]);
        assert_eq!(names(&target.join("torch")), ["lib"]);
        assert_eq!(fs::read(target.join(LIBRARY)).unwrap().len(), 140_000);
        assert_eq!(
            names(target.parent().unwrap()),
            ["libtorch", "libtorch.lock"]
        );
        let nowhere = Source::Folder("/nonexistent".into());
        assert!(!rig.install(nowhere).unwrap());
    }

    #[test]
    fn another_list_replaces_what_is_there() {
        let mut rig = Rig::new();
        assert!(rig.install_from_folder().unwrap());
        rig.add(
            "nvidia-cuda-cupti",
            &[("nvidia/cu13/lib/libcupti.so.13", "c")],
        );
        assert!(rig.install_from_folder().unwrap());
        let libraries = names(&rig.target().join("nvidia/cu13/lib"));
        assert_eq!(libraries, ["libcudart.so.13", "libcupti.so.13"]);
    }

    #[test]
    fn a_download_that_was_cut_is_resumed() {
        let rig = Rig::new();
        let (index, noted) = rig.serve("");
        assert!(rig.install(index).unwrap());
        assert_eq!(fs::read(rig.target().join(LIBRARY)).unwrap().len(), 140_000);
        assert_eq!(*noted.lock().unwrap(), ["torch 100"]);
    }

    #[test]
    fn a_login_is_sent_with_every_request() {
        let rig = Rig::new();
        let (index, noted) = rig.serve("me:secret@");
        assert!(rig.install(index).unwrap());
        let noted = noted.lock().unwrap();
        let logins = noted.iter().filter(|line| *line == "Basic bWU6c2VjcmV0");
        assert_eq!(
            logins.count(),
            5,
            "two pages, and two wheels of which one was cut: {noted:?}"
        );
    }

    #[test]
    fn a_disk_without_room_is_refused_before_anything_is_fetched() {
        let mut rig = Rig::new();
        rig.wheels.size = Size {
            fetched: 1 << 60,
            unpacked: 1,
        };
        let (index, noted) = rig.serve("me:secret@");
        let error = with_causes(&rig.install(index).unwrap_err());
        assert!(
            error.contains(" free, and 1152921504.6 GB are needed"),
            "{error}"
        );
        assert!(error.contains("ORCHESTRATOR_LIBTORCH"), "{error}");
        assert_eq!(*noted.lock().unwrap(), [""; 0]);
        // Only what is missing counts, and wheels in a folder are there already.
        let workplace = rig.target().with_extension("partial");
        File::create(workplace.join("torch-1.0.whl.part"))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        rig.wheels.size.fetched = 1 << 40;
        let index = Source::Index(Index::new("http://127.0.0.1:1/simple").unwrap());
        let error = with_causes(&rig.install(index).unwrap_err());
        assert!(error.contains("cannot fetch libtorch"), "{error}");
        rig.wheels.size.fetched = 1 << 60;
        assert!(rig.install_from_folder().unwrap());
    }

    #[test]
    fn a_wheel_with_another_content_is_refused() {
        let rig = Rig::new();
        fs::write(rig.wheel("torch"), "altered".repeat(100)).unwrap();
        let error = rig.install_from_folder().unwrap_err().to_string();
        assert!(
            error.contains("does not have the pinned checksum"),
            "{error}"
        );
        let (index, _) = rig.serve("");
        // The server has pins' checksums on its page, and the altered file.
        let error = rig.install(index).unwrap_err();
        assert!(
            with_causes(&error).contains("checksum"),
            "{}",
            with_causes(&error)
        );
        fs::remove_file(rig.wheel("torch")).unwrap();
        let error = rig.install_from_folder().unwrap_err().to_string();
        assert!(error.contains("has no wheel of torch 1.0"), "{error}");
        assert!(!rig.target().exists());
    }

    #[test]
    fn a_folder_of_another_user_is_left_alone() {
        let rig = Rig::new();
        fs::create_dir_all(rig.target()).unwrap();
        fs::write(rig.target().join("thesis"), "").unwrap();
        let error = rig.install_from_folder().unwrap_err().to_string();
        assert!(error.contains("choose another folder"), "{error}");
        assert_eq!(names(&rig.target()), ["thesis"]);
    }
}
