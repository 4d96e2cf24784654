//! The frozen files of sweeps' programs, in the folder `programs` of the state directory: one archive
//! per program, named after the hash of its bytes. An archive never changes, so that the trials in
//! the journal can be trained again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol::limits::KEPT_PIECE_BYTES;
use protocol::v1;
use sweep::Submitted;
use sweep::program::{HASH_DIGITS, MAX_ARCHIVE_BYTES, archive_hash};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

const FOLDER: &str = "programs";
/// Number of pieces under way to one worker.
const PIECES: usize = 4;

#[derive(Clone)]
pub struct ProgramStore(Arc<PathBuf>);

impl ProgramStore {
    pub fn of(state_dir: &Path) -> Self {
        Self(Arc::new(state_dir.join(FOLDER)))
    }

    fn path(&self, archive: &str) -> Result<PathBuf, Status> {
        let is_hash =
            archive.len() == HASH_DIGITS && archive.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hash {
            let problem = format!("`archive` is not a hash of {HASH_DIGITS} hexadecimal digits");
            return Err(Status::invalid_argument(problem));
        }
        Ok(self.0.join(format!("{archive}.tar")))
    }

    /// Refuses a sweep whose program was not sent before it.
    pub async fn require(&self, program: &Submitted) -> Result<(), Status> {
        let path = self.path(&program.archive)?;
        match tokio::fs::metadata(&path).await {
            Ok(metadata) if metadata.len() == program.bytes => Ok(()),
            _ => Err(Status::failed_precondition(format!(
                "the files of the program `{}` are not here: they have to be sent before the sweep",
                program.name
            ))),
        }
    }

    /// Receives an archive and stores it.
    pub async fn receive(&self, mut pieces: Streaming<v1::ProgramPiece>) -> Result<(), Status> {
        let mut named = String::new();
        let mut archive = Vec::new();
        while let Some(piece) = pieces.message().await? {
            if archive.len() as u64 + piece.content.len() as u64 > MAX_ARCHIVE_BYTES {
                let problem = format!("a program has at most {} MiB", MAX_ARCHIVE_BYTES >> 20);
                return Err(Status::invalid_argument(problem));
            }
            named = piece.archive;
            archive.extend(piece.content);
        }
        let path = self.path(&named)?;
        if archive_hash(&archive) != named {
            return Err(Status::invalid_argument(
                "`archive` is not the hash of the archive that was sent",
            ));
        }
        let folder = self.0.clone();
        let stored = tokio::task::spawn_blocking(move || store(&folder, &path, &archive)).await;
        let stored = stored.map_err(|error| Status::internal(error.to_string()))?;
        stored.map_err(|error| {
            Status::unavailable(format!("the files of a program cannot be stored: {error}"))
        })
    }

    /// Sends an archive in pieces.
    pub async fn open(
        &self,
        archive: &str,
    ) -> Result<mpsc::Receiver<Result<v1::ProgramPiece, Status>>, Status> {
        let path = self.path(archive)?;
        let content = tokio::fs::read(&path).await.map_err(|error| {
            Status::not_found(format!(
                "there is no program {archive} in the state directory: {error}"
            ))
        })?;
        let archive = archive.to_owned();
        let (sender, receiver) = mpsc::channel(PIECES);
        tokio::spawn(async move {
            for content in content.chunks(KEPT_PIECE_BYTES) {
                let piece = v1::ProgramPiece {
                    archive: archive.clone(),
                    content: content.to_vec(),
                };
                if sender.send(Ok(piece)).await.is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }
}

/// Writes an archive to a temporary file and renames it, so that it is complete under its name.
fn store(folder: &Path, path: &Path, archive: &[u8]) -> io::Result<()> {
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() == archive.len() as u64) {
        return Ok(());
    }
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    io::Write::write_all(&mut file, archive)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn submitted(archive: &[u8]) -> Submitted {
        Submitted {
            name: "train.py".to_owned(),
            archive: archive_hash(archive),
            bytes: archive.len() as u64,
            files: Default::default(),
            command: vec!["python".to_owned()],
            folder: String::new(),
            pass: Vec::new(),
            environment: None,
        }
    }

    #[tokio::test]
    async fn a_program_is_stored_under_its_hash_and_sent_in_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let programs = ProgramStore::of(dir.path());
        let archive = vec![7; KEPT_PIECE_BYTES + 5];
        let program = submitted(&archive);
        let missing = programs.require(&program).await.unwrap_err();
        assert!(
            missing.message().contains("`train.py` are not here"),
            "{missing}"
        );
        let path = programs.path(&program.archive).unwrap();
        store(&programs.0, &path, &archive).unwrap();
        programs.require(&program).await.unwrap();
        let mut pieces = programs.open(&program.archive).await.unwrap();
        let mut received = Vec::new();
        while let Some(piece) = pieces.recv().await {
            received.extend(piece.unwrap().content);
        }
        assert_eq!(received, archive);
        let refused = programs.open("../journal").await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }
}
