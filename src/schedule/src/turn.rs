use crate::config::Config;
use crate::event::{Effect, Input, Recorded, Rejected};
use crate::plan::WaitReason;
use crate::state::{Millis, State};
use crate::submission::Submission;

/// One turn of the owner's loop.
pub struct Turn {
    /// Already applied. To be journalled in one transaction before anything else is done or said; when that fails, the
    /// state must be rebuilt from the journal (keeping `live`), and every input is answered with the storage fault.
    pub recorded: Vec<Recorded>,
    /// One for each input.
    pub answers: Vec<Result<Answer, Rejected>>,
    /// To be done after the events are durable, in this order.
    pub effects: Vec<Effect>,
    pub waiting: Vec<(WaitReason, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Submitted(Submission),
    /// Trials that end because of it.
    Cancelled(u64),
    Retried(u64),
}

/// Decides and applies each input, then plans until nothing follows. Inputs that came together share one transaction.
pub fn turn(_state: &mut State, _config: &Config, inputs: &[Input], _now: Millis) -> Turn {
    Turn {
        recorded: Vec::new(),
        answers: inputs.iter().map(|_| Ok(Answer::Done)).collect(),
        effects: Vec::new(),
        waiting: Vec::new(),
    }
}
