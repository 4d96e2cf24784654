//! The file by which commands and workers find the coordinator of a state directory: mode 0600,
//! with address, process and token file. It is a hint and may be stale; its content is checked
//! before use. Machines that share the directory read it too.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::Token;
use serde::{Deserialize, Serialize};
use sweep::with_causes;

use crate::exit::ExpectedError;
use crate::output::SCHEMA;

const FILE: &str = "coordinator.json";
const TOKEN_FILE: &str = "token";
/// Timeout of a connection: a process on this machine answers at once.
const PROBE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendezvous {
    schema: u32,
    /// https://HOST:PORT, as this machine reaches it; http:// if no other machine does.
    pub address: String,
    /// The same for other machines; `None`: they do not reach it.
    #[serde(default)]
    reach: Option<String>,
    pub pid: u32,
    host: String,
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

/// A coordinator's announcement of itself.
pub struct Announcement<'a> {
    pub bound: SocketAddr,
    /// Name or address by which other machines reach it, if they do.
    pub advertise: Option<&'a str>,
    pub token_file: &'a Path,
    /// See [`Rendezvous::lasts`].
    pub lasts: bool,
}

/// Announces the coordinator of this state directory to commands and workers.
pub fn announce(
    state_dir: &Path,
    announcement: &Announcement<'_>,
) -> Result<Announced, ExpectedError> {
    let Announcement {
        bound,
        advertise,
        token_file,
        lasts,
    } = announcement;
    let token_file =
        std::path::absolute(token_file).map_err(ExpectedError::file("find", *token_file))?;
    let found = Rendezvous {
        schema: SCHEMA,
        address: address_here(*bound),
        reach: advertise.map(|host| format!("{}://{host}:{}", scheme(*bound), bound.port())),
        pid: std::process::id(),
        host: host_name(),
        token_file: Some(token_file),
        lasts: *lasts,
    };
    let content = serde_json::to_vec_pretty(&found).expect("a record of text can be written");
    let path = state_dir.join(FILE);
    write_private(&path, &content)?;
    Ok(Announced { path, content })
}

/// Returns the scheme of what is bound: connections from other machines are encrypted.
fn scheme(bound: SocketAddr) -> &'static str {
    protocol::tls::scheme(!bound.ip().is_loopback())
}

/// Returns the address by which this machine reaches what it bound.
pub fn address_here(mut bound: SocketAddr) -> String {
    let scheme = scheme(bound);
    match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => bound.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => bound.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    format!("{scheme}://{bound}")
}

impl Rendezvous {
    fn read(state_dir: &Path) -> Option<Self> {
        let text = std::fs::read(state_dir.join(FILE)).ok()?;
        let found: Self = serde_json::from_slice(&text).ok()?;
        (found.schema == SCHEMA).then_some(found)
    }

    /// Returns true if the coordinator is on this machine, where the end of its process can be
    /// detected.
    pub fn is_here(&self) -> bool {
        self.host == host_name()
    }

    /// Returns its host, if that is another machine.
    pub fn other_host(&self) -> Option<String> {
        (!self.is_here()).then(|| self.host.clone())
    }

    /// Returns true if its process is known to have ended.
    fn has_ended(&self) -> bool {
        let pid = self.pid.try_into().map(nix::unistd::Pid::from_raw);
        let ended = |pid| nix::sys::signal::kill(pid, None) == Err(nix::errno::Errno::ESRCH);
        self.is_here() && pid.map_or(true, ended)
    }

    /// Returns the address by which this machine reaches it.
    fn address_from_here(&self) -> Option<&String> {
        match self.is_here() {
            true => Some(&self.address),
            false => self.reach.as_ref(),
        }
    }

    /// Returns true if this is the address of the coordinator: only then is its token meant for
    /// whatever answers there.
    fn is_at(&self, address: &str) -> bool {
        let Some(own) = self.address_from_here() else {
            return false;
        };
        let (own, other) = (socket_addresses(own), socket_addresses(address));
        other.iter().any(|address| own.contains(address))
    }
}

/// Returns the addresses that `https://HOST:PORT` names.
fn socket_addresses(address: &str) -> Vec<SocketAddr> {
    let host = address.split_once("://").map_or(address, |(_, host)| host);
    let found = host.trim_end_matches('/').to_socket_addrs();
    found.map(Iterator::collect).unwrap_or_default()
}

/// Finds the coordinator that runs on this state directory, as far as this is possible without a
/// request to it. Its address is the one for this machine.
pub fn find(state_dir: &Path) -> Option<Rendezvous> {
    let found = Rendezvous::read(state_dir)?;
    // A process on another host that shares the folder cannot be checked. Its process id or its
    // port may have been reused since.
    let address = found.address_from_here()?.clone();
    let answers = |address: &SocketAddr| TcpStream::connect_timeout(address, PROBE).is_ok();
    let is_there = !found.has_ended() && socket_addresses(&address).iter().any(answers);
    is_there.then_some(Rendezvous { address, ..found })
}

/// Returns the place that a state directory publishes for workers; `given` replaces its token file.
/// The error is a sentence for people.
pub fn place(state_dir: &Path, given: Option<&Path>) -> Result<worker::Place, String> {
    let file = state_dir.join(FILE);
    let file = file.display();
    let Some(found) = Rendezvous::read(state_dir) else {
        return Err(format!("no coordinator has announced itself in {file}"));
    };
    if found.has_ended() {
        let pid = found.pid;
        return Err(format!(
            "the coordinator of {file}, process {pid}, has ended"
        ));
    }
    let Some(address) = found.address_from_here() else {
        return Err(format!(
            "the coordinator of {file} listens on loopback of {} alone: start it with --listen 0.0.0.0:PORT",
            found.host
        ));
    };
    let token_file = given.map(Path::to_owned).or(found.token_file.clone());
    let token = token_file.as_deref().map(Token::from_file);
    Ok(worker::Place {
        address: address.clone(),
        token: token.transpose().map_err(|error| with_causes(&error))?,
        token_file,
    })
}

/// Returns true if the state directory names this address, whether or not its coordinator still
/// runs.
pub fn announces(state_dir: &Path, address: &str) -> bool {
    Rendezvous::read(state_dir).is_some_and(|found| found.is_at(address))
}

/// Returns the token file of the coordinator at this address, if the state directory announces it
/// there.
pub fn token_file_of(state_dir: &Path, address: &str) -> Option<PathBuf> {
    let found = Rendezvous::read(state_dir)?;
    let is_it = found.is_at(address) && !found.has_ended();
    found.token_file.filter(|_| is_it)
}

/// Describes a coordinator on another host that announced itself here, for errors about a taken or
/// unreachable directory.
pub fn left_elsewhere(state_dir: &Path) -> Option<String> {
    let left = Rendezvous::read(state_dir)?;
    let Rendezvous {
        pid, host, address, ..
    } = &left;
    let address = left.reach.as_ref().unwrap_or(address);
    (!left.is_here()).then(|| {
        format!(
            "{} names process {pid} on host {host}, at {address}, which is not reached from here",
            state_dir.join(FILE).display()
        )
    })
}

/// Returns the token of this state directory's coordinators: that of the last one, so that its
/// workers keep it, or a new one. [`write_token`] stores it, once the directory is known to be ours.
pub fn token(state_dir: &Path) -> Result<Token, ExpectedError> {
    // One that others could read, or that is damaged, is replaced.
    match Token::from_file(&token_file(state_dir)) {
        Ok(token) => Ok(token),
        Err(_) => Ok(Token::random()?),
    }
}

pub fn token_file(state_dir: &Path) -> PathBuf {
    state_dir.join(TOKEN_FILE)
}

/// Stores the token where only its user's commands can read it.
pub fn write_token(state_dir: &Path, token: &Token) -> Result<PathBuf, ExpectedError> {
    let path = token_file(state_dir);
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
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), ExpectedError> {
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

/// Returns the name of this machine, as workers report theirs.
pub fn host_name() -> String {
    gethostname::gethostname().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn announcement<'a>(
        bound: SocketAddr,
        advertise: Option<&'a str>,
        token_file: &'a Path,
    ) -> Announcement<'a> {
        Announcement {
            bound,
            advertise,
            token_file,
            lasts: false,
        }
    }

    #[test]
    fn announced_found_and_gone() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(find(dir.path()), None);
        let token = write_token(dir.path(), &Token::random().unwrap()).unwrap();
        Token::from_file(&token).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let bound = listener.local_addr().unwrap();
        let address = format!("http://{bound}");
        let announced = announce(dir.path(), &announcement(bound, None, &token)).unwrap();
        let found = find(dir.path()).unwrap();
        assert_eq!((&found.address, found.pid), (&address, std::process::id()));
        assert_eq!(found.token_file.unwrap(), token);
        let place = place(dir.path(), None).unwrap();
        assert_eq!(place.address, address);
        assert!(place.token.is_some());
        let localhost = format!("http://localhost:{}/", bound.port());
        for same in [&address, &localhost] {
            assert_eq!(token_file_of(dir.path(), same).as_ref(), Some(&token));
        }
        let other = format!("http://127.0.0.1:{}", bound.port() ^ 1);
        assert_eq!(token_file_of(dir.path(), &other), None, "not its address");
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
        let token = write_token(dir.path(), &Token::random().unwrap()).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let announced_elsewhere = |announcement: &Announcement<'_>| {
            let announced = announce(dir.path(), announcement).unwrap();
            assert_eq!(left_elsewhere(dir.path()), None, "it is here");
            let text = String::from_utf8(announced.content.clone()).unwrap();
            let theirs = Rendezvous {
                host: "elsewhere".into(),
                pid: 1,
                ..serde_json::from_str(&text).unwrap()
            };
            std::fs::write(dir.path().join(FILE), serde_json::to_vec(&theirs).unwrap()).unwrap();
        };
        for ip in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
            announced_elsewhere(&announcement((ip, port).into(), None, &token));
            assert_eq!(find(dir.path()), None);
            let left = left_elsewhere(dir.path()).unwrap();
            assert!(
                left.contains("coordinator.json")
                    && left.contains("host elsewhere")
                    && left.contains(&format!("127.0.0.1:{port}")),
                "{left}"
            );
            let reason = place(dir.path(), None).unwrap_err();
            assert!(reason.contains("loopback of elsewhere"), "{reason}");
        }
        let bound = (Ipv4Addr::UNSPECIFIED, port).into();
        announced_elsewhere(&announcement(bound, Some("localhost"), &token));
        let address = format!("https://localhost:{port}");
        assert_eq!(find(dir.path()).unwrap().address, address);
        assert_eq!(place(dir.path(), None).unwrap().address, address);
    }

    #[test]
    fn a_token_stays_and_one_that_others_could_read_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let first = token(dir.path()).unwrap();
        let file = write_token(dir.path(), &first).unwrap();
        assert!(token(dir.path()).unwrap().is_same(&first));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(!token(dir.path()).unwrap().is_same(&first));
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
            reach: None,
            pid,
            host: host_name(),
            token_file: None,
            lasts: false,
        };
        std::fs::write(dir.path().join(FILE), serde_json::to_vec(&stale).unwrap()).unwrap();
        assert_eq!(find(dir.path()), None);
        std::fs::write(dir.path().join(FILE), "{ not JSON").unwrap();
        assert_eq!(find(dir.path()), None);
    }
}
