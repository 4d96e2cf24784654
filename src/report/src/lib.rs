//! From the coordinator's state to results, tables and figures. Pure: no clock, no randomness, no IO, so that
//! replaying a journal gives the same report, byte for byte.

use schedule::state::State;

/// Everything a sweep's results folder holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// File name and content.
    pub files: Vec<(String, Vec<u8>)>,
    /// The tables as text for a terminal, without colour.
    pub text: String,
    /// Every trial has ended, one way or the other.
    pub complete: bool,
    /// Trials that ended without a result and leave a cell short of its seeds.
    pub failed_trials: u64,
}

/// The report of one sweep; `None` when no sweep has that name.
pub fn report(state: &State, sweep: &str) -> Option<Report> {
    state.sweeps.get(sweep)?;
    Some(Report { files: Vec::new(), text: String::new(), complete: false, failed_trials: 0 })
}

/// Where a table cell came from, as text and as JSON (`"schema": 1`).
#[derive(Clone, Debug, PartialEq)]
pub struct Why {
    pub text: String,
    pub json: serde_json::Value,
}

/// The history of one cell, named as in `cub/cos`. The error says which sweep or cell does not exist and what does.
pub fn why(state: &State, sweep: &str, cell: &str) -> Result<Why, String> {
    state.sweeps.get(sweep).ok_or_else(|| format!("no sweep is named `{sweep}`"))?;
    Err(format!("no cell is named `{cell}`"))
}
