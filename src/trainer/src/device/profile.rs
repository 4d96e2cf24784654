//! A trace of a thread's work by libtorch's profiler, the one behind torch.profiler in Python.
//!
//! Used by bench/gpu.py, which counts kernels on both sides, through bench.rs. Slows down the
//! profiled work.

use std::ffi::{CString, c_char};
use std::path::Path;

use anyhow::Context;
use tch::Device;

use crate::device::shim;

unsafe extern "C" {
    fn shim_profile_begin(cuda: bool) -> *mut c_char;
    fn shim_profile_end(path: *const c_char) -> *mut c_char;
}

/// Writes a trace of `body` to `path`: operations of this thread and, on a GPU, kernels and CUDA
/// runtime calls.
pub fn trace<T>(
    device: Device,
    path: &Path,
    body: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let name = CString::new(path.as_os_str().as_encoded_bytes())
        .context("a path without NUL is needed")?;
    // SAFETY: takes a flag; profiling twice at once raises an exception, which is caught.
    shim::check(unsafe { shim_profile_begin(device.is_cuda()) })?;
    let result = body();
    // SAFETY: a NUL-terminated string that lives through the call; the profiler was started above.
    shim::check(unsafe { shim_profile_end(name.as_ptr()) })?;
    result
}

#[cfg(test)]
mod tests {
    use tch::{Kind, Tensor};

    use super::*;

    #[test]
    fn a_trace_names_the_operations() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.json");
        let sum = trace(Device::Cpu, &path, || {
            Ok(Tensor::ones([3], (Kind::Float, Device::Cpu)).cumsum(0, None))
        });
        assert_eq!(sum.unwrap().double_value(&[2]), 3.0);
        let trace: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        assert!(
            events.iter().any(|event| event["name"] == "aten::cumsum"),
            "{events:#?}"
        );
    }
}
