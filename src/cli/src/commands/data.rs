//! `orchestrator data`: the known data sets, how to get them, and checks of their content.

use std::sync::Arc;

use data::catalog::{Entry, Origin};
use data::{
    Check, ClassCounts, FetchProgress, FetchRequest, Listing, OpenRequest, Pipeline, Presence,
    Sizes,
};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use sweep::dataset::{Counts, Known, PerClass};
use sweep::{Settings, with_causes};

use crate::args::{DataListArgs, DataNameArgs, FetchArgs, SheetArgs};
use crate::commands::run::load;
use crate::commands::show::chosen_cell;
use crate::exit::{ExpectedError, Outcome};
use crate::output::{Output, SCHEMA};
use crate::preflight::Places;
use crate::stderr;

/// Images in a row of a contact sheet.
const SHEET_COLUMNS: usize = 8;
/// The number of classes that `data check` lists as text.
const LISTED_CLASSES: usize = 50;

pub fn list(arguments: &DataListArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let places = Places::of(&arguments.data)?;
    let listings = data::list(&places.data_dir);
    let document = || {
        let entries: Vec<Value> = listings.iter().map(listing_json).collect();
        json!({ "schema": SCHEMA, "data_dir": places.data_dir, "datasets": entries })
    };
    output.print(|| listings.iter().map(listing_text).collect(), document)?;
    Ok(Outcome::Complete)
}

pub fn fetch(arguments: &FetchArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let places = Places::of(&arguments.data)?;
    let request = FetchRequest {
        name: &arguments.name,
        data_dir: &places.data_dir,
        origin: arguments.origin.as_deref(),
    };
    let mut progress = Progress::default();
    let fetched = data::fetch(&request, &mut |step| progress.at(step));
    progress.finish();
    let fetched = fetched.map_err(failure)?;
    let text = || {
        let mut text = String::new();
        for file in &fetched.files {
            let verified = if file.verified {
                "checksum verified"
            } else {
                "no checksum was ever published"
            };
            text.push_str(&format!(
                "{}  sha256 {}  {verified}\n",
                file.name, file.sha256
            ));
        }
        text.push_str(&format!(
            "{} is in {}\n",
            arguments.name,
            fetched.root.display()
        ));
        text
    };
    let document = || {
        let file = |file: &data::FetchedFile| json!({ "name": file.name, "sha256": file.sha256, "verified": file.verified });
        let files: Vec<Value> = fetched.files.iter().map(file).collect();
        json!({ "schema": SCHEMA, "name": arguments.name, "root": fetched.root, "files": files })
    };
    output.print(text, document)?;
    Ok(Outcome::Complete)
}

pub fn check(arguments: &DataNameArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let places = Places::of(&arguments.data)?;
    let bar = bar("decoding");
    let progress = |decoded: u64, total: u64| {
        bar.set_length(total);
        bar.set_position(decoded);
    };
    let check = data::check(
        &places.request(&arguments.name, arguments.resize),
        &progress,
    );
    bar.finish_and_clear();
    let check = check.map_err(failure)?;
    output.print(|| check_text(&check), || check_json(&check))?;
    let name = &arguments.name;
    match (check.corrupt.len(), check.agrees()) {
        (0, true) => Ok(Outcome::Complete),
        (0, false) => Err(ExpectedError::BadInput(format!(
            "data set `{name}` is not as published"
        ))),
        (count, _) => {
            let total = check.found.num_train + check.found.num_test;
            Err(ExpectedError::BadInput(format!(
                "{count} of {total} images of `{name}` cannot be decoded"
            )))
        }
    }
}

fn check_text(check: &Check) -> String {
    let mut text = format!(
        "{:10}  {:>7}  {:>8}  {:>7}  per class\n",
        check.name, "classes", "train", "test"
    );
    text.push_str(&counts_text("found", &check.found));
    if let Some(published) = &check.published {
        text.push_str(&counts_text("published", published));
    }
    if check.classes.len() <= LISTED_CLASSES {
        let width = check
            .classes
            .iter()
            .map(|class| class.name.chars().count())
            .max()
            .unwrap_or_default();
        for ClassCounts { name, train, test } in &check.classes {
            text.push_str(&format!(
                "  class {name:width$}  {train:>7} train  {test:>7} test\n"
            ));
        }
    } else {
        text.push_str("  (--output json lists every class)\n");
    }
    if let Some(Sizes {
        heights,
        widths,
        shorter_sides,
    }) = check.sizes
    {
        let spread =
            |[least, median, largest]: [u32; 3]| format!("{least} to {largest} (median {median})");
        text.push_str(&format!(
            "pixels: height {}, width {}, shorter side {}\n",
            spread(heights),
            spread(widths),
            spread(shorter_sides)
        ));
    }
    check
        .notes
        .iter()
        .for_each(|note| text.push_str(&format!("note: {note}\n")));
    check
        .corrupt
        .iter()
        .for_each(|reason| text.push_str(&format!("corrupt: {reason}\n")));
    text.push_str(
        match (check.corrupt.is_empty(), check.agrees(), &check.published) {
            (false, ..) => "NOT readable as a whole\n",
            (true, true, Some(_)) => "as published\n",
            (true, true, None) => "every image can be decoded\n",
            (true, false, _) => "NOT as published\n",
        },
    );
    text
}

fn check_json(check: &Check) -> Value {
    let class = |class: &ClassCounts| json!({ "name": class.name, "train": class.train, "test": class.test });
    let spread = |[least, median, largest]: [u32; 3]| json!({ "min": least, "median": median, "max": largest });
    let sizes = |sizes: &Sizes| {
        json!({
            "height": spread(sizes.heights),
            "width": spread(sizes.widths),
            "shorter_side": spread(sizes.shorter_sides),
        })
    };
    json!({
        "schema": SCHEMA,
        "name": check.name,
        "root": check.root,
        "found": counts_json(&check.found),
        "published": check.published.as_ref().map(counts_json),
        "classes": check.classes.iter().map(class).collect::<Vec<Value>>(),
        "pixels": check.sizes.as_ref().map(sizes),
        "notes": check.notes,
        "corrupt": check.corrupt,
        "agrees": check.agrees(),
    })
}

/// The augmentation that a sheet shows.
struct Shown {
    settings: Settings,
    seed: u64,
}

fn shown_on_sheet(arguments: &SheetArgs, places: &Places) -> Result<Shown, ExpectedError> {
    if let Some(file) = &arguments.sweep {
        let sweep = load(file, Some(places))?;
        let cell = chosen_cell(&sweep, arguments.cell.as_deref())?;
        return Ok(Shown {
            settings: sweep.cell_settings(cell),
            seed: arguments.seed.unwrap_or(sweep.seeds[0]),
        });
    }
    let name = arguments.name.as_deref().unwrap_or_default();
    let side = data::typical_side(&places.request(name, None)).map_err(failure)?;
    let side = side.filter(|_| name.starts_with(data::catalog::FOLDER_PREFIX));
    let settings = sweep::recipe::fitted(&arguments.recipe, name, side).ok_or_else(|| {
        let known: Vec<&str> = sweep::recipe::names().collect();
        ExpectedError::BadInput(format!(
            "there is no recipe `{}`; known are {}",
            arguments.recipe,
            known.join(", ")
        ))
    })?;
    Ok(Shown {
        settings,
        seed: arguments.seed.unwrap_or(0),
    })
}

pub fn sheet(arguments: &SheetArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let places = Places::of(&arguments.data)?;
    let Shown { settings, seed } = shown_on_sheet(arguments, &places)?;
    let bar = bar("decoding");
    let progress = |decoded: u64, total: u64| {
        bar.set_length(total);
        bar.set_position(decoded);
    };
    let request = OpenRequest {
        test_resize: settings.test_resize,
        corrupt: settings.corrupt,
        ..places.request(&settings.dataset, settings.resize)
    };
    let dataset = data::open(&request, &progress);
    bar.finish_and_clear();
    let pipeline = Pipeline::new(Arc::new(dataset.map_err(failure)?), &settings, seed, false);
    let pipeline = pipeline.map_err(failure)?;
    let (epoch, count) = (arguments.epoch, arguments.images as usize);
    let side = pipeline.side();
    let images = data::contact_sheet(&pipeline, epoch, count, SHEET_COLUMNS, &arguments.out)
        .map_err(failure)?;
    output.print(
        || {
            format!(
                "{images} images of epoch {epoch} and seed {seed}, {side} x {side} pixels: {}\n",
                arguments.out.display()
            )
        },
        || {
            json!({
                "schema": SCHEMA,
                "images": images,
                "epoch": epoch,
                "seed": seed,
                "side": side,
                "file": arguments.out,
            })
        },
    )?;
    Ok(Outcome::Complete)
}

/// Classifies an error: the user must fix unusable data, but an error of a disk or network is not
/// the user's.
fn failure(error: data::Error) -> ExpectedError {
    match error {
        data::Error::Io { .. } | data::Error::Download { .. } | data::Error::Checksum { .. } => {
            ExpectedError::Infrastructure {
                what: "the data set",
                reason: with_causes(&error),
            }
        }
        error => ExpectedError::BadInput(with_causes(&error)),
    }
}

/// One progress bar, for the current file.
#[derive(Default)]
pub(super) struct Progress {
    bar: Option<(String, ProgressBar)>,
}

impl Progress {
    pub(super) fn at(&mut self, step: FetchProgress) {
        if self.bar.as_ref().is_none_or(|(file, _)| file != step.file) {
            self.finish();
            if !stderr::interactive() {
                stderr::print(&format!("fetching {}", step.file));
            }
            self.bar = Some((step.file.to_owned(), bytes_bar(step.file)));
        }
        if let Some((_, bar)) = &self.bar {
            bar.set_length(step.total.unwrap_or(step.bytes));
            bar.set_position(step.bytes);
        }
    }

    pub(super) fn finish(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn bar(what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{wide_bar}] {pos}/{len}")
        .expect("the template is well-formed");
    shown(
        ProgressBar::new(0)
            .with_style(style.progress_chars("=> "))
            .with_message(what),
    )
}

fn bytes_bar(file: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
    );
    let style = style
        .expect("the template is well-formed")
        .progress_chars("=> ");
    shown(
        ProgressBar::new(0)
            .with_style(style)
            .with_message(file.to_owned()),
    )
}

fn shown(bar: ProgressBar) -> ProgressBar {
    if stderr::quiet() || !stderr::interactive() {
        ProgressBar::hidden()
    } else {
        stderr::bars().add(bar)
    }
}

fn listing_text(listing: &Listing) -> String {
    let Entry {
        name,
        licence,
        origin,
        ..
    } = listing.entry;
    let Known { title, counts, .. } = listing.entry.known();
    let state = match &listing.state {
        Presence::Ready(Some(root)) => format!("there: {}", root.display()),
        Presence::Ready(None) => "built in".to_owned(),
        Presence::Absent => "absent".to_owned(),
        Presence::Broken(error) => format!("UNUSABLE: {}", with_causes(error)),
    };
    let Counts {
        num_classes,
        num_train,
        num_test,
        ..
    } = counts;
    let origin = match origin {
        Origin::BuiltIn => "part of the program".to_owned(),
        Origin::Download(files) => {
            let bytes: u64 = files.iter().map(|file| file.max_bytes).sum();
            let first = files.first().map_or("", |file| file.url);
            format!(
                "orchestrator data fetch {name}  ({first}, at most {})",
                HumanBytes(bytes)
            )
        }
        Origin::ByHand(instructions) => format!("by hand: {instructions}"),
    };
    format!(
        "{name}  {state}\n    {title}: {num_classes} classes, {num_train} training and {num_test} test images\n    \
         licence: {licence}\n    from: {origin}\n"
    )
}

fn listing_json(listing: &Listing) -> Value {
    let Entry {
        name,
        licence,
        origin,
        ..
    } = listing.entry;
    let Known { title, counts, .. } = listing.entry.known();
    let (state, root, reason) = match &listing.state {
        Presence::Ready(root) => ("ready", root.clone(), None),
        Presence::Absent => ("absent", None, None),
        Presence::Broken(error) => ("broken", None, Some(with_causes(error))),
    };
    let (urls, instructions) = match origin {
        Origin::BuiltIn => (Vec::new(), None),
        Origin::Download(files) => (files.iter().map(|file| file.url).collect(), None),
        Origin::ByHand(instructions) => (Vec::new(), Some(*instructions)),
    };
    json!({
        "name": name,
        "title": title,
        "licence": licence,
        "state": state,
        "root": root,
        "reason": reason,
        "urls": urls,
        "instructions": instructions,
        "published": counts_json(&counts),
    })
}

fn counts_text(name: &str, counts: &Counts) -> String {
    let PerClass {
        fewest,
        most,
        median,
    } = counts.per_class;
    format!(
        "{name:10}  {:>7}  {:>8}  {:>7}  {fewest}-{most} (median {median})\n",
        counts.num_classes, counts.num_train, counts.num_test
    )
}

fn counts_json(counts: &Counts) -> Value {
    let PerClass {
        fewest,
        most,
        median,
    } = counts.per_class;
    json!({
        "classes": counts.num_classes,
        "train": counts.num_train,
        "test": counts.num_test,
        "per_class_min": fewest,
        "per_class_max": most,
        "per_class_median": median,
    })
}
