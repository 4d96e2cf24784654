//! The destinations that a user can name, and where each writes by default.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::{Error, Exporter, mlflow, parquet, tensorboard, trackio};

/// A tool, and where its results go: `tensorboard`, `tensorboard:DIR`, `mlflow:URL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Learning curves as `curves.parquet` in a folder; by default the results folder.
    Parquet(Option<PathBuf>),
    /// Event files; by default in `tensorboard` of the results folder.
    TensorBoard(Option<PathBuf>),
    /// Fragments for trackio; by default in `trackio` of the results folder.
    Trackio(Option<PathBuf>),
    /// A tracking server; by default that of `MLFLOW_TRACKING_URI`.
    Mlflow(Option<String>),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no destination: parquet[:DIR], tensorboard[:DIR], trackio[:DIR] and mlflow[:URL] are"
)]
pub struct NotADestination(String);

impl FromStr for Destination {
    type Err = NotADestination;

    fn from_str(text: &str) -> Result<Self, NotADestination> {
        let (tool, place) = match text.split_once(':') {
            Some((tool, place)) if !place.is_empty() => (tool, Some(place)),
            Some(_) => return Err(NotADestination(text.to_owned())),
            None => (text, None),
        };
        let folder = place.map(PathBuf::from);
        match tool {
            "parquet" => Ok(Self::Parquet(folder)),
            "tensorboard" => Ok(Self::TensorBoard(folder)),
            "trackio" => Ok(Self::Trackio(folder)),
            "mlflow" => match place {
                Some(url) if !url.starts_with("http://") && !url.starts_with("https://") => {
                    Err(NotADestination(text.to_owned()))
                }
                url => Ok(Self::Mlflow(url.map(str::to_owned))),
            },
            _ => Err(NotADestination(text.to_owned())),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tool, place) = match self {
            Self::Parquet(folder) => ("parquet", folder.as_ref().map(|path| path.display())),
            Self::TensorBoard(folder) => {
                ("tensorboard", folder.as_ref().map(|path| path.display()))
            }
            Self::Trackio(folder) => ("trackio", folder.as_ref().map(|path| path.display())),
            Self::Mlflow(None) => ("mlflow", None),
            Self::Mlflow(Some(url)) => return write!(formatter, "mlflow:{url}"),
        };
        match place {
            Some(place) => write!(formatter, "{tool}:{place}"),
            None => formatter.write_str(tool),
        }
    }
}

impl Destination {
    /// Opens it for one sweep, whose results folder is given.
    pub fn open(&self, sweep: &str, results: &Path) -> Result<Box<dyn Exporter>, Error> {
        let or = |folder: &Option<PathBuf>, default: &str| {
            folder.clone().unwrap_or_else(|| results.join(default))
        };
        Ok(match self {
            Self::Parquet(folder) => Box::new(parquet::Curves::new(&or(folder, ""))),
            Self::TensorBoard(folder) => {
                Box::new(tensorboard::EventFiles::new(or(folder, "tensorboard")))
            }
            Self::Trackio(folder) => {
                Box::new(trackio::Fragments::new(&or(folder, "trackio"), sweep))
            }
            Self::Mlflow(url) => {
                let url = url
                    .clone()
                    .or_else(|| std::env::var("MLFLOW_TRACKING_URI").ok());
                Box::new(mlflow::Server::new(&url.ok_or(Error::NoServer)?, sweep))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_written_as_it_is_read() {
        for text in [
            "parquet",
            "tensorboard:runs/a b",
            "trackio:/data/trackio",
            "mlflow",
            "mlflow:http://host:5000/mlflow",
        ] {
            assert_eq!(text.parse::<Destination>().unwrap().to_string(), text);
        }
        for text in ["wandb", "parquet:", "mlflow:host:5000", "", "Parquet"] {
            let error = text.parse::<Destination>().unwrap_err().to_string();
            assert!(error.contains("tensorboard[:DIR]"), "{error}");
        }
    }
}
