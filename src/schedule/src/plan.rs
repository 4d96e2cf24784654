use crate::config::Config;
use crate::event::Event;
use crate::state::{Millis, State};
/// What follows from the state alone, and why the rest waits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// To be journalled and applied; planning again then may give more (a search chose, its trials can start).
    pub events: Vec<Event>,
    /// How many waiting trials were not placed, by reason.
    pub waiting: Vec<(WaitReason, u64)>,
}
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    NoWorkers,
}
pub fn plan(_state: &State, _config: &Config, _now: Millis) -> Plan {
    Plan::default()
}
