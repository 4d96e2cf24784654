//! The sweep language and the words everything else is written in: settings, cells, trials, results, and the
//! hand-off to the trainer. Pure: no clock, no randomness; files are read only by `load`.

mod axis;
mod check;
mod compile;
mod contradiction;
mod cost;
pub mod dataset;
pub mod definition;
pub mod diagnostic;
mod draft;
mod expand;
pub mod field;
mod foreign_names;
pub mod handoff;
pub mod held_out;
mod in_force;
mod load;
pub mod node_fault;
mod output;
pub mod plan;
mod published;
pub mod recipe;
pub mod record;
mod remarks;
pub mod settings;
mod share;
pub mod text;
mod tree;
pub mod trial;
pub mod variant;
mod version;
mod yaml;

pub use check::BadSweep;
pub use contradiction::Contradiction;
pub use cost::{Size, cost};
pub use definition::Sweep;
pub use diagnostic::{Errors, Style};
pub use load::{MAX_FILE_BYTES, load, load_with, parse};
pub use settings::Settings;
pub use share::Share;
pub use trial::{AttemptNo, TrialId, TrialSpec};
pub use version::build;
