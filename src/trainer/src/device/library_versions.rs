//! Versions of the libraries that contain a GPU's kernels, for a trial's record: they determine
//! bits and speed.
//!
//! Each library is queried once. One that does not report its version is left out, and the log
//! gives the reason. libtorch's own version is recorded separately. Used by attempt/mod.rs.

use std::sync::OnceLock;

use crate::device::collective::{cuda_version, nccl_version};
use crate::device::shared_library::{self, DynamicError, functions};

const CUDNN: &str = "libcudnn.so.9";
const CUDNN_FOLDERS: [&str; 1] = ["nvidia/cudnn/lib"];

functions! {
    struct Cudnn {
        get_version = "cudnnGetVersion": fn() -> usize;
    }
}

/// Versions of the libraries that a trial on GPUs uses.
pub fn of_gpus(uses_nccl: bool) -> Vec<String> {
    static OF_ALL: OnceLock<Vec<String>> = OnceLock::new();
    static NCCL: OnceLock<Option<String>> = OnceLock::new();
    let cudnn = || cudnn_version().map_err(|error| error.to_string());
    let of_all = OF_ALL.get_or_init(|| {
        [("CUDA", cuda_version()), ("cuDNN", cudnn())]
            .into_iter()
            .filter_map(named)
            .collect()
    });
    let nccl = || named(("NCCL", nccl_version().map_err(|error| error.to_string())));
    let nccl = if uses_nccl {
        NCCL.get_or_init(nccl).clone()
    } else {
        None
    };
    of_all.iter().cloned().chain(nccl).collect()
}

fn named((name, version): (&str, Result<String, String>)) -> Option<String> {
    match version {
        Ok(version) => Some(format!("{name} {version}")),
        Err(reason) => {
            tracing::warn!(reason, "the version of {name} cannot be read");
            None
        }
    }
}

fn cudnn_version() -> Result<String, DynamicError> {
    let functions = Cudnn::load(&shared_library::open(CUDNN, &CUDNN_FOLDERS)?)?;
    // SAFETY: takes no arguments and returns a number.
    Ok(of_cudnn_code(unsafe { (functions.get_version)() }))
}

/// Formats CUDNN_VERSION as cudnn_version.h has encoded it since version 9.
fn of_cudnn_code(code: usize) -> String {
    format!("{}.{}.{}", code / 10_000, code % 10_000 / 100, code % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs no GPU.
    #[test]
    #[ignore = "needs the libraries of libtorch for CUDA: make stand-in-gpu"]
    fn the_version_of_the_real_library_is_read() {
        let version = cudnn_version().unwrap_or_else(|error| panic!("{error}"));
        assert!(version.starts_with("9."), "{version}");
    }

    #[test]
    fn versions_are_read_from_codes() {
        assert_eq!(of_cudnn_code(91_002), "9.10.2");
    }

    #[test]
    fn a_library_without_a_version_is_left_out() {
        assert_eq!(
            named(("NCCL", Ok("2.28.9".to_owned()))).as_deref(),
            Some("NCCL 2.28.9")
        );
        assert_eq!(named(("NCCL", Err("it is not there".to_owned()))), None);
        let names = |uses_nccl| -> Vec<String> {
            of_gpus(uses_nccl)
                .iter()
                .filter_map(|text| Some(text.split_once(' ')?.0.to_owned()))
                .collect()
        };
        assert!(
            !names(false).contains(&"NCCL".to_owned()),
            "a trial without it does not name it"
        );
        assert_eq!(
            names(true).contains(&"NCCL".to_owned()),
            nccl_version().is_ok()
        );
    }
}
