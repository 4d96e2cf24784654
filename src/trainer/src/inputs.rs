//! What a trial reads from outside, as this machine has it, compared with what the trial was submitted with. Other content
//! is another trial: nothing is trained on it under this one's id.

use std::collections::BTreeMap;

use data::Dataset;
use data::files::Reach;
use sweep::handoff::RunRequest;
use sweep::{Content, Input};

use crate::error::TrialError;

/// The hash of everything that the trial reads, by name; an error where one is not what the trial was submitted with.
pub fn check(request: &RunRequest, dataset: &Dataset) -> Result<BTreeMap<String, String>, TrialError> {
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
        accepted.map_err(|reason| TrialError::bad_input(format!("{reason} (data directory {place})")))?;
        hashes.insert(name, here.hash);
    }
    Ok(hashes)
}

fn file(request: &RunRequest, field: &'static str, named: &str) -> Result<Content, TrialError> {
    let reach = Reach { data_dir: &request.data_dir, allowed: request.allowed_paths.as_deref() };
    Ok(data::file_content(&reach.resolve(field, named)?, &request.cache_dir, &|_, _| ())?)
}

/// Whether a data set that is open already is the one that the trial asks for.
pub fn is_wanted(request: &RunRequest, dataset: &Dataset) -> bool {
    let name = Input::Dataset(&request.spec.settings.dataset).to_string();
    let wanted = request.spec.inputs.get(&name);
    wanted.is_none_or(|wanted| dataset.content.as_ref().is_some_and(|content| content.hash == wanted.hash))
}
