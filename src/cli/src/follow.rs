//! What a person sees of a running sweep on stderr: progress bars on a terminal, plain lines in a pipe.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use protocol::v1::{RunningTrial, SweepStatus, TrialEnded, trial_ended};

use crate::args::Target;
use crate::output::counted;
use crate::talk;

/// Bars of running trials that fit a terminal; the sweep's own bar counts the others.
const MAX_BARS: usize = 16;
/// Between two plain lines about what runs.
const LINE_EVERY: Duration = Duration::from_secs(5);

pub enum View {
    Bars(Bars),
    Lines(Lines),
    Silent,
}

pub struct Bars {
    sweep: ProgressBar,
    /// The table as it stands, below the bars.
    table: Option<ProgressBar>,
    trials: BTreeMap<String, ProgressBar>,
    waits: Waits,
}

#[derive(Default)]
pub struct Lines {
    last: Option<Instant>,
    total: u64,
    waits: Waits,
}

/// Why the sweep does not get on, said when it changes.
#[derive(Default)]
struct Waits {
    said: String,
}

impl Waits {
    fn status(&mut self, status: &SweepStatus) {
        let because = &status.waits_because;
        if !because.is_empty() && *because != self.said {
            talk::say(&format!("{} waits: {because}", status.name));
            self.said.clone_from(because);
        }
    }
}

impl View {
    /// As stderr and `--quiet` ask for.
    pub fn new() -> Self {
        if talk::quiet() {
            return Self::Silent;
        }
        if !talk::interactive() {
            return Self::Lines(Lines::default());
        }
        let sweep = talk::bars().add(ProgressBar::new(0));
        sweep.set_style(style("{prefix:.bold} [{wide_bar}] {pos}/{len} trials {msg}"));
        Self::Bars(Bars { sweep, table: None, trials: BTreeMap::new(), waits: Waits::default() })
    }

    pub fn status(&mut self, status: &SweepStatus) {
        match self {
            Self::Bars(bars) => bars.status(status),
            Self::Lines(lines) => lines.status(status),
            Self::Silent => {}
        }
    }

    /// A result or a failure that has just landed.
    pub fn ended(&mut self, ended: &TrialEnded, target: &Target) {
        talk::say(&ended_line(ended, target));
    }

    pub fn note(&mut self, note: &str) {
        talk::say(note);
    }

    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Bars(_))
    }

    /// Shows the table below the bars; false where there are none.
    pub fn table(&mut self, text: &str) -> bool {
        let Self::Bars(bars) = self else { return false };
        let table = bars.table.get_or_insert_with(|| {
            let table = talk::bars().add(ProgressBar::new_spinner());
            table.set_style(style("{msg}"));
            table
        });
        table.set_message(text.trim_end().to_owned());
        true
    }

    /// Takes the bars off the screen.
    pub fn finish(&mut self) {
        if let Self::Bars(bars) = self {
            for bar in bars.trials.values().chain([&bars.sweep]).chain(&bars.table) {
                bar.finish_and_clear();
                talk::bars().remove(bar);
            }
            // Best effort: a terminal that is gone needs no clearing.
            let _ = talk::bars().clear();
        }
    }
}

impl Bars {
    fn status(&mut self, status: &SweepStatus) {
        self.waits.status(status);
        let running: BTreeMap<&str, &RunningTrial> =
            status.running_trials.iter().take(MAX_BARS).map(|trial| (trial.trial.as_str(), trial)).collect();
        self.trials.retain(|trial, bar| {
            let keep = running.contains_key(trial.as_str());
            if !keep {
                bar.finish_and_clear();
                talk::bars().remove(bar);
            }
            keep
        });
        for (id, trial) in running {
            let bar = self.trials.entry(id.to_owned()).or_insert_with(|| {
                let bar = talk::bars().insert_before(&self.sweep, ProgressBar::new(0));
                bar.set_style(style("  {prefix:30!} [{bar:24}] {msg}"));
                bar
            });
            bar.set_prefix(format!("{} seed {}", trial.cell, trial.seed));
            bar.set_length(u64::from(trial.num_epochs));
            bar.set_position(u64::from(trial.epoch));
            bar.set_message(trial_text(trial));
        }
        self.sweep.set_prefix(status.name.clone());
        self.sweep.set_length(total(status));
        self.sweep.set_position(done(status));
        let hidden = status.running_trials.len().saturating_sub(MAX_BARS);
        let more = if hidden > 0 { format!(" ({hidden} not shown)") } else { String::new() };
        self.sweep.set_message(format!("{}{more}", counts(status)));
    }
}

impl Lines {
    fn status(&mut self, status: &SweepStatus) {
        let first = self.total == 0;
        self.total = total(status);
        if first {
            talk::say(&format!("{}: {}, {} done", status.name, counted(total(status), "trial"), done(status)));
        }
        self.waits.status(status);
        let under_way: Vec<&RunningTrial> = status.running_trials.iter().filter(|trial| trial.epoch > 0).collect();
        if under_way.is_empty() || self.last.is_some_and(|last| last.elapsed() < LINE_EVERY) {
            return;
        }
        self.last = Some(Instant::now());
        let shown =
            under_way.iter().take(4).map(|trial| format!("{} seed {} {}", trial.cell, trial.seed, trial_text(trial)));
        let shown: Vec<String> = shown.collect();
        let more = under_way.len().saturating_sub(shown.len());
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        talk::say(&format!(
            "{}: {} of {} trials, {}: {}{more}",
            status.name,
            done(status),
            total(status),
            counts(status),
            shown.join("; ")
        ));
    }
}

/// `cos/10 seed 3: 95.2 % (best 95.8 %), 3.2 s`
pub fn ended_line(ended: &TrialEnded, target: &Target) -> String {
    let kind = if ended.search { " (search)" } else { "" };
    let attempts = match ended.attempts {
        0 | 1 => String::new(),
        count => format!(", attempt {count}"),
    };
    let name = format!("{} seed {}{kind}", ended.cell, ended.seed);
    match &ended.outcome {
        Some(trial_ended::Outcome::Accuracy(accuracy)) => {
            let (last, best) = (100.0 * accuracy, 100.0 * ended.best_accuracy);
            format!("{name}: {last:.1} % (best {best:.1} %), {:.1} s{attempts}", ended.seconds)
        }
        Some(trial_ended::Outcome::Failure(failure)) => {
            let reason = failure.lines().next().unwrap_or_default();
            format!("{name}: failed{attempts}: {reason}; see `orchestrator explain {}{}`", ended.trial, target.flags())
        }
        None => format!("{name}: ended{attempts}"),
    }
}

/// `epoch 12/42  93.1 %  2100 images/s`
pub fn trial_text(trial: &RunningTrial) -> String {
    let mut text = format!("epoch {}/{}", trial.epoch, trial.num_epochs);
    if let Some(accuracy) = trial.accuracy {
        text.push_str(&format!("  {:.1} %", 100.0 * accuracy));
    }
    if trial.images_per_s > 0.0 {
        text.push_str(&format!("  {:.0} images/s", trial.images_per_s));
    }
    if trial.attempt > 1 {
        text.push_str(&format!("  attempt {}", trial.attempt));
    }
    if !matches!(trial.condition.as_str(), "" | "running") {
        text.push_str(&format!("  {}", trial.condition));
    }
    text
}

pub fn total(status: &SweepStatus) -> u64 {
    status.waiting + status.running + done(status)
}

pub fn done(status: &SweepStatus) -> u64 {
    status.succeeded + status.failed + status.cancelled
}

/// `2 running, 1 failed, about 1m20s left`
pub fn counts(status: &SweepStatus) -> String {
    let mut parts = vec![format!("{} running", status.running)];
    if status.failed > 0 {
        parts.push(format!("{} failed", status.failed));
    }
    if status.cancelled > 0 {
        parts.push(format!("{} cancelled", status.cancelled));
    }
    if status.remaining_ms > 0 && !status.complete {
        parts.push(format!("about {} left", duration(status.remaining_ms)));
    }
    parts.join(", ")
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

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is well-formed").progress_chars("=> ")
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
            trial: "0123456789abcdef".into(),
            cell: "cos/10".into(),
            seed: 3,
            attempts: 2,
            outcome: Some(trial_ended::Outcome::Accuracy(0.952)),
            best_accuracy: 0.958,
            seconds: 3.21,
            search: false,
        };
        let target = Target { coordinator: None, token_file: None, state_dir: "my state".into() };
        assert_eq!(ended_line(&ended, &target), "cos/10 seed 3: 95.2 % (best 95.8 %), 3.2 s, attempt 2");
        ended.search = true;
        ended.attempts = 1;
        ended.outcome = Some(trial_ended::Outcome::Failure("the loss became NaN\nmore".into()));
        assert_eq!(
            ended_line(&ended, &target),
            "cos/10 seed 3 (search): failed: the loss became NaN; see `orchestrator explain 0123456789abcdef --state-dir 'my state'`"
        );
    }
}
