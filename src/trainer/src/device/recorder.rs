//! Recordings of the work that a thread queues on its device, made once and replayed as a whole.
//!
//! `Values` are what the host knows while the work is queued; a recording keeps those of the time
//! when it was made. `Error` is the error of the work. Implemented by cuda/graph.rs, and by tests.

use std::ffi::c_void;

/// A recorder of the work that a thread queues on its device.
pub trait Recorder<Values, Error> {
    /// Records the work that `body` queues, without running it. The recording shares its memory
    /// with `with`, and is replayed only after it. A panic of `body` is passed on.
    fn record(
        &self,
        with: Option<&dyn Recording<Values, Error>>,
        values: Values,
        body: Body<Values, Error>,
    ) -> Result<Box<dyn Recording<Values, Error>>, Error>;
}

pub trait Recording<Values, Error> {
    /// Queues the recorded work. `body` is for test recorders, which call it with the recorded
    /// values.
    fn replay(&mut self, body: Body<Values, Error>) -> Result<(), Error>;

    /// Handle for recorders of the same kind.
    fn raw(&self) -> *mut c_void {
        std::ptr::null_mut()
    }
}

pub type Body<'a, Values, Error> = &'a mut dyn FnMut(Values) -> Result<(), Error>;
