//! The decode-once cache: one file per data set and recipe that all trainers of a machine map.
//!
//! Layout: magic and version, the pixels of all images one after the other, a footer (JSON: key,
//! labels, sizes), and a trailer with the footer's length and hash. A cache is built under a lock
//! in a `.partial` file and renamed when complete, so readers see all of it or nothing, and nothing
//! ever writes to a mapped file. It is rebuilt when the key changes: format version, recipe, or the
//! content of the source files.

pub(crate) mod content;
mod memo;

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sweep::settings::Corrupt;

use crate::cache::content::Manifest;
use crate::catalog::found::{Content, Found, ImageFile, Labelled};
use crate::dataset::{Dataset, Extent, Fingerprint, Pixels, Split};
use crate::error::Error;
use crate::images::decode;
use crate::images::resize::CropResizer;
use crate::lock;
use crate::open::{OpenRequest, Resizes};

const MAGIC: [u8; 8] = *b"ORCHDATA";
/// Version of the format. Raise it when decoding or the layout changes: every cache is then
/// rebuilt.
const VERSION: u32 = 3;
const START: u64 = 16;
/// Length of the trailer: footer length, footer hash, magic.
const TRAILER: u64 = 8 + 32 + 8;

/// Images decoded at a time, per thread: this bounds memory while a cache is built. Measured: 23
/// MiB resident at most with 2 threads, photographs of 1024 x 768 and a shorter side of 512; a file
/// list comes on top.
const IMAGES_PER_THREAD: usize = 4;
/// Most files that an error names.
const MAX_LISTED: usize = 20;

/// The inputs that a cache was built from. Two different keys never share pixels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Key {
    version: u32,
    dataset: String,
    resize: Option<u32>,
    /// Shorter side of test images, if different.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    test_resize: Option<u32>,
    /// `sweep::Content::hash` of the source files.
    source: String,
}

#[derive(Serialize, Deserialize)]
struct Footer {
    key: Key,
    channels: usize,
    class_names: Vec<String>,
    class_ids: Vec<String>,
    train: Table,
    /// `Dataset::num_validation`.
    num_validation: usize,
    test: Table,
    /// Images left out, with the reason.
    corrupt: Vec<String>,
    fingerprint: String,
}

#[derive(Default, Serialize, Deserialize)]
struct Table {
    labels: Vec<u32>,
    heights: Vec<u32>,
    widths: Vec<u32>,
    /// Files relative to the data set's folder; empty for arrays, and in caches from before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    paths: Vec<String>,
}

/// Opens the cache of a data set; builds it first if no matching one exists.
pub(crate) fn open(
    request: &OpenRequest,
    found: &Found,
    manifest: &Manifest,
    on_progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Dataset, Error> {
    let (dataset, corrupt) = decoded(request, found, manifest, on_progress)?;
    judge(&dataset, &corrupt, request.corrupt)?;
    Ok(dataset)
}

/// Returns all images that can be decoded, and the reasons why others cannot.
pub(crate) fn decoded(
    request: &OpenRequest,
    found: &Found,
    manifest: &Manifest,
    on_progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<(Dataset, Vec<String>), Error> {
    let &OpenRequest {
        dataset: name,
        cache_dir,
        ..
    } = request;
    let resizes = Resizes::of(request);
    let key = key(name, resizes, &manifest.content);
    let path = cache_dir.join(file_name(name, resizes));
    if let Some(decoded) = reopen(&path, &key, &manifest.content) {
        return Ok(decoded);
    }
    std::fs::create_dir_all(cache_dir).map_err(Error::cache("create", cache_dir))?;
    let lock_path = path.with_extension("lock");
    let lock = lock::open(&lock_path).map_err(Error::cache("open", &lock_path))?;
    if lock.try_lock().is_err() {
        tracing::info!(
            dataset = name,
            "waiting for another process that decodes this data set"
        );
        lock.lock().map_err(Error::cache("lock", &lock_path))?;
    }
    // Another process may have built it while this one waited.
    if let Some(decoded) = reopen(&path, &key, &manifest.content) {
        return Ok(decoded);
    }
    let partial = path.with_extension("partial");
    // The decoded files must be the hashed ones.
    let built =
        build(&partial, key.clone(), found, on_progress).and_then(|()| manifest.still_holds());
    if let Err(error) = built
        .and_then(|()| std::fs::rename(&partial, &path).map_err(Error::cache("rename", &partial)))
    {
        // A partial cache has no use; the first error is the one to report.
        let _ = std::fs::remove_file(&partial);
        return Err(error);
    }
    // just built but unreadable: the disk failed, or no descriptors are left
    load(&path, &key, &manifest.content)
        .map_err(|reason| Error::cache("read", &path)(std::io::Error::other(reason)))
}

fn file_name(name: &str, resizes: Resizes) -> PathBuf {
    // A folder's path is not a valid file name.
    let name = match name.strip_prefix(crate::catalog::FOLDER_PREFIX) {
        Some(path) => format!("folder-{}", &blake3::hash(path.as_bytes()).to_hex()[..16]),
        None => name.to_owned(),
    };
    let size = |side: Option<u32>| side.map_or("native".to_owned(), |side| side.to_string());
    match resizes.test == resizes.train {
        true => PathBuf::from(format!("{name}-{}.images", size(resizes.train))),
        false => PathBuf::from(format!(
            "{name}-{}-test-{}.images",
            size(resizes.train),
            size(resizes.test)
        )),
    }
}

fn key(name: &str, resizes: Resizes, content: &sweep::Content) -> Key {
    let test_resize = resizes.test.filter(|_| resizes.test != resizes.train);
    Key {
        version: VERSION,
        dataset: name.to_owned(),
        resize: resizes.train,
        test_resize,
        source: content.hash.clone(),
    }
}

fn reopen(path: &Path, key: &Key, content: &sweep::Content) -> Option<(Dataset, Vec<String>)> {
    if !path.exists() {
        return None;
    }
    match load(path, key, content) {
        Ok(decoded) => Some(decoded),
        Err(reason) => {
            tracing::info!(path = %path.display(), reason, "decoding again");
            None
        }
    }
}

fn footer(file: &mut File) -> Result<(Footer, u64), String> {
    let io = |error: std::io::Error| error.to_string();
    let length = file.metadata().map_err(io)?.len();
    if length < START + TRAILER {
        return Err("it is too short to be a cache".to_owned());
    }
    let mut trailer = [0; TRAILER as usize];
    file.seek(SeekFrom::Start(length - TRAILER))
        .and_then(|_| file.read_exact(&mut trailer))
        .map_err(io)?;
    let footer_length = u64::from_le_bytes(trailer[..8].try_into().expect("eight bytes"));
    if trailer[40..] != MAGIC || footer_length > length - START - TRAILER {
        return Err("its trailer is damaged".to_owned());
    }
    let end_of_pixels = length - TRAILER - footer_length;
    let mut bytes = vec![0; footer_length as usize];
    file.seek(SeekFrom::Start(end_of_pixels))
        .and_then(|_| file.read_exact(&mut bytes))
        .map_err(io)?;
    if blake3::hash(&bytes).as_bytes() != &trailer[8..40] {
        return Err("its footer is damaged".to_owned());
    }
    let footer = serde_json::from_slice(&bytes)
        .map_err(|error| format!("its footer is of another version: {error}"))?;
    Ok((footer, end_of_pixels))
}

fn load(
    path: &Path,
    key: &Key,
    content: &sweep::Content,
) -> Result<(Dataset, Vec<String>), String> {
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let (footer, end_of_pixels) = footer(&mut file)?;
    if footer.key != *key {
        return Err("the source files, the recipe or the format have changed".to_owned());
    }
    // SAFETY: caches are written under another name and renamed; no process of this program changes
    // one in place.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|error| error.to_string())?;
    let pixels = Pixels::Mapped(Arc::new(map));
    let mut offset = START;
    let mut split = |table: Table| {
        let mut images = Vec::with_capacity(table.labels.len());
        for (&height, &width) in table.heights.iter().zip(&table.widths) {
            images.push(Extent {
                offset,
                height,
                width,
            });
            offset = offset
                .saturating_add(u64::from(height) * u64::from(width) * footer.channels as u64);
        }
        if table
            .labels
            .iter()
            .any(|&label| label as usize >= footer.class_names.len())
        {
            return Err("a label is no class");
        }
        let split = Split::new(table.labels, images, footer.channels, pixels.clone())?;
        Ok(split.with_paths(table.paths))
    };
    if footer.num_validation > footer.train.labels.len() {
        return Err("it has more validation images than images".to_owned());
    }
    let (train, test) = (split(footer.train)?, split(footer.test)?);
    if offset != end_of_pixels {
        return Err("it has not the size that its images need".to_owned());
    }
    let dataset = Dataset {
        name: key.dataset.clone(),
        class_names: footer.class_names,
        class_ids: footer.class_ids,
        channels: footer.channels,
        train,
        num_validation: footer.num_validation,
        test,
        skipped: footer.corrupt.len(),
        fingerprint: footer.fingerprint,
        content: Some(content.clone()),
    };
    Ok((dataset, footer.corrupt))
}

/// Writes images one after the other and collects what the footer needs.
struct Writer<'a> {
    file: BufWriter<File>,
    path: &'a Path,
    fingerprint: Fingerprint,
}

impl Writer<'_> {
    fn image(
        &mut self,
        table: &mut Table,
        label: u32,
        height: u32,
        width: u32,
        pixels: &[u8],
    ) -> Result<(), Error> {
        table.labels.push(label);
        table.heights.push(height);
        table.widths.push(width);
        self.fingerprint.image(label, height, width, pixels);
        self.file
            .write_all(pixels)
            .map_err(Error::cache("write", self.path))
    }
}

fn build(
    path: &Path,
    key: Key,
    found: &Found,
    on_progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<(), Error> {
    let file = create_new(path).map_err(Error::cache("create", path))?;
    let mut writer = Writer {
        file: BufWriter::with_capacity(1 << 20, file),
        path,
        fingerprint: Fingerprint::default(),
    };
    let mut start = [0; START as usize];
    start[..8].copy_from_slice(&MAGIC);
    start[8..12].copy_from_slice(&VERSION.to_le_bytes());
    writer
        .file
        .write_all(&start)
        .map_err(Error::cache("write", path))?;
    let (mut train, mut test, mut corrupt) = (Table::default(), Table::default(), Vec::new());
    let mut num_validation = 0;
    match &found.content {
        Content::Arrays(read) => {
            let arrays = read()?;
            for (table, split) in [(&mut train, &arrays.train), (&mut test, &arrays.test)] {
                write_array(
                    &mut writer,
                    table,
                    split,
                    arrays.height,
                    arrays.width,
                    found.channels,
                )?;
                writer.fingerprint.end_of_split();
            }
            let total = (train.labels.len() + test.labels.len()) as u64;
            on_progress(total, total);
        }
        Content::Files {
            train: train_files,
            validation,
            test: test_files,
        } => {
            let total = (train_files.len() + validation.len() + test_files.len()) as u64;
            let mut done = 0;
            let mut on_images = |count| {
                done += count as u64;
                on_progress(done, total);
            };
            let mut write = |table: &mut Table,
                             files: &[ImageFile],
                             resize: Option<u32>,
                             writer: &mut Writer| {
                let root = found.root.as_deref();
                let files = Files {
                    files,
                    root,
                    resize,
                };
                write_files(writer, table, &files, &mut corrupt, &mut on_images)
            };
            write(&mut train, train_files, key.resize, &mut writer)?;
            let num_train = train.labels.len();
            write(&mut train, validation, key.resize, &mut writer)?;
            num_validation = train.labels.len() - num_train;
            writer.fingerprint.end_of_split();
            write(
                &mut test,
                test_files,
                key.test_resize.or(key.resize),
                &mut writer,
            )?;
            writer.fingerprint.end_of_split();
        }
    }
    let fingerprint = writer.fingerprint.finish(&found.class_names);
    let (class_names, class_ids) = (found.class_names.clone(), found.class_ids.clone());
    let channels = found.channels;
    let footer = Footer {
        key,
        channels,
        class_names,
        class_ids,
        train,
        num_validation,
        test,
        corrupt,
        fingerprint,
    };
    let footer = serde_json::to_vec(&footer).expect("a footer is plain data");
    let length = (footer.len() as u64).to_le_bytes();
    let end = [
        &footer[..],
        &length,
        blake3::hash(&footer).as_bytes(),
        &MAGIC,
    ]
    .concat();
    writer
        .file
        .write_all(&end)
        .map_err(Error::cache("write", path))?;
    let file = writer
        .file
        .into_inner()
        .map_err(|error| Error::cache("write", path)(error.into_error()))?;
    file.sync_all().map_err(Error::cache("sync", path))
}

/// Creates the partial file. Under the lock no other process writes it: an existing one was left by
/// a killed process, perhaps another user's.
fn create_new(path: &Path) -> std::io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => File::create_new(path),
    }
}

fn write_array(
    writer: &mut Writer,
    table: &mut Table,
    split: &Labelled,
    height: u32,
    width: u32,
    channels: usize,
) -> Result<(), Error> {
    let size = height as usize * width as usize * channels;
    for (&label, pixels) in split.labels.iter().zip(split.pixels.chunks_exact(size)) {
        writer.image(table, label, height, width, pixels)?;
    }
    Ok(())
}

/// Image files below a data set's folder, and the shorter side that they get.
struct Files<'a> {
    files: &'a [ImageFile],
    root: Option<&'a Path>,
    resize: Option<u32>,
}

/// Decodes in parallel and writes in order, a bounded number of images at a time.
fn write_files(
    writer: &mut Writer,
    table: &mut Table,
    &Files {
        files,
        root,
        resize,
    }: &Files,
    corrupt: &mut Vec<String>,
    on_images: &mut dyn FnMut(usize),
) -> Result<(), Error> {
    for files in files.chunks(IMAGES_PER_THREAD * rayon::current_num_threads()) {
        let decoded: Vec<_> = files
            .par_iter()
            .map_init(CropResizer::default, |resizer, file| {
                decode::file(&file.path, resize, resizer)
            })
            .collect();
        for (file, decoded) in files.iter().zip(decoded) {
            match decoded? {
                Ok(image) => {
                    writer.image(table, file.label, image.height, image.width, &image.pixels)?;
                    let below = root.and_then(|root| file.path.strip_prefix(root).ok());
                    let path = below.unwrap_or(&file.path);
                    table.paths.push(path.to_string_lossy().into_owned());
                }
                Err(reason) => {
                    tracing::warn!(path = %file.path.display(), reason, "an image cannot be decoded");
                    corrupt.push(format!("{}: {reason}", file.path.display()));
                }
            }
        }
        on_images(files.len());
    }
    Ok(())
}

/// Applies the user's policy to images that cannot be decoded.
pub(crate) fn judge(dataset: &Dataset, corrupt: &[String], policy: Corrupt) -> Result<(), Error> {
    if corrupt.is_empty() {
        return Ok(());
    }
    let name = &dataset.name;
    if policy == Corrupt::Refuse {
        let more = match corrupt.len().saturating_sub(MAX_LISTED) {
            0 => String::new(),
            more => format!("; and {more} more, which `orchestrator data check '{name}'` lists"),
        };
        let files = corrupt[..corrupt.len().min(MAX_LISTED)].join("; ") + &more;
        let total = dataset.train.len() + dataset.test.len() + corrupt.len();
        return Err(Error::Corrupt {
            dataset: name.clone(),
            count: corrupt.len(),
            total,
            files,
        });
    }
    let counts = dataset.train_counts();
    let count = counts.iter().filter(|&&count| count == 0).count();
    match counts.iter().position(|&count| count == 0) {
        None if dataset.test.is_empty() => Err(Error::Malformed {
            path: PathBuf::from(name),
            reason: "none of its test images can be decoded".to_owned(),
        }),
        None => Ok(()),
        Some(class) => Err(Error::EmptyClass {
            dataset: name.clone(),
            class: dataset.class_names[class].clone(),
            count,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::files::Reach;

    /// Any user can create links in a folder for temporary files.
    #[test]
    fn links_planted_in_the_cache_are_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let (data_dir, cache_dir) = (place.path().join("data"), place.path().join("cache"));
        for class in ["set/train/a", "set/test/a"] {
            fs::create_dir_all(data_dir.join(class)).unwrap();
            image::RgbImage::new(4, 4)
                .save(data_dir.join(class).join("image.png"))
                .unwrap();
        }
        let request = OpenRequest {
            dataset: "folder:set",
            resize: None,
            test_resize: None,
            reach: Reach::anywhere(&data_dir),
            cache_dir: &cache_dir,
            corrupt: Corrupt::Refuse,
            smoke: false,
        };
        let open = || crate::open(&request, &|_, _| ());
        assert_eq!(open().unwrap().train.len(), 1);
        let cache = cache_dir.join(file_name("folder:set", Resizes::of(&request)));
        let (victim, partial, lock) = (
            place.path().join("victim"),
            cache.with_extension("partial"),
            cache.with_extension("lock"),
        );
        fs::write(&victim, "precious").unwrap();
        fs::remove_file(&cache).unwrap();
        std::os::unix::fs::symlink(&victim, &partial).unwrap();
        assert_eq!(open().unwrap().train.len(), 1, "the link is replaced");
        fs::remove_file(&cache).unwrap();
        fs::remove_file(&lock).unwrap();
        std::os::unix::fs::symlink(&victim, &lock).unwrap();
        let Err(error) = open() else {
            panic!("the link is followed")
        };
        let error = error.to_string();
        assert!(
            error.contains(".lock") && error.contains("--cache-dir"),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    }
}
