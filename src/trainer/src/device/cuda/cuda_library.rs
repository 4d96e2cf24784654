//! Opens libtorch_cuda.so, which lies beside the mapped libtorch, and then the CUDA library of the
//! shim.
//!
//! The latter is a shared object that build.rs compiles against headers alone; the trainer contains
//! it as bytes and opens it from a file in memory. Its symbols are resolved in libtorch's
//! libraries, which must be global in the process. Must run before libtorch is first asked about
//! CUDA: libtorch remembers the answer. Next: graph.rs.

use std::ffi::{c_char, c_void};
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::Path;
use std::sync::OnceLock;

use libloading::Library;
use libloading::os::unix::{Library as UnixLibrary, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};

use crate::device::shared_library::{DynamicError, Opened, functions, site_of_libtorch};
use crate::device::shim::{self, ShimError};

const LIBTORCH_CUDA: &str = "torch/lib/libtorch_cuda.so";

/// The shared object; empty in a build without CUDA's headers.
static CUDA_LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cuda_library.so"));

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the libtorch in use is one for machines without a GPU: there is no {0}; \
         `orchestrator setup --cuda` fetches the other kind, ORCHESTRATOR_CUDA=1 before `make` builds with it"
    )]
    Absent(String),
    #[error("cannot open {path}: {reason}")]
    Refused { path: String, reason: String },
    #[error("this trainer was built where CUDA's headers (nvidia-cuda-crt) were missing")]
    BuiltWithout,
    #[error(transparent)]
    Symbols(#[from] DynamicError),
}

/// A `Graph` of the C++ side, opaque here.
pub(super) type RawGraph = c_void;

functions! {
    pub(super) struct Functions {
        graph_begin = "cuda_library_graph_begin": fn(*mut RawGraph, i8, *mut *mut RawGraph) -> *mut c_char;
        graph_end = "cuda_library_graph_end": fn(*mut RawGraph) -> *mut c_char;
        graph_replay = "cuda_library_graph_replay": fn(*mut RawGraph) -> *mut c_char;
        graph_free = "cuda_library_graph_free": fn(*mut RawGraph) -> ();
        set_memory_fraction = "cuda_library_set_memory_fraction": fn(i8, f64) -> *mut c_char;
        architecture = "cuda_library_architecture": fn(i8, *mut i32) -> *mut c_char;
        load_norm = "cuda_library_load_norm": fn(i8, *const c_void) -> *mut c_char;
        norm_kernels = "cuda_library_norm_kernels": fn() -> *const c_void;
    }
}

/// Makes CUDA available to libtorch. Must be called before any other use of a GPU; later calls cost
/// nothing.
pub fn libtorch() -> Result<(), OpenError> {
    static OPENED: OnceLock<Result<(), OpenError>> = OnceLock::new();
    OPENED.get_or_init(open_libtorch).clone()
}

fn open_libtorch() -> Result<(), OpenError> {
    let site = site_of_libtorch().unwrap_or_default();
    let path = site.join(LIBTORCH_CUDA);
    if !path.exists() {
        return Err(OpenError::Absent(path.display().to_string()));
    }
    open_global(&path)
}

/// Opens a library permanently, with its symbols visible to libraries opened later.
fn open_global(path: &Path) -> Result<(), OpenError> {
    // SAFETY: initialisers of libtorch's libraries register kernels and have no precondition.
    match unsafe { UnixLibrary::open(Some(path), RTLD_NOW | RTLD_GLOBAL) } {
        Ok(library) => {
            std::mem::forget(library);
            Ok(())
        }
        Err(error) => Err(OpenError::Refused {
            path: path.display().to_string(),
            reason: error.to_string(),
        }),
    }
}

/// Opens the CUDA library of the shim, after libtorch's CUDA library.
pub(super) fn cuda_library() -> Result<Functions, OpenError> {
    static OPENED: OnceLock<Result<Functions, OpenError>> = OnceLock::new();
    OPENED
        .get_or_init(|| libtorch().and_then(|()| open_cuda_library()))
        .clone()
}

fn open_cuda_library() -> Result<Functions, OpenError> {
    if CUDA_LIBRARY.is_empty() {
        return Err(OpenError::BuiltWithout);
    }
    let refused = |reason: String| OpenError::Refused {
        path: "the CUDA library of the trainer's shim".to_owned(),
        reason,
    };
    let io = |error: std::io::Error| refused(error.to_string());
    // SAFETY: makes a file without a path; the name only appears in listings.
    let descriptor =
        unsafe { libc::memfd_create(c"orchestrator_cuda_library".as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(io(std::io::Error::last_os_error()));
    }
    // SAFETY: the descriptor was just made and belongs to this function.
    let mut file = unsafe { std::fs::File::from_raw_fd(descriptor) };
    file.write_all(CUDA_LIBRARY).map_err(io)?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // SAFETY: our own object, whose initialisers need only libtorch, which is open.
    let library = unsafe { UnixLibrary::open(Some(&path), RTLD_NOW | RTLD_LOCAL) };
    let library = Library::from(library.map_err(|error| refused(error.to_string()))?);
    let opened = Opened {
        library: Box::leak(Box::new(library)),
        path: "the CUDA library of the trainer's shim".to_owned(),
    };
    Ok(Functions::load(&opened)?)
}

/// Limits this process to a share of a GPU's memory, for slots that share the GPU.
pub fn set_memory_share(index: usize, share: f64) -> Result<(), MemoryShareError> {
    let functions = cuda_library()?;
    // SAFETY: takes two numbers; an index without a device is an exception, which is caught.
    Ok(shim::check(unsafe {
        (functions.set_memory_fraction)(index as i8, share)
    })?)
}

#[derive(Debug, thiserror::Error)]
pub enum MemoryShareError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Shim(#[from] ShimError),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs no GPU: libtorch's library opens, and all symbols of the shim's are found.
    #[test]
    #[ignore = "needs the libraries of libtorch for CUDA: make stand-in-gpu"]
    fn the_real_libraries_open_and_the_shims_library_is_complete() {
        cuda_library().unwrap_or_else(|error| panic!("{error}"));
        let error = set_memory_share(0, 0.5).map_err(|error| error.to_string());
        assert!(error.is_ok() == tch::Cuda::is_available(), "{error:?}");
    }

    #[test]
    fn a_libtorch_without_cuda_explains_how_to_get_the_other_kind() {
        let text = OpenError::Absent("/x/torch/lib/libtorch_cuda.so".to_owned()).to_string();
        assert!(
            text.contains("/x/torch/lib/libtorch_cuda.so") && text.contains("ORCHESTRATOR_CUDA=1"),
            "{text}"
        );
    }
}
