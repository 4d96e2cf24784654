//! The files of a finished trial that its sweep keeps, written beside its checkpoints under names
//! with the attempt: the worker sends them on, and they are removed with the checkpoints.

use std::collections::HashMap;
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
    let is_first = replica.collective.rank() == 0;
    for kept in &attempt.request.keep {
        match kept {
            Kept::Curves => {}
            Kept::Predictions => {
                let scores = evaluator.scores(replica)?;
                if is_first {
                    let path = path(attempt, *kept)?;
                    write_predictions(&path, attempt, &scores)
                        .map_err(TrialError::work_dir("write", &path))?;
                }
            }
            Kept::Weights if is_first => {
                let path = path(attempt, *kept)?;
                export(&path, attempt, replica)?;
            }
            Kept::Weights => {}
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
    let names: Vec<String> = pipeline
        .dataset()
        .class_names
        .iter()
        .map(|name| quoted(name))
        .collect();
    // Without a time of writing, equal predictions are equal bytes.
    let compressed = GzBuilder::new().write(File::create(path)?, Compression::default());
    let mut out = BufWriter::new(compressed);
    write!(out, "image,label,label_name,predicted,predicted_name")?;
    for class in 0..num_classes {
        write!(out, ",score_{class}")?;
    }
    writeln!(out)?;
    let predicted = Vec::<i64>::try_from(scores.argmax(1, false)).expect("a class for each image");
    let scores = Vec::<f32>::try_from(scores.contiguous().view(-1)).expect("f32 on the CPU");
    let rows = scores.chunks_exact(num_classes).zip(predicted);
    for (position, (row, predicted)) in rows.enumerate() {
        let (image, label) = (
            pipeline.eval_index(position),
            pipeline.eval_labels()[position] as usize,
        );
        let predicted = predicted as usize;
        let (label_name, predicted_name) = (&names[label], &names[predicted]);
        write!(
            out,
            "{image},{label},{label_name},{predicted},{predicted_name}"
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

/// Formats a name as a field of comma-separated values.
fn quoted(name: &str) -> String {
    if name.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", name.replace('"', "\"\""))
    } else {
        name.to_owned()
    }
}
