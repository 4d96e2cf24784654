//! The environment of a trainer: the variables that it needs from the worker's environment, and
//! nothing else.
//!
//! A worker is started in a user's shell or by a service, whose environment may hold credentials. A
//! trainer reads files that other users' sweeps name, so it only receives listed variables.
//! docs/operations.md shows the list.

use std::ffi::OsString;

use sweep::program::SECRETS;

const NAMES: [&str; 15] = [
    "HOME",
    "LANG",
    "LANGUAGE",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LOGNAME",
    "PATH",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "SHELL",
    "TMPDIR",
    "TZ",
    "USER",
    "VIRTUAL_ENV",
    "XDG_CACHE_HOME",
];

/// Prefixes of names: locale, devices and their libraries, threads, allocators, and Python for
/// trainers written in it.
const PREFIXES: [&str; 23] = [
    "CONDA_",
    "CUBLAS_",
    "CUDA_",
    "CUDNN_",
    "DNNL_",
    "GLIBC_TUNABLES",
    "GOMP_",
    "KMP_",
    "LC_",
    "MALLOC_",
    "MKL_",
    "NCCL_",
    "NVIDIA_",
    "OMP_",
    "ONEDNN_",
    "OPENBLAS_",
    "ORCHESTRATOR_",
    "PYTHON",
    "PYTORCH_",
    "RAYON_",
    "STAND_IN_",
    "TORCH_",
    "UCX_",
];

/// Returns the variables of this process that a trainer receives.
pub fn for_trainers() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(passes))
}

/// Returns true for the name of a variable that no trainer receives.
pub fn is_secret(name: &str) -> bool {
    SECRETS.iter().any(|secret| name.contains(secret))
}

fn passes(name: &str) -> bool {
    let is_listed = NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    is_listed && !is_secret(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_stay_with_the_worker() {
        for name in [
            "PATH",
            "HOME",
            "LC_ALL",
            "CUDA_VISIBLE_DEVICES",
            "NCCL_DEBUG",
            "OMP_NUM_THREADS",
            "RUST_LOG",
        ] {
            assert!(passes(name), "{name}");
        }
        assert!(passes("ORCHESTRATOR_FAULT"));
        for name in [
            "ORCHESTRATOR_TOKEN_FILE",
            "AWS_SECRET_ACCESS_KEY",
            "GITHUB_TOKEN",
            "SSH_AUTH_SOCK",
            "KUBERNETES_SERVICE_HOST",
            "PATH_TO_KEY",
            "TORCH_HUB_TOKEN",
            "",
        ] {
            assert!(!passes(name), "{name}");
        }
    }
}
