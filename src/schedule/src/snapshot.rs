//! A sweep's share of the state, for readers that use it while the state changes.

use std::collections::BTreeMap;

use crate::state::{State, SweepState};
use crate::tally::Tally;

impl State {
    /// Returns the state that a report of one sweep needs. It shares memory with this state, so it
    /// is cheap, and later changes do not affect it.
    pub fn snapshot(&self, sweep: &str) -> Option<Self> {
        let (name, entry) = self.sweeps.get_key_value(sweep)?;
        // Destructured, so that a new field cannot be forgotten here.
        let SweepState {
            sweep,
            revision,
            submitted_at,
            order,
            cancelled,
            ..
        } = entry;
        let SweepState {
            trials,
            chosen,
            searching,
            rankings,
            changed_inputs,
            counts,
            tally: _,
            changed,
            ..
        } = entry;
        let copy = SweepState {
            sweep: sweep.clone(),
            revision: *revision,
            submitted_at: *submitted_at,
            order: *order,
            cancelled: cancelled.clone(),
            trials: trials.clone(),
            chosen: chosen.clone(),
            searching: searching.clone(),
            rankings: rankings.clone(),
            changed_inputs: changed_inputs.clone(),
            counts: *counts,
            // `status` needs it, a report does not.
            tally: Tally::default(),
            changed: *changed,
        };
        let to_choose = self
            .to_choose
            .range((name.clone(), 0)..=(name.clone(), u32::MAX))
            .cloned()
            .collect();
        Some(Self {
            applied: self.applied,
            sweeps: BTreeMap::from([(name.clone(), copy)]),
            trials: self.trials.clone(),
            to_choose,
            ..Self::default()
        })
    }
}
