//! Checks a trial's outside inputs on this machine against those that it was submitted with.
//! Different content means a different trial: this id is never trained on it.

use std::collections::BTreeMap;

use data::Dataset;
use data::files::Reach;
use sweep::handoff::RunRequest;
use sweep::{Content, Input};

use crate::error::TrialError;

/// Returns the hash of every input of the trial, by name, or an error if one differs from the
/// submitted hash.
pub fn check(
    request: &RunRequest,
    dataset: &Dataset,
) -> Result<BTreeMap<String, String>, TrialError> {
    let mut hashes = BTreeMap::new();
    if request.spec.smoke {
        return Ok(hashes);
    }
    for input in request.spec.settings.inputs() {
        let here = match input {
            Input::Dataset(_) => dataset.content.clone(),
            Input::Weights(path) => Some(file(request, "weights", path)?),
            Input::Hierarchy(path) => Some(file(request, "embedding", path)?),
        };
        let Some(here) = here else { continue };
        let name = input.to_string();
        let place = request.data_dir.display();
        let accepted = request.spec.accept(&name, &here);
        accepted.map_err(|reason| {
            TrialError::bad_input(format!("{reason} (data directory {place})"))
        })?;
        hashes.insert(name, here.hash);
    }
    Ok(hashes)
}

fn file(request: &RunRequest, field: &'static str, named: &str) -> Result<Content, TrialError> {
    let reach = Reach {
        data_dir: &request.data_dir,
        allowed: request.allowed_paths.as_deref(),
    };
    Ok(data::file_content(
        &reach.resolve(field, named)?,
        &request.cache_dir,
        &|_, _| (),
    )?)
}

/// Returns true if an open data set is the one that the trial needs.
pub fn is_wanted(request: &RunRequest, dataset: &Dataset) -> bool {
    let name = Input::Dataset(&request.spec.settings.dataset).to_string();
    let wanted = request.spec.inputs.get(&name);
    wanted.is_none_or(|wanted| {
        dataset
            .content
            .as_ref()
            .is_some_and(|content| content.hash == wanted.hash)
    })
}
