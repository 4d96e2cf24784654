//! CUDA graphs as the recorder of steps: a thread's work on its GPU's stream is recorded once and
//! launched as a whole.
//!
//! Recording affects the recording thread alone (thread-local capture mode), so other replicas may
//! allocate and launch meanwhile. Two recordings of one process wait for each other, because
//! libtorch supports one at a time. NCCL is never recorded. Never run on hardware so far. Next:
//! step/cuda_graph_steps.rs, which decides when to record.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError};

use super::cuda_library::{Functions, OpenError, RawGraph, cuda_library};
use crate::device::recorder::{Body, Recorder, Recording};
use crate::device::shim::{self, ShimError};

/// The CUDA graphs of one GPU.
pub struct CudaGraphs {
    functions: Functions,
    index: usize,
}

impl CudaGraphs {
    pub fn open(index: usize) -> Result<Self, OpenError> {
        Ok(Self {
            functions: cuda_library()?,
            index,
        })
    }

    fn begin(&self, other: *mut c_void) -> Result<Graph, ShimError> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: `other` is null or a live graph of this trait's only implementation with
        // pointers; writes a pointer.
        shim::check(unsafe {
            (self.functions.graph_begin)(other.cast(), self.index as i8, &mut raw)
        })?;
        Ok(Graph {
            functions: self.functions,
            raw,
        })
    }
}

impl<Values, Error: From<ShimError>> Recorder<Values, Error> for CudaGraphs {
    fn record(
        &self,
        with: Option<&dyn Recording<Values, Error>>,
        values: Values,
        body: Body<Values, Error>,
    ) -> Result<Box<dyn Recording<Values, Error>>, Error> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let graph = self.begin(with.map_or(std::ptr::null_mut(), |recording| recording.raw()))?;
        // a recording must be ended whatever happens within it
        let queued = catch_unwind(AssertUnwindSafe(|| body(values)));
        // SAFETY: the graph was just begun on this thread.
        let ended = shim::check(unsafe { (self.functions.graph_end)(graph.raw) });
        queued.unwrap_or_else(|payload| resume_unwind(payload))?;
        ended?;
        Ok(Box::new(graph))
    }
}

struct Graph {
    functions: Functions,
    raw: *mut RawGraph,
}

impl<Values, Error: From<ShimError>> Recording<Values, Error> for Graph {
    fn replay(&mut self, _body: Body<Values, Error>) -> Result<(), Error> {
        // SAFETY: the graph is live and its recording ended without an error.
        Ok(shim::check(unsafe {
            (self.functions.graph_replay)(self.raw)
        })?)
    }

    fn raw(&self) -> *mut c_void {
        self.raw
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by `begin`, freed once.
        unsafe { (self.functions.graph_free)(self.raw) };
    }
}
