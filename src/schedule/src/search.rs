//! Which candidate of a search wins a cell: the best mean held-out accuracy after the last epoch, over candidates all
//! of whose search trials succeeded; the earlier one of equals. Pure functions of the state; `plan.rs` asks.

use crate::state::{Phase, State, SweepState};

/// `None`: no candidate is eligible.
pub(crate) fn best_candidate(state: &State, sweep: &SweepState, cell: u32) -> Option<u32> {
    let mut best: Option<(u32, f64)> = None;
    for (candidate, mean) in candidate_means(state, sweep, cell) {
        if let Some(mean) = mean
            && best.is_none_or(|(_, highest)| mean > highest)
        {
            best = Some((candidate, mean));
        }
    }
    best.map(|(candidate, _)| candidate)
}

/// Mean held-out accuracy of each candidate of a cell, in the order of the candidates; `None` for one with a search
/// trial that has no result.
pub fn candidate_means(state: &State, sweep: &SweepState, cell: u32) -> Vec<(u32, Option<f64>)> {
    let Some(searching) = sweep.searching.get(&cell) else { return Vec::new() };
    let trials = &sweep.trials[searching.first as usize..(searching.first + searching.count) as usize];
    let mut means = Vec::new();
    // the trials of one candidate stand together, in the order of the candidates
    for group in trials.chunk_by(|left, right| left.candidate == right.candidate) {
        let accuracies = group.iter().map(|trial| match &state.trials[&trial.id].phase {
            Phase::Succeeded { result, .. } => Some(result.last_accuracy),
            Phase::Waiting { .. } | Phase::Running { .. } | Phase::Failed { .. } | Phase::Cancelled => None,
        });
        let sum: Option<f64> = accuracies.sum();
        means.push((group[0].candidate.unwrap_or_default(), sum.map(|sum| sum / group.len() as f64)));
    }
    means
}
