//! A folder with one folder per class, and a report of everything in it that is not read.
//!
//! Nothing is skipped silently: files and folders that are no image or class are counted and named,
//! for `plan`, `run` and `data check` to print. A class folder with only such files is an error:
//! leaving the class out would change the classification problem.

use std::collections::BTreeMap;
use std::fs::DirEntry;
use std::path::{Path, PathBuf};

use sweep::counted;

use crate::error::Error;

pub(crate) const EXTENSIONS: [&str; 6] = ["jpg", "jpeg", "png", "gif", "bmp", "webp"];

/// Folders that file systems, network storage and archivers create.
const OF_SYSTEMS: [&str; 7] = [
    "@eaDir",
    "#recycle",
    "lost+found",
    "__MACOSX",
    "$RECYCLE.BIN",
    "System Volume Information",
    "__pycache__",
];

/// Most names in one note; more are counted.
const MAX_LISTED: usize = 8;
/// Deepest nesting of folders below a class that are searched.
const MAX_DEPTH: usize = 16;

pub(crate) struct ClassFolders {
    /// Image files by class, both sorted. Every class has images.
    pub(crate) images: BTreeMap<String, Vec<PathBuf>>,
    /// Notes on skipped files and folders, a line each.
    pub(crate) notes: Vec<String>,
}

/// The entries of one folder, by their use.
#[derive(Default)]
struct Contents {
    images: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    /// Number of files that are not read, by ending, such as `.tiff`.
    others: BTreeMap<String, usize>,
}

/// Reads the names of all classes and images below a folder; at least one class.
pub(crate) fn read(root: &Path) -> Result<ClassFolders, Error> {
    let top = Contents::of(root)?;
    let (mut images, mut systems, mut empty) = (BTreeMap::new(), Vec::new(), Vec::new());
    let (mut nested, mut nested_in) = (0, Vec::new());
    let mut others = top.others;
    for folder in top.folders {
        let name = name_of(&folder)?;
        if is_of_a_system(&name) {
            systems.push(name);
            continue;
        }
        let contents = Contents::of(&folder)?;
        let mut below = Contents::default();
        for inner in &contents.folders {
            below.add_all_below(inner, MAX_DEPTH)?;
        }
        let unread = contents
            .others
            .values()
            .chain(below.others.values())
            .sum::<usize>();
        match (contents.images.len(), below.images.len() + unread) {
            (0, 0) => {
                empty.push(name);
                continue;
            }
            (0, _) => return Err(Error::malformed(&folder, without_images(&contents, &below))),
            _ => {}
        }
        if !below.images.is_empty() {
            nested += below.images.len();
            nested_in.push(name.clone());
        }
        for (kind, count) in contents.others.into_iter().chain(below.others) {
            *others.entry(kind).or_default() += count;
        }
        images.insert(name, contents.images);
    }
    if images.is_empty() {
        return Err(Error::malformed(
            root,
            "it holds no class folders with images",
        ));
    }
    let mut notes = Vec::new();
    let mut note = |applies: bool, text: String| {
        if applies {
            notes.push(format!("{}: {text}", root.display()));
        }
    };
    note(
        !systems.is_empty(),
        format!("not taken for classes: {}", list(&systems)),
    );
    note(
        !empty.is_empty(),
        format!("empty folders are not classes: {}", list(&empty)),
    );
    let loose = top.images.len();
    note(
        loose > 0,
        format!(
            "beside the class folders, so of no class: {}",
            counted(loose as u64, "image")
        ),
    );
    note(
        nested > 0,
        format!(
            "in folders inside of classes, not read: {} ({})",
            counted(nested as u64, "image"),
            list(&nested_in)
        ),
    );
    note(
        !others.is_empty(),
        format!("files that are not read: {}", by_kind(&others)),
    );
    Ok(ClassFolders { images, notes })
}

/// Returns the names of the subfolders that may be relevant, sorted.
pub(crate) fn subfolders(root: &Path) -> Result<Vec<String>, Error> {
    let names = Contents::of(root)?
        .folders
        .iter()
        .map(|folder| name_of(folder))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(names
        .into_iter()
        .filter(|name| !is_of_a_system(name))
        .collect())
}

/// Formats the first names and the number of the others.
pub(crate) fn list(names: &[String]) -> String {
    let shown = names[..names.len().min(MAX_LISTED)].join(", ");
    match names.len().saturating_sub(MAX_LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

impl Contents {
    fn of(folder: &Path) -> Result<Self, Error> {
        let mut contents = Self::default();
        for entry in entries(folder)? {
            contents.add(&entry);
        }
        contents.images.sort_unstable();
        contents.folders.sort_unstable();
        Ok(contents)
    }

    fn add(&mut self, entry: &DirEntry) {
        let path = entry.path();
        if path.is_dir() {
            return self.folders.push(path);
        }
        let extension = path
            .extension()
            .and_then(|extension| extension.to_str())
            .unwrap_or_default()
            .to_lowercase();
        let kind = match extension.as_str() {
            _ if entry.file_name().as_encoded_bytes().starts_with(b".") => "hidden".to_owned(),
            extension if EXTENSIONS.contains(&extension) => return self.images.push(path),
            "" => "without an extension".to_owned(),
            extension => format!(".{extension}"),
        };
        *self.others.entry(kind).or_default() += 1;
    }

    /// Adds all images below a folder. Does not follow symbolic links to folders, which may form
    /// cycles.
    fn add_all_below(&mut self, folder: &Path, depth: usize) -> Result<(), Error> {
        for entry in entries(folder)? {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            match depth.checked_sub(1) {
                Some(depth) if is_folder => self.add_all_below(&entry.path(), depth)?,
                _ => self.add(&entry),
            }
        }
        Ok(())
    }
}

fn without_images(contents: &Contents, below: &Contents) -> String {
    if !below.images.is_empty() {
        return format!(
            "it has {} in folders inside of it and none itself; move them up",
            counted(below.images.len() as u64, "image")
        );
    }
    let mut others = contents.others.clone();
    below
        .others
        .iter()
        .for_each(|(kind, count)| *others.entry(kind.clone()).or_default() += count);
    format!(
        "it holds no image that can be read, but {}; convert them, or move the folder away",
        by_kind(&others)
    )
}

/// Formats counts, such as `40 .tiff, 2 .txt; images are jpg, ...`.
fn by_kind(others: &BTreeMap<String, usize>) -> String {
    let mut kinds: Vec<(&String, &usize)> = others.iter().collect();
    kinds.sort_by_key(|(kind, count)| (std::cmp::Reverse(**count), *kind));
    let kinds: Vec<String> = kinds
        .into_iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    format!("{} (images are {})", list(&kinds), EXTENSIONS.join(", "))
}

fn is_of_a_system(name: &str) -> bool {
    name.starts_with('.') || OF_SYSTEMS.contains(&name)
}

fn name_of(folder: &Path) -> Result<String, Error> {
    let name = folder
        .file_name()
        .and_then(|name| name.to_str())
        .map(str::to_owned);
    name.ok_or_else(|| Error::malformed(folder, "its name is not UTF-8"))
}

fn entries(folder: &Path) -> Result<Vec<DirEntry>, Error> {
    let read = std::fs::read_dir(folder).map_err(Error::io("list", folder))?;
    read.collect::<Result<_, _>>()
        .map_err(Error::io("list", folder))
}
