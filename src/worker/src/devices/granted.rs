//! The devices that Slurm and the environment grant to this process: GPUs that must be there, and the
//! most CPU threads that it may use.

use std::fmt;

/// GPUs that a variable of the environment promises to this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    variable: &'static str,
    value: String,
    pub(super) count: usize,
}

impl fmt::Display for Promise {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            variable,
            value,
            count,
        } = self;
        let plural = if *count == 1 { "" } else { "s" };
        write!(formatter, "{variable}={value} promises {count} GPU{plural}")
    }
}

pub(super) const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";
/// Set by Slurm: the number of GPUs of the job on this node.
pub(super) const ON_NODE: &str = "SLURM_GPUS_ON_NODE";
/// The value of CUDA_VISIBLE_DEVICES that launchers set where they found no GPU.
const NO_DEVICES: &str = "NoDevFiles";

/// Returns the GPUs that the environment promises. CUDA_VISIBLE_DEVICES comes first, where it is
/// set: an empty list and `-1` hide every GPU on purpose.
pub(super) fn promise(visible: Option<&str>, on_node: Option<&str>) -> Option<Promise> {
    let (variable, value, count) = match visible.map(str::trim) {
        Some(value) if value != NO_DEVICES => {
            let entries = value.split(',').map(str::trim);
            let named = entries.take_while(|entry| !entry.is_empty() && *entry != "-1");
            (VISIBLE, value, named.count())
        }
        Some(_) | None => {
            let value = on_node?.trim();
            (ON_NODE, value, value.parse().ok()?)
        }
    };
    (count > 0).then(|| Promise {
        variable,
        value: value.to_owned(),
        count,
    })
}

/// Returns the number of threads that this process may use.
pub(super) fn cpu_threads() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    bounded_by_slurm(allowed, std::env::var("SLURM_CPUS_ON_NODE").ok().as_deref())
}

/// Slurm does not confine a job to its CPUs everywhere (`TaskPlugin=task/none`).
fn bounded_by_slurm(allowed: usize, on_node: Option<&str>) -> usize {
    let granted = on_node.and_then(|text| text.trim().parse::<usize>().ok());
    granted
        .filter(|granted| *granted > 0)
        .map_or(allowed, |granted| allowed.min(granted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slurm_job_has_no_more_slots_than_cpus() {
        for (on_node, expected) in [
            (None, 8),
            (Some("2"), 2),
            (Some("64"), 8),
            (Some("0"), 8),
            (Some("many"), 8),
        ] {
            assert_eq!(bounded_by_slurm(8, on_node), expected, "{on_node:?}");
        }
    }
}
