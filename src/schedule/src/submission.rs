use sweep::Sweep;
use crate::state::State;
/// What submitting a sweep means, before it happens.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Submission {
    pub sweep: String,
    pub revision: u32,
    pub trials: u64,
    /// Of those, already finished: their results are reused.
    pub reused: u64,
    /// Already waiting or running for another sweep, or for the revision before.
    pub shared: u64,
    /// Failed before: they stay failed until `retry`.
    pub failed: u64,
    /// Wanted by the revision before and by no sweep now.
    pub dropped: u64,
    /// One line for each thing that was reused, dropped or changed, and why.
    pub explanation: Vec<String>,
}
pub fn describe(_state: &State, _sweep: &Sweep) -> Submission {
    Submission::default()
}
