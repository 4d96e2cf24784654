use crate::config::Config;
use crate::event::{Event, Input, Rejected};
use crate::state::{Millis, State};
/// What an input means. Pure: the events are facts only once they are journalled and applied.
pub fn decide(_state: &State, _config: &Config, _input: &Input, _now: Millis) -> Result<Vec<Event>, Rejected> {
    Ok(Vec::new())
}
