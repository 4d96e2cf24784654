//! The log of an allocation: `host: ` before each line, and an end at the limit.

use std::fs::File;
use std::io::Write;
use std::path::Path;

const LIMIT: u64 = 16 << 20;

pub(super) struct Log {
    file: File,
    room: u64,
    begins: bool,
}

impl Log {
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        let room = LIMIT.saturating_sub(file.metadata()?.len());
        Ok(Self {
            file,
            room,
            begins: true,
        })
    }

    pub fn write(&mut self, host: &str, text: &str, whole: bool) {
        if self.room == 0 {
            return;
        }
        let prefix = if self.begins {
            format!("{host}: ")
        } else {
            String::new()
        };
        let line = format!("{prefix}{text}{}", if whole { "\n" } else { "" });
        self.begins = whole;
        self.room = self.room.saturating_sub(line.len() as u64);
        let line = match self.room {
            0 => format!("{host}: the log is full; what follows is not kept\n"),
            _ => line,
        };
        // A full disk here must not end the worker there.
        let _ = self.file.write_all(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_names_its_host_and_ends_at_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(&path).unwrap();
        log.write("node1", "one", true);
        log.write("node1", "two ", false);
        log.write("node1", "halves", true);
        log.room = 20;
        log.write("node1", &"x".repeat(100), true);
        log.write("node1", "more", true);
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "node1: one\nnode1: two halves\nnode1: the log is full; what follows is not kept\n"
        );
    }
}
