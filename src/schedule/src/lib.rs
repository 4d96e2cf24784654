//! The decisions of the coordinator, as functions of state, input and time.

pub mod event;
pub mod state;
