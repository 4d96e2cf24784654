//! One turn of the owner's loop: decide and apply each input, plan until nothing follows, return
//! the effects.
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

use crate::apply::apply;
use crate::config::Config;
use crate::decide::{Decision, decide};
use crate::effects::{effects, replies};
use crate::event::{Effect, Event, Input, Recorded, Rejected};
use crate::live::observe;
use crate::plan::plan;
use crate::state::{Counts, Millis, State};
use crate::submission::Submission;

pub struct Turn {
    /// Events already applied, to be journalled in one transaction before any effect or answer.
    pub recorded: Vec<Recorded>,
    /// Answers, one for each input.
    pub answers: Vec<Result<Answer, Rejected>>,
    /// Effects to perform in this order once the events are durable.
    pub effects: Vec<Effect>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Submitted(Submission),
    /// Number of trials that end because of it.
    Cancelled(u64),
    /// Number of trials that wait again.
    Retried(u64),
}

pub fn turn(state: &mut State, config: &Config, inputs: &[Input], now: Millis) -> Turn {
    let mut recorded: Vec<Recorded> = Vec::new();
    let answers: Vec<_> = inputs
        .iter()
        .map(|input| take(state, config, input, now, &mut recorded))
        .collect();
    loop {
        let events = plan(state, config, now);
        // Placing is the last step: it leaves nothing to place.
        let placed = events
            .iter()
            .all(|event| matches!(event, Event::TrialDispatched { .. }));
        if record(state, events, now, &mut recorded).is_err() || placed {
            break;
        }
    }
    let mut effects = effects(state, &recorded);
    for (input, answer) in inputs.iter().zip(&answers) {
        effects.extend(replies(state, input, answer.as_ref().map(|_| ())));
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
    let before = counts(state, input);
    let Decision { events, submission } = decide(state, config, input, now)?;
    let retried = events.iter().find_map(|event| match event {
        Event::TrialsRetried { trials, .. } => Some(trials.len() as u64),
        _ => None,
    });
    record(state, events, now, recorded)?;
    observe(state, input, now);
    let after = counts(state, input);
    Ok(match (input, submission) {
        (_, Some(submission)) => Answer::Submitted(submission),
        (Input::Cancel { .. }, _) => {
            Answer::Cancelled(after.cancelled - before.cancelled + after.running)
        }
        (Input::Retry { .. }, _) => {
            Answer::Retried(retried.unwrap_or_else(|| after.waiting.saturating_sub(before.waiting)))
        }
        _ => Answer::Done,
    })
}

fn counts(state: &State, input: &Input) -> Counts {
    match input {
        Input::Cancel { sweep, .. } | Input::Retry { sweep, .. } => state
            .sweeps
            .get(sweep.as_str())
            .map_or(Counts::default(), |entry| entry.counts),
        _ => Counts::default(),
    }
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
