//! An sshd of a test's own on 127.0.1.1 to 127.0.1.3, with keys of its own: hosts that ssh reaches.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::wait_for;

pub struct Sshd {
    folder: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Sshd {
    pub fn start() -> Self {
        let folder = TempDir::with_prefix("sshd-").expect("a folder for temporary files");
        let port = TcpListener::bind("127.0.1.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let mut sshd = Self {
            folder,
            port,
            child: None,
        };
        for key in ["host", "user", "stranger"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(sshd.path(key));
            assert!(keygen.status().expect("ssh-keygen is installed").success());
        }
        fs::copy(sshd.path("user.pub"), sshd.path("authorized")).expect("the test's folder");
        let shown = |name: &str| sshd.path(name).display().to_string();
        let server = format!(
            "Port {port}\nListenAddress 127.0.1.1\nListenAddress 127.0.1.2\nListenAddress 127.0.1.3\n\
             HostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\nStrictModes no\n\
             PermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             AcceptEnv XDG_CACHE_HOME\n",
            shown("host"),
            shown("authorized"),
        );
        fs::write(sshd.path("sshd_config"), server).expect("the test's folder");
        for key in ["user", "stranger"] {
            let client = format!(
                "Port {port}\nIdentityFile {}\nIdentitiesOnly yes\nStrictHostKeyChecking no\nUserKnownHostsFile {}\n",
                shown(key),
                shown("known_hosts"),
            );
            fs::write(sshd.path(&format!("{key}.config")), client).expect("the test's folder");
        }
        sshd.start_again();
        sshd
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Options by which ssh reaches these hosts.
    pub fn options(&self) -> Vec<String> {
        vec![
            "-F".to_owned(),
            self.path("user.config").display().to_string(),
        ]
    }

    /// Options with a key that these hosts do not accept.
    pub fn options_of_a_stranger(&self) -> Vec<String> {
        vec![
            "-F".to_owned(),
            self.path("stranger.config").display().to_string(),
        ]
    }

    pub fn start_again(&mut self) {
        // it insists on an absolute path
        let log = fs::File::create(self.path("log")).expect("the test's folder");
        let mut command = Command::new("/usr/sbin/sshd");
        command
            .args(["-D", "-e", "-f"])
            .arg(self.path("sshd_config"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.child = Some(command.spawn().expect("sshd is installed"));
        let address = ("127.0.1.3", self.port);
        wait_for("sshd listens", || {
            std::net::TcpStream::connect(address).ok()
        });
    }

    /// Kills sshd and every connection, as a machine that loses power would.
    pub fn kill(&mut self) {
        let connections = self.connections();
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for pid in connections {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    /// The processes of sshd that serve a connection.
    pub fn connections(&self) -> Vec<Pid> {
        let Some(child) = &self.child else {
            return Vec::new();
        };
        let mut found = vec![child.id()];
        let mut next = 0;
        while let Some(parent) = found.get(next).copied() {
            found.extend(
                children(parent)
                    .into_iter()
                    .filter(|pid| name(*pid) == "sshd"),
            );
            next += 1;
        }
        let pid = |pid: &u32| Pid::from_raw(i32::try_from(*pid).expect("a process id"));
        found[1..].iter().map(pid).collect()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        for pid in self.connections() {
            let _ = kill(pid, Signal::SIGCONT);
        }
        self.kill();
    }
}

/// The children of a process, from /proc.
pub fn children(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("Linux has /proc");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat.rsplit(") ").next().unwrap_or_default();
        after_name.split(' ').nth(1) == Some(&parent.to_string())
    };
    pids.filter(is_child).collect()
}

/// The name of a process, from /proc.
pub fn name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim().to_owned()
}
