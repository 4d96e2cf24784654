//! The token file of a running coordinator, read again when it changes, so that the token changes
//! without a restart.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use protocol::{AcceptedTokens, Grant, Token};

/// Interval between two checks of the file.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Time for which the old token is accepted, while the new one reaches workers and commands.
pub const GRACE: Duration = Duration::from_secs(600);

/// File metadata that changes when a file is written or replaced.
#[derive(PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
    written: (i64, i64),
    mode: u32,
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = std::fs::metadata(path).ok()?;
    Some(Stamp {
        device: found.dev(),
        inode: found.ino(),
        bytes: found.size(),
        changed: (found.ctime(), found.ctime_nsec()),
        written: (found.mtime(), found.mtime_nsec()),
        mode: found.mode(),
    })
}

/// Watches the file. A file that is missing or holds no token changes nothing.
pub async fn watch(path: PathBuf, tokens: AcceptedTokens) {
    let mut last = None;
    loop {
        let now = stamp(&path);
        if now != last {
            last = now;
            let token = Token::from_file(&path);
            if let Ok(token) = &token
                && let Some(grant) = Grant::parse(token.reveal())
            {
                let (file, id) = (path.display(), grant.id);
                tracing::warn!(%file, %id, "the token file has a granted token; the token before stays");
                continue;
            }
            match token.map(|token| tokens.exchange(token, Instant::now() + GRACE)) {
                Ok(true) => {
                    let (file, minutes) = (path.display(), GRACE.as_secs() / 60);
                    tracing::info!(%file, "another token: it is accepted from now on, the one before for {minutes} minutes");
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "the token file has changed; the token before stays")
                }
            }
        }
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}
