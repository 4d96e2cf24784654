//! Loads a sweep from a path: the only place of this crate that reads files, with limits on what it
//! reads.
//!
//! A sweep file is untrusted text: its size is checked before it is read, and it cannot name a file
//! outside its own folder. See `compile.rs` for the meaning of the text.

use std::io::{self, Read};
use std::path::{Component, Path};

use crate::definition::Sweep;
use crate::diagnostic::{Errors, Problem, source};

/// Larger files are refused unread: the longest sweep that a person writes is a hundredth of this.
pub const MAX_FILE_BYTES: u64 = 4 << 20;

/// Reads the text of a file that a sweep names (`published: {file: ...}`), by its path as written
/// there.
pub type ReadFile<'a> = &'a dyn Fn(&str) -> io::Result<String>;

/// Finds the typical length in pixels of the shorter side of the images of a `folder:` data set;
/// `None` if unknown.
pub type FindSide<'a> = &'a dyn Fn(&str) -> Option<u32>;

/// Reads and compiles a sweep file and the files that it names, without inspecting data sets.
pub fn load(path: &Path) -> Result<Sweep, Errors> {
    load_with(path, &|_| None)
}

/// Does the same with recipes that fit image sizes to the images of `folder:` data sets.
pub fn load_with(path: &Path, find_side: FindSide<'_>) -> Result<Sweep, Errors> {
    let name = path.display().to_string();
    let text = read_bounded(path).map_err(|error| unreadable(&name, &error))?;
    let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
    let read_file = |named: &str| {
        let relative = Path::new(named);
        if !relative
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
        {
            return Err(io::Error::other(
                "only files in the sweep's own folder or below can be named",
            ));
        }
        read_bounded(&folder.join(relative))
    };
    crate::compile::compile(&name, &text, &read_file, find_side)
}

/// Compiles the text of a sweep file. `name` is its name in messages, and its stem is the sweep's
/// name if the file gives none. The error holds every problem that can be found, not only the
/// first.
pub fn parse(name: &str, text: &str, read_file: ReadFile<'_>) -> Result<Sweep, Errors> {
    crate::compile::compile(name, text, read_file, &|_| None)
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let file = std::fs::File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::Error::other("it is a folder"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!(
            "it is larger than {} MiB",
            MAX_FILE_BYTES >> 20
        )));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|&&byte| byte == b'\n').count() + 1;
        io::Error::other(format!("line {line} is not UTF-8 text"))
    })
}

fn unreadable(name: &str, error: &io::Error) -> Errors {
    let source = source(name, "");
    let help = match error.kind() {
        io::ErrorKind::NotFound => {
            "check the path; the sweeps that come with the program are in sweeps/"
        }
        _ => "a sweep is a YAML file in UTF-8, see docs/sweep-file.md",
    };
    Problem::new(&source, 0..0, format!("cannot read {name}: {error}"))
        .help(help)
        .into()
}
