//! The conversation between a worker and its trainer, over the trainer's stdin and stdout.
//! docs/trainer-protocol.md describes it for those who write a trainer of their own.
//!
//! A frame is a little-endian u32 length and that many bytes of JSON. The worker sends `Request`,
//! the trainer sends `Reply`. End of stdin means that the worker is gone, and the trainer exits.
//! The trainer sends `Ready` once at start, then for each `Run` any number of `Progress`, and
//! exactly one of `Finished`, `Failed`, `Stopped`. After `Failed` the worker ends the trainer: TERM
//! to its process group, a few seconds, KILL. A `Stop` that crosses the end of a run is ignored.
//! stderr is kept per attempt for people. A trainer that lacks one of its devices exits with
//! `EXIT_DEVICE_ABSENT` before it is ready.
//!
//! Checkpoints: the directory belongs to the trial, and two attempts may use it at once if a worker
//! was disconnected and its trial was given to another. So a trainer writes only files whose names
//! contain its attempt (`epoch-00012.attempt-3.EXTENSION`, by way of a temporary file with the same
//! beginning), resumes from the newest sound one of any attempt from `RunRequest::since` to its
//! own, removes only those of its own and of earlier attempts, and ends with `Failed(Crashed)` if
//! it finds one of a later attempt. The worker removes those of an attempt and of earlier ones when
//! its result is acknowledged.

use std::io::{self, Read, Write};
use std::path::PathBuf;

#[cfg(test)]
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use crate::keep::Keep;
use crate::record::{Failure, TrialResult};
use crate::trial::{AttemptId, AttemptNo, TrialSpec};

/// Exit code of a trainer that does not find a device in `--devices`: the device is at fault, not
/// the trial.
pub const EXIT_DEVICE_ABSENT: u8 = 4;

/// Version of this protocol. Raise it if a trainer of the last version would be wrong; a new field
/// that it may ignore or leave out is no new version.
pub const PROTOCOL: u32 = 1;

/// Environment variable in which a trainer finds the worker's version of the protocol.
pub const PROTOCOL_VARIABLE: &str = "ORCHESTRATOR_PROTOCOL";

/// Larger frames are refused: a result with its epochs and subset stays far below.
pub const MAX_FRAME_BYTES: u32 = 64 << 20;

/// A message from the worker to its trainer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Run(Box<RunRequest>),
    /// Checkpoint at the next step boundary and reply `Stopped`.
    Stop,
}

/// An attempt to run, with the folders that it may use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct RunRequest {
    #[serde(flatten)]
    pub attempt: AttemptId,
    /// The first attempt of the current training. It is later than 1 if a user asked to train the
    /// trial again from the start; checkpoints of earlier attempts are then not resumed from.
    #[serde(default = "AttemptNo::first")]
    pub since: AttemptNo,
    /// Number of epochs of the trial: its result holds a record of each.
    pub num_epochs: u32,
    pub spec: TrialSpec,
    pub data_dir: PathBuf,
    /// Folders beside the data directory that paths in the settings may point into; absent:
    /// anywhere.
    #[serde(default)]
    pub allowed_paths: Option<Vec<PathBuf>>,
    /// Decoded data sets; shared by the trainers of a machine.
    pub cache_dir: PathBuf,
    /// The files to keep of the trial. They are in the checkpoint directory, under the names of
    /// `Kept::file_of_attempt`, that are complete before `Finished` is sent.
    #[serde(default, skip_serializing_if = "Keep::is_empty")]
    pub keep: Keep,
    /// Checkpoints of this trial alone, shared by its attempts (see above); may not exist yet.
    pub checkpoint_dir: PathBuf,
}

/// A message from the trainer to its worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Ready(Ready),
    Progress(Progress),
    Finished(Box<TrialResult>),
    Failed(Failure),
    /// After `Stop`: the state is in the checkpoint directory.
    Stopped,
}

/// The trainer's first message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct Ready {
    /// `PROTOCOL` of the trainer.
    #[serde(default = "first_protocol")]
    pub protocol: u32,
    /// Version and build. The built-in trainer must have the worker's.
    pub build: String,
    #[serde(default)]
    pub libtorch: String,
    #[serde(default)]
    pub devices: Vec<String>,
}

const fn first_protocol() -> u32 {
    1
}

/// Sent at least once a second while steps are made, and at the end of each epoch. Epoch, step and
/// collectives only grow within an attempt: if they do not, the attempt has stalled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct Progress {
    pub epoch: u32,
    pub num_epochs: u32,
    /// Steps made in this attempt, over all epochs.
    pub step: u64,
    pub steps_per_epoch: u64,
    /// All-reduces completed in this attempt.
    pub collectives: u64,
    /// Training loss of the last finished epoch.
    pub train_loss: Option<f64>,
    #[serde(default, deserialize_with = "fraction")]
    pub accuracy: Option<f64>,
    #[serde(deserialize_with = "rate")]
    pub images_per_s: f64,
}

/// Reads an accuracy. Leaves it out if it is no fraction: it is for people, and no reason to end a
/// training.
fn fraction<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let value = Option::<f64>::deserialize(deserializer)?;
    Ok(value.filter(|value| (0.0..=1.0).contains(value)))
}

/// Reads a rate. JSON has `null` for infinite numbers and NaN: they are read as 0.
fn rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or_default())
}

/// Writes one frame and flushes.
pub fn write_frame<T: Serialize>(mut writer: impl Write, message: &T) -> io::Result<()> {
    writer.write_all(&encode_frame(message))?;
    writer.flush()
}

pub fn encode_frame<T: Serialize>(message: &T) -> Vec<u8> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message).expect("hand-off messages are plain data");
    let length = u32::try_from(frame.len() - 4).expect("a hand-off message fits a frame");
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame
}

/// Reads one frame; `None` at a clean end of the stream.
pub fn read_frame<T: DeserializeOwned>(mut reader: impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    let mut filled = 0;
    while filled < length.len() {
        match reader.read(&mut length[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the stream ended inside a frame",
                ));
            }
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let mut frame = vec![0; frame_length(length)?];
    reader.read_exact(&mut frame)?;
    decode_frame(&frame).map(Some)
}

/// Returns the length in the first four bytes of a frame, checked.
pub fn frame_length(header: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(header);
    if header.iter().all(|byte| (b' '..=b'~').contains(byte)) {
        let message = format!(
            "text on stdout that begins with `{}`; only frames belong there",
            String::from_utf8_lossy(&header)
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    if length > MAX_FRAME_BYTES {
        let message = format!(
            "a frame of {length} bytes was announced; at most {MAX_FRAME_BYTES} are allowed"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(length as usize)
}

pub fn decode_frame<T: DeserializeOwned>(frame: &[u8]) -> io::Result<T> {
    serde_json::from_slice(frame).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use schemars::generate::SchemaSettings;

    use super::*;

    #[test]
    fn the_schemas_beside_the_protocols_description_are_those_of_these_types() {
        let settings = SchemaSettings::draft2020_12();
        let requests = settings.clone().for_serialize().into_generator();
        let replies = settings.for_deserialize().into_generator();
        let schemas = [
            ("request", requests.into_root_schema_for::<Request>()),
            ("reply", replies.into_root_schema_for::<Reply>()),
        ];
        for (name, schema) in schemas {
            let path = format!("../../docs/trainer-protocol/{name}.schema.json");
            let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
            ::tests::golden::assert_file(path, &text);
        }
    }

    #[test]
    fn a_trainer_that_names_no_version_has_the_first() {
        let ready: Reply = decode_frame(br#"{"ready": {"build": "mine 1"}}"#).unwrap();
        let expected = Ready {
            protocol: 1,
            build: "mine 1".to_owned(),
            libtorch: String::new(),
            devices: Vec::new(),
        };
        assert_eq!(ready, Reply::Ready(expected));
    }
}
