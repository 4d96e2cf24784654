//! Finds cells by the names that users type.

use crate::definition::Sweep;

/// Maximum number of names listed in an error; the rest is counted.
const MAX_NAMES: usize = 12;

impl Sweep {
    /// Finds the cell with this name: `cub/cos`, every axis in order, or any part of the names that
    /// matches exactly one cell. The error lists the cells that exist.
    pub fn find_cell(&self, wanted: &str) -> Result<usize, String> {
        if let Some(index) = self
            .cells
            .iter()
            .position(|cell| self.cell_name(cell) == wanted)
        {
            return Ok(index);
        }
        let parts: Vec<&str> = wanted.split('/').filter(|part| !part.is_empty()).collect();
        let fits = |index: &usize| {
            let mut names = self.value_names(&self.cells[*index]);
            !parts.is_empty()
                && parts.iter().all(|part| {
                    let place = names.iter().position(|name| name == part);
                    place.map(|place| names.swap_remove(place)).is_some()
                })
        };
        let fitting: Vec<usize> = (0..self.cells.len()).filter(fits).collect();
        let names = |cells: &[usize]| {
            let names: Vec<String> = cells
                .iter()
                .map(|&index| self.cell_name(&self.cells[index]))
                .collect();
            listed(&names)
        };
        match fitting.as_slice() {
            [only] => Ok(*only),
            [] => {
                let all: Vec<usize> = (0..self.cells.len()).collect();
                Err(format!(
                    "sweep `{}` has no cell `{wanted}`; it has: {}",
                    self.name,
                    names(&all)
                ))
            }
            several => Err(format!(
                "`{wanted}` fits several cells of sweep `{}`: {}",
                self.name,
                names(several)
            )),
        }
    }
}

/// Lists the first names, and how many more there are.
pub fn listed(names: &[impl AsRef<str>]) -> String {
    let shown: Vec<&str> = names.iter().take(MAX_NAMES).map(AsRef::as_ref).collect();
    match names.len() {
        0 => "none".to_owned(),
        count if count <= MAX_NAMES => shown.join(", "),
        count => format!("{}, and {} more", shown.join(", "), count - MAX_NAMES),
    }
}
