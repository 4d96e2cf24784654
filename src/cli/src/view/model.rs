//! State of the view, and its changes by snapshots, events and keys. Pure: a request to the
//! coordinator or the terminal is returned as an [`Action`], and its outcome is an [`Input`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use protocol::v1::{
    CurvePoint, FailedTrial, RunningTrial, StatusReply, SweepStatus, TrialReply, WorkerStatus,
};
use ratatui::crossterm::event::KeyEvent;
use schedule::allocation::ClusterStatus;
use schedule::state::Millis;
use sweep::counted;

use super::page::Page;
use super::workers;

/// News that are kept, at most.
const MAX_NEWS: usize = 500;
/// Running trials at most whose earlier epochs are fetched when they are first seen.
const MAX_CURVES: usize = 50;
/// Points of a curve that are kept, at most.
const MAX_POINTS: usize = 512;
/// Interval of requests about the open trial.
const PAGE_EVERY: Millis = 2_000;
/// Time for which the outcome of a key is shown.
const NOTICE: Millis = 8_000;

#[derive(Debug)]
pub enum Input {
    /// Sweeps and workers, requested at intervals.
    Status(Box<StatusReply>),
    /// One sweep, as soon as it changes.
    Sweep(Box<SweepStatus>),
    /// The tables of a sweep.
    Table {
        sweep: String,
        text: String,
    },
    /// A trial that ended, or another line for the user.
    News {
        text: String,
        trial: Option<String>,
        kind: Kind,
    },
    /// The answer to [`Action::Describe`].
    Described {
        trial: String,
        reply: Result<Box<TrialReply>, String>,
        /// The end of the trainer's stderr, where this machine can read it.
        log: Option<Vec<String>>,
    },
    /// The outcome of an action, for the last line.
    Done(String),
    Key(KeyEvent),
    /// The terminal has another size.
    Resized,
    Tick,
}

/// A task for the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Fetch the tables of this sweep.
    Table(String),
    Describe(String),
    Cancel(String),
    /// Retry the failed trials of this sweep.
    Retry(String),
    /// Retry this trial alone.
    RetryTrial(String),
    /// End the command as Ctrl-C does.
    Leave,
    /// Stop the process until the shell continues it.
    Suspend,
    Redraw,
}

/// The effect of `q` on the sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// The sweep is trained by this process.
    StopsTraining,
    Detaches,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Result,
    Failure,
    Note,
}

#[derive(Clone, Debug)]
pub struct News {
    pub at: Millis,
    pub text: String,
    pub trial: Option<String>,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pane {
    Table,
    Trials,
    Failures,
    Workers,
    News,
}

impl Pane {
    pub const ALL: [Self; 5] = [
        Self::Table,
        Self::Trials,
        Self::Failures,
        Self::Workers,
        Self::News,
    ];
}

/// The selected row of a pane. A row keeps its selection when others come and go.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    pub row: usize,
    id: Option<String>,
}

/// A line of a table, which is drawn without its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableLine {
    pub text: String,
    pub is_heading: bool,
}

#[derive(Debug)]
pub enum Screen {
    Overview,
    Help,
    Trial(Box<Page>),
}

/// A question in the last line, which takes the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompt {
    Filter,
    Cancel,
    /// The trial whose page is open.
    Retry,
    Leave,
}

#[derive(Debug)]
pub struct Model {
    pub sweeps: Vec<SweepStatus>,
    /// Name of the sweep that is shown.
    pub shown: String,
    pub workers: Vec<WorkerStatus>,
    pub cluster: Option<ClusterStatus>,
    pub storage_fault: String,
    table_title: Option<String>,
    pub table: Vec<TableLine>,
    /// The known epochs of each running trial.
    pub curves: BTreeMap<String, Vec<CurvePoint>>,
    /// The newest first.
    pub news: VecDeque<News>,
    pub focus: Pane,
    cursors: BTreeMap<Pane, Cursor>,
    pub filter: String,
    pub screen: Screen,
    pub prompt: Option<Prompt>,
    notice: Option<(String, Millis)>,
    pub now: Millis,
    pub leaving: Leaving,
    /// Sweep and number of ended trials for which the table was last requested.
    table_of: Option<(String, u64)>,
    /// Trials whose curve was requested.
    requested: BTreeSet<String>,
}

impl Model {
    /// `sweep` is the name of the sweep to show; empty for the newest.
    pub fn new(sweep: &str, leaving: Leaving) -> Self {
        Self {
            sweeps: Vec::new(),
            shown: sweep.to_owned(),
            workers: Vec::new(),
            cluster: None,
            storage_fault: String::new(),
            table_title: None,
            table: Vec::new(),
            curves: BTreeMap::new(),
            news: VecDeque::new(),
            focus: Pane::Trials,
            cursors: BTreeMap::new(),
            filter: String::new(),
            screen: Screen::Overview,
            prompt: None,
            notice: None,
            now: 0,
            leaving,
            table_of: None,
            requested: BTreeSet::new(),
        }
    }

    pub fn update(&mut self, input: Input, now: Millis) -> Vec<Action> {
        self.now = now;
        let actions = match input {
            Input::Status(reply) => self.status(*reply),
            Input::Sweep(status) => self.sweep_changed(*status),
            Input::Table { sweep, text } => {
                if sweep == self.shown {
                    (self.table_title, self.table) = table_lines(&text);
                }
                Vec::new()
            }
            Input::News { text, trial, kind } => {
                self.news.push_front(News {
                    at: now,
                    text,
                    trial,
                    kind,
                });
                self.news.truncate(MAX_NEWS);
                Vec::new()
            }
            Input::Described { trial, reply, log } => {
                self.described(&trial, reply, log);
                Vec::new()
            }
            Input::Done(text) => {
                self.notice = Some((text, now));
                Vec::new()
            }
            Input::Key(key) => self.key(key),
            Input::Resized if self.shown.is_empty() => Vec::new(),
            Input::Resized => vec![Action::Table(self.shown.clone())],
            Input::Tick => self.page_due(),
        };
        self.settle_cursors();
        actions
    }

    /// The sweep that is shown.
    pub fn sweep(&self) -> Option<&SweepStatus> {
        self.sweeps.iter().find(|sweep| sweep.name == self.shown)
    }

    /// The title of the first table.
    pub fn table_title(&self) -> Option<&str> {
        self.table_title.as_deref()
    }

    /// The running trials that pass the filter.
    pub fn running(&self) -> Vec<&RunningTrial> {
        let trials = self.sweep().map(|sweep| sweep.running_trials.iter());
        let passes = |trial: &&RunningTrial| self.passes(&trial.cell, trial.seed);
        trials.into_iter().flatten().filter(passes).collect()
    }

    pub fn failures(&self) -> Vec<&FailedTrial> {
        let trials = self.sweep().map(|sweep| sweep.failures.iter());
        let passes = |trial: &&FailedTrial| self.passes(&trial.cell, trial.seed);
        trials.into_iter().flatten().filter(passes).collect()
    }

    pub fn filtered_news(&self) -> Vec<&News> {
        let wanted = self.filter.to_lowercase();
        let passes = |news: &&News| news.text.to_lowercase().contains(&wanted);
        self.news.iter().filter(passes).collect()
    }

    /// Images per second of all running trials.
    pub fn images_per_s(&self) -> f64 {
        let trials = self.sweep().map(|sweep| sweep.running_trials.iter());
        trials
            .into_iter()
            .flatten()
            .map(|trial| trial.images_per_s)
            .sum()
    }

    /// The outcome of the last key, for a few seconds.
    pub fn notice(&self) -> Option<&str> {
        let (text, at) = self.notice.as_ref()?;
        (self.now.saturating_sub(*at) < NOTICE).then_some(text)
    }

    /// The panes that have something to show.
    pub fn panes(&self) -> Vec<Pane> {
        let has = |pane: &Pane| match pane {
            Pane::Table | Pane::Trials | Pane::Workers => true,
            Pane::Failures => self.sweep().is_some_and(|sweep| sweep.failed > 0),
            Pane::News => !self.news.is_empty(),
        };
        Pane::ALL.into_iter().filter(has).collect()
    }

    pub fn cursor(&self, pane: Pane) -> usize {
        self.cursors.get(&pane).map_or(0, |cursor| cursor.row)
    }

    /// The number of rows of a pane that a cursor moves over.
    pub fn rows(&self, pane: Pane) -> usize {
        match pane {
            Pane::Table => self.table.len(),
            Pane::Workers => self.workers.len() + self.open_allocations(),
            Pane::Trials | Pane::Failures | Pane::News => self.ids(pane).len(),
        }
    }

    fn open_allocations(&self) -> usize {
        workers::waiting_allocations(self).len()
    }

    fn passes(&self, cell: &str, seed: u64) -> bool {
        let name = format!("{cell} seed {seed}").to_lowercase();
        name.contains(&self.filter.to_lowercase())
    }

    /// Id and name of the trial of each row of a pane; `None` for a row without one.
    fn trials(&self, pane: Pane) -> Vec<Option<(&str, String)>> {
        match pane {
            Pane::Table | Pane::Workers => Vec::new(),
            Pane::Trials => self
                .running()
                .into_iter()
                .map(|trial| Some((&*trial.trial, format!("{} seed {}", trial.cell, trial.seed))))
                .collect(),
            Pane::Failures => self
                .failures()
                .into_iter()
                .map(|trial| Some((&*trial.trial, format!("{} seed {}", trial.cell, trial.seed))))
                .collect(),
            Pane::News => self
                .filtered_news()
                .into_iter()
                .map(|news| {
                    let name = news.text.split(": ").next().unwrap_or_default();
                    Some((news.trial.as_deref()?, name.to_owned()))
                })
                .collect(),
        }
    }

    fn ids(&self, pane: Pane) -> Vec<Option<&str>> {
        let trials = self.trials(pane).into_iter();
        trials.map(|trial| trial.map(|(id, _)| id)).collect()
    }

    fn status(&mut self, reply: StatusReply) -> Vec<Action> {
        self.workers = reply.workers;
        self.cluster = serde_json::from_slice(&reply.cluster_json).ok();
        self.storage_fault = reply.storage_fault;
        self.sweeps = reply.sweeps;
        if self.shown.is_empty() {
            let newest = self.sweeps.iter().max_by_key(|sweep| sweep.submitted_at_ms);
            self.shown = newest.map_or_else(String::new, |sweep| sweep.name.clone());
        }
        self.after_status()
    }

    fn sweep_changed(&mut self, mut status: SweepStatus) -> Vec<Action> {
        match self
            .sweeps
            .iter_mut()
            .find(|sweep| sweep.name == status.name)
        {
            Some(known) => {
                // only the whole status has failures
                status.failures = std::mem::take(&mut known.failures);
                *known = status;
            }
            None => self.sweeps.push(status),
        }
        self.after_status()
    }

    fn after_status(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        let Some(sweep) = self.sweeps.iter().find(|sweep| sweep.name == self.shown) else {
            return actions;
        };
        let curves = &mut self.curves;
        curves.retain(|id, _| sweep.running_trials.iter().any(|trial| trial.trial == *id));
        for trial in &sweep.running_trials {
            let is_new = !curves.contains_key(&trial.trial);
            if is_new
                && trial.epoch > 1
                && self.requested.len() < MAX_CURVES
                && self.requested.insert(trial.trial.clone())
            {
                actions.push(Action::Describe(trial.trial.clone()));
            }
            add_point(curves.entry(trial.trial.clone()).or_default(), trial);
        }
        let ended = sweep.succeeded + sweep.failed + sweep.cancelled;
        let of = Some((self.shown.clone(), ended));
        if self.table_of != of {
            self.table_of = of;
            actions.push(Action::Table(self.shown.clone()));
        }
        actions
    }

    fn described(
        &mut self,
        trial: &str,
        reply: Result<Box<TrialReply>, String>,
        log: Option<Vec<String>>,
    ) {
        if let (Ok(reply), Some(curve)) = (&reply, self.curves.get_mut(trial))
            && reply.curve.len() > curve.len()
        {
            curve.clone_from(&reply.curve);
        }
        if let Screen::Trial(page) = &mut self.screen
            && page.trial == trial
        {
            page.described(reply, log);
        }
    }

    fn page_due(&mut self) -> Vec<Action> {
        match &mut self.screen {
            Screen::Trial(page) if self.now.saturating_sub(page.asked_at) >= PAGE_EVERY => {
                page.asked_at = self.now;
                vec![Action::Describe(page.trial.clone())]
            }
            Screen::Trial(_) | Screen::Overview | Screen::Help => Vec::new(),
        }
    }

    /// Opens the trial of the selected row.
    pub(super) fn open(&mut self) -> Vec<Action> {
        let row = self.cursor(self.focus);
        let trials = self.trials(self.focus);
        let Some(Some((trial, name))) = trials.get(row) else {
            return Vec::new();
        };
        let trial = (*trial).to_owned();
        let page = Page::new(&trial, name, self.now);
        self.screen = Screen::Trial(Box::new(page));
        vec![Action::Describe(trial)]
    }

    pub(super) fn next_sweep(&mut self) -> Vec<Action> {
        let at = self
            .sweeps
            .iter()
            .position(|sweep| sweep.name == self.shown);
        let Some(next) = at.and_then(|at| self.sweeps.get((at + 1) % self.sweeps.len())) else {
            return Vec::new();
        };
        if next.name == self.shown {
            return Vec::new();
        }
        self.shown = next.name.clone();
        self.table.clear();
        self.table_title = None;
        self.requested.clear();
        self.cursors.clear();
        self.after_status()
    }

    pub(super) fn move_cursor(&mut self, by: isize) {
        let pane = self.focus;
        let last = self.rows(pane).saturating_sub(1);
        let row = self.cursor(pane).saturating_add_signed(by).min(last);
        let id = self.id_at(pane, row);
        self.cursors.insert(pane, Cursor { row, id });
    }

    pub(super) fn move_focus(&mut self, forward: bool) {
        let panes = self.panes();
        let at = panes
            .iter()
            .position(|pane| *pane == self.focus)
            .unwrap_or(0);
        let step = if forward { 1 } else { panes.len() - 1 };
        self.focus = panes[(at + step) % panes.len()];
    }

    /// Counts the trials that cancelling the shown sweep would end.
    pub fn to_be_cancelled(&self) -> String {
        let left = self
            .sweep()
            .map_or(0, |sweep| sweep.waiting + sweep.running);
        counted(left, "trial")
    }

    fn id_at(&self, pane: Pane, row: usize) -> Option<String> {
        self.ids(pane)
            .get(row)
            .copied()
            .flatten()
            .map(str::to_owned)
    }

    /// Moves each cursor to the place of its row.
    fn settle_cursors(&mut self) {
        if !self.panes().contains(&self.focus) {
            self.focus = Pane::Trials;
        }
        for pane in Pane::ALL {
            // the news show the newest while they do not have the focus
            let known = self.cursors.get(&pane);
            let known = known.filter(|_| pane != Pane::News || self.focus == pane);
            let Cursor { row, id } = known.cloned().unwrap_or_default();
            let ids = self.ids(pane);
            let found = id
                .as_deref()
                .and_then(|id| ids.iter().position(|candidate| *candidate == Some(id)));
            let row = found.unwrap_or(row.min(self.rows(pane).saturating_sub(1)));
            let id = self.id_at(pane, row);
            self.cursors.insert(pane, Cursor { row, id });
        }
    }
}

/// Splits tables into the title of the first and all other lines without the rules. The headings of a
/// table are between its first two rules.
fn table_lines(text: &str) -> (Option<String>, Vec<TableLine>) {
    let mut lines = text.lines();
    let title = lines.next().map(str::to_owned);
    let mut table = Vec::new();
    let mut rules = 0;
    for line in lines {
        let is_rule = line.starts_with('─');
        if rules == 3 {
            // another table follows
            rules = 0;
            table.push(TableLine {
                text: String::new(),
                is_heading: false,
            });
        }
        rules += usize::from(is_rule);
        if !line.is_empty() && !is_rule {
            table.push(TableLine {
                text: line.to_owned(),
                is_heading: rules == 1,
            });
        }
    }
    (title, table)
}

/// Adds the last epoch of a running trial to its curve. A trial that resumed from a checkpoint
/// repeats epochs.
fn add_point(curve: &mut Vec<CurvePoint>, trial: &RunningTrial) {
    curve.retain(|point| point.epoch < trial.epoch);
    if trial.epoch > 0 && (trial.train_loss.is_some() || trial.accuracy.is_some()) {
        curve.push(CurvePoint {
            epoch: trial.epoch,
            train_loss: trial.train_loss,
            accuracy: trial.accuracy,
        });
    }
    if curve.len() > MAX_POINTS {
        curve.drain(..curve.len() - MAX_POINTS);
    }
}
