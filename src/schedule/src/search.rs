//! Chooses the candidate of a search that makes a cell, and measures how certain the choice is.
//! Pure functions; `follow_up.rs` journals the choice, the report repeats the reasons for it.
//!
//! The highest mean accuracy wins, among candidates all of whose trials succeeded. Between equal
//! ones the mean loss on the same images decides. If that is equal too, the middle one is taken: of
//! learning rates that do equally well, those at the edge are the likeliest to fail elsewhere.

use std::fmt::Write;

use sweep::Share;
use sweep::definition::{Candidate, Metric, Search};

use crate::state::{Phase, ResultSummary, State, SweepState};

/// The results of a candidate's trials, combined.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    pub accuracy: Share,
    /// Classified images over all its trials; 0: the journal is older than this count.
    pub num_images: u64,
    /// Mean loss over its trials.
    pub loss: f64,
}

/// The candidate that makes a cell, and the others that were as good or nearly so.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    pub candidate: u32,
    pub decided_by: DecidedBy,
    /// Other candidates with exactly its accuracy.
    pub tied: Vec<u32>,
    /// Other candidates whose accuracy differs by less than one standard error of the difference.
    pub close: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DecidedBy {
    Accuracy,
    /// The lower loss, between equal accuracies.
    Loss,
    /// The middle value, between equal accuracies and losses.
    Middle,
    /// The journal holds the choice, but the results known now would lead to another: an older
    /// program took the first of equal candidates, or candidates got results afterwards.
    Earlier,
}

/// Fields that change what a loss measures: losses are not compared between their values.
const LOSS_FIELDS: [&str; 7] = [
    "loss",
    "label_smoothing",
    "cls_weight",
    "cls_head",
    "cls_head_decay",
    "softmax",
    "embedding",
];

impl Score {
    /// Returns the score of a candidate's results; `None` unless every trial has a result.
    pub fn of<'a>(
        results: impl IntoIterator<Item = Option<&'a ResultSummary>>,
        accuracy: impl Fn(&ResultSummary) -> Share,
    ) -> Option<Self> {
        let results: Vec<&ResultSummary> = results.into_iter().collect::<Option<_>>()?;
        let images = |result: &ResultSummary| result.provenance.num_eval_images;
        let shares: Vec<Share> = results.iter().map(|result| accuracy(result)).collect();
        let counted = results.iter().all(|result| images(result) > 0);
        Some(Self {
            accuracy: Share::mean(&shares)?,
            num_images: if counted {
                results.iter().map(|result| u64::from(images(result))).sum()
            } else {
                0
            },
            loss: results.iter().map(|result| result.eval_loss).sum::<f64>() / results.len() as f64,
        })
    }

    /// Returns the variance of the accuracy as a binomial share. One right and one wrong answer are
    /// added to the counts: six right answers of six are no certainty.
    fn variance(&self) -> f64 {
        let n = self.num_images as f64;
        let rate = (self.accuracy.fraction() * n + 1.0) / (n + 2.0);
        rate * (1.0 - rate) / n
    }

    /// Returns true if the accuracies differ by less than one standard error of their difference;
    /// false without image counts.
    fn is_close_to(&self, other: &Self) -> bool {
        let counted = self.num_images > 0 && other.num_images > 0;
        let difference = (self.accuracy.fraction() - other.accuracy.fraction()).abs();
        counted && difference < (self.variance() + other.variance()).sqrt()
    }
}

/// Returns the accuracy of a search trial by which its candidate is compared.
pub fn compared(metric: Metric, result: &ResultSummary) -> Share {
    let share = |accuracy: &f64| Share::new(*accuracy, result.provenance.num_eval_images);
    let recent = &result.recent_accuracies;
    let first = recent.len().saturating_sub(metric.num_evaluations());
    let mean = |recent: &[f64]| Share::mean(&recent.iter().map(share).collect::<Vec<_>>());
    match metric {
        Metric::Last => share(&result.last_accuracy),
        Metric::MeanOfLast(_) => {
            mean(&recent[first..]).unwrap_or_else(|| share(&result.last_accuracy))
        }
    }
}

/// Returns the candidate to take; `None`: no candidate is eligible.
pub fn choose(search: &Search, scores: &[Option<Score>]) -> Option<Choice> {
    let eligible = || {
        scores
            .iter()
            .enumerate()
            .filter_map(|(index, score)| Some((index as u32, score.as_ref()?)))
    };
    let highest = eligible().map(|(_, score)| score.accuracy).max()?;
    let mut equal: Vec<(u32, &Score)> = eligible()
        .filter(|(_, score)| score.accuracy == highest)
        .collect();
    let mut decided_by = DecidedBy::Accuracy;
    if equal.len() > 1 && !search.fields().any(|field| LOSS_FIELDS.contains(&field)) {
        let lowest = equal
            .iter()
            .map(|(_, score)| score.loss)
            .fold(f64::INFINITY, f64::min);
        equal.retain(|(_, score)| score.loss <= lowest);
        decided_by = DecidedBy::Loss;
    }
    if equal.len() > 1 {
        decided_by = DecidedBy::Middle;
    }
    let equal: Vec<u32> = equal.into_iter().map(|(index, _)| index).collect();
    beside(scores, middle(search, &equal)?, decided_by)
}

/// Returns the reasons for a choice in the journal; `None` while its candidate has no score.
pub fn explain_choice(search: &Search, scores: &[Option<Score>], candidate: u32) -> Option<Choice> {
    let now = choose(search, scores).filter(|choice| choice.candidate == candidate);
    now.or_else(|| beside(scores, candidate, DecidedBy::Earlier))
}

/// Returns a candidate with those that did as well or nearly so.
fn beside(scores: &[Option<Score>], candidate: u32, decided_by: DecidedBy) -> Option<Choice> {
    let own = (*scores.get(candidate as usize)?)?;
    let mut choice = Choice {
        candidate,
        decided_by,
        tied: Vec::new(),
        close: Vec::new(),
    };
    for (index, score) in (0..).zip(scores) {
        let Some(score) = score.as_ref().filter(|_| index != candidate) else {
            continue;
        };
        if score.accuracy == own.accuracy {
            choice.tied.push(index);
        } else if score.is_close_to(&own) {
            choice.close.push(index);
        }
    }
    Some(choice)
}

/// Returns the middle one by value if all values are numbers, else by their place in the file; of
/// two, the former.
fn middle(search: &Search, equal: &[u32]) -> Option<u32> {
    let value = |index: &u32| search.candidates.get(*index as usize)?.json().as_f64();
    let mut ordered = equal.to_vec();
    if equal.iter().all(|index| value(index).is_some()) {
        ordered.sort_by(|one, other| {
            value(one)
                .unwrap_or(0.0)
                .total_cmp(&value(other).unwrap_or(0.0))
        });
    }
    ordered.get(ordered.len().checked_sub(1)? / 2).copied()
}

impl Choice {
    /// Returns a remark for users on what makes the choice uncertain; `None` if nothing does.
    pub fn remark(&self, search: &Search) -> Option<String> {
        let values = |indices: &[u32]| {
            let values = indices
                .iter()
                .filter_map(|index| search.candidates.get(*index as usize));
            let separator = if search.fields().count() > 1 {
                "; "
            } else {
                ", "
            };
            values
                .map(Candidate::to_string)
                .collect::<Vec<_>>()
                .join(separator)
        };
        let mut text = String::new();
        if !self.tied.is_empty() {
            let _ = write!(
                text,
                "equally often right: {} ({})",
                values(&self.tied),
                self.decided_by.reason()
            );
        }
        if !self.close.is_empty() {
            let separator = if text.is_empty() { "" } else { "; " };
            let _ = write!(
                text,
                "{separator}within one standard error: {}",
                values(&self.close)
            );
        }
        (!text.is_empty()).then_some(text)
    }
}

impl DecidedBy {
    fn reason(self) -> &'static str {
        match self {
            Self::Accuracy | Self::Loss => "the lower loss decided",
            Self::Middle => "the value in the middle was taken",
            Self::Earlier => "chosen by an older version, or before all of them had results",
        }
    }
}

/// Returns the candidate to choose for a cell all of whose search trials have ended.
pub(crate) fn best_candidate(state: &State, sweep: &SweepState, cell: u32) -> Option<u32> {
    let search = sweep.sweep.search.as_ref()?;
    choose(search, &scores(state, sweep, cell)).map(|choice| choice.candidate)
}

/// Returns the choice made for a cell and its reasons; `None` if none was made yet.
pub fn choice_of(state: &State, sweep: &SweepState, cell: u32) -> Option<Choice> {
    let candidate = *sweep.chosen.get(&cell)?;
    explain_choice(
        sweep.sweep.search.as_ref()?,
        &scores(state, sweep, cell),
        candidate,
    )
}

/// Returns the score of each candidate's search trials.
fn scores(state: &State, sweep: &SweepState, cell: u32) -> Vec<Option<Score>> {
    let Some(search) = &sweep.sweep.search else {
        return Vec::new();
    };
    let mut scores = vec![None; search.candidates.len()];
    let Some(searching) = sweep.searching.get(&cell) else {
        return scores;
    };
    let trials =
        &sweep.trials[searching.first as usize..(searching.first + searching.count) as usize];
    // The trials of one candidate are adjacent.
    for group in trials.chunk_by(|left, right| left.candidate == right.candidate) {
        let results = group
            .iter()
            .map(|trial| match &state.trials[&trial.id].phase {
                Phase::Succeeded { result, .. } => Some(&**result),
                Phase::Waiting { .. }
                | Phase::Running { .. }
                | Phase::Failed { .. }
                | Phase::Cancelled => None,
            });
        if let Some(score) = group[0]
            .candidate
            .and_then(|candidate| scores.get_mut(candidate as usize))
        {
            *score = Score::of(results, |result| compared(search.metric, result));
        }
    }
    scores
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use sweep::definition::Select;

    use super::*;

    fn search(field: &str, candidates: &[Value]) -> Search {
        Search::among(field, candidates, Select::Validation, &[0])
    }

    fn rates() -> Search {
        search(
            "learning_rate",
            &[json!(1.0), json!(0.3), json!(0.1), json!(0.03), json!(0.01)],
        )
    }

    fn score(right: u32, of: u32, loss: f64) -> Option<Score> {
        Some(Score {
            accuracy: Share::new(f64::from(right) / f64::from(of), of),
            num_images: u64::from(of),
            loss,
        })
    }

    fn chosen(search: &Search, scores: &[Option<Score>]) -> (u32, DecidedBy) {
        let choice = choose(search, scores).expect("some candidate is eligible");
        (choice.candidate, choice.decided_by)
    }

    #[test]
    fn a_score_combines_the_results_of_all_trials() {
        let result = |accuracy: f64, loss: f64, num_eval_images: u32| ResultSummary {
            last_accuracy: accuracy,
            eval_loss: loss,
            provenance: std::sync::Arc::new(sweep::record::Provenance {
                num_eval_images,
                ..Default::default()
            }),
            ..ResultSummary::default()
        };
        let score = |results: &[Option<&ResultSummary>]| {
            Score::of(results.iter().copied(), |result| {
                compared(Metric::Last, result)
            })
        };
        let (one, two) = (result(0.5, 1.0, 200), result(0.7, 2.0, 200));
        let both = score(&[Some(&one), Some(&two)]).expect("all have results");
        assert!((both.accuracy.fraction() - 0.6).abs() < 1e-9);
        assert_eq!((both.num_images, both.loss), (400, 1.5));
        let old = result(0.5, 1.0, 0);
        let uncounted = score(&[Some(&one), Some(&old)]).expect("all have results");
        assert_eq!(uncounted.num_images, 0);
        assert_eq!(score(&[Some(&one), None]), None);
        assert_eq!(score(&[]), None);
    }

    /// A training that happens to end well is no better than one that was well throughout.
    #[test]
    fn a_mean_of_the_last_evaluations_takes_as_many_as_there_are() {
        let result = |recent: &[f64]| ResultSummary {
            last_accuracy: *recent.last().unwrap_or(&0.1),
            recent_accuracies: recent.into(),
            provenance: std::sync::Arc::new(sweep::record::Provenance {
                num_eval_images: 10,
                ..Default::default()
            }),
            ..ResultSummary::default()
        };
        let metric = Metric::MeanOfLast(3);
        let lucky = compared(metric, &result(&[0.9, 0.5, 0.5, 0.8]));
        assert_eq!(lucky, Share::new(0.6, 10));
        assert!(compared(metric, &result(&[0.7, 0.7, 0.7])) > lucky);
        assert_eq!(compared(metric, &result(&[0.4, 0.6])), Share::new(0.5, 10));
        assert_eq!(compared(metric, &result(&[])), Share::new(0.1, 10));
        let last = compared(Metric::Last, &result(&[0.9, 0.5, 0.5, 0.8]));
        assert_eq!(last, Share::new(0.8, 10));
    }

    /// Fashion-MNIST's cosine loss: 1.0 and 0.3 were right 157 times of 200, and 1.0 won because it
    /// was written first.
    #[test]
    fn the_lower_loss_decides_between_equal_accuracies() {
        let scores = [157, 157, 156, 154, 156].map(|right| score(right, 200, f64::from(right)));
        let mut scores = scores.to_vec();
        scores[0] = score(157, 200, 0.31);
        scores[1] = score(157, 200, 0.29);
        assert_eq!(chosen(&rates(), &scores), (1, DecidedBy::Loss));
    }

    #[test]
    fn the_middle_value_decides_between_equal_losses() {
        let equal = score(80, 100, 0.5);
        assert_eq!(chosen(&rates(), &[equal; 5]), (2, DecidedBy::Middle));
        // Of 0.3, 0.1, 0.03 and 0.01 in order of value: 0.03, the smaller of the two in the middle.
        assert_eq!(
            chosen(&rates(), &[score(79, 100, 0.1), equal, equal, equal, equal]),
            (3, DecidedBy::Middle)
        );
        // Words have only their order in the file.
        let words = search(
            "init",
            &[json!("keras"), json!("torchvision"), json!("other")],
        );
        assert_eq!(chosen(&words, &[equal; 3]), (1, DecidedBy::Middle));
    }

    #[test]
    fn losses_of_another_kind_are_not_compared() {
        let smoothing = search("label_smoothing", &[json!(0.0), json!(0.1), json!(0.2)]);
        let scores = [
            score(80, 100, 0.1),
            score(80, 100, 0.5),
            score(80, 100, 0.9),
        ];
        assert_eq!(chosen(&smoothing, &scores), (1, DecidedBy::Middle));
    }

    #[test]
    fn accuracy_comes_first_and_failed_candidates_do_not_count() {
        let scores = [None, score(81, 100, 0.9), score(80, 100, 0.1), None, None];
        assert_eq!(chosen(&rates(), &scores), (1, DecidedBy::Accuracy));
        assert_eq!(choose(&rates(), &[None; 5]), None);
        assert_eq!(choose(&rates(), &[]), None);
    }

    /// The standard error of the difference between two shares near 80 % of 100 images is 5.7
    /// points.
    #[test]
    fn candidates_within_noise_are_reported() {
        let scores = [
            score(75, 100, 1.0),
            score(80, 100, 1.0),
            score(80, 100, 2.0),
            score(74, 100, 1.0),
            None,
        ];
        let choice = choose(&rates(), &scores).unwrap();
        assert_eq!(
            (
                choice.candidate,
                choice.tied.as_slice(),
                choice.close.as_slice()
            ),
            (1, &[2][..], &[0][..])
        );
        let remark = choice.remark(&rates()).unwrap();
        assert_eq!(
            remark,
            "equally often right: 0.1 (the lower loss decided); within one standard error: 1.0"
        );
        let even = [score(5, 10, 1.0), score(5, 10, 1.0), score(5, 10, 1.0)];
        let remark = choose(&rates(), &even).unwrap().remark(&rates()).unwrap();
        assert!(remark.contains("1.0, 0.1 ("), "{remark}");
        // Six images of six are no certainty.
        let few = [score(6, 6, 1.0), score(5, 6, 1.0), score(1, 6, 1.0)];
        assert_eq!(choose(&rates(), &few).unwrap().close, [1]);
        // Without image counts nothing is known about noise.
        let unknown = |accuracy| {
            Some(Score {
                accuracy: Share::new(accuracy, 0),
                num_images: 0,
                loss: 1.0,
            })
        };
        let mixed = [score(160, 200, 1.0), unknown(0.799)];
        assert!(choose(&rates(), &mixed).unwrap().close.is_empty());
        assert_eq!(
            choose(&rates(), &[unknown(0.8), unknown(0.799)])
                .unwrap()
                .remark(&rates()),
            None
        );
    }

    /// A journal of an older program may hold a choice that this program would not make.
    #[test]
    fn an_older_choice_is_explained_as_such() {
        let scores = [
            score(80, 100, 0.9),
            score(80, 100, 0.5),
            score(60, 100, 0.5),
            None,
            None,
        ];
        assert_eq!(
            explain_choice(&rates(), &scores, 1).unwrap().decided_by,
            DecidedBy::Loss
        );
        let older = explain_choice(&rates(), &scores, 0).unwrap();
        assert_eq!(
            (older.decided_by, older.tied.as_slice()),
            (DecidedBy::Earlier, &[1][..])
        );
        assert!(older.remark(&rates()).unwrap().contains("an older version"));
        assert_eq!(explain_choice(&rates(), &scores, 4), None);
    }
}
