//! Safe functions for what tch does not bind, around the project's C++ (shim/shim.cpp; gradients.rs
//! has the rest of it).
//!
//! The C++ side catches every exception and returns its message. Nothing here keeps a pointer
//! beyond the call, except `sum_over_replicas`, whose contract states how long. Next: nn/storage.rs
//! and step/synchronised_statistics.rs, its users.

use std::ffi::{CStr, c_char, c_void};

use tch::Tensor;

/// tch's `C_tensor`, opaque here.
type Raw = c_void;

/// Sums the tensor in place over all replicas; zero for success. Must not unwind.
pub type Reduce = extern "C" fn(context: *mut c_void, tensor: *mut Raw) -> i32;

unsafe extern "C" {
    fn shim_free(message: *mut c_char);
    fn shim_sum_over_replicas(
        x: *mut Raw,
        reduce: Reduce,
        context: *mut c_void,
        result: *mut *mut Raw,
    ) -> *mut c_char;
    fn shim_set_autograd_threads(enabled: bool) -> *mut c_char;
    fn shim_libtorch_version() -> *const c_char;
    fn shim_choose_cuda_kernels(deterministic: bool, num_candidates: i32) -> *mut c_char;
    fn shim_use_stream(index: i8) -> *mut c_char;
    fn shim_current_stream(index: i8, stream: *mut *mut c_void) -> *mut c_char;
    fn shim_event_record(index: i8, event: *mut *mut c_void) -> *mut c_char;
    fn shim_event_query(event: *const c_void, passed: *mut bool) -> *mut c_char;
    fn shim_event_free(event: *mut c_void);
    fn shim_free_cached_cuda_memory() -> *mut c_char;
    fn shim_cuda_memory(
        index: i8,
        free: *mut i64,
        total: *mut i64,
        allocated: *mut i64,
    ) -> *mut c_char;
    fn shim_reset_peak_cuda_memory(index: i8) -> *mut c_char;
    fn shim_peak_cuda_memory(index: i8, bytes: *mut i64) -> *mut c_char;
    fn shim_upload(host: *const Raw, index: i8, result: *mut *mut Raw) -> *mut c_char;
    fn shim_channels_last(x: *mut Raw, result: *mut *mut Raw) -> *mut c_char;
    fn shim_has_channels_innermost(x: *const Raw) -> bool;
}

#[derive(Debug, thiserror::Error)]
#[error("libtorch: {0}")]
pub struct ShimError(pub(crate) String);

pub(crate) fn check(message: *mut c_char) -> Result<(), ShimError> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: a non-null return is a C string from strdup, which this function owns and frees once,
    // here.
    let text = unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        shim_free(message);
        text
    };
    Err(ShimError(text))
}

fn raw(tensor: &Tensor) -> *mut Raw {
    tensor.as_ptr() as *mut Raw
}

/// Takes ownership of a tensor that the shim made with `new`.
pub(crate) fn owned(tensor: *mut Raw) -> Tensor {
    // SAFETY: the shim wrote a pointer from `new Tensor`, which is what tch's C_tensor is, and
    // keeps no copy of it.
    unsafe { Tensor::from_ptr(tensor.cast()) }
}

/// Returns the version of the headers that the shim was built against; libtorch refuses to load
/// under another one.
pub fn libtorch_version() -> &'static str {
    // SAFETY: a string literal of the C++ side.
    unsafe { CStr::from_ptr(shim_libtorch_version()) }
        .to_str()
        .unwrap_or("unknown")
}

/// Sums `x` over all replicas, as an autograd node whose backward pass sums the gradient over all
/// replicas.
///
/// # Safety
/// `context` must be valid for `reduce` for as long as the result's graph lives: until the last
/// tensor computed from it is gone.
pub unsafe fn sum_over_replicas(
    x: &Tensor,
    reduce: Reduce,
    context: *mut c_void,
) -> Result<Tensor, ShimError> {
    let mut result = std::ptr::null_mut();
    // SAFETY: `x` is live; `result` is written on success only; the caller vouches for `context`.
    check(unsafe { shim_sum_over_replicas(raw(x), reduce, context, &mut result) })?;
    Ok(owned(result))
}

/// Sets whether backward passes started by this thread may use autograd's device threads. With one
/// thread per device they must not: all replicas of a device would queue on one thread. (On the CPU
/// they never do.)
pub fn set_autograd_threads(enabled: bool) -> Result<(), ShimError> {
    // SAFETY: sets a thread-local flag.
    check(unsafe { shim_set_autograd_threads(enabled) })
}

/// Sets how cuDNN and the other libraries choose kernels, for the whole process: the fastest of
/// `num_candidates` per shape, or only those that give the same bits in every run. TF32 is allowed
/// either way. On this thread, each of libtorch's warnings is printed only once afterwards.
pub fn choose_cuda_kernels(deterministic: bool, num_candidates: u32) -> Result<(), ShimError> {
    // SAFETY: sets process-wide flags.
    check(unsafe { shim_choose_cuda_kernels(deterministic, num_candidates as i32) })
}

/// Makes a GPU this thread's current one, and sets its current stream to the one that all threads
/// of this process use there: not the null stream, because that one cannot be recorded.
pub fn use_stream(index: usize) -> Result<(), ShimError> {
    // SAFETY: takes a number; an index without a device is an exception, which is caught.
    check(unsafe { shim_use_stream(index as i8) })
}

/// Returns the `cudaStream_t` on which this thread's GPU work is queued.
pub fn current_stream(index: usize) -> Result<*mut c_void, ShimError> {
    let mut stream = std::ptr::null_mut();
    // SAFETY: writes one pointer, on success only.
    check(unsafe { shim_current_stream(index as i8, &mut stream) })?;
    Ok(stream)
}

/// The end of the work that a thread had queued on a GPU.
pub struct Event(*mut c_void);

// SAFETY: CUDA's events may be used from any thread.
unsafe impl Send for Event {}

impl Event {
    pub fn record(index: usize) -> Result<Self, ShimError> {
        let mut event = std::ptr::null_mut();
        // SAFETY: writes one pointer, on success only.
        check(unsafe { shim_event_record(index as i8, &mut event) })?;
        Ok(Self(event))
    }

    /// Returns true if the GPU has reached the event.
    pub fn query(&self) -> Result<bool, ShimError> {
        let mut passed = false;
        // SAFETY: the event is live; writes one flag, on success only.
        check(unsafe { shim_event_query(self.0, &mut passed) })?;
        Ok(passed)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `record`, freed once.
        unsafe { shim_event_free(self.0) };
    }
}

/// Returns to the driver the memory that libtorch's allocator has cached.
pub fn free_cached_cuda_memory() -> Result<(), ShimError> {
    // SAFETY: no argument; blocks in use are not touched.
    check(unsafe { shim_free_cached_cuda_memory() })
}

/// Memory of a GPU, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaMemory {
    /// Memory that no process uses.
    pub free: u64,
    pub total: u64,
    /// Memory in tensors of this process.
    pub allocated: u64,
}

pub fn cuda_memory(index: usize) -> Result<CudaMemory, ShimError> {
    let (mut free, mut total, mut allocated) = (0, 0, 0);
    // SAFETY: writes three numbers, on success only.
    check(unsafe { shim_cuda_memory(index as i8, &mut free, &mut total, &mut allocated) })?;
    let bytes = |value: i64| value.max(0) as u64;
    Ok(CudaMemory {
        free: bytes(free),
        total: bytes(total),
        allocated: bytes(allocated),
    })
}

/// Resets the peak of libtorch's allocator on a GPU.
pub fn reset_peak_cuda_memory(index: usize) -> Result<(), ShimError> {
    // SAFETY: takes a number; an index without a device is an exception, which is caught.
    check(unsafe { shim_reset_peak_cuda_memory(index as i8) })
}

/// Returns the most bytes that libtorch's tensors took on a GPU since the last reset.
pub fn peak_cuda_memory(index: usize) -> Result<u64, ShimError> {
    let mut bytes = 0;
    // SAFETY: writes one number, on success only.
    check(unsafe { shim_peak_cuda_memory(index as i8, &mut bytes) })?;
    Ok(bytes.max(0) as u64)
}

/// Copies to a GPU through page-locked memory, queued on this thread's stream; the host may
/// continue, and drop `host`.
pub fn upload(host: &Tensor, index: usize) -> Result<Tensor, ShimError> {
    let mut result = std::ptr::null_mut();
    // SAFETY: `host` is live; `result` is written on success only.
    check(unsafe { shim_upload(raw(host), index as i8, &mut result) })?;
    Ok(owned(result))
}

/// Returns the same values with channels innermost in memory; the shape stays [batch, channels,
/// height, width].
pub fn channels_last(x: &Tensor) -> Result<Tensor, ShimError> {
    let mut result = std::ptr::null_mut();
    // SAFETY: `x` is live; `result` is written on success only.
    check(unsafe { shim_channels_last(raw(x), &mut result) })?;
    Ok(owned(result))
}

/// Returns true if [batch, channels, height, width] is dense with channels innermost in memory.
pub fn has_channels_innermost(x: &Tensor) -> bool {
    // SAFETY: `x` is live; looks at its strides.
    unsafe { shim_has_channels_innermost(raw(x)) }
}

/// Borrows the tensor that a `Reduce` received.
///
/// # Safety
/// `tensor` must be the pointer that the shim passed to the running `Reduce`, used only before that
/// returns.
pub unsafe fn borrowed(tensor: *mut Raw) -> Tensor {
    // SAFETY: the pointer is a live C++ tensor; the clone takes its own reference and shares the
    // storage.
    unsafe { Tensor::clone_from_ptr(tensor.cast()) }
}
