//! Files that sweeps keep of their trials, in the folder `kept` of the state directory. A file's
//! name has its attempt: those of the attempts whose results count are offered, and nothing else
//! depends on them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use protocol::limits::{KEPT_PIECE_BYTES, MAX_KEPT_BYTES};
use protocol::v1;
use schedule::state::{Phase, State};
use schedule::{Explanation, Tried};
use sweep::keep::Kept;
use sweep::{AttemptId, TrialId};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

const FOLDER: &str = "kept";
/// Ending of a file that is still arriving.
const PARTIAL: &str = "partial";
/// Size of a confusion matrix that is read whole, to be shown.
const MAX_SHOWN_BYTES: u64 = 16 << 20;
/// Number of pieces under way to one reader.
const PIECES: usize = 4;

#[derive(Clone)]
pub struct KeptFiles(Arc<PathBuf>);

/// A stored file of a trial whose result counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptFile {
    pub attempt: AttemptId,
    pub kept: Kept,
    pub path: PathBuf,
    pub bytes: u64,
    /// Milliseconds since the Unix epoch.
    pub stored_at_ms: u64,
}

impl KeptFiles {
    pub fn of(state_dir: &Path) -> Self {
        Self(Arc::new(state_dir.join(FOLDER)))
    }

    /// Returns the files of a sweep's results. Reads a folder for each of them if the sweep keeps
    /// files.
    pub fn of_sweep(&self, state: &State, sweep: &str) -> Vec<KeptFile> {
        let Some(entry) = state.sweeps.get(sweep) else {
            return Vec::new();
        };
        let files: Vec<Kept> = entry.sweep.keep.iter().copied().collect();
        if files.iter().all(|kept| kept.file().is_none()) {
            return Vec::new();
        }
        let attempts =
            entry
                .trials
                .iter()
                .filter_map(|trial| match state.trials.get(&trial.id)?.phase {
                    Phase::Succeeded { attempt, .. } => Some(trial.id.attempt(attempt)),
                    _ => None,
                });
        let mut found: Vec<KeptFile> = attempts
            .flat_map(|attempt| files.iter().map(move |kept| (attempt, *kept)))
            .filter_map(|(attempt, kept)| self.find(attempt, kept))
            .collect();
        // cells with equal settings share trials
        found.sort_by_key(|file| (file.attempt, file.kept));
        found.dedup();
        found
    }

    /// Returns every stored file, whether its result counts or not.
    pub(crate) async fn stored(&self) -> Result<Vec<KeptFile>, Status> {
        let kept = self.clone();
        off_thread(move || kept.list()).await
    }

    fn list(&self) -> io::Result<Vec<KeptFile>> {
        let mut found = Vec::new();
        for folder in entries(&self.0)? {
            let Some(trial) = folder
                .file_name()
                .and_then(|name| name.to_str()?.parse().ok())
            else {
                continue;
            };
            for file in entries(&folder)? {
                let name = file.file_name().and_then(|name| name.to_str());
                let names = name.and_then(Kept::of_attempt_file);
                let stored = names
                    .and_then(|(kept, number)| self.find(TrialId::attempt(trial, number), kept));
                found.extend(stored);
            }
        }
        Ok(found)
    }

    /// Removes these files, and the folders that are empty then.
    pub(crate) async fn remove(&self, files: Vec<KeptFile>) -> Result<(), Status> {
        off_thread(move || {
            for file in files {
                match std::fs::remove_file(&file.path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                // Refused if another file is in it.
                let _ = file.path.parent().map(std::fs::remove_dir);
            }
            Ok(())
        })
        .await
    }

    /// Returns the confusion matrix of a trial's result, if it is kept.
    pub fn confusion(&self, trial: &Explanation) -> Option<String> {
        let counts = |tried: &&Tried| tried.outcome == "succeeded";
        let number = trial.attempts.iter().rfind(counts)?.attempt;
        let file = self.find(trial.trial.attempt(number), Kept::Confusion)?;
        let is_small = file.bytes <= MAX_SHOWN_BYTES;
        is_small.then(|| std::fs::read_to_string(file.path).ok())?
    }

    fn find(&self, attempt: AttemptId, kept: Kept) -> Option<KeptFile> {
        let path = self.path(attempt, kept)?;
        let metadata = std::fs::metadata(&path).ok()?;
        let stored_at = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(KeptFile {
            attempt,
            kept,
            path,
            bytes: metadata.len(),
            stored_at_ms: stored_at.as_millis() as u64,
        })
    }

    fn path(&self, attempt: AttemptId, kept: Kept) -> Option<PathBuf> {
        let name = kept.file_of_attempt(attempt.number)?;
        Some(self.0.join(attempt.trial.to_string()).join(name))
    }

    /// Stores a file that a worker sends.
    pub async fn receive(&self, mut pieces: Streaming<v1::KeptPiece>) -> Result<(), Status> {
        let first = pieces.message().await?;
        let first = first.ok_or_else(|| Status::invalid_argument("no file was sent"))?;
        let (attempt, kept) = named(&first.attempt, &first.kept)?;
        if first.bytes > MAX_KEPT_BYTES {
            let problem = format!("a file of {} bytes is too large", first.bytes);
            return Err(Status::invalid_argument(problem));
        }
        let path = self.path(attempt, kept).expect("`named` returns files");
        let stored = self.store(&path, first.bytes, &mut pieces).await;
        if stored.is_err() {
            let _ = tokio::fs::remove_file(partial(&path)).await;
        } else {
            self.remove_earlier(attempt, kept);
        }
        stored
    }

    async fn store(
        &self,
        path: &Path,
        bytes: u64,
        pieces: &mut Streaming<v1::KeptPiece>,
    ) -> Result<(), Status> {
        let partial = partial(path);
        let failed = |error: io::Error| {
            Status::unavailable(format!("{} cannot be written: {error}", path.display()))
        };
        let folder = path.parent().expect("it is below a trial's folder");
        tokio::fs::create_dir_all(folder).await.map_err(failed)?;
        let mut file = File::create(&partial).await.map_err(failed)?;
        let mut received = 0;
        while let Some(piece) = pieces.message().await? {
            received += piece.content.len() as u64;
            if received > bytes {
                return Err(Status::invalid_argument("more was sent than announced"));
            }
            file.write_all(&piece.content).await.map_err(failed)?;
        }
        if received < bytes {
            return Err(Status::aborted("less was sent than announced"));
        }
        file.sync_all().await.map_err(failed)?;
        tokio::fs::rename(&partial, path).await.map_err(failed)
    }

    /// Removes what earlier attempts of the trial stored. Their results do not count any more.
    fn remove_earlier(&self, attempt: AttemptId, kept: Kept) {
        for number in 1..attempt.number.0 {
            let earlier = attempt.trial.attempt(sweep::AttemptNo(number));
            if let Some(path) = self.path(earlier, kept) {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    /// Sends a stored file in pieces.
    pub async fn open(
        &self,
        attempt: &str,
        kept: &str,
    ) -> Result<mpsc::Receiver<Result<v1::KeptContent, Status>>, Status> {
        let (attempt, kept) = named(attempt, kept)?;
        let path = self.path(attempt, kept).expect("`named` returns files");
        let mut file = File::open(&path).await.map_err(|error| {
            let what = kept.word();
            Status::not_found(format!("there are no {what} of {attempt}: {error}"))
        })?;
        let (sender, receiver) = mpsc::channel(PIECES);
        tokio::spawn(async move {
            loop {
                let mut content = Vec::with_capacity(KEPT_PIECE_BYTES);
                let piece = (&mut file).take(KEPT_PIECE_BYTES as u64);
                let piece = match { piece }.read_to_end(&mut content).await {
                    Ok(0) => return,
                    Ok(_) => Ok(v1::KeptContent { content }),
                    Err(error) => Err(Status::internal(error.to_string())),
                };
                let is_last = piece.is_err();
                if sender.send(piece).await.is_err() || is_last {
                    return;
                }
            }
        });
        Ok(receiver)
    }
}

/// Returns the paths in a folder; none if it does not exist.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    let failed = |error: &dyn std::fmt::Display| Status::internal(format!("kept files: {error}"));
    done.map_err(|error| failed(&error))?
        .map_err(|error| failed(&error))
}

fn partial(path: &Path) -> PathBuf {
    path.with_added_extension(PARTIAL)
}

/// Checks the names of a file that a peer asks for or sends.
fn named(attempt: &str, kept: &str) -> Result<(AttemptId, Kept), Status> {
    let attempt = attempt
        .parse()
        .map_err(|error: sweep::trial::BadAttemptId| Status::invalid_argument(error.to_string()))?;
    let kept = Kept::of_word(kept).filter(|kept| kept.file().is_some());
    let kept = kept.ok_or_else(|| {
        Status::invalid_argument(
            "`kept` names no file: predictions, confusion or weights was expected",
        )
    })?;
    Ok((attempt, kept))
}
