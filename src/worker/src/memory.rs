//! The memory that a worker and its trainers may use together.

use std::fs;
use std::path::Path;

use crate::out_of_memory;

/// Returns the memory of the machine, or the limit of this process's cgroup where that is lower.
/// `None`: /proc/meminfo has no total.
pub fn limit() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let counters = out_of_memory::sources_of_this_process();
    let limits = counters.iter().filter_map(|counter| limit_beside(counter));
    total(&meminfo).into_iter().chain(limits).min()
}

/// `MemTotal:       65536 kB`
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Reads the limit in the folder of a cgroup's file; `max` is none.
fn limit_beside(file: &Path) -> Option<u64> {
    let files = ["memory.max", "memory.limit_in_bytes"].map(|name| file.with_file_name(name));
    let text = files
        .iter()
        .find_map(|file| fs::read_to_string(file).ok())?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_limit_counts() {
        assert_eq!(
            total("MemTotal:       65536 kB\nMemFree: 1 kB\n"),
            Some(64 << 20)
        );
        assert_eq!(total("MemTotal: much\n"), None);
        let folder = tempfile::tempdir().unwrap();
        let counter = folder.path().join("memory.events");
        assert_eq!(limit_beside(&counter), None);
        for (file, text, expected) in [
            ("memory.limit_in_bytes", "1048576\n", Some(1 << 20)),
            ("memory.max", "max\n", None),
            ("memory.max", "2097152\n", Some(2 << 20)),
        ] {
            fs::write(folder.path().join(file), text).unwrap();
            assert_eq!(limit_beside(&counter), expected, "{text}");
        }
    }
}
