use crate::event::Recorded;
use crate::state::State;
/// A history that cannot have happened: a damaged journal, or one of another program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("event {number} cannot follow what stands before it: {reason}")]
pub struct Impossible {
    /// Its place in the journal, from 1.
    pub number: u64,
    pub reason: String,
}
/// The only mutation of the durable part. An event that cannot follow changes nothing.
pub fn apply(state: &mut State, _recorded: &Recorded) -> Result<(), Impossible> {
    state.applied += 1;
    Ok(())
}
/// The state after a whole journal.
pub fn replay<'a>(events: impl IntoIterator<Item = &'a Recorded>) -> Result<State, Impossible> {
    let mut state = State::default();
    events.into_iter().try_for_each(|recorded| apply(&mut state, recorded))?;
    Ok(state)
}
