//! Estimates how long a sweep will still take: the time per unit of predicted work so far, times
//! the work left, divided by the slots that can do it. Trials that a search has not chosen yet
//! count with the cost of their search trials.

use std::cmp::Reverse;
use std::sync::Arc;

use schedule::state::{Millis, Phase, Place, State, SweepState, SweepTrial, TrialState};
use schedule::tally::cost_of;
use sweep::TrialId;

/// An estimate for users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeLeft {
    /// 0: unknown.
    pub ms: Millis,
    /// True if a search has not ended: the trials that follow from it are unknown.
    pub at_least: bool,
    /// The range of the time with 95 % probability, by the spread of the trials so far.
    pub range: Option<(Millis, Millis)>,
}

/// Fewest trials whose durations have a spread that means something.
const MIN_TRIALS: u64 = 3;
/// Standard deviations on either side that hold 95 % of a normal distribution.
const DEVIATIONS: f64 = 1.96;

/// Work and the time that it took.
#[derive(Clone, Copy, Default)]
struct Pace {
    ms: f64,
    cost: f64,
}

pub fn time_left(state: &State, entry: &SweepState, now: Millis) -> TimeLeft {
    let tally = &entry.tally;
    let finished = Pace {
        ms: tally.done_ms as f64,
        cost: cost_of(tally.done_work),
    };
    let mut under_way = Pace::default();
    let (mut left_cost, mut longest) = (cost_of(tally.waiting_work), longest_waiting(state, entry));
    for index in &tally.running {
        let Some(wanted) = entry.trials.get(*index as usize) else {
            continue;
        };
        let Some(trial) = state.trials.get(&wanted.id) else {
            continue;
        };
        let share = share_done(state, wanted, trial);
        // A resumed attempt began with work that it did not do.
        if let [only] = trial.attempts.as_slice()
            && share > 0.0
        {
            under_way.ms += now.saturating_sub(only.started_at) as f64;
            under_way.cost += wanted.cost * share;
        }
        let left = wanted.cost * (1.0 - share);
        left_cost += left;
        longest = longest.max(left);
    }
    let left_trials = entry.counts.waiting.saturating_add(entry.counts.running);
    let (coming_cost, coming_trials) = to_be_chosen(state, entry);
    let pace = if finished.cost > 0.0 {
        finished
    } else {
        under_way
    };
    let parallel = usable_slots(state, entry.sweep.resources.devices_per_trial)
        .min(left_trials.max(coming_trials));
    if pace.cost <= 0.0 || parallel == 0 {
        return TimeLeft::default();
    }
    let work = ((left_cost + coming_cost) / parallel as f64).max(longest);
    let ms = work * pace.ms / pace.cost;
    let deviation = (entry.counts.succeeded >= MIN_TRIALS && finished.cost > 0.0).then(|| {
        let variance = pace_variance(tally.done_squares as f64, finished, entry.counts.succeeded);
        // One slot's share of the work varies by itself; the pace that was measured is common to all.
        (variance * (work / parallel_of(work, longest, parallel) + work * work / finished.cost))
            .sqrt()
    });
    // A cast from a float saturates.
    TimeLeft {
        ms: ms as Millis,
        at_least: coming_trials > 0 || may_rank(entry),
        range: deviation.map(|deviation| {
            let half = DEVIATIONS * deviation;
            ((ms - half).max(0.0) as Millis, (ms + half) as Millis)
        }),
    }
}

/// Returns the number of slots whose differences level out: none if one long trial decides the end.
fn parallel_of(work: f64, longest: f64, parallel: u64) -> f64 {
    if work <= longest {
        1.0
    } else {
        parallel as f64
    }
}

/// Returns the variance of the duration of one unit of work, if that of a trial is proportional to
/// its work. `squares`: the sum of squared durations, each divided by its work.
fn pace_variance(squares: f64, finished: Pace, trials: u64) -> f64 {
    let around_the_mean = squares - finished.ms * finished.ms / finished.cost;
    around_the_mean.max(0.0) / (trials - 1) as f64
}

/// Returns the predicted work of the longest waiting trial, which is the first of its sweep in the
/// queue.
fn longest_waiting(state: &State, entry: &SweepState) -> f64 {
    let before_all = Place {
        order: entry.order,
        cost: Reverse(u64::MAX),
        index: 0,
        trial: TrialId::MIN,
        devices: 0,
    };
    let firsts = state
        .queue
        .by_needs
        .values()
        .filter_map(|places| places.range(before_all..).next());
    firsts
        .filter(|place| place.order == entry.order)
        .map(|place| f64::from_bits(place.cost.0))
        .fold(0.0, f64::max)
}

/// Returns true if a ranking may still add seeds.
fn may_rank(entry: &SweepState) -> bool {
    let budget = entry.sweep.seed_budget.as_ref();
    let mut rankings = entry.rankings.list.iter();
    budget.is_some_and(|budget| rankings.any(|ranking| !ranking.is_over(budget)))
}

/// Returns predicted work and number of the result trials of cells whose search has not chosen yet.
fn to_be_chosen(state: &State, entry: &SweepState) -> (f64, u64) {
    let Some(search) = entry
        .sweep
        .search
        .as_ref()
        .filter(|_| entry.cancelled.is_none())
    else {
        return (0.0, 0);
    };
    if entry.chosen.len() == entry.searching.len() {
        return (0.0, 0);
    }
    let seeds = entry.sweep.seeds.len();
    let name: Arc<str> = entry.sweep.name.as_str().into();
    let (mut cost, mut trials) = (0.0, 0u64);
    for (cell, searching) in &entry.searching {
        let chooses = searching.unfinished > 0 || state.to_choose.contains(&(name.clone(), *cell));
        let first = searching.first as usize;
        let Some(known) = entry
            .trials
            .get(first..first.saturating_add(searching.count as usize))
        else {
            continue;
        };
        if entry.chosen.contains_key(cell) || !chooses || known.is_empty() {
            continue;
        }
        let mean = known.iter().map(|trial| trial.cost).sum::<f64>() / known.len() as f64;
        // A search trial trains without the images that are held out.
        let share = search.holdout.share(f64::INFINITY);
        cost += mean / (1.0 - share).max(0.01) * seeds as f64;
        trials = trials.saturating_add(seeds as u64);
    }
    (cost, trials)
}

/// Counts the slots that are large enough and take work.
fn usable_slots(state: &State, devices: u32) -> u64 {
    let working = state.workers.iter().filter(|(id, worker)| {
        !worker.is_gone() && worker.draining.is_none() && state.live.connected.contains_key(*id)
    });
    let slots = working.flat_map(|(_, worker)| {
        (0..).zip(&worker.info.slots).filter(|(index, slot)| {
            slot.devices.len() as u64 >= u64::from(devices)
                && !worker.broken_slots.contains_key(index)
        })
    });
    slots.count() as u64
}

fn share_done(state: &State, wanted: &SweepTrial, trial: &TrialState) -> f64 {
    let Phase::Running { attempt } = trial.phase else {
        return 0.0;
    };
    let live = state
        .live
        .progress
        .get(&wanted.id)
        .filter(|live| live.attempt == attempt);
    live.filter(|live| live.progress.num_epochs > 0)
        .map_or(0.0, |live| {
            (f64::from(live.progress.epoch) / f64::from(live.progress.num_epochs)).min(1.0)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variance_of_the_pace_is_that_of_the_sample() {
        let durations = [80.0, 100.0, 120.0];
        let finished = Pace {
            ms: durations.iter().sum(),
            cost: 3.0,
        };
        let squares = durations.iter().map(|ms| ms * ms).sum::<f64>();
        assert!((pace_variance(squares, finished, 3) - 400.0).abs() < 1e-9);
        let equal = Pace {
            ms: 300.0,
            cost: 3.0,
        };
        assert_eq!(pace_variance(30_000.0, equal, 3), 0.0);
        assert_eq!(
            pace_variance(29_999.0, equal, 3),
            0.0,
            "rounding does not make it negative"
        );
    }
}
