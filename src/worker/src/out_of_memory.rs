//! Detects that the kernel killed a process of this machine's cgroup for lack of memory. The only
//! trace of such a kill is a counter. If no counter can be read, nothing is claimed.

use std::fs;
use std::path::{Path, PathBuf};

use sweep::record::{Failure, FailureClass};

/// The counters before a process starts that may be killed.
pub struct OomCounter(Vec<(Source, u64)>);

/// A file with a line `oom_kill COUNT`, in either version of cgroups.
type Source = PathBuf;

impl OomCounter {
    pub fn read() -> Self {
        let readable = sources_of_this_process()
            .into_iter()
            .filter_map(|source| Some((source.clone(), count(&source)?)));
        Self(readable.collect())
    }

    /// Returns an out-of-memory failure if a process was killed since then, and other failures
    /// unchanged.
    pub fn explain(&self, failure: Failure) -> Failure {
        let has_grown = self
            .0
            .iter()
            .any(|(source, before)| count(source).is_some_and(|now| now > *before));
        if failure.class != FailureClass::Crashed || !has_grown {
            return failure;
        }
        let message = format!(
            "the kernel killed a process of this machine because memory ran out; {}",
            failure.message
        );
        Failure {
            class: FailureClass::OutOfMemory,
            message,
            ..failure
        }
    }
}

/// The counters of the cgroups of this process. They need not exist.
pub fn sources_of_this_process() -> Vec<PathBuf> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    sources(&cgroups, &mounts)
}

/// The counters of the cgroups of this process, and so of its trainers, from `/proc/self/cgroup`
/// and `/proc/self/mountinfo`. In a container the path of the cgroup may be the host's, which is
/// not mounted there: then the root of the mount is the cgroup.
fn sources(cgroups: &str, mounts: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for mount in mounts.lines().filter_map(Mount::parse) {
        let (path, file) = match mount.kind {
            "cgroup2" => (
                cgroups.lines().find_map(|line| line.strip_prefix("0::")),
                "memory.events",
            ),
            "cgroup" if mount.options.split(',').any(|option| option == "memory") => (
                cgroups.lines().find_map(memory_cgroup),
                "memory.oom_control",
            ),
            _ => continue,
        };
        let inside = path.and_then(|path| Path::new(path).strip_prefix(mount.root).ok());
        let own = inside.map(|inside| Path::new(mount.point).join(inside).join(file));
        sources.extend(own.into_iter().chain([Path::new(mount.point).join(file)]));
    }
    sources.dedup();
    sources
}

/// `PATH` of `4:memory:PATH`, if the memory controller is in the list.
fn memory_cgroup(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    controllers
        .split(',')
        .any(|controller| controller == "memory")
        .then_some(path)
}

struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    /// Options of the file system: in version 1 they include its controllers.
    options: &'a str,
}

impl<'a> Mount<'a> {
    /// `ID PARENT DEVICE ROOT POINT OPTIONS [TAG]... - KIND SOURCE OPTIONS`
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let mut file_system = file_system.split(' ');
        let (root, point, kind) = (mount.next()?, mount.next()?, file_system.next()?);
        Some(Self {
            root,
            point,
            kind,
            options: file_system.nth(1)?,
        })
    }
}

fn count(source: &Source) -> Option<u64> {
    oom_kills(&fs::read_to_string(source).ok()?)
}

fn oom_kills(counters: &str) -> Option<u64> {
    counters
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_the_one_of_kills() {
        let events = "low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(oom_kills(events), Some(2));
        assert_eq!(
            oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"),
            Some(7),
            "version 1"
        );
        assert_eq!(oom_kills("oom 3\n"), None);
    }

    #[test]
    fn counters_are_found_in_both_versions_of_cgroups() {
        let found = |cgroups: &str, mounts: &str| {
            let found = sources(cgroups, mounts)
                .into_iter()
                .map(|source| source.display().to_string());
            found.collect::<Vec<_>>()
        };
        let unified = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let expected = [
            "/sys/fs/cgroup/a.slice/b.scope/memory.events",
            "/sys/fs/cgroup/memory.events",
        ];
        assert_eq!(found("0::/a.slice/b.scope\n", unified), expected);
        let older = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                     32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                     35 31 0:32 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n";
        let expected = [
            "/sys/fs/cgroup/memory/job/7/memory.oom_control",
            "/sys/fs/cgroup/memory/memory.oom_control",
        ];
        assert_eq!(
            found("5:cpu:/x\n4:hugetlb,memory:/job/7\n0::/\n", older),
            expected
        );
        // a container whose cgroup path is the host's
        let container =
            "35 31 0:32 /docker/ab /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        assert_eq!(
            found("4:memory:/docker/ab\n", container),
            ["/sys/fs/cgroup/memory/memory.oom_control"]
        );
        assert_eq!(
            found("4:memory:/elsewhere\n", container),
            ["/sys/fs/cgroup/memory/memory.oom_control"]
        );
        assert_eq!(found("", "not a mount\n"), Vec::<String>::new());
    }
}
