//! Files that a sweep keeps of a trial, sent to the coordinator before the result is: a result in
//! the table has its files.

use std::io;
use std::path::Path;
use std::time::Duration;

use protocol::limits::KEPT_PIECE_BYTES;
use protocol::v1;
use sweep::AttemptId;
use sweep::keep::Kept;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::connection::Coordinator;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Number of pieces that are read ahead of the network.
const PIECES: usize = 4;

pub struct Uploads {
    /// Looked up for each upload, since its address and token may have changed.
    pub coordinator: Coordinator,
    /// Timeout for a coordinator that is away or cannot store files. The result then counts without
    /// them.
    pub patience: Duration,
}

/// Reason why a file was not sent.
enum Problem {
    /// A later attempt may succeed.
    Passing(String),
    Final(String),
}

impl Uploads {
    /// Sends a file, and retries until the coordinator has stored it. Safe to cancel.
    pub async fn send(&self, attempt: AttemptId, kept: Kept, path: &Path) {
        let deadline = Instant::now() + self.patience;
        let mut pause = FIRST_PAUSE;
        loop {
            let problem = match self.try_send(attempt, kept, path).await {
                Ok(()) => return,
                Err(Problem::Passing(_)) if Instant::now() < deadline => {
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    continue;
                }
                Err(Problem::Passing(problem) | Problem::Final(problem)) => problem,
            };
            let file = path.display();
            tracing::warn!(%attempt, %file, problem, "a file that its sweep keeps is lost; the result counts");
            return;
        }
    }

    async fn try_send(&self, attempt: AttemptId, kept: Kept, path: &Path) -> Result<(), Problem> {
        let unread = |error: io::Error| Problem::Final(format!("it cannot be read: {error}"));
        let file = File::open(path).await.map_err(unread)?;
        let bytes = file.metadata().await.map_err(unread)?.len();
        let mut client = self.coordinator.connect().await.map_err(Problem::Passing)?;
        let (pieces, sent) = mpsc::channel(PIECES);
        let first = v1::KeptPiece {
            attempt: attempt.to_string(),
            kept: kept.word().to_owned(),
            bytes,
            content: Vec::new(),
        };
        // Ends when everything is read, or when the call no longer takes pieces.
        tokio::spawn(read(file, first, pieces));
        let stored = client.keep(ReceiverStream::new(sent)).await;
        stored.map(|_| ()).map_err(|status| {
            let reason = format!("{:?}: {}", status.code(), status.message());
            match status.code() {
                Code::InvalidArgument | Code::Unimplemented => Problem::Final(reason),
                _ => Problem::Passing(reason),
            }
        })
    }
}

async fn read(mut file: File, first: v1::KeptPiece, pieces: mpsc::Sender<v1::KeptPiece>) {
    let mut piece = first;
    loop {
        if pieces.send(piece).await.is_err() {
            return;
        }
        let mut content = Vec::with_capacity(KEPT_PIECE_BYTES);
        let read = (&mut file)
            .take(KEPT_PIECE_BYTES as u64)
            .read_to_end(&mut content)
            .await;
        // A file that cannot be read any more ends early, which the coordinator finds.
        if !matches!(read, Ok(1..)) {
            return;
        }
        piece = v1::KeptPiece {
            content,
            ..v1::KeptPiece::default()
        };
    }
}
