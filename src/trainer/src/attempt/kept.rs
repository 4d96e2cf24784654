//! The files of a finished trial that its sweep keeps, written beside its checkpoints under names
//! with the attempt: the worker sends them on, and they are removed with the checkpoints.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use serde_json::json;
use sweep::keep::Kept;
use tch::Tensor;

use crate::attempt::evaluate::Evaluator;
use crate::attempt::open::Attempt;
use crate::error::TrialError;
use crate::network::{models, weights};
use crate::step::replica::Replica;

/// Writes what is kept. Called by all replicas, because they share the evaluation images; rank 0
/// writes.
pub fn write(
    attempt: &Attempt,
    replica: &Replica,
    evaluator: &mut Evaluator,
) -> Result<(), TrialError> {
    let keep = &attempt.request.keep;
    let is_kept = |kept: Kept| keep.contains(&kept);
    let scores = match is_kept(Kept::Predictions) || is_kept(Kept::Confusion) {
        true => Some(evaluator.scores(replica)?),
        false => None,
    };
    if replica.collective.rank() != 0 {
        return Ok(());
    }
    let scores = scores.as_ref();
    for kept in keep.iter().copied() {
        match (kept, scores) {
            (Kept::Predictions, Some(scores)) => {
                let path = path(attempt, kept)?;
                write_predictions(&path, attempt, scores)
                    .map_err(TrialError::work_dir("write", &path))?;
            }
            (Kept::Confusion, Some(scores)) => {
                let path = path(attempt, kept)?;
                write_confusion(&path, attempt, scores)
                    .map_err(TrialError::work_dir("write", &path))?;
            }
            (Kept::Weights, _) => export(&path(attempt, kept)?, attempt, replica)?,
            (Kept::Curves | Kept::Predictions | Kept::Confusion, _) => {}
        }
    }
    Ok(())
}

/// Writes the trained network with what is needed to use it.
pub fn export(path: &Path, attempt: &Attempt, replica: &Replica) -> Result<(), TrialError> {
    let metadata = metadata(attempt);
    weights::export(path, &replica.inventory, &replica.storage, metadata)
        .map_err(|error| TrialError::of_input(&error))
}

fn path(attempt: &Attempt, kept: Kept) -> Result<PathBuf, TrialError> {
    let folder = &attempt.request.checkpoint_dir;
    fs::create_dir_all(folder).map_err(TrialError::work_dir("create", folder))?;
    let name = kept.file_of_attempt(attempt.request.attempt.number);
    Ok(folder.join(name.expect("a file is kept")))
}

/// Describes a network for those who use it without this program, as JSON in text.
fn metadata(attempt: &Attempt) -> HashMap<String, String> {
    let (pipeline, settings) = (&attempt.pipeline, attempt.settings());
    let dataset = pipeline.dataset();
    let statistics = dataset.statistics(settings.normalise);
    let entries = [
        ("class_names", json!(dataset.class_names)),
        ("mean", json!(statistics.mean)),
        ("std", json!(statistics.std)),
        (
            "input",
            json!({
                "channels": pipeline.channels(),
                "side": pipeline.side(),
                "resize": settings.evaluated_resize(),
            }),
        ),
        (
            "head",
            json!({
                "loss": settings.loss,
                "layer": models::classifier_name(settings.model),
            }),
        ),
        ("settings", json!(settings)),
        ("spec", json!(attempt.spec())),
        ("trial", json!(attempt.request.attempt.trial)),
        ("trainer", json!(sweep::build())),
    ];
    let entries = entries.map(|(name, value)| (name.to_owned(), value.to_string()));
    let mut metadata = HashMap::from(entries);
    if let Some(embeddings) = &attempt.embeddings {
        metadata.insert("class_embeddings".to_owned(), json!(embeddings).to_string());
    }
    metadata
}

/// Writes a row per evaluation image: its place in the split, its label, the class whose score is
/// highest, and all scores.
fn write_predictions(path: &Path, attempt: &Attempt, scores: &Tensor) -> io::Result<()> {
    let (pipeline, num_classes) = (&attempt.pipeline, attempt.pipeline.num_classes());
    let names = class_names(attempt);
    // Without a time of writing, equal predictions are equal bytes.
    let compressed = GzBuilder::new().write(File::create(path)?, Compression::default());
    let mut out = BufWriter::new(compressed);
    write!(out, "image,path,label,label_name,predicted,predicted_name")?;
    for class in 0..num_classes {
        write!(out, ",score_{class}")?;
    }
    writeln!(out)?;
    let predicted = predicted(scores);
    let scores = Vec::<f32>::try_from(scores.contiguous().view(-1)).expect("f32 on the CPU");
    let rows = scores.chunks_exact(num_classes).zip(predicted);
    for (position, (row, predicted)) in rows.enumerate() {
        let (image, label) = (
            pipeline.eval_index(position),
            pipeline.eval_labels()[position] as usize,
        );
        let (label_name, predicted_name) = (&names[label], &names[predicted]);
        let path = quoted(pipeline.eval_path(position).unwrap_or_default());
        write!(
            out,
            "{image},{path},{label},{label_name},{predicted},{predicted_name}"
        )?;
        for score in row {
            write!(out, ",{score}")?;
        }
        writeln!(out)?;
    }
    out.into_inner()
        .map_err(io::IntoInnerError::into_error)?
        .finish()?
        .sync_all()
}

/// Writes a row per pair of a class and a predicted class that has images.
fn write_confusion(path: &Path, attempt: &Attempt, scores: &Tensor) -> io::Result<()> {
    let names = class_names(attempt);
    let mut counts: BTreeMap<(usize, usize), u32> = BTreeMap::new();
    for (label, predicted) in attempt.pipeline.eval_labels().iter().zip(predicted(scores)) {
        *counts.entry((*label as usize, predicted)).or_default() += 1;
    }
    let mut text = "label,label_name,predicted,predicted_name,images\n".to_owned();
    for ((label, predicted), images) in counts {
        let (label_name, predicted_name) = (&names[label], &names[predicted]);
        text.push_str(&format!(
            "{label},{label_name},{predicted},{predicted_name},{images}\n"
        ));
    }
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Returns the class with the highest score of each image.
fn predicted(scores: &Tensor) -> Vec<usize> {
    let classes = Vec::<i64>::try_from(scores.argmax(1, false)).expect("a class for each image");
    classes.into_iter().map(|class| class as usize).collect()
}

/// Returns the names of the classes as fields of comma-separated values.
fn class_names(attempt: &Attempt) -> Vec<String> {
    let names = attempt.pipeline.dataset().class_names.iter();
    names.map(|name| quoted(name)).collect()
}

/// Formats a name as a field of comma-separated values.
fn quoted(name: &str) -> String {
    if name.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", name.replace('"', "\"\""))
    } else {
        name.to_owned()
    }
}
