//! The sweep language and the words everything else is written in: settings, cells, trials, results, and the
//! hand-off to the trainer. Pure: no clock, no randomness; files are read only by `load`.

pub mod definition;
pub mod handoff;
pub mod record;
pub mod settings;
pub mod trial;

pub use definition::Sweep;
pub use settings::Settings;
pub use trial::{AttemptNo, TrialId, TrialSpec};
