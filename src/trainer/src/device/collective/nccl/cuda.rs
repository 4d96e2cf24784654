//! Functions of CUDA's runtime that tch lacks: needed for waiting without blocking and for a
//! trial's record.
//!
//! Events are recorded on the stream where torch queues this thread's work. The library is the one
//! that libtorch has loaded. Never run on hardware so far. Next: gpus.rs.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::{Arc, OnceLock};

use crate::device::shared_library::{DynamicError, functions, open};

/// Library names in torch 2.11's wheels, then in older ones.
const NAMES: [(&str, &str); 2] = [
    ("libcudart.so.13", "nvidia/cu13/lib"),
    ("libcudart.so.12", "nvidia/cuda_runtime/lib"),
];

const SUCCESS: c_int = 0;
const NOT_READY: c_int = 600;
/// Event flag without timing, which makes recording cheaper.
const DISABLE_TIMING: c_uint = 2;
/// Size of a PCI bus id such as "0000:00:00.0", with room for long domains.
const PCI_BUS_ID_BYTES: usize = 32;

functions! {
    struct Functions {
        set_device = "cudaSetDevice": fn(c_int) -> c_int;
        get_pci_bus_id = "cudaDeviceGetPCIBusId": fn(*mut c_char, c_int, c_int) -> c_int;
        event_create = "cudaEventCreateWithFlags": fn(*mut *mut c_void, c_uint) -> c_int;
        event_record = "cudaEventRecord": fn(*mut c_void, *mut c_void) -> c_int;
        event_query = "cudaEventQuery": fn(*mut c_void) -> c_int;
        event_destroy = "cudaEventDestroy": fn(*mut c_void) -> c_int;
        runtime_get_version = "cudaRuntimeGetVersion": fn(*mut c_int) -> c_int;
        get_error_string = "cudaGetErrorString": fn(c_int) -> *const c_char;
    }
}

pub struct Runtime {
    functions: Functions,
}

impl Runtime {
    /// Returns the runtime of this process; the first call opens it.
    pub fn shared() -> Result<Arc<Self>, DynamicError> {
        static RUNTIME: OnceLock<Result<Arc<Runtime>, DynamicError>> = OnceLock::new();
        RUNTIME.get_or_init(|| Self::open().map(Arc::new)).clone()
    }

    fn open() -> Result<Self, DynamicError> {
        let mut first_error = None;
        for (name, folder) in NAMES {
            match open(name, &[folder]) {
                Ok(opened) => {
                    return Ok(Self {
                        functions: Functions::load(&opened)?,
                    });
                }
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(first_error.expect("at least one name was tried"))
    }

    fn check(&self, result: c_int) -> Result<(), String> {
        if result == SUCCESS {
            return Ok(());
        }
        // SAFETY: takes any number and returns a C string that the library keeps.
        let text = unsafe { CStr::from_ptr((self.functions.get_error_string)(result)) };
        Err(format!("CUDA: {} (error {result})", text.to_string_lossy()))
    }

    /// Makes a device the current one of this thread.
    pub fn select(&self, device: usize) -> Result<(), String> {
        // SAFETY: any number is allowed.
        self.check(unsafe { (self.functions.set_device)(device as c_int) })
    }

    /// Returns the id under which NVML knows the device, such as `0000:17:00.0`.
    pub fn pci_bus_id(&self, device: usize) -> Result<String, String> {
        let mut text = [0 as c_char; PCI_BUS_ID_BYTES];
        // SAFETY: writes at most the given number of bytes, with a zero at the end.
        let result = unsafe {
            (self.functions.get_pci_bus_id)(
                text.as_mut_ptr(),
                PCI_BUS_ID_BYTES as c_int,
                device as c_int,
            )
        };
        self.check(result)?;
        // SAFETY: zero-terminated, see above.
        Ok(unsafe { CStr::from_ptr(text.as_ptr()) }
            .to_string_lossy()
            .into_owned())
    }
}

/// Returns the id under which NVML finds CUDA's device number `device`: CUDA_VISIBLE_DEVICES makes
/// the numbers differ.
pub fn pci_bus_id(device: usize) -> Result<String, String> {
    Runtime::shared()
        .map_err(|error| error.to_string())?
        .pci_bus_id(device)
}

/// Returns the runtime's version, such as `13.0`, with or without a GPU.
pub fn cuda_version() -> Result<String, String> {
    let runtime = Runtime::shared().map_err(|error| error.to_string())?;
    let mut code = 0;
    // SAFETY: writes one int.
    runtime.check(unsafe { (runtime.functions.runtime_get_version)(&mut code) })?;
    Ok(format!("{}.{}", code / 1000, code % 1000 / 10))
}

/// A point in a device's queue.
pub struct Event {
    runtime: Arc<Runtime>,
    raw: *mut c_void,
}

// SAFETY: CUDA's events may be used from any thread.
unsafe impl Send for Event {}

impl Event {
    /// Records an event on a stream of the current device.
    pub fn record(runtime: &Arc<Runtime>, stream: *mut c_void) -> Result<Self, String> {
        let mut raw = ptr::null_mut();
        // SAFETY: writes one handle.
        runtime.check(unsafe { (runtime.functions.event_create)(&mut raw, DISABLE_TIMING) })?;
        let event = Self {
            runtime: runtime.clone(),
            raw,
        };
        // SAFETY: the event was just made; the stream is libtorch's and lives as long as the
        // process.
        runtime.check(unsafe { (runtime.functions.event_record)(raw, stream) })?;
        Ok(event)
    }

    /// Returns true if the device has reached the event. Errors of earlier work on the device come
    /// back here as well.
    pub fn is_done(&self) -> Result<bool, String> {
        // SAFETY: the event lives as long as this object.
        match unsafe { (self.runtime.functions.event_query)(self.raw) } {
            NOT_READY => Ok(false),
            result => self.runtime.check(result).map(|()| true),
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `record`, destroyed once. An error here belongs to earlier work, which
        // reports it elsewhere.
        unsafe { (self.runtime.functions.event_destroy)(self.raw) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs no GPU: every symbol is found, and errors have texts.
    #[test]
    #[ignore = "needs the libraries of libtorch for CUDA: make stand-in-gpu"]
    fn the_real_library_is_complete() {
        let runtime = Runtime::shared().unwrap_or_else(|error| panic!("{error}"));
        let error = runtime.check(101).unwrap_err();
        assert_eq!(error, "CUDA: invalid device ordinal (error 101)");
        let version = cuda_version().unwrap();
        assert!(
            version.starts_with("13.") || version.starts_with("12."),
            "{version}"
        );
    }
}
