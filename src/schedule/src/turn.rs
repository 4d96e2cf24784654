//! One turn of the owner's loop: decide and apply each input, follow up until nothing more follows,
//! return the effects.
//!
//! The events are applied to the state before they are durable, so that all inputs that came
//! together share one transaction. The shell must append them before it performs an effect or gives
//! an answer. When the append fails, nothing of the turn has happened. The shell then rebuilds the
//! state from the journal, keeps `State::live`, and answers every input with the fault; or it keeps
//! the turn and appends it again before it takes another input.
//!
//! | killed | the journal has | the repair |
//! |---|---|---|
//! | before the append | nothing of the turn | nothing was acknowledged: workers and users repeat it |
//! | after the append, before an effect | the whole turn | `Connected`: lists are compared, lost starts become the next attempt |
//! | between two effects | the whole turn | the same; repeated outcomes are stale and acknowledged |

use crate::allocation;
use crate::apply::apply;
use crate::config::Config;
use crate::decide::{Answer, Decision, decide};
use crate::effects::{effects, replies};
use crate::event::{Effect, Event, Input, Recorded, Rejected};
use crate::follow_up::follow_up;
use crate::live::observe;
use crate::state::{Millis, State};

pub struct Turn {
    /// Events already applied, to be journalled in one transaction before any effect or answer.
    pub recorded: Vec<Recorded>,
    /// Answers, one for each input.
    pub answers: Vec<Result<Answer, Rejected>>,
    /// Effects to perform in this order once the events are durable.
    pub effects: Vec<Effect>,
}

pub fn turn(state: &mut State, config: &Config, inputs: &[Input], now: Millis) -> Turn {
    let mut recorded: Vec<Recorded> = Vec::new();
    let answers: Vec<_> = inputs
        .iter()
        .map(|input| take(state, config, input, now, &mut recorded))
        .collect();
    loop {
        let events = follow_up(state, config, now);
        // Placing is the last step: it leaves nothing to place.
        let placed = events
            .iter()
            .all(|event| matches!(event, Event::TrialDispatched { .. }));
        if record(state, events, now, &mut recorded).is_err() || placed {
            break;
        }
    }
    // Placing comes first: what it leaves is what more allocations are for.
    let launched = allocation::plan(state, config, now);
    let launched = launched.into_iter().map(Event::Launch).collect();
    // A refused event is a fault of this program; the events before it stand.
    let _ = record(state, launched, now, &mut recorded);
    allocation::note_turn(state, config, &recorded, now);
    let mut effects = effects(state, &recorded);
    for (input, answer) in inputs.iter().zip(&answers) {
        effects.extend(replies(state, input, answer.as_ref().map(|_| ())));
    }
    if let Some(request) = allocation::next_request(state, config, now) {
        allocation::ask(state, &request);
        effects.push(Effect::Launch(request));
    }
    Turn {
        recorded,
        answers,
        effects,
    }
}

fn take(
    state: &mut State,
    config: &Config,
    input: &Input,
    now: Millis,
    recorded: &mut Vec<Recorded>,
) -> Result<Answer, Rejected> {
    let Decision { events, answer } = decide(state, config, input, now)?;
    record(state, events, now, recorded)?;
    observe(state, input, now);
    allocation::note_input(state, config, input, now);
    Ok(answer)
}

/// Records events. If `apply` refuses a decision, this program is at fault, not the peer; events
/// before it remain.
fn record(
    state: &mut State,
    events: Vec<Event>,
    now: Millis,
    recorded: &mut Vec<Recorded>,
) -> Result<(), Rejected> {
    for event in events {
        let entry = Recorded { at: now, event };
        apply(state, &entry).map_err(|impossible| Rejected::Internal(impossible.to_string()))?;
        recorded.push(entry);
    }
    Ok(())
}
