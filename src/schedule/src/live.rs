use crate::config::Config;
use crate::event::Input;
use crate::state::{Millis, State};
/// After replay, before the first input: every lease runs anew from now.
pub fn restart(state: &mut State, now: Millis) {
    state.live.since = now;
}
/// Takes note of an accepted input in `State::live`, which is never journalled.
pub fn observe(_state: &mut State, _input: &Input, _now: Millis) {}
/// When `Input::Tick` must come at the latest: a lease runs out or a backoff is over. `None`: nothing is waited for.
pub fn next_deadline(_state: &State, _config: &Config, _now: Millis) -> Option<Millis> {
    None
}
