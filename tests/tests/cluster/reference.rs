//! The sweep of these tests, and its results on this machine alone.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::OnceLock;

use tests::System;
use tests::results::{assert_same, undisturbed_files};

pub const SWEEP: &str = "
name: job
recipe: quick
set: {dataset: digits, model: resnet-8, samples_per_class: 20, schedule: {constant: {epochs: 12}}}
axes:
  loss: [xent, cos]
seeds: 2
outputs:
  - table: {rows: loss}
";

/// Makes the first attempt of every trial sleep in each step, for longer than the steps take: a
/// disturbance then meets it at work on fast and slow machines alike, and tests beside this one
/// have the CPUs meanwhile. The trainers also log where they begin and what they finish.
pub fn slowed(command: &mut Command, milliseconds: u32) {
    command.env("ORCHESTRATOR_FAULT", format!("slow={milliseconds} epoch=0"));
    command.env("RUST_LOG", "warn,trainer=info");
}

/// The processes of this system that run the program with this command, without `srun`.
pub fn running(system: &System, role: &str) -> Vec<i32> {
    let command = |pid: &u32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = words.split(|byte| *byte == 0);
        words
            .next()
            .is_some_and(|program| program.ends_with(b"/orchestrator"))
            && words.next() == Some(role.as_bytes())
    };
    let pids = system.processes().into_iter().filter(command);
    pids.map(|pid| pid.try_into().expect("a process id"))
        .collect()
}

/// Requires the results of an undisturbed run on this machine, byte for byte.
pub fn assert_same_table(system: &System) {
    static LOCAL: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    let expected = LOCAL.get_or_init(|| {
        let local = System::new();
        local.file("job.yaml", SWEEP);
        let run = local.orchestrator(&["run", "job.yaml"]);
        local.start("local", run).expect_exit(0);
        undisturbed_files(&local.results("job"))
    });
    assert_same(expected, &undisturbed_files(&system.results("job")));
}
