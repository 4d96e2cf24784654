//! Reports, made from snapshots outside the task that owns the state and sent in pieces, so that
//! neither the owner nor the network has to hold a whole one. The last report is kept until its
//! sweep changes and shared by its readers.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use protocol::v1;
use report::{FileSink, MAX_PIECE, Reporter};
use schedule::state::State;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::spawn_blocking;
use tonic::Status;
use v1::report_chunk::Chunk;

use crate::answers::{NoAnswer, report_head, why, write_report};
use crate::kept_files::{KeptFile, KeptFiles};
use crate::requests::{self, OwnerRequest, Question};
use crate::stored_results::OpenResults;

/// Maximum number of reports with files of large sweeps at a time; further ones wait.
const LARGE_AT_A_TIME: usize = 2;
/// Maximum number of trials, and of their epochs, for which a report is made in memory, and kept.
const SMALL: usize = 2_000;
const FEW_EPOCHS: usize = 100_000;
/// Maximum number of sweeps whose reports are kept, each with a few texts.
const KEPT_SWEEPS: usize = 16;
const KEPT_TEXTS: usize = 4;
/// Timeout for a reader to take one piece; it is then cut off, because it holds a snapshot.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// Number of pieces under way to one reader.
const PIECES: usize = 4;

type ToReader = mpsc::Sender<Result<v1::ReportChunk, Status>>;
type Files = Vec<(String, Vec<u8>)>;

/// The text of a report: its columns, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text {
    pub width: usize,
    /// Without notes and drawings.
    pub tables_only: bool,
}

impl Text {
    fn of(self, reporter: &Reporter<'_>) -> String {
        match self.tables_only {
            true => reporter.tables(self.width),
            false => reporter.text(self.width),
        }
    }
}

#[derive(Clone)]
pub struct Reports {
    owner: mpsc::Sender<OwnerRequest>,
    results: OpenResults,
    made_last: Arc<Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<Kept>>>>>,
    large: Arc<Semaphore>,
}

/// The last report of one sweep.
#[derive(Default)]
struct Kept {
    /// Time just before its snapshot was taken: it answers all calls from before.
    asked: Option<Instant>,
    /// `SweepState::changed`.
    changed: Option<u64>,
    head: v1::ReportHead,
    texts: BTreeMap<Text, Arc<str>>,
    /// Files of a small sweep, once a call asked for them.
    files: Option<Arc<Files>>,
}

/// A whole report in memory.
struct Whole {
    head: v1::ReportHead,
    text: Arc<str>,
    files: Option<Arc<Files>>,
}

impl Reports {
    pub fn new(owner: mpsc::Sender<OwnerRequest>, results: OpenResults) -> Self {
        Self {
            owner,
            results,
            made_last: Arc::default(),
            large: Arc::new(Semaphore::new(LARGE_AT_A_TIME)),
        }
    }

    /// Returns the chunks of a report. A sweep that does not exist is refused before the first.
    pub async fn open(
        &self,
        sweep: String,
        form: Text,
        files: v1::ReportFiles,
    ) -> Result<mpsc::Receiver<Result<v1::ReportChunk, Status>>, Status> {
        let first = self
            .snapshot(&sweep, None)
            .await?
            .ok_or_else(|| Status::internal("no snapshot was taken"))?;
        let is_small = first.sweeps.values().all(|entry| {
            let (trials, epochs) = (entry.trials.len(), entry.sweep.base.num_epochs());
            trials <= SMALL && trials.saturating_mul(epochs as usize) <= FEW_EPOCHS
        });
        drop(first);
        let (sender, receiver) = mpsc::channel(PIECES);
        let reports = self.clone();
        tokio::spawn(async move {
            let is_kept = files != v1::ReportFiles::Trials;
            let sent = if is_small && is_kept || files == v1::ReportFiles::None {
                reports.send_kept(sweep, form, files, &sender).await
            } else {
                reports.send_large(sweep, form, files, &sender).await
            };
            if let Err(status) = sent {
                tracing::warn!(%status, "a report was not sent completely");
                let _ = tokio::time::timeout(SEND_TIMEOUT, sender.send(Err(status))).await;
            }
        });
        Ok(receiver)
    }

    pub async fn why(&self, sweep: String, cell: String) -> Result<v1::WhyReply, Status> {
        let state = self
            .snapshot(&sweep, None)
            .await?
            .ok_or_else(|| Status::internal("no snapshot was taken"))?;
        Ok(off_thread(move || why(&state, &sweep, &cell)).await??)
    }

    /// Returns the files that the sweep keeps of its results.
    pub async fn kept_files(
        &self,
        kept: &KeptFiles,
        sweep: String,
    ) -> Result<Vec<KeptFile>, Status> {
        let state = self
            .snapshot(&sweep, None)
            .await?
            .ok_or_else(|| Status::internal("no snapshot was taken"))?;
        let kept = kept.clone();
        off_thread(move || kept.of_sweep(&state, &sweep)).await
    }

    /// Returns a snapshot; `None`: the sweep has not changed since `known`.
    async fn snapshot(
        &self,
        sweep: &str,
        known: Option<u64>,
    ) -> Result<Option<Arc<State>>, Status> {
        let sweep = sweep.to_owned();
        let question = |reply| {
            OwnerRequest::Question(Question::Snapshot {
                sweep,
                known,
                reply,
            })
        };
        requests::ask(&self.owner, question).await
    }

    async fn send_kept(
        &self,
        sweep: String,
        form: Text,
        files: v1::ReportFiles,
        to: &ToReader,
    ) -> Result<(), Status> {
        let Whole {
            head,
            text,
            files: made,
        } = self
            .kept(&sweep, form, files != v1::ReportFiles::None)
            .await?;
        send(to, Chunk::Head(head)).await?;
        for piece in pieces(&text) {
            send(to, Chunk::Text(piece.to_owned())).await?;
        }
        let made = made.unwrap_or_default();
        let wanted = |name: &str| files == v1::ReportFiles::All || name == report::RESULTS_JSON;
        for (name, content) in made.iter().filter(|(name, _)| wanted(name)) {
            send(to, Chunk::File(name.clone())).await?;
            for piece in content.chunks(MAX_PIECE) {
                send(to, Chunk::Content(piece.to_vec())).await?;
            }
        }
        send(to, Chunk::End(v1::ReportEnd {})).await
    }

    /// Returns a report made now, or since this call by another one: calls that wait share the
    /// result.
    async fn kept(&self, sweep: &str, form: Text, with_files: bool) -> Result<Whole, Status> {
        let asked = Instant::now();
        let entry = self.entry_of(sweep);
        let mut kept = entry.lock().await;
        let has = kept.texts.contains_key(&form) && (!with_files || kept.files.is_some());
        if !has || kept.asked.is_none_or(|taken| taken < asked) {
            let taken = Instant::now();
            if let Some(state) = self.snapshot(sweep, kept.changed.filter(|_| has)).await? {
                let changed = state.sweeps.get(sweep).map(|entry| entry.changed);
                let results = with_files.then(|| self.results.clone());
                let Whole { head, text, files } =
                    make(state, sweep.to_owned(), form, results).await?;
                if kept.changed != changed || kept.texts.len() >= KEPT_TEXTS {
                    *kept = Kept::default();
                }
                (kept.changed, kept.head) = (changed, head);
                kept.texts.insert(form, text);
                kept.files = files.or_else(|| kept.files.take());
            }
            kept.asked = Some(taken);
        }
        let text = kept.texts.get(&form).cloned().unwrap_or_default();
        Ok(Whole {
            head: kept.head,
            text,
            files: kept.files.clone().filter(|_| with_files),
        })
    }

    fn entry_of(&self, sweep: &str) -> Arc<tokio::sync::Mutex<Kept>> {
        let mut entries = self
            .made_last
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= KEPT_SWEEPS && !entries.contains_key(sweep) {
            // Entries that a call waits for stay.
            entries.retain(|_, entry| Arc::strong_count(entry) > 1);
        }
        entries.entry(sweep.to_owned()).or_default().clone()
    }

    /// Writes a report while it is sent, from one snapshot.
    async fn send_large(
        &self,
        sweep: String,
        form: Text,
        files: v1::ReportFiles,
        to: &ToReader,
    ) -> Result<(), Status> {
        let _turn = self
            .large
            .acquire()
            .await
            .map_err(|_| Status::unavailable("the coordinator is ending"))?;
        let state = self
            .snapshot(&sweep, None)
            .await?
            .ok_or_else(|| Status::internal("no snapshot was taken"))?;
        let mut reader = Reader {
            to: to.clone(),
            runtime: Handle::current(),
        };
        let open_results = self.results.clone();
        let written = move || -> io::Result<()> {
            let reporter = Reporter::of(&state, &sweep).map_err(io::Error::other)?;
            reader.send(Chunk::Head(report_head(&reporter)))?;
            for piece in pieces(&form.of(&reporter)) {
                reader.send(Chunk::Text(piece.to_owned()))?;
            }
            write_report(&reporter, files, &mut *open_results(), &mut reader)?;
            reader.send(Chunk::End(v1::ReportEnd {}))
        };
        off_thread(written)
            .await?
            .map_err(|error| Status::aborted(error.to_string()))
    }
}

async fn make(
    state: Arc<State>,
    sweep: String,
    form: Text,
    with_files: Option<OpenResults>,
) -> Result<Whole, Status> {
    let make = move || -> Result<Whole, Status> {
        let reporter = Reporter::of(&state, &sweep).map_err(NoAnswer::from)?;
        let files = with_files.map(|open_results| {
            let mut files = Files::new();
            reporter
                .write_files(&mut *open_results(), &mut files)
                .map_err(|error| Status::unavailable(error.to_string()))?;
            Ok::<_, Status>(Arc::new(files))
        });
        Ok(Whole {
            head: report_head(&reporter),
            text: form.of(&reporter).into(),
            files: files.transpose()?,
        })
    };
    off_thread(make).await?
}

/// Runs blocking work. A panic fails this question and no other.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "a question cannot be answered");
        Status::internal(
            "the coordinator has a fault and cannot answer this: its log has the details",
        )
    })
}

async fn send(to: &ToReader, chunk: Chunk) -> Result<(), Status> {
    let chunk = v1::ReportChunk { chunk: Some(chunk) };
    match tokio::time::timeout(SEND_TIMEOUT, to.send(Ok(chunk))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Status::cancelled(
            "the reader of a report closed its connection",
        )),
        Err(_) => Err(Status::aborted("the report was not read")),
    }
}

/// The sending half, for code that may block.
struct Reader {
    to: ToReader,
    runtime: Handle,
}

impl Reader {
    fn send(&self, chunk: Chunk) -> io::Result<()> {
        self.runtime
            .block_on(send(&self.to, chunk))
            .map_err(|status| io::Error::other(status.message().to_owned()))
    }
}

impl FileSink for Reader {
    fn begin(&mut self, name: &str) -> io::Result<()> {
        self.send(Chunk::File(name.to_owned()))
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.send(Chunk::Content(piece.to_vec()))
    }
}

/// Splits a text into pieces that fit a chunk.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, after) = rest.split_at(rest.floor_char_boundary(MAX_PIECE));
        rest = after;
        Some(piece)
    })
}
