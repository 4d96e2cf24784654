//! Executables that a test writes and then runs.
//!
//! Linux refuses to execute a file that is open for writing anywhere ("Text file busy"). A test that
//! wrote one itself would race with the tests beside it: between its fork and its exec, a child of
//! theirs holds every file that is open in this process. So other processes write them.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes an executable text, usually a shell script. Panics if it cannot.
pub fn write_executable(path: &Path, text: &str) {
    let mut child = Command::new("sh")
        .args(["-c", "cat >\"$1\" && chmod 755 \"$1\"", "sh"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("a shell starts");
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    // fails only if the shell has failed, which its status shows
    let _ = stdin.write_all(text.as_bytes());
    drop(stdin);
    let status = child.wait().expect("a child can be asked");
    assert!(status.success(), "{} cannot be written", path.display());
}

/// Copies an executable file. Panics if it cannot.
pub fn copy_executable(from: &Path, to: &Path) {
    let status = Command::new("cp").arg(from).arg(to).status();
    let status = status.expect("cp starts");
    assert!(status.success(), "{} cannot be written", to.display());
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn what_was_written_runs_while_other_threads_start_processes() {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        Command::new("true").status().expect("true starts");
                    }
                });
            }
            for number in 0..50 {
                let path = folder.path().join(number.to_string());
                write_executable(&path, "#!/bin/sh\nexit 7\n");
                let copy = folder.path().join(format!("{number}-copy"));
                copy_executable(&path, &copy);
                for path in [path, copy] {
                    let status = Command::new(path).status();
                    assert_eq!(status.expect("it starts").code(), Some(7));
                }
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
