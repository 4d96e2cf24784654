//! Requests of the program to a cluster: Slurm's commands, the script of a job, and hosts over ssh.
//!
//! The state machine decides (`schedule::allocation`); this crate performs its requests and reports
//! what the cluster answered. What a command printed is understood by pure functions: `slurm/text.rs`,
//! `slurm/state.rs`, `slurm/reason.rs`. Slurm's commands are started in `command.rs`, ssh in `ssh/`.

mod command;
pub mod script;
pub mod slurm;
pub mod ssh;
