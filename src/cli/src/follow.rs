//! The progress of a sweep that a command follows: the view on a terminal, plain lines elsewhere.

use std::time::{Duration, Instant};

use protocol::v1::{Condition, RunningTrial, SweepStatus, TrialEnded, trial_ended};
use sweep::text::cut;
use sweep::{Share, counted, seed};
use unicode_width::UnicodeWidthStr;

use crate::args::{Target, ViewArgs, ViewChoice};
use crate::output::Output;
use crate::view::{Input, Kind, RunningView, Source, terminal};
use crate::{fit, stderr};

/// Interval of plain lines about running trials at first; a long run prints fewer.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// The interval of plain lines is at least the run's time so far divided by this.
const LINE_SHARE: u32 = 60;
/// Running trials that plain lines list.
const MAX_LISTED: usize = 4;
/// Columns of a trial's name that are worth more than a detail of it.
const MIN_NAME: usize = 32;
/// Limit for the first line of a failure, in bytes.
const MAX_REASON: usize = 200;

pub struct View {
    full_screen: Option<RunningView>,
    /// Used where there is no view, and after one has ended early; absent: `--quiet`.
    lines: Option<Lines>,
}

struct Lines {
    began: Instant,
    last: Option<Instant>,
    total: u64,
    /// The reason that was printed last why the sweep makes no progress.
    waits: String,
}

impl View {
    /// Chooses how progress is shown. Needs a runtime.
    pub fn new(arguments: ViewArgs, output: Output, source: Source) -> Self {
        if stderr::quiet() {
            return Self {
                full_screen: None,
                lines: None,
            };
        }
        let lines = Lines {
            began: Instant::now(),
            last: None,
            total: 0,
            waits: String::new(),
        };
        let wants = arguments.view == ViewChoice::Auto && !output.is_json();
        let full_screen = (wants && terminal::is_suitable()).then(|| RunningView::start(source));
        let full_screen = full_screen.and_then(|started| {
            let failed = |error| stderr::print(&format!("no view on this terminal: {error}"));
            started.map_err(failed).ok()
        });
        Self {
            full_screen,
            lines: Some(lines),
        }
    }

    /// Returns true while the view has the terminal.
    pub fn is_full_screen(&self) -> bool {
        self.full_screen().is_some()
    }

    fn full_screen(&self) -> Option<&RunningView> {
        self.full_screen.as_ref().filter(|_| terminal::is_taken())
    }

    pub fn status(&mut self, status: &SweepStatus) {
        if let Some(full_screen) = self.full_screen() {
            full_screen.send(Input::Sweep(Box::new(status.clone())));
        } else if let Some(lines) = &mut self.lines {
            lines.status(status);
        }
    }

    /// Shows a result or failure that has just arrived. A failure stays on the terminal when the
    /// view has ended.
    pub fn ended(&mut self, ended: &TrialEnded, target: &Target) {
        let line = ended_line(ended, target);
        let failed = matches!(ended.outcome, Some(trial_ended::Outcome::Failure(_)));
        let trial = Some(ended.trial.clone());
        match self.full_screen() {
            Some(_) if failed => {
                let kind = Kind::Failure;
                terminal::keep(&line, |text| Input::News { text, trial, kind });
            }
            Some(full_screen) => full_screen.send(Input::News {
                text: line,
                trial,
                kind: Kind::Result,
            }),
            None => stderr::print(&line),
        }
    }

    pub fn note(&mut self, note: &str) {
        stderr::print(&shortened(note));
    }

    /// Ends the view and gives the terminal back.
    pub fn finish(&mut self) {
        self.full_screen = None;
    }
}

impl Lines {
    fn status(&mut self, status: &SweepStatus) {
        let first = self.total == 0;
        self.total = total(status);
        if first {
            stderr::print(&format!(
                "{}: {}, {} done",
                status.name,
                counted(total(status), "trial"),
                done(status)
            ));
        }
        let because = &status.waits_because;
        if !because.is_empty() && *because != self.waits {
            stderr::print(&format!("{} waits: {because}", status.name));
        }
        self.waits.clone_from(because);
        let under_way: Vec<&RunningTrial> = status
            .running_trials
            .iter()
            .filter(|trial| trial.epoch > 0)
            .collect();
        let pause = LINE_EVERY.max(self.began.elapsed() / LINE_SHARE);
        if under_way.is_empty() || self.last.is_some_and(|last| last.elapsed() < pause) {
            return;
        }
        self.last = Some(Instant::now());
        let columns = stderr::columns();
        stderr::print(&fit::beginning(
            &format!(
                "{}: {} of {} trials, {}",
                status.name,
                done(status),
                total(status),
                counts(status)
            ),
            columns,
        ));
        for trial in under_way.iter().take(MAX_LISTED) {
            stderr::print(&trial_line(trial, columns));
        }
        let more = under_way.len().saturating_sub(MAX_LISTED);
        if more > 0 {
            stderr::print(&format!("  and {more} more"));
        }
    }
}

/// `  cos/10 seed 3  epoch 12/42  93.1 % test  2100 images/s`, without the last details if there is
/// no room for them.
fn trial_line(trial: &RunningTrial, columns: usize) -> String {
    let details = details(trial);
    let fits = |count: &usize| details[..*count].join("  ").width() + MIN_NAME + 4 <= columns;
    let count = (1..=details.len()).rev().find(fits).unwrap_or(1);
    let details = details[..count].join("  ");
    let name = fit::trial(
        &trial.cell,
        trial.seed,
        columns.saturating_sub(details.width() + 4),
    );
    fit::beginning(&format!("  {name}  {details}"), columns)
}

/// `cos/10 seed 3: 95.2 % test (best 95.8 %), 3.2 s`
pub fn ended_line(ended: &TrialEnded, target: &Target) -> String {
    let kind = if ended.search { " (search)" } else { "" };
    let attempts = match ended.attempts {
        0 | 1 => String::new(),
        count => format!(", attempt {count}"),
    };
    let name = format!("{} seed {}{kind}", ended.cell, seed::name(ended.seed));
    let of = evaluated_on(ended.search);
    match &ended.outcome {
        Some(trial_ended::Outcome::Accuracy(accuracy)) => {
            let (last, best) = (Share::new(*accuracy, 0), Share::new(ended.best_accuracy, 0));
            format!(
                "{name}: {last} % {of} (best {best} %), {:.1} s{attempts}",
                ended.seconds
            )
        }
        Some(trial_ended::Outcome::Failure(failure)) => {
            let reason = shortened(failure);
            format!(
                "{name}: failed{attempts}: {reason}; see `orchestrator why {}{}`",
                ended.trial,
                target.flags()
            )
        }
        None => format!("{name}: ended{attempts}"),
    }
}

/// Returns the first line of a peer's report, without colours and of bounded length.
pub fn shortened(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    cut(&anstream::adapter::strip_str(line).to_string(), MAX_REASON)
}

/// `epoch 12/42  93.1 % test  2100 images/s`
pub fn trial_text(trial: &RunningTrial) -> String {
    details(trial).join("  ")
}

/// The details of a trial, the most important first.
fn details(trial: &RunningTrial) -> Vec<String> {
    // the number of epochs is not known while a trial opens its data set
    let mut details = match trial.num_epochs {
        0 => vec!["starting".to_owned()],
        epochs => vec![format!("epoch {}/{epochs}", trial.epoch)],
    };
    match trial.condition() {
        Condition::Running => {}
        condition => details.push(condition.to_string().replace('_', " ")),
    }
    if let Some(accuracy) = trial.accuracy {
        let of = evaluated_on(trial.search);
        details.push(format!("{} % {of}", Share::new(accuracy, 0)));
    }
    if trial.images_per_s > 0.0 {
        details.push(format!("{:.0} images/s", trial.images_per_s));
    }
    if trial.attempt > 1 {
        details.push(format!("attempt {}", trial.attempt));
    }
    details
}

/// Returns what an accuracy is of: the images of a test set, or those that a search holds out.
pub fn evaluated_on(search: bool) -> &'static str {
    if search { "held out" } else { "test" }
}

pub fn total(status: &SweepStatus) -> u64 {
    status.waiting + status.running + done(status)
}

pub fn done(status: &SweepStatus) -> u64 {
    status.succeeded + status.failed + status.cancelled
}

/// `2 running, 1 failed, about 1m20s left`
pub fn counts(status: &SweepStatus) -> String {
    let mut parts = numbers(status);
    parts.extend(remaining(status));
    parts.join(", ")
}

fn numbers(status: &SweepStatus) -> Vec<String> {
    let mut parts = vec![format!("{} running", status.running)];
    if status.failed > 0 {
        parts.push(format!("{} failed", status.failed));
    }
    if status.cancelled > 0 {
        parts.push(format!("{} cancelled", status.cancelled));
    }
    parts
}

/// `about 1m20s left (1m05s to 1m40s)`, with `, at least` while searches may still add an unknown
/// number of trials.
pub fn remaining(status: &SweepStatus) -> Option<String> {
    let least = if status.remaining_at_least {
        ", at least"
    } else {
        ""
    };
    let range = match (status.remaining_low_ms, status.remaining_high_ms) {
        (_, 0) => String::new(),
        (low, high) => format!(" ({} to {})", duration(low), duration(high)),
    };
    (status.remaining_ms > 0 && !status.complete)
        .then(|| format!("about {} left{range}{least}", duration(status.remaining_ms)))
}

/// `45s`, `1m20s`, `2h05m`, `3d04h`
pub fn duration(ms: u64) -> String {
    let seconds = ms.div_ceil(1000);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let found = [0, 999, 59_000, 80_000, 7_500_000, 273_600_000].map(duration);
        assert_eq!(found, ["0s", "1s", "59s", "1m20s", "2h05m", "3d04h"]);
    }

    #[test]
    fn lines_about_trials_that_ended() {
        let mut ended = TrialEnded {
            trial: "t0123456789abcdef".into(),
            cell: "cos/10".into(),
            seed: 3,
            attempts: 2,
            outcome: Some(trial_ended::Outcome::Accuracy(0.952)),
            best_accuracy: 0.958,
            seconds: 3.21,
            search: false,
        };
        let target = Target {
            coordinator: None,
            token_file: None,
            state_dir: "my state".into(),
        };
        assert_eq!(
            ended_line(&ended, &target),
            "cos/10 seed 3: 95.2 % test (best 95.8 %), 3.2 s, attempt 2"
        );
        ended.search = true;
        ended.attempts = 1;
        ended.outcome = Some(trial_ended::Outcome::Failure(
            "the loss became NaN\nmore".into(),
        ));
        assert_eq!(
            ended_line(&ended, &target),
            "cos/10 seed 3 (search): failed: the loss became NaN; see `orchestrator why t0123456789abcdef --state-dir 'my state'`"
        );
    }

    #[test]
    fn a_long_or_coloured_reason_is_one_short_plain_line() {
        assert_eq!(shortened("\x1b[31mboom\x1b[0m\nTraceback"), "boom");
        let long = shortened(&"ä".repeat(1000));
        assert!(long.len() <= MAX_REASON && long.ends_with("ä..."), "{long}");
    }

    #[test]
    fn a_trial_that_has_not_begun_has_no_epochs() {
        let mut trial = RunningTrial {
            condition: Condition::Running.into(),
            ..RunningTrial::default()
        };
        assert_eq!(trial_text(&trial), "starting");
        trial = RunningTrial {
            epoch: 0,
            num_epochs: 42,
            attempt: 2,
            condition: Condition::Stalled.into(),
            ..trial
        };
        assert_eq!(trial_text(&trial), "epoch 0/42  stalled  attempt 2");
        trial = RunningTrial {
            epoch: 3,
            accuracy: Some(0.931),
            images_per_s: 2100.4,
            attempt: 1,
            ..trial
        };
        assert_eq!(
            trial_text(&trial),
            "epoch 3/42  stalled  93.1 % test  2100 images/s"
        );
    }

    #[test]
    fn the_line_of_a_trial_fits_and_names_the_images_of_its_accuracy() {
        let trial = RunningTrial {
            cell: "cos/a-value-whose-name-is-long/another-of-that-kind learning_rate=0.05".into(),
            seed: 12,
            epoch: 3,
            num_epochs: 42,
            accuracy: Some(0.931),
            images_per_s: 2100.4,
            search: true,
            ..RunningTrial::default()
        };
        assert_eq!(
            trial_line(&trial, 80),
            "  cos…ind learning_rate=0.05 seed 12  epoch 3/42  93.1 % held out  2100 images/s"
        );
        for columns in 20..120 {
            let line = trial_line(&trial, columns);
            assert!(line.width() <= columns, "{columns}: {line}");
            assert!(
                columns < 50 || line.contains("learning_rate=0.05 seed 12"),
                "{line}"
            );
        }
    }

    #[test]
    fn the_remaining_time_shows_when_it_is_a_lower_bound() {
        let mut status = SweepStatus {
            running: 2,
            failed: 1,
            remaining_ms: 80_000,
            ..SweepStatus::default()
        };
        assert_eq!(counts(&status), "2 running, 1 failed, about 1m20s left");
        status.remaining_at_least = true;
        (status.remaining_low_ms, status.remaining_high_ms) = (65_000, 100_000);
        assert_eq!(
            counts(&status),
            "2 running, 1 failed, about 1m20s left (1m05s to 1m40s), at least"
        );
        status.complete = true;
        assert_eq!(counts(&status), "2 running, 1 failed");
    }
}
