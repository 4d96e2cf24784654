//! The page: what a browser shows of sweeps, as functions from what is known to HTML. Pure: no
//! clock, no IO. The coordinator serves the results (`coordinator/src/http`), and `orchestrator
//! report --html` writes them to one file.
//!
//! `frame.rs` draws the frame of every page, and `links.rs` has their addresses. `sweeps.rs`,
//! `sweep.rs`, `trials.rs`, `trial.rs`, `cell.rs` (with the comparison of two) and `workers.rs` each
//! draw one page; `table.rs`, `chart.rs` and `confusion.rs` draw parts of pages; `words.rs` formats
//! numbers; `file.rs` puts all pages of a sweep into one file. Everything works without a script:
//! `assets/page.js` only refreshes pages and draws larger charts.

mod cell;
mod chart;
mod confusion;
mod file;
mod frame;
mod links;
mod sweep;
mod sweeps;
mod table;
mod trial;
mod trials;
mod words;
mod workers;

pub use cell::{CellView, TrialCurve, cell, compare, compare_form};
pub use file::{Contents, FileTrial, file};
pub use frame::{ASSETS, Asset, login, problem};
pub use links::{Place, encoded};
pub use maud::{Markup, PreEscaped};
pub use sweep::{sweep, tables};
pub use sweeps::{newest, sweeps};
pub use trial::{TrialView, trial};
pub use trials::{PER_PAGE, Query, trials};
pub use workers::workers;

/// The data that every page needs: the status of all sweeps, and where the pages are shown.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    pub status: &'a protocol::v1::StatusReply,
    pub place: Place,
}
