//! The program on a cluster: a real Slurm, with several nodes on this machine, and an sshd.
//!
//! `make test-cluster` runs these tests and installs what they need; `make test` leaves them out.

mod batch_worker;
mod complaints;
mod disturbed;
mod launched;
mod launching;
mod moving;
mod over_ssh;
mod reference;
mod static_job;
mod unusable;
