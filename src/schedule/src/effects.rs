use crate::event::{Effect, Event, Input, Rejected};
use crate::state::State;
/// What follows from events that are journalled and applied.
pub fn effects(_state: &State, _events: &[Event]) -> Vec<Effect> {
    Vec::new()
}
/// What a worker is answered, whether its message changed anything or not: acknowledgements, and stops of what it
/// runs and should not.
pub fn replies(_state: &State, _input: &Input, _outcome: Result<(), &Rejected>) -> Vec<Effect> {
    Vec::new()
}
