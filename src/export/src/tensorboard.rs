//! Event files of TensorBoard: one folder per trial, below folders of its cell.
//!
//! A file is a sequence of frames (TFRecord), each a protocol buffer `Event`. The messages declare
//! only the fields that are written. Settings go to the HParams tab.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use prost::{Enumeration, Message, Oneof};
use serde_json::Value as Json;

use crate::trial::Trial;
use crate::{Error, Exporter, files};

pub struct EventFiles {
    folder: PathBuf,
}

impl EventFiles {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }
}

impl Exporter for EventFiles {
    /// Writes a new file, since TensorBoard reads no file again. Files of earlier attempts are
    /// removed.
    fn trial(&mut self, trial: &Trial) -> Result<(), Error> {
        let folder = self.folder.join(run_name(trial));
        let name = file_name(trial);
        if folder.join(&name).exists() {
            return Ok(());
        }
        files::write(&folder.join(&name), &events(trial))?;
        for entry in fs::read_dir(&folder)
            .map_err(Error::file(&folder))?
            .flatten()
        {
            let other = entry.file_name();
            let other = other.to_string_lossy();
            if other != name.as_str() && other.starts_with(PREFIX) && other.contains(&trial.trial) {
                let path = entry.path();
                fs::remove_file(&path).map_err(Error::file(path))?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, _complete: bool) -> Result<(), Error> {
        Ok(())
    }
}

/// The beginning of a name by which TensorBoard knows an event file.
const PREFIX: &str = "events.out.tfevents.";

fn file_name(trial: &Trial) -> String {
    let (_, end) = trial.span_ms();
    format!("{PREFIX}{:010}.{}", end / 1000, trial.attempt())
}

/// Returns the name of a trial's run, which is its folder. Axis values may hold any text; the id
/// keeps names apart.
fn run_name(trial: &Trial) -> String {
    let plain = |part: &str| {
        let kept = |letter: char| letter.is_alphanumeric() || "-_+=,. ".contains(letter);
        let replaced = part
            .chars()
            .map(|letter| if kept(letter) { letter } else { '_' });
        let name: String = replaced.take(100).collect();
        match name.trim() {
            "" | "." | ".." => "_".to_owned(),
            name => name.to_owned(),
        }
    };
    let mut parts: Vec<String> = trial.cell.split('/').map(plain).collect();
    let candidate = trial.candidate.as_ref().map(|value| value.to_string());
    parts.extend(candidate.map(|value| plain(&value)));
    parts.push(format!("seed-{} {}", trial.seed, trial.trial));
    parts.join("/")
}

/// Returns the content of a trial's event file.
fn events(trial: &Trial) -> Vec<u8> {
    let mut file = Vec::new();
    let (start, end) = trial.span_ms();
    let seconds = |ms: u64| ms as f64 / 1000.0;
    let mut add = |ms: u64, step: usize, what: What| {
        let event = Event {
            wall_time: seconds(ms),
            step: step as i64,
            what: Some(what),
        };
        frame(&event.encode_to_vec(), &mut file);
    };
    add(start, 0, What::FileVersion("brain.Event:2".to_owned()));
    let group = format!(
        "{} {}",
        trial.cell,
        trial
            .candidate
            .as_ref()
            .map_or_else(String::new, Json::to_string)
    );
    let begin = SessionStart {
        hparams: trial
            .parameters()
            .iter()
            .map(|(name, value)| (name.clone(), hparam(value)))
            .collect(),
        group_name: group.trim_end().to_owned(),
        start_time_secs: seconds(start),
    };
    add(
        start,
        0,
        hparams("session_start_info", Session::Start(begin)),
    );
    for (epoch, numbers) in trial.curve.iter().enumerate() {
        let value = numbers.iter().map(|(name, number)| Value {
            tag: name.clone(),
            value: Some(Content::SimpleValue(*number as f32)),
            metadata: None,
        });
        let summary = Summary {
            value: value.collect(),
        };
        add(trial.epoch_ms(epoch), epoch, What::Summary(summary));
    }
    let status = match trial.failure {
        None => SessionStatus::Success,
        Some(_) => SessionStatus::Failure,
    };
    let ended = SessionEnd {
        status: status.into(),
        end_time_secs: seconds(end),
    };
    let last = trial.curve.len().saturating_sub(1);
    add(end, last, hparams("session_end_info", Session::End(ended)));
    file
}

/// Adds a frame: the length, its checksum, the data, their checksum.
fn frame(data: &[u8], file: &mut Vec<u8>) {
    let masked = |bytes: &[u8]| {
        crc32c::crc32c(bytes)
            .rotate_right(15)
            .wrapping_add(0xa282_ead8)
    };
    let length = (data.len() as u64).to_le_bytes();
    file.extend(length);
    file.extend(masked(&length).to_le_bytes());
    file.extend(data);
    file.extend(masked(data).to_le_bytes());
}

/// Returns a summary that holds nothing but data of the HParams plugin.
fn hparams(name: &str, session: Session) -> What {
    let data = HParams {
        version: 0,
        session: Some(session),
    };
    let plugin_data = PluginData {
        plugin_name: "hparams".to_owned(),
        content: data.encode_to_vec(),
    };
    // the plugin wants a tensor and never reads it
    let nothing = Tensor {
        dtype: DT_FLOAT,
        tensor_shape: Some(Shape {
            dim: vec![Dim { size: 1 }],
        }),
        float_val: vec![0.0],
    };
    What::Summary(Summary {
        value: vec![Value {
            tag: format!("_hparams_/{name}"),
            value: Some(Content::Tensor(nothing)),
            metadata: Some(Metadata {
                plugin_data: Some(plugin_data),
            }),
        }],
    })
}

fn hparam(value: &Json) -> HParam {
    let kind = match value {
        Json::Bool(truth) => HParamKind::Bool(*truth),
        Json::Number(number) => HParamKind::Number(number.as_f64().unwrap_or(f64::NAN)),
        value => HParamKind::String(crate::trial::plain(value)),
    };
    HParam { kind: Some(kind) }
}

/// `DataType::DT_FLOAT` of TensorFlow.
const DT_FLOAT: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(oneof = "Content", tags = "2, 8")]
    value: Option<Content>,
    #[prost(message, optional, tag = "9")]
    metadata: Option<Metadata>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Content {
    #[prost(float, tag = "2")]
    SimpleValue(f32),
    #[prost(message, tag = "8")]
    Tensor(Tensor),
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(message, optional, tag = "1")]
    plugin_data: Option<PluginData>,
}

#[derive(Clone, PartialEq, Message)]
struct PluginData {
    #[prost(string, tag = "1")]
    plugin_name: String,
    #[prost(bytes = "vec", tag = "2")]
    content: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(message, optional, tag = "2")]
    tensor_shape: Option<Shape>,
    #[prost(float, repeated, tag = "5")]
    float_val: Vec<f32>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "2")]
    dim: Vec<Dim>,
}

#[derive(Clone, PartialEq, Message)]
struct Dim {
    #[prost(int64, tag = "1")]
    size: i64,
}

#[derive(Clone, PartialEq, Message)]
struct HParams {
    #[prost(int32, tag = "1")]
    version: i32,
    #[prost(oneof = "Session", tags = "3, 4")]
    session: Option<Session>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Session {
    #[prost(message, tag = "3")]
    Start(SessionStart),
    #[prost(message, tag = "4")]
    End(SessionEnd),
}

#[derive(Clone, PartialEq, Message)]
struct SessionStart {
    #[prost(btree_map = "string, message", tag = "1")]
    hparams: BTreeMap<String, HParam>,
    #[prost(string, tag = "4")]
    group_name: String,
    #[prost(double, tag = "5")]
    start_time_secs: f64,
}

#[derive(Clone, PartialEq, Message)]
struct SessionEnd {
    #[prost(enumeration = "SessionStatus", tag = "1")]
    status: i32,
    #[prost(double, tag = "2")]
    end_time_secs: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
enum SessionStatus {
    Unknown = 0,
    Success = 1,
    Failure = 2,
}

/// `google.protobuf.Value`.
#[derive(Clone, PartialEq, Message)]
struct HParam {
    #[prost(oneof = "HParamKind", tags = "2, 3, 4")]
    kind: Option<HParamKind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum HParamKind {
    #[prost(double, tag = "2")]
    Number(f64),
    #[prost(string, tag = "3")]
    String(String),
    #[prost(bool, tag = "4")]
    Bool(bool),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trial::tests::trial;

    /// Reads frames as TensorBoard does, refusing a wrong checksum.
    fn read(mut file: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        while !file.is_empty() {
            let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
            let data = &file[12..12 + length];
            for (bytes, at) in [(&file[..8], 8), (data, 12 + length)] {
                let found = u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
                let unmasked = found.wrapping_sub(0xa282_ead8).rotate_left(15);
                assert_eq!(unmasked, crc32c::crc32c(bytes));
            }
            events.push(Event::decode(data).unwrap());
            file = &file[16 + length..];
        }
        events
    }

    /// The bytes that tensorboard 2.21.0's `RecordWriter` makes of the same event.
    #[test]
    fn the_first_frame_is_that_of_tensorboards_own_writer() {
        let mut file = Vec::new();
        let event = Event {
            wall_time: 0.0,
            step: 0,
            what: Some(What::FileVersion("brain.Event:2".to_owned())),
        };
        frame(&event.encode_to_vec(), &mut file);
        let expected = b"\x0f\0\0\0\0\0\0\0mS+\x09\x1a\x0dbrain.Event:2\xfc\x98Q)";
        assert_eq!(file, expected);
    }

    #[test]
    fn every_epoch_is_a_summary() {
        let events = read(&events(&trial()));
        let numbers: Vec<(f64, i64, String, f32)> = events
            .iter()
            .flat_map(|event| {
                match &event.what {
                    Some(What::Summary(summary)) => summary.value.as_slice(),
                    _ => &[],
                }
                .iter()
                .filter_map(|value| match value.value {
                    Some(Content::SimpleValue(number)) => {
                        Some((event.wall_time, event.step, value.tag.clone(), number))
                    }
                    _ => None,
                })
            })
            .collect();
        let of = |seconds, step, tag: &str, value| (seconds, step, tag.to_owned(), value);
        assert_eq!(
            numbers,
            [
                of(11.0, 0, "accuracy", 0.7),
                of(11.0, 0, "train_loss", 0.5),
                of(21.0, 1, "train_loss", 0.1)
            ]
        );
    }

    #[test]
    fn hostile_cells_stay_below_the_folder() {
        let mut trial = trial();
        trial.cell = "../a:b\\c/../ /.".to_owned();
        assert_eq!(run_name(&trial), "_/a_b_c/_/_/_/seed-3 t0123456789abcdef");
    }

    #[test]
    fn another_attempt_replaces_the_file_of_the_one_before() {
        let place = tempfile::tempdir().unwrap();
        let mut exporter = EventFiles::new(place.path().to_owned());
        let second = trial();
        let mut first = trial();
        first.attempts.truncate(1);
        exporter.trial(&first).unwrap();
        exporter.trial(&second).unwrap();
        exporter.trial(&second).unwrap();
        let folder = place.path().join("cos/10/seed-3 t0123456789abcdef");
        let names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(
            names,
            ["events.out.tfevents.0000000021.t0123456789abcdef-2"]
        );
    }
}
