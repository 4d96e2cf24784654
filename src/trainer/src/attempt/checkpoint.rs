//! The state of a trial on disk: everything that decides the rest of the training, bit for bit.
//!
//! A checkpoint is one safetensors file (weights, momentum, moving statistics, as laid out in the
//! flat buffers) whose metadata holds the rest and a checksum over all of it. It is written beside
//! its final place, synced, renamed, and the folder synced. File names carry the attempt
//! (sweep::handoff explains why). Next: checkpoint_writer.rs, which keeps this off the critical
//! path.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde::{Deserialize, Serialize};
use sweep::node_fault;
use sweep::record::{ClassCounts, EpochRecord, Timing};
use sweep::trial::TRAINING_VERSION;
use sweep::{AttemptId, AttemptNo, TrialId};

use crate::error::TrialError;

/// Number of checkpoints kept per trial: the newest, and the one before in case the newest is
/// damaged.
pub const NUM_KEPT: usize = 2;

const EXTENSION: &str = "safetensors";
/// Extension of a checkpoint while it is being written.
const PARTIAL: &str = "partial";
const TENSORS: [&str; 4] = ["weights", "momentum", "statistics", "loss_sums"];

/// The point from which training continues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    pub epoch: u32,
    /// Number of steps of that epoch already made.
    pub step: u64,
}

/// Everything in a checkpoint except the numbers of the tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    pub trial: TrialId,
    pub training_version: u32,
    /// Hash of the decoded data set used for training: if a sweep was submitted without knowing its
    /// data, the trial's id does not identify them.
    pub data_fingerprint: String,
    pub position: Position,
    pub num_replicas: usize,
    /// Digest of the flat buffers: parameters, order, strides, precision.
    pub layout: String,
    /// `f32` or `bf16`, and the memory format: the result of `precision: auto` is kept for the
    /// whole trial.
    pub precision: String,
    pub epochs: Vec<EpochRecord>,
    /// Full hash that the next epoch's hash is chained with, in hexadecimal.
    pub chain: String,
    pub last_balanced_accuracy: f64,
    /// May be infinite or NaN, which JSON cannot represent: see `any_number`.
    #[serde(with = "any_number")]
    pub eval_loss: f64,
    /// Counts of the last evaluation; checkpoints from before lack them.
    #[serde(default)]
    pub classes: Option<ClassCounts>,
    /// Number of training images seen over all attempts.
    pub images: u64,
    pub timing: Timing,
}

/// Finite numbers as such, others as text (`NaN`, `inf`, `-inf`): serde_json would write null and
/// fail to read it.
mod any_number {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(f64),
        Text(String),
    }

    pub fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if number.is_finite() {
            serializer.serialize_f64(*number)
        } else {
            serializer.collect_str(number)
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Number(number) => Ok(number),
            Written::Text(text) => text.parse().map_err(D::Error::custom),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    pub header: Header,
    pub weights: Vec<f32>,
    pub momentum: Vec<f32>,
    pub statistics: Vec<f32>,
    /// Loss sum of each replica in the current epoch.
    pub loss_sums: Vec<f64>,
}

impl Checkpoint {
    fn encode(&self) -> Vec<u8> {
        let header = serde_json::to_string(&self.header).expect("a header is plain data");
        let bytes = self.tensor_bytes();
        let metadata = HashMap::from([
            ("checksum".to_owned(), checksum(&header, &bytes)),
            ("header".to_owned(), header),
        ]);
        let views = TENSORS.iter().zip(&bytes).map(|(&name, bytes)| {
            let (dtype, width) = if name == "loss_sums" {
                (Dtype::F64, 8)
            } else {
                (Dtype::F32, 4)
            };
            (
                name,
                TensorView::new(dtype, vec![bytes.len() / width], bytes).expect("whole numbers"),
            )
        });
        serialize(views, Some(metadata)).expect("views of known sizes")
    }

    fn tensor_bytes(&self) -> [Vec<u8>; 4] {
        let single = |values: &[f32]| {
            values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect::<Vec<u8>>()
        };
        let double = self
            .loss_sums
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        [
            single(&self.weights),
            single(&self.momentum),
            single(&self.statistics),
            double,
        ]
    }

    /// Decodes a checkpoint; the error is the reason why the bytes are not a sound one, as a
    /// fragment.
    fn decode(file: &[u8]) -> Result<Self, String> {
        let (_, metadata) = SafeTensors::read_metadata(file).map_err(|error| error.to_string())?;
        let tensors = SafeTensors::deserialize(file).map_err(|error| error.to_string())?;
        let entries = metadata.metadata().as_ref().ok_or("it has no metadata")?;
        let header = entries.get("header").ok_or("it has no header")?;
        let mut bytes = Vec::new();
        for name in TENSORS {
            bytes.push(
                tensors
                    .tensor(name)
                    .map_err(|error| error.to_string())?
                    .data()
                    .to_vec(),
            );
        }
        let bytes: [Vec<u8>; 4] = bytes.try_into().expect("four names");
        if entries.get("checksum") != Some(&checksum(header, &bytes)) {
            return Err("its checksum does not match".to_owned());
        }
        let header = serde_json::from_str(header).map_err(|error| error.to_string())?;
        let single = |bytes: &[u8]| {
            bytes
                .chunks_exact(4)
                .map(|chunk| f32::from_le_bytes(chunk.try_into().expect("four bytes")))
                .collect()
        };
        let double = |bytes: &[u8]| {
            bytes
                .chunks_exact(8)
                .map(|chunk| f64::from_le_bytes(chunk.try_into().expect("eight bytes")))
                .collect()
        };
        let [weights, momentum, statistics, loss_sums] = &bytes;
        Ok(Self {
            header,
            weights: single(weights),
            momentum: single(momentum),
            statistics: single(statistics),
            loss_sums: double(loss_sums),
        })
    }
}

fn checksum(header: &str, tensors: &[Vec<u8>; 4]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(header.as_bytes());
    for bytes in tensors {
        hasher
            .update(&(bytes.len() as u64).to_le_bytes())
            .update(bytes);
    }
    hasher.finalize().to_hex().to_string()
}

/// The checkpoints of one trial that one attempt may use.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    attempt: AttemptId,
    /// First attempt of the current training; checkpoints of earlier attempts belong to an earlier
    /// training.
    since: AttemptNo,
}

/// The name of a checkpoint's file; sorts from old to new.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    epoch: u32,
    attempt: AttemptNo,
    path: PathBuf,
}

impl Folder {
    pub fn new(path: &Path, attempt: AttemptId, since: AttemptNo) -> Self {
        Self {
            path: path.to_owned(),
            attempt,
            since,
        }
    }

    /// Returns the newest sound checkpoint of this trial; skips unsound and foreign ones with a
    /// warning.
    pub fn newest(&self, data_fingerprint: &str) -> Result<Option<Checkpoint>, TrialError> {
        for entry in self
            .entries()?
            .iter()
            .rev()
            .filter(|entry| entry.attempt >= self.since)
        {
            let read = match fs::read(&entry.path) {
                // an exhausted node proves nothing about the file, which a later attempt may read
                Err(error) if node_fault::is_exhaustion(&error) => {
                    return Err(TrialError::work_dir("read", &entry.path)(error));
                }
                read => read.map_err(|error| error.to_string()),
            };
            let decoded = read
                .and_then(|bytes| Checkpoint::decode(&bytes))
                .and_then(|checkpoint| self.fitting(checkpoint, data_fingerprint));
            match decoded {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(reason) => {
                    tracing::warn!(path = %entry.path.display(), reason, "checkpoint passed over")
                }
            }
        }
        Ok(None)
    }

    fn fitting(
        &self,
        checkpoint: Checkpoint,
        data_fingerprint: &str,
    ) -> Result<Checkpoint, String> {
        let header = &checkpoint.header;
        if header.trial != self.attempt.trial {
            return Err(format!("it belongs to trial {}", header.trial));
        }
        if header.training_version != TRAINING_VERSION {
            return Err(format!(
                "it is of training version {}, this is {TRAINING_VERSION}",
                header.training_version
            ));
        }
        if header.data_fingerprint != data_fingerprint {
            return Err("it was trained on other data".to_owned());
        }
        Ok(checkpoint)
    }

    /// Writes a checkpoint so that after a crash at any moment either it or the previous one
    /// exists, then removes checkpoints that are no longer needed.
    pub fn write(&self, checkpoint: &Checkpoint) -> Result<(), TrialError> {
        fs::create_dir_all(&self.path).map_err(TrialError::work_dir("create", &self.path))?;
        let entries = self.entries()?;
        let stem = format!(
            "epoch-{:05}.attempt-{}",
            checkpoint.header.position.epoch, self.attempt.number
        );
        let path = self.path.join(format!("{stem}.{EXTENSION}"));
        let partial = self.path.join(format!("{stem}.{PARTIAL}"));
        let write = || -> io::Result<()> {
            let mut file = File::create(&partial)?;
            file.write_all(&checkpoint.encode())?;
            file.sync_all()?;
            fs::rename(&partial, &path)?;
            File::open(&self.path)?.sync_all()
        };
        if let Err(error) = write() {
            // leave no rubbish on a full disk; the first error is the one to report
            let _ = fs::remove_file(&partial);
            return Err(TrialError::work_dir("write", &path)(error));
        }
        let others = entries.iter().filter(|entry| entry.path != path);
        let (mut old, superseded): (Vec<&Entry>, Vec<&Entry>) =
            others.partition(|entry| entry.attempt >= self.since);
        old.truncate(old.len().saturating_sub(NUM_KEPT - 1));
        for entry in old.into_iter().chain(superseded) {
            // already gone: another attempt's writer was faster
            let _ = fs::remove_file(&entry.path);
        }
        Ok(())
    }

    /// Removes the checkpoints that attempts up to this one left unfinished when they were killed.
    pub fn remove_unfinished(&self) {
        let Ok(listing) = fs::read_dir(&self.path) else {
            return;
        };
        for path in listing.flatten().map(|file| file.path()) {
            let of = path
                .file_name()
                .and_then(|name| parse_name(name.to_str()?, PARTIAL));
            if of.is_some_and(|(_, attempt)| attempt <= self.attempt.number)
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::warn!(path = %path.display(), %error, "an unfinished checkpoint stays");
            }
        }
    }

    /// Returns the checkpoints of this and earlier attempts, from old to new. Fails if there is one
    /// of a later attempt: this attempt was replaced and must not continue.
    fn entries(&self) -> Result<Vec<Entry>, TrialError> {
        let listing = match fs::read_dir(&self.path) {
            Ok(listing) => listing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(TrialError::work_dir("read", &self.path)(error)),
        };
        let mut entries = Vec::new();
        for file in listing {
            let path = file
                .map_err(TrialError::work_dir("read", &self.path))?
                .path();
            let Some((epoch, attempt)) = path
                .file_name()
                .and_then(|name| parse_name(name.to_str()?, EXTENSION))
            else {
                continue;
            };
            if attempt > self.attempt.number {
                return Err(TrialError::Crashed(format!(
                    "attempt {} was replaced: {} is of attempt {attempt}",
                    self.attempt,
                    path.display()
                )));
            }
            entries.push(Entry {
                epoch,
                attempt,
                path,
            });
        }
        entries.sort();
        Ok(entries)
    }
}

/// Parses `epoch-00012.attempt-3.EXTENSION` to (12, 3).
fn parse_name(name: &str, extension: &str) -> Option<(u32, AttemptNo)> {
    let (epoch, attempt) = name
        .strip_prefix("epoch-")?
        .strip_suffix(extension)?
        .strip_suffix('.')?
        .split_once('.')?;
    Some((
        epoch.parse().ok()?,
        AttemptNo(attempt.strip_prefix("attempt-")?.parse().ok()?),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(epoch: u32) -> Checkpoint {
        let record = EpochRecord {
            train_loss: 0.1 + 0.2,
            accuracy: None,
            state_hash: "00".repeat(8),
            ..EpochRecord::default()
        };
        Checkpoint {
            header: Header {
                trial: "0123456789abcdef".parse().unwrap(),
                training_version: TRAINING_VERSION,
                data_fingerprint: "data".to_owned(),
                position: Position { epoch, step: 3 },
                num_replicas: 2,
                layout: "layout".to_owned(),
                precision: "f32".to_owned(),
                epochs: vec![record; epoch as usize],
                chain: "ab".repeat(32),
                last_balanced_accuracy: 0.1,
                eval_loss: 1.0 / 3.0,
                classes: None,
                images: 7,
                timing: Timing::default(),
            },
            weights: vec![1.0 + epoch as f32, f32::MIN_POSITIVE, -0.0],
            momentum: vec![0.1, 0.2, 0.3],
            statistics: vec![],
            loss_sums: vec![0.1, 0.7],
        }
    }

    fn folder(path: &Path, attempt: u32) -> Folder {
        Folder::new(
            path,
            format!("t0123456789abcdef#{attempt}").parse().unwrap(),
            AttemptNo::first(),
        )
    }

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(path)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// `retry CELL` starts a new training, and so do changed data, whatever the id.
    #[test]
    fn a_checkpoint_of_other_data_or_of_a_superseded_training_is_passed_over() {
        let place = tempfile::tempdir().unwrap();
        folder(place.path(), 1).write(&checkpoint(7)).unwrap();
        assert_eq!(
            folder(place.path(), 2).newest("data").unwrap(),
            Some(checkpoint(7))
        );
        assert_eq!(folder(place.path(), 2).newest("other data").unwrap(), None);
        let anew = Folder {
            since: AttemptNo(2),
            ..folder(place.path(), 2)
        };
        assert_eq!(anew.newest("data").unwrap(), None);
        anew.write(&checkpoint(1)).unwrap();
        assert_eq!(
            names(place.path()),
            ["epoch-00001.attempt-2.safetensors"],
            "what it supersedes goes"
        );
        let next = Folder {
            since: AttemptNo(2),
            ..folder(place.path(), 3)
        };
        assert_eq!(next.newest("data").unwrap(), Some(checkpoint(1)));
    }

    #[test]
    fn a_checkpoint_that_cannot_be_written_is_the_nodes_fault_and_leaves_nothing() {
        let place = tempfile::tempdir().unwrap();
        // a folder takes the name, which no user may replace
        fs::create_dir_all(place.path().join("epoch-00001.attempt-1.safetensors/x")).unwrap();
        let error = folder(place.path(), 1).write(&checkpoint(1)).unwrap_err();
        assert_eq!(error.class(), sweep::record::FailureClass::Node);
        assert_eq!(names(place.path()), ["epoch-00001.attempt-1.safetensors"]);
    }

    #[test]
    fn what_a_killed_attempt_began_to_write_is_removed_by_the_next() {
        let place = tempfile::tempdir().unwrap();
        for attempt in 1..=3 {
            fs::write(
                place
                    .path()
                    .join(format!("epoch-00001.attempt-{attempt}.partial")),
                "half",
            )
            .unwrap();
        }
        folder(place.path(), 2).remove_unfinished();
        assert_eq!(
            names(place.path()),
            ["epoch-00001.attempt-3.partial"],
            "a later attempt keeps its own"
        );
    }

    #[test]
    fn comes_back_bit_for_bit_and_only_two_are_kept() {
        let place = tempfile::tempdir().unwrap();
        let folder = folder(&place.path().join("trial"), 1);
        assert_eq!(folder.newest("data").unwrap(), None);
        (1..=4).for_each(|epoch| folder.write(&checkpoint(epoch)).unwrap());
        assert_eq!(folder.newest("data").unwrap(), Some(checkpoint(4)));
        assert_eq!(
            names(&place.path().join("trial")),
            [
                "epoch-00003.attempt-1.safetensors",
                "epoch-00004.attempt-1.safetensors"
            ]
        );
    }

    #[test]
    fn numbers_that_are_not_finite_come_back() {
        let place = tempfile::tempdir().unwrap();
        let folder = folder(place.path(), 1);
        for loss in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut not_finite = checkpoint(1);
            not_finite.header.eval_loss = loss;
            not_finite.weights[0] = loss as f32;
            not_finite.loss_sums[1] = loss;
            folder.write(&not_finite).unwrap();
            let found = folder.newest("data").unwrap().expect("it can be read");
            let bits = |checkpoint: &Checkpoint| {
                let [weight, sum] = [f64::from(checkpoint.weights[0]), checkpoint.loss_sums[1]];
                [checkpoint.header.eval_loss, weight, sum].map(f64::to_bits)
            };
            assert_eq!(bits(&found), bits(&not_finite));
        }
    }

    #[test]
    fn a_damaged_one_falls_back_to_the_one_before() {
        let place = tempfile::tempdir().unwrap();
        let folder = folder(place.path(), 1);
        folder.write(&checkpoint(1)).unwrap();
        folder.write(&checkpoint(2)).unwrap();
        let newest = place.path().join("epoch-00002.attempt-1.safetensors");
        let sound = fs::read(&newest).unwrap();
        for length in [0, 5, sound.len() / 2, sound.len() - 1] {
            fs::write(&newest, &sound[..length]).unwrap();
            assert_eq!(
                folder.newest("data").unwrap(),
                Some(checkpoint(1)),
                "torn at byte {length}"
            );
        }
        for position in (0..sound.len()).step_by(7) {
            let mut flipped = sound.clone();
            flipped[position] ^= 0x10;
            fs::write(&newest, &flipped).unwrap();
            let found = folder.newest("data").unwrap().unwrap();
            assert!(
                found == checkpoint(1),
                "a flipped bit in byte {position} goes unnoticed"
            );
        }
    }

    /// `FUZZ_ROUNDS=1000000 cargo test --release -p trainer --lib checkpoint` runs for longer.
    #[test]
    fn no_damage_goes_unnoticed_and_none_is_believed() {
        let rounds =
            std::env::var("FUZZ_ROUNDS").map_or(5_000, |rounds| rounds.parse().expect("a number"));
        let sound = checkpoint(2);
        let whole = sound.encode();
        let mut state = 7u64;
        let mut below = |limit: usize| {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize % limit
        };
        for round in 0..rounds {
            let mut bytes = whole.clone();
            if round % 4 == 0 {
                bytes.truncate(below(whole.len()));
            }
            for _ in 0..=below(4) {
                // the first eight bytes are a length, followed by JSON
                let reach = if round % 4 == 1 {
                    16.min(bytes.len())
                } else {
                    bytes.len()
                };
                if reach > 0 {
                    bytes[below(reach)] = below(256) as u8;
                }
            }
            match Checkpoint::decode(&bytes) {
                Ok(read) => assert_eq!(read, sound, "round {round}: damage went unnoticed"),
                Err(reason) => assert!(!reason.is_empty()),
            }
            // a damaged header with a matching checksum
            let mut header = serde_json::to_string(&sound.header).unwrap().into_bytes();
            for _ in 0..=below(3) {
                let place = below(header.len());
                header[place] = b"0123456789{}[]\",:-.e"[below(20)];
            }
            let _ = serde_json::from_slice::<Header>(&header);
        }
    }

    #[test]
    fn attempts_do_not_disturb_each_other() {
        let place = tempfile::tempdir().unwrap();
        folder(place.path(), 1).write(&checkpoint(1)).unwrap();
        folder(place.path(), 3).write(&checkpoint(2)).unwrap();
        assert_eq!(
            folder(place.path(), 4).newest("data").unwrap(),
            Some(checkpoint(2))
        );
        let replaced = folder(place.path(), 2).newest("data").unwrap_err();
        assert!(
            replaced.to_string().contains("is of attempt 3"),
            "{replaced}"
        );
        assert!(folder(place.path(), 2).write(&checkpoint(9)).is_err());
        assert_eq!(names(place.path()).len(), 2);
    }

    #[test]
    fn those_of_another_trial_or_version_are_passed_over() {
        let place = tempfile::tempdir().unwrap();
        let mut foreign = checkpoint(1);
        foreign.header.trial = "ffffffffffffffff".parse().unwrap();
        folder(place.path(), 1).write(&foreign).unwrap();
        let mut old = checkpoint(2);
        old.header.training_version += 1;
        folder(place.path(), 1).write(&old).unwrap();
        assert_eq!(folder(place.path(), 1).newest("data").unwrap(), None);
    }
}
