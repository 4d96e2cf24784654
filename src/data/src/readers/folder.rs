//! A user's own images: `folder:PATH` with one directory per class.
//!
//! With `train/` and `test/` (or `val/`) below PATH these are the splits, and both list the same classes. Otherwise
//! PATH holds the classes themselves, and one fifth of each class (rounded, at least one image), drawn once and for all
//! from the sorted file names, is the test split.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::{Found, ImageFile, found};
use crate::catalog::FOLDER_PREFIX;
use crate::error::Error;
use crate::files::Reach;
use crate::random::{Purpose, Stream};

const EXTENSIONS: [&str; 6] = ["jpg", "jpeg", "png", "gif", "bmp", "webp"];
/// One image in so many is a test image where there is no split.
const TEST_SHARE: usize = 5;

pub(super) fn find(name: &str, reach: &Reach) -> Result<Found, Error> {
    let root = reach.resolve("dataset", name.strip_prefix(FOLDER_PREFIX).unwrap_or(name))?;
    if !root.is_dir() {
        return Err(Error::NotFound {
            dataset: name.to_owned(),
            looked_for: format!("{} is not a directory", root.display()),
            remedy: "give an absolute path, or one relative to the data directory".to_owned(),
        });
    }
    let train = root.join("train");
    if !train.is_dir() {
        return one_folder(name, root);
    }
    let test = ["test", "val"].map(|split| root.join(split)).into_iter().find(|split| split.is_dir());
    let test = test.ok_or_else(|| Error::malformed(&root, "it has train/ but neither test/ nor val/"))?;
    splits(name, root, &train, &test)
}

/// Two folders of class folders. Classes are the names in the first, sorted.
pub(super) fn splits(name: &str, root: PathBuf, train: &Path, test: &Path) -> Result<Found, Error> {
    let names = directories(train)?;
    let labels: HashMap<&str, u32> = names.iter().enumerate().map(|(label, name)| (&**name, label as u32)).collect();
    let read = |split: &Path| {
        let mut files = Vec::new();
        for class in directories(split)? {
            let label = labels.get(&*class);
            let label = *label.ok_or_else(|| {
                Error::malformed(&split.join(&class), format!("{} has no such class", train.display()))
            })?;
            files.extend(images(&split.join(class))?.into_iter().map(|path| ImageFile { path, label }));
        }
        Ok(files)
    };
    let (train, test) = (read(train)?, read(test)?);
    found(name, root, names.clone(), names, Vec::new(), train, test)
}

fn one_folder(name: &str, root: PathBuf) -> Result<Found, Error> {
    let names = directories(&root)?;
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for (label, class) in names.iter().enumerate() {
        let label = label as u32;
        let mut paths = images(&root.join(class))?;
        if paths.len() < 2 {
            let reason = "it needs at least two images, one to train on and one to test".to_owned();
            return Err(Error::malformed(&root.join(class), reason));
        }
        Stream::new(0, Purpose::FolderSplit, 0, 0, label).shuffle(&mut paths);
        let num_test = ((paths.len() + TEST_SHARE / 2) / TEST_SHARE).max(1);
        let mut kept = paths.split_off(num_test);
        paths.sort_unstable();
        kept.sort_unstable();
        test.extend(paths.into_iter().map(|path| ImageFile { path, label }));
        train.extend(kept.into_iter().map(|path| ImageFile { path, label }));
    }
    found(name, root, names.clone(), names, Vec::new(), train, test)
}

/// Names of the directories below one, sorted; at least one.
pub(super) fn directories(root: &Path) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for entry in entries(root)? {
        if entry.path().is_dir() {
            match entry.file_name().into_string() {
                Ok(name) if !name.starts_with('.') => names.push(name),
                Ok(_) => {}
                Err(_) => return Err(Error::malformed(&entry.path(), "its name is not UTF-8")),
            }
        }
    }
    if names.is_empty() {
        return Err(Error::malformed(root, "it holds no class folders"));
    }
    names.sort_unstable();
    Ok(names)
}

/// Image files of one folder, sorted by name. Others (notes, thumbnails databases) are passed over.
fn images(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths = Vec::new();
    for entry in entries(folder)? {
        let path = entry.path();
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !hidden && EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(extension)) {
            paths.push(path);
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

fn entries(folder: &Path) -> Result<Vec<std::fs::DirEntry>, Error> {
    let read = std::fs::read_dir(folder).map_err(Error::io("list", folder))?;
    read.collect::<Result<_, _>>().map_err(Error::io("list", folder))
}
