//! Checks before anything starts: are the data sets, weights and hierarchies of a sweep there, and
//! do the classes have enough images? Everything missing is listed at once, with the command that
//! gets it. Existing inputs are read once, because their content is part of the trials' ids.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use data::files::Reach;
use data::{OpenRequest, Preflight};
use sweep::dataset::Counts;
use sweep::settings::{Corrupt, Embedding, HierarchyFile, SamplesPerClass};
use sweep::{Holdout, Input, Inputs, Settings, Sweep, with_causes};

use crate::args::DataArgs;
use crate::cache_dir;
use crate::exit::ExpectedError;
use crate::stderr;

/// The data directory that is used if none is named.
pub const DATA_DIR: &str = "data";

/// The directories of this machine.
#[derive(Clone, Debug)]
pub struct Places {
    pub data_dir: PathBuf,
    pub cache_dir: PathBuf,
}

impl Places {
    pub fn of(arguments: &DataArgs) -> Result<Self, ExpectedError> {
        let absolute =
            |path: &Path| std::path::absolute(path).map_err(ExpectedError::file("find", path));
        let data_dir = arguments
            .data_dir
            .clone()
            .unwrap_or_else(|| PathBuf::from(DATA_DIR));
        let cache_dir = match &arguments.cache_dir {
            Some(cache_dir) => cache_dir.clone(),
            None => cache_dir::default()?,
        };
        Ok(Self {
            data_dir: absolute(&data_dir)?,
            cache_dir: absolute(&cache_dir)?,
        })
    }

    pub fn request<'a>(&'a self, dataset: &'a str, resize: Option<u32>) -> OpenRequest<'a> {
        OpenRequest {
            dataset,
            resize,
            test_resize: None,
            reach: Reach::anywhere(&self.data_dir),
            cache_dir: &self.cache_dir,
            corrupt: Corrupt::Refuse,
            smoke: false,
        }
    }
}

/// The result of looking for a sweep's data sets, weights and hierarchies, one line each.
#[derive(Debug, Default)]
pub struct Checked {
    /// The inputs that some cells lack.
    pub missing: Vec<String>,
    /// Files in the data sets that are not read.
    pub notes: Vec<String>,
    /// The number of images per data set.
    pub sizes: BTreeMap<String, Counts>,
}

/// Looks for everything that the sweep's cells need, and records the content of existing inputs in
/// the sweep. An input that can never work is an error; a missing one is not.
pub fn survey(sweep: &mut Sweep, places: &Places) -> Result<Checked, ExpectedError> {
    let findings = find_inputs(sweep, places)?;
    sweep.inputs = findings.contents(places)?;
    Ok(findings.checked())
}

/// Does the same before a run, where missing inputs are an error. With `skip_missing`, the affected
/// cells are marked instead.
pub fn check(
    sweep: &mut Sweep,
    places: &Places,
    skip_missing: bool,
) -> Result<Checked, ExpectedError> {
    let findings = find_inputs(sweep, places)?;
    let checked = findings.checked();
    if !checked.missing.is_empty() {
        let skipped = if skip_missing {
            sweep.skip_cells(|settings| findings.missing_for(settings))
        } else {
            0
        };
        if !skip_missing || skipped == sweep.cells.len() {
            return Err(ExpectedError::Missing(checked.missing));
        }
    }
    sweep.inputs = findings.contents(places)?;
    Ok(checked)
}

fn find_inputs(sweep: &mut Sweep, places: &Places) -> Result<Findings, ExpectedError> {
    let mut findings = Findings::default();
    for cell in sweep
        .cells
        .iter()
        .filter(|cell| cell.skipped.is_none() && !sweep.smoke)
    {
        findings.add(&sweep.cell_settings(cell), places);
    }
    if !findings.wrong.is_empty() {
        return Err(ExpectedError::BadInput(findings.wrong.join("\n       ")));
    }
    sweep.count_held_out(|settings, holdout| findings.held_out(settings, holdout));
    Ok(findings)
}

/// The findings about each input, made once.
#[derive(Default)]
struct Findings {
    data: BTreeMap<String, Result<Preflight, String>>,
    files: BTreeMap<PathBuf, Option<String>>,
    /// Results by hierarchy and data set.
    hierarchies: BTreeMap<(PathBuf, String), Option<String>>,
    /// Inputs that exist and cannot work; each is reported once.
    wrong: Vec<String>,
    /// All inputs that are read, by name.
    inputs: BTreeMap<String, Source>,
}

/// The location of an input's content.
enum Source {
    Dataset(String),
    File(PathBuf),
}

impl Findings {
    fn add(&mut self, settings: &Settings, places: &Places) {
        for input in settings.inputs() {
            self.inputs
                .entry(input.to_string())
                .or_insert_with(|| match input {
                    Input::Dataset(name) => Source::Dataset(name.to_owned()),
                    Input::Weights(path) | Input::Hierarchy(path) => {
                        Source::File(places.data_dir.join(path))
                    }
                });
        }
        self.add_data(settings, places);
        if let Some(weights) = &settings.weights {
            let path = places.data_dir.join(weights);
            self.files.entry(path.clone()).or_insert_with(|| {
                (!path.is_file()).then(|| {
                    format!(
                        "weights {}: no such file; put a state dict with torchvision's names there",
                        path.display()
                    )
                })
            });
        }
        if let Embedding::Hierarchy(file) = &settings.embedding {
            self.add_hierarchy(settings, file, places);
        }
    }

    fn add_data(&mut self, settings: &Settings, places: &Places) {
        let name = &settings.dataset;
        if name.is_empty() {
            return;
        }
        if !self.data.contains_key(name) {
            let found = match data::preflight(&places.request(name, settings.resize)) {
                Ok(found) => Ok(found),
                Err(error) => {
                    let message = with_causes(&error);
                    if !is_missing(&error) {
                        self.wrong.push(message.clone());
                    }
                    Err(message)
                }
            };
            self.data.insert(name.clone(), found);
        }
        if let Some(Ok(found)) = self.data.get(name)
            && settings.samples_per_class != SamplesPerClass::All
            && let Err(error) = found.require(settings.samples_per_class)
        {
            let message = with_causes(&error);
            if !self.wrong.contains(&message) {
                self.wrong.push(message);
            }
        }
    }

    fn add_hierarchy(&mut self, settings: &Settings, file: &HierarchyFile, places: &Places) {
        let key = hierarchy_key(settings, file);
        if self.hierarchies.contains_key(&key) {
            return;
        }
        let path = places.data_dir.join(&file.path);
        let mut missing = None;
        if !path.is_file() {
            missing = Some(format!(
                "hierarchy {}: no such file; {}",
                path.display(),
                how_to_get(settings, file)
            ));
        } else if let Some(Ok(found)) = self.data.get(&settings.dataset) {
            let classes = data::hierarchy::class_embeddings(
                &path,
                file.child_parent,
                &found.class_ids,
                &found.class_names,
            );
            if let Err(error) = classes {
                self.wrong.push(format!(
                    "data set `{}`: {}",
                    settings.dataset,
                    with_causes(&error)
                ));
            }
        }
        self.hierarchies.insert(key, missing);
    }

    /// Returns the number of images that a search with these settings holds out.
    fn held_out(&self, settings: &Settings, holdout: &Holdout) -> Option<u32> {
        let found = self.data.get(&settings.dataset)?.as_ref().ok()?;
        Some(found.held_out(settings.samples_per_class, holdout))
    }

    fn checked(&self) -> Checked {
        let found = || {
            self.data
                .iter()
                .filter_map(|(name, found)| Some((name, found.as_ref().ok()?)))
        };
        let sizes = found()
            .map(|(name, found)| (name.clone(), found.counts()))
            .collect();
        let notes = found().flat_map(|(name, found)| {
            found
                .notes
                .iter()
                .map(move |note| format!("`{name}`: {note}"))
        });
        Checked {
            missing: self.missing().cloned().collect(),
            notes: notes.collect(),
            sizes,
        }
    }

    /// Reads the content of every existing input.
    fn contents(&self, places: &Places) -> Result<Inputs, ExpectedError> {
        let mut contents = Inputs::new();
        for (name, source) in &self.inputs {
            let reading = Reading::new(name);
            let on_read = |done, total| reading.progress(done, total);
            let content = match source {
                Source::Dataset(dataset) if self.data.get(dataset).is_none_or(Result::is_err) => {
                    continue;
                }
                Source::Dataset(dataset) => data::content(&places.request(dataset, None), &on_read),
                Source::File(path) if !path.is_file() => continue,
                Source::File(path) => {
                    data::file_content(path, &places.cache_dir, &on_read).map(Some)
                }
            };
            let content = content.map_err(|error| {
                ExpectedError::BadInput(format!("{name}: {}", with_causes(&error)))
            })?;
            contents.extend(content.map(|content| (name.clone(), Arc::new(content))));
        }
        Ok(contents)
    }

    fn missing(&self) -> impl Iterator<Item = &String> {
        let data = self.data.values().filter_map(|found| found.as_ref().err());
        data.chain(self.files.values().flatten())
            .chain(self.hierarchies.values().flatten())
    }

    /// Returns the reason why a cell with these settings cannot run.
    fn missing_for(&self, settings: &Settings) -> Option<String> {
        let data = self
            .data
            .get(&settings.dataset)
            .and_then(|found| found.as_ref().err());
        let weights = settings.weights.as_ref().and_then(|weights| {
            let (_, missing) = self
                .files
                .iter()
                .find(|(path, _)| path.ends_with(weights))?;
            missing.as_ref()
        });
        let hierarchy = match &settings.embedding {
            Embedding::OneHot => None,
            Embedding::Hierarchy(file) => self
                .hierarchies
                .get(&hierarchy_key(settings, file))
                .and_then(Option::as_ref),
        };
        data.or(weights).or(hierarchy).cloned()
    }
}

/// Prints the progress of reading a large input.
struct Reading<'a> {
    name: &'a str,
    next: Mutex<Instant>,
}

/// The delay before the first line: most inputs are read or remembered sooner.
const FIRST_LINE: Duration = Duration::from_secs(2);
const NEXT_LINE: Duration = Duration::from_secs(10);

impl<'a> Reading<'a> {
    fn new(name: &'a str) -> Self {
        Self {
            name,
            next: Mutex::new(Instant::now() + FIRST_LINE),
        }
    }

    fn progress(&self, done: u64, total: u64) {
        let now = Instant::now();
        let mut next = self
            .next
            .lock()
            .expect("nothing panics while it holds the lock");
        if now >= *next {
            *next = now + NEXT_LINE;
            let gb = |bytes: u64| bytes as f64 / 1e9;
            stderr::print(&format!(
                "reading {} to see whether it changed: {:.1} of {:.1} GB; next time only changed files are read",
                self.name,
                gb(done),
                gb(total)
            ));
        }
    }
}

fn hierarchy_key(settings: &Settings, file: &HierarchyFile) -> (PathBuf, String) {
    (PathBuf::from(&file.path), settings.dataset.clone())
}

fn how_to_get(settings: &Settings, file: &HierarchyFile) -> String {
    let path = Path::new(&file.path);
    let order = if file.child_parent {
        "child parent"
    } else {
        "parent child"
    };
    if let Some(name) = data::catalog::fetched_with(path) {
        format!("get it with: orchestrator data fetch {name}")
    } else if path.starts_with(&settings.dataset) {
        format!("it comes with the data set `{}`", settings.dataset)
    } else {
        format!("put a file of lines \"{order}\" there")
    }
}

/// Returns true if the user can supply what is missing, false if something must be fixed.
fn is_missing(error: &data::Error) -> bool {
    matches!(
        error,
        data::Error::NotFound { .. }
            | data::Error::FilesMissing { .. }
            | data::Error::ByHand { .. }
    )
}
