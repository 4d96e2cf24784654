//! `orchestrator init`: looks at a folder of images, and writes a sweep that runs without changes.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;
use sweep::with_causes;
use worker::devices::Inventory;

use crate::args::{InitArgs, quoted};
use crate::config::{Configuration, Layer};
use crate::estimate;
use crate::exit::{ExpectedError, Outcome};
use crate::output::{Output, SCHEMA};
use crate::preflight::{self, Places};
use crate::proposal::{self, Budget, Images};

pub fn init(
    arguments: &InitArgs,
    configuration: &Configuration,
    output: Output,
) -> Result<Outcome, ExpectedError> {
    let places = Places::of(&arguments.data)?;
    let folder = &arguments.folder;
    let folder = folder
        .canonicalize()
        .map_err(ExpectedError::file("find", folder))?;
    let (images, places) = look(&folder, &places)?;
    let inventory = Inventory::detect();
    let budget = Budget {
        minutes: arguments.minutes,
        cpu_threads: inventory.cpu_threads,
        has_gpus: !inventory.gpus.is_empty(),
    };
    let proposal = proposal::propose(&images, &budget).map_err(|errors| {
        ExpectedError::BadInput(format!("no sweep could be made of these images: {errors}"))
    })?;
    let file = match &arguments.out {
        Some(file) => file.clone(),
        None => PathBuf::from(format!("{}.yaml", proposal.name)),
    };
    write(&file, &proposal.text, arguments.force)?;
    let flags = data_flags(&images, &places, configuration);
    let shown = quoted(&file.to_string_lossy());
    let header = proposal
        .text
        .lines()
        .take_while(|line| line.starts_with('#'));
    output.print(
        || {
            let found = header.skip_while(|line| *line != "# Found:").skip(1);
            let found: Vec<&str> = found.map(|line| line.trim_start_matches("# ")).collect();
            format!(
                "{}\nwritten to {}\n\nwhat it means:  orchestrator plan {shown}{flags}\ntrain:          orchestrator run {shown}{flags}\n",
                found.join("\n"),
                file.display(),
            )
        },
        || {
            json!({
                "schema": SCHEMA,
                "file": file,
                "sweep": proposal.name,
                "dataset": images.dataset,
                "trials": proposal.trials,
                "cpu_seconds": proposal.estimate.as_secs(),
                "on_cpu": estimate::text(proposal.estimate),
                "next": format!("orchestrator run {shown}{flags}"),
            })
        },
    )?;
    Ok(Outcome::Complete)
}

/// Looks at the images of a folder: a published data set in its own layout, or class folders.
/// Returns the directories with which commands find them.
fn look(folder: &Path, places: &Places) -> Result<(Images, Places), ExpectedError> {
    let mut places = places.clone();
    let data_dir = places.data_dir.canonicalize();
    let data_dir = data_dir.unwrap_or_else(|_| places.data_dir.clone());
    let dataset = match data::catalog::published_in(folder) {
        Some(name) => {
            let parent = folder.parent().unwrap_or(Path::new("/"));
            if data_dir != parent {
                places.data_dir = parent.to_owned();
            }
            name.to_owned()
        }
        None => {
            let below = folder.strip_prefix(&data_dir).ok();
            let path = below.filter(|path| !path.as_os_str().is_empty());
            let path = path.unwrap_or(folder).to_str().ok_or_else(|| {
                ExpectedError::BadInput(format!("the name of {} is not UTF-8", folder.display()))
            })?;
            format!("{}{path}", data::catalog::FOLDER_PREFIX)
        }
    };
    let bad = |error: data::Error| ExpectedError::BadInput(with_causes(&error));
    let request = places.request(&dataset, None);
    let found = data::preflight(&request).map_err(bad)?;
    let heads = data::heads(&request).map_err(bad)?;
    let name = folder.file_name().unwrap_or_default();
    let images = Images {
        folder: name.to_string_lossy().into_owned(),
        dataset,
        found,
        heads,
    };
    if let (0, class) = proposal::smallest_class(&images) {
        return Err(ExpectedError::BadInput(format!(
            "{}: none of the training images of class `{class}` can be read: `orchestrator data check {}` gives the reasons",
            folder.display(),
            quoted(&images.dataset)
        )));
    }
    Ok((images, places))
}

fn write(file: &Path, text: &str, force: bool) -> Result<(), ExpectedError> {
    let mut options = OpenOptions::new();
    options.write(true);
    match force {
        true => options.create(true).truncate(true),
        false => options.create_new(true),
    };
    let mut opened = options.open(file).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => ExpectedError::BadInput(format!(
            "{} exists already: --force replaces it, --out FILE names another",
            file.display()
        )),
        _ => ExpectedError::file("write", file)(error),
    })?;
    opened
        .write_all(text.as_bytes())
        .map_err(ExpectedError::file("write", file))
}

/// Returns ` --data-dir DIR` where later commands would look elsewhere: a relative or published name
/// is found there alone.
fn data_flags(images: &Images, places: &Places, configuration: &Configuration) -> String {
    let is_absolute = images
        .dataset
        .strip_prefix(data::catalog::FOLDER_PREFIX)
        .is_some_and(|path| Path::new(path).is_absolute());
    let found = configuration
        .settings
        .iter()
        .find(|found| found.setting.key == "data_dir");
    let lasts = found.is_none_or(|found| found.layer != Layer::Flag);
    let usual = found
        .and_then(|found| found.values.first())
        .map_or(PathBuf::from(preflight::DATA_DIR), PathBuf::from);
    let is_usual = std::path::absolute(usual).is_ok_and(|usual| usual == places.data_dir);
    if is_absolute || lasts && is_usual {
        return String::new();
    }
    format!(" --data-dir {}", quoted(&places.data_dir.to_string_lossy()))
}
