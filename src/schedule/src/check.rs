use crate::state::State;
/// Name and meaning of every invariant.
pub const INVARIANTS: &[(&str, &str)] = &[];
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: &'static str,
    pub detail: String,
}
/// Every invariant that does not hold.
pub fn check(_state: &State) -> Vec<Violation> {
    Vec::new()
}
