//! The file by which commands on the same machine find the coordinator of a state directory: mode
//! 0600, with address, process and token file. It is a hint and may be stale; its content is
//! checked before use.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::Token;
use serde::{Deserialize, Serialize};

use crate::exit::ExpectedError;
use crate::output::SCHEMA;

const FILE: &str = "coordinator.json";
const TOKEN_FILE: &str = "token";
/// Timeout of a connection: a process on this machine answers at once.
const PROBE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendezvous {
    schema: u32,
    /// http://HOST:PORT
    pub address: String,
    pub pid: u32,
    pub host: String,
    pub token_file: Option<PathBuf>,
    /// True if the coordinator is a service that restarts, and not part of an `orchestrator run`.
    #[serde(default)]
    pub lasts: bool,
}

/// Removes the file when its coordinator ends normally.
#[derive(Debug)]
pub struct Announced {
    path: PathBuf,
    content: Vec<u8>,
}

/// Announces the address of this state directory's coordinator to other commands.
pub fn announce(
    state_dir: &Path,
    address: String,
    token_file: Option<&Path>,
    lasts: bool,
) -> Result<Announced, ExpectedError> {
    let token_file = match token_file {
        Some(path) => Some(std::path::absolute(path).map_err(ExpectedError::file("find", path))?),
        None => None,
    };
    let found = Rendezvous {
        schema: SCHEMA,
        address,
        pid: std::process::id(),
        host: host(),
        token_file,
        lasts,
    };
    let content = serde_json::to_vec_pretty(&found).expect("a record of text can be written");
    let path = state_dir.join(FILE);
    write_private(&path, &content)?;
    Ok(Announced { path, content })
}

impl Rendezvous {
    /// Returns true if the coordinator is on this machine, where the end of its process can be
    /// detected.
    pub fn is_here(&self) -> bool {
        self.host == host()
    }
}

/// Finds the coordinator that runs on this state directory, as far as this is possible without a
/// request to it.
pub fn find(state_dir: &Path) -> Option<Rendezvous> {
    let text = std::fs::read(state_dir.join(FILE)).ok()?;
    let found: Rendezvous = serde_json::from_slice(&text).ok()?;
    if found.schema != SCHEMA {
        return None;
    }
    let pid = nix::unistd::Pid::from_raw(found.pid.try_into().ok()?);
    let address: SocketAddr = found.address.strip_prefix("http://")?.parse().ok()?;
    // A process on another host that shares the folder cannot be checked, and its loopback address
    // is not ours.
    let wrong = match found.is_here() {
        true => nix::sys::signal::kill(pid, None) == Err(nix::errno::Errno::ESRCH),
        false => address.ip().is_loopback() || address.ip().is_unspecified(),
    };
    // Its process id or its port may have been reused since.
    (!wrong && TcpStream::connect_timeout(&address, PROBE).is_ok()).then_some(found)
}

/// Describes a coordinator on another host that announced itself here, for errors about a taken or
/// unreachable directory.
pub fn left_elsewhere(state_dir: &Path) -> Option<String> {
    let path = state_dir.join(FILE);
    let left: Rendezvous = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
    let Rendezvous {
        pid, host, address, ..
    } = &left;
    (!left.is_here()).then(|| {
        format!(
            "{} names process {pid} on host {host}, at {address}, which is not reached from here",
            path.display()
        )
    })
}

/// Returns the port of the coordinator that was here last, if it could not announce its end.
pub fn port_left(state_dir: &Path) -> Option<u16> {
    let left: Rendezvous =
        serde_json::from_slice(&std::fs::read(state_dir.join(FILE)).ok()?).ok()?;
    let address: SocketAddr = left.address.strip_prefix("http://")?.parse().ok()?;
    Some(address.port())
}

/// Returns the token of the coordinator that was here last.
pub fn token_left(state_dir: &Path) -> Option<Token> {
    Token::from_file(&state_dir.join(TOKEN_FILE)).ok()
}

/// Stores an embedded coordinator's token where only its user's commands can read it.
pub fn write_token(state_dir: &Path, token: &Token) -> Result<PathBuf, ExpectedError> {
    let path = state_dir.join(TOKEN_FILE);
    write_private(&path, format!("{}\n", token.reveal()).as_bytes())?;
    Ok(path)
}

impl Drop for Announced {
    fn drop(&mut self) {
        // Another coordinator may have announced itself in the meantime.
        if std::fs::read(&self.path).is_ok_and(|content| content == self.content) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Replaces the file in one step. Other users can never read it, or guess its temporary name.
fn write_private(path: &Path, content: &[u8]) -> Result<(), ExpectedError> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let written = || {
        // created with mode 0600, and only if no file of this random name exists
        let mut partial = tempfile::Builder::new()
            .prefix(".partial-")
            .tempfile_in(folder)?;
        partial.write_all(content)?;
        partial.persist(path).map_err(|error| error.error)
    };
    written()
        .map(drop)
        .map_err(ExpectedError::file("write", path))
}

fn host() -> String {
    gethostname::gethostname().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn announced_found_and_gone() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(find(dir.path()), None);
        let token = write_token(dir.path(), &Token::random().unwrap()).unwrap();
        Token::from_file(&token).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let announced = announce(dir.path(), address.clone(), Some(&token), false).unwrap();
        let found = find(dir.path()).unwrap();
        assert_eq!((found.address, found.pid), (address, std::process::id()));
        assert_eq!(found.token_file.unwrap(), token);
        let mode = std::fs::metadata(dir.path().join(FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(listener);
        assert_eq!(find(dir.path()), None, "another process has the number");
        drop(announced);
        assert!(!dir.path().join(FILE).exists());
    }

    /// If the temporary name could be guessed, another user's link there would be followed and its
    /// target overwritten.
    #[test]
    fn a_private_file_is_written_through_no_name_that_can_be_guessed() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        std::fs::write(&target, "theirs").unwrap();
        for name in [
            format!("token.partial.{}", std::process::id()),
            "token".to_owned(),
        ] {
            std::os::unix::fs::symlink(&target, dir.path().join(name)).unwrap();
        }
        let token = write_token(dir.path(), &Token::random().unwrap()).unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "theirs");
        let found = std::fs::symlink_metadata(&token).unwrap();
        assert!(
            found.is_file() && found.permissions().mode() & 0o777 == 0o600,
            "{found:?}"
        );
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            3,
            "nothing else is left"
        );
    }

    /// Another program on the same port of this host may even answer.
    #[test]
    fn the_loopback_of_another_host_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        for address in [
            format!("http://127.0.0.1:{port}"),
            format!("http://0.0.0.0:{port}"),
        ] {
            let announced = announce(dir.path(), address.clone(), None, true).unwrap();
            assert_eq!(left_elsewhere(dir.path()), None, "it is here");
            let text = String::from_utf8(announced.content.clone()).unwrap();
            let theirs = Rendezvous {
                host: "elsewhere".into(),
                ..serde_json::from_str(&text).unwrap()
            };
            std::fs::write(dir.path().join(FILE), serde_json::to_vec(&theirs).unwrap()).unwrap();
            assert_eq!(find(dir.path()), None);
            let said = left_elsewhere(dir.path()).unwrap();
            assert!(
                said.contains("coordinator.json")
                    && said.contains("host elsewhere")
                    && said.contains(&address)
            );
        }
    }

    #[test]
    fn a_dead_process_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        let stale = Rendezvous {
            schema: SCHEMA,
            address: String::new(),
            pid,
            host: host(),
            token_file: None,
            lasts: false,
        };
        std::fs::write(dir.path().join(FILE), serde_json::to_vec(&stale).unwrap()).unwrap();
        assert_eq!(find(dir.path()), None);
        std::fs::write(dir.path().join(FILE), "{ not JSON").unwrap();
        assert_eq!(find(dir.path()), None);
    }
}
