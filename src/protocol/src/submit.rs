//! Submission of a compiled sweep.

use sweep::Sweep;

use crate::invalid::{Invalid, at_most, name};
use crate::limits::MAX_MESSAGE_BYTES;
use crate::v1;

/// Room that the rest of the message may take.
const ENVELOPE_BYTES: usize = 4096;
/// Largest sweep as JSON.
pub const MAX_SWEEP_BYTES: usize = MAX_MESSAGE_BYTES - ENVELOPE_BYTES;

impl v1::SubmitRequest {
    pub fn new(sweep: &Sweep, build: &str) -> Result<Self, Invalid> {
        let sweep_json = serde_json::to_vec(sweep).map_err(|error| Invalid::new("sweep_json", error))?;
        at_most("sweep_json", "bytes", sweep_json.len(), MAX_SWEEP_BYTES)?;
        Ok(Self { sweep_json, build: build.to_owned() })
    }

    /// The sweep and the build of the program that compiled it.
    pub fn into_sweep(self) -> Result<(Box<Sweep>, String), Invalid> {
        at_most("sweep_json", "bytes", self.sweep_json.len(), MAX_SWEEP_BYTES)?;
        let build = name("build", self.build)?;
        let sweep: Box<Sweep> =
            serde_json::from_slice(&self.sweep_json).map_err(|error| Invalid::new("sweep_json", error))?;
        name("sweep_json.name", sweep.name.clone())?;
        check_references(&sweep)?;
        Ok((sweep, build))
    }
}

/// `Sweep`'s methods index by what the sweep itself says; a sweep of our own compiler is sound, a peer's may not be.
fn check_references(sweep: &Sweep) -> Result<(), Invalid> {
    for (index, cell) in sweep.cells.iter().enumerate() {
        let field = || format!("sweep_json.cells[{index}]");
        let coordinates = &cell.coordinates;
        if coordinates.len() != sweep.axes.len() {
            let problem = format!("has {} coordinates for {} axes", coordinates.len(), sweep.axes.len());
            return Err(Invalid::new(field(), problem));
        }
        let beyond = sweep.axes.iter().zip(coordinates).find(|(axis, value)| **value as usize >= axis.values.len());
        if let Some((axis, value)) = beyond {
            return Err(Invalid::new(field(), format!("axis `{}` has no value {value}", axis.name)));
        }
        let settings = sweep::definition::with_fields(&sweep.base, &cell.set);
        let settings = settings.map_err(|error| Invalid::new(field(), error))?;
        if let (Some(search), None) = (&sweep.search, &cell.skipped) {
            for candidate in &search.candidates {
                let set = [(search.field.clone(), candidate.clone())].into();
                sweep::definition::with_fields(&settings, &set)
                    .map_err(|error| Invalid::new("sweep_json.search", error))?;
            }
        }
    }
    let footnotes = sweep.footnotes.len();
    match sweep.published.iter().find(|value| value.footnote.is_some_and(|index| index as usize >= footnotes)) {
        Some(_) => Err(Invalid::new("sweep_json.published", "refers to a footnote that is not there")),
        None => Ok(()),
    }
}
