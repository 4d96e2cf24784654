//! The program on a cluster: a real Slurm, with several nodes on this machine.
//!
//! `make test-cluster` runs these tests and installs what they need; `make test` leaves them out.

mod batch_worker;
mod launched;
mod reference;
mod static_job;
