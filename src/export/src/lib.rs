//! Results in the formats of other tools: TensorBoard, MLflow, trackio, Parquet.
//!
//! Every exporter receives the same trials (`trial.rs`), read from `trials.jsonl`, which crate
//! `report` writes. Each turns a trial into bytes or requests by pure functions; what touches files is
//! in `files.rs`, and what touches the network in `http.rs`. Exporting again changes nothing: names
//! and ids come from the trial and its attempt.

mod destination;
mod files;
mod http;
mod mlflow;
mod parquet;
mod tensorboard;
mod trackio;
mod trial;

use std::io::{self, BufRead};
use std::path::PathBuf;

pub use destination::{Destination, NotADestination};
pub use http::{Error as HttpError, post};
pub use trial::{Failure, Trial};

use crate::trial::BadTrial;

/// The reason why results did not reach a destination.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{} cannot be written", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the trials cannot be read")]
    Trials(#[source] io::Error),
    #[error(transparent)]
    BadTrial(#[from] BadTrial),
    #[error("a Parquet file cannot be written")]
    Parquet(#[from] ::parquet::errors::ParquetError),
    #[error(transparent)]
    Http(#[from] http::Error),
    #[error("no server is named: give mlflow:URL, or set MLFLOW_TRACKING_URI")]
    NoServer,
}

impl Error {
    fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

/// A destination that receives the trials of a sweep.
pub trait Exporter: Send {
    /// Receives a trial that has ended. Those of an earlier call that have not changed cost little.
    fn trial(&mut self, trial: &Trial) -> Result<(), Error>;

    /// Receives the end of a pass, and whether the sweep is complete.
    fn finish(&mut self, complete: bool) -> Result<(), Error>;
}

/// Hands every trial of a `trials.jsonl` to an exporter, and returns their number. A trial that
/// several cells share counts once, as part of the first.
pub fn export(
    lines: impl BufRead,
    complete: bool,
    exporter: &mut dyn Exporter,
) -> Result<usize, Error> {
    let mut known = std::collections::HashSet::new();
    for line in lines.lines() {
        let trial = Trial::parse(&line.map_err(Error::Trials)?)?;
        if known.insert(trial.trial.clone()) {
            exporter.trial(&trial)?;
        }
    }
    exporter.finish(complete)?;
    Ok(known.len())
}
