//! The sweep language and the words everything else is written in: settings, cells, trials, results, and the
//! hand-off to the trainer. Pure: no clock, no randomness; files are read only by `load`.

mod compile;
pub mod definition;
pub mod diagnostic;
pub mod handoff;
mod load;
pub mod record;
pub mod settings;
pub mod trial;
pub mod variant;

pub use definition::Sweep;
pub use diagnostic::{Errors, Style};
pub use load::{MAX_FILE_BYTES, load, parse};
pub use settings::Settings;
pub use trial::{AttemptNo, TrialId, TrialSpec};
