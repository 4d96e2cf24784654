//! Shared libraries that are opened at run time, because only machines with a GPU have them.
//!
//! The copy beside libtorch is preferred: two copies of a library in one process do not know each
//! other. All symbols are looked up when a library is opened, so that a wrong version fails then
//! and not during training. Apart from these folders, only the loader's own search is used. Used by
//! cuda/ and collective/nccl.rs.

use std::path::{Path, PathBuf};

use libloading::Library;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DynamicError {
    #[error(
        "cannot open {name}: {reason}; it comes with the CUDA wheels of libtorch and is looked for beside libtorch and in the loader's search path"
    )]
    Absent { name: &'static str, reason: String },
    #[error("{path} lacks {symbols}: it is not a version that this program knows")]
    Lacks { path: String, symbols: String },
}

pub struct Opened {
    /// Never closed: these libraries start threads, whose code must stay mapped.
    pub library: &'static Library,
    /// Path as passed to the loader.
    pub path: String,
}

/// Opens `name`, first in `folders` below the directory that holds libtorch's Python package.
pub fn open(name: &'static str, folders: &[&str]) -> Result<Opened, DynamicError> {
    let site = site_of_libtorch();
    let beside = folders
        .iter()
        .filter_map(|folder| Some(site.as_ref()?.join(folder).join(name)));
    let candidates = beside
        .filter(|path| path.exists())
        .chain([PathBuf::from(name)]);
    let mut reason = String::new();
    for path in candidates {
        // SAFETY: initialisers of the libraries named in this program (NCCL, CUDA's runtime) have
        // no precondition.
        match unsafe { Library::new(&path) } {
            Ok(library) => {
                return Ok(Opened {
                    library: Box::leak(Box::new(library)),
                    path: path.display().to_string(),
                });
            }
            Err(error) => reason = error.to_string(),
        }
    }
    Err(DynamicError::Absent { name, reason })
}

/// Returns the directory with `torch/lib/libtorch_cpu.so` and the `nvidia` folders, from this
/// process's mappings.
pub fn site_of_libtorch() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps
        .lines()
        .find(|line| line.ends_with("/libtorch_cpu.so"))?;
    let library = Path::new(&line[line.find('/')?..]);
    library.ancestors().nth(3).map(Path::to_owned)
}

/// Declares a struct of C functions with their symbols; `load` finds all of them or names all that
/// are missing.
macro_rules! functions {
    ($(#[$meta:meta])* $visibility:vis struct $name:ident { $($field:ident = $symbol:literal: fn($($argument:ty),*) -> $result:ty;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy)]
        $visibility struct $name {
            $($visibility $field: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl $name {
            $visibility fn load(opened: &$crate::device::shared_library::Opened) -> Result<Self, $crate::device::shared_library::DynamicError> {
                let mut missing: Vec<&str> = Vec::new();
                $(
                    // SAFETY: the signature is the one in the library's header for this symbol.
                    let $field = unsafe {
                        opened.library.get::<unsafe extern "C" fn($($argument),*) -> $result>(concat!($symbol, "\0").as_bytes())
                    };
                    if $field.is_err() {
                        missing.push($symbol);
                    }
                )*
                if let ($(Ok($field),)*) = ($($field,)*) {
                    return Ok(Self { $($field: *$field,)* });
                }
                let symbols = missing.join(", ");
                Err($crate::device::shared_library::DynamicError::Lacks { path: opened.path.clone(), symbols })
            }
        }
    };
}
pub(crate) use functions;

#[cfg(test)]
mod tests {
    use super::*;

    functions! {
        struct Wrong {
            _present = "strlen": fn(*const std::ffi::c_char) -> usize;
            _first = "no_such_function": fn() -> i32;
            _second = "nor_this_one": fn() -> i32;
        }
    }

    #[test]
    fn every_missing_symbol_is_named() {
        let opened = open("libc.so.6", &[]).unwrap();
        let error = Wrong::load(&opened).err().unwrap();
        let expected = "libc.so.6 lacks no_such_function, nor_this_one: it is not a version that this program knows";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn an_absent_library_is_named() {
        let error = open("libno-such-library.so.7", &["nvidia/nccl/lib"])
            .err()
            .unwrap();
        assert!(
            error
                .to_string()
                .starts_with("cannot open libno-such-library.so.7: "),
            "{error}"
        );
    }

    #[test]
    fn libtorch_is_found_where_it_is_mapped() {
        let site = site_of_libtorch().expect("this process uses libtorch");
        assert!(
            site.join("torch/lib/libtorch_cpu.so").exists(),
            "{}",
            site.display()
        );
    }
}
