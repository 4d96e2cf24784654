//! Whether the kernel killed something of this machine's cgroup for want of memory: the only trace that an
//! out-of-memory kill leaves is a counter. Where it cannot be read nothing is claimed.

use std::fs;

/// The counter as it stood at the start of an attempt.
pub struct OomCounter(Option<u64>);

impl OomCounter {
    pub fn read() -> Self {
        Self(current())
    }

    pub fn has_grown(&self) -> bool {
        self.0.zip(current()).is_some_and(|(before, now)| now > before)
    }
}

/// `oom_kill` of the unified cgroup that this process, and so its trainers, live in.
fn current() -> Option<u64> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let events = fs::read_to_string(format!("/sys/fs/cgroup/{path}/memory.events")).ok()?;
    oom_kills(&events)
}

fn oom_kills(events: &str) -> Option<u64> {
    events.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|count| count.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_counter_is_the_one_of_kills() {
        let events = "low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(super::oom_kills(events), Some(2));
        assert_eq!(super::oom_kills("oom 3\n"), None);
    }
}
