//! State of the page of one trial: the last reply about it, and the open tab.

use protocol::v1::TrialReply;
use schedule::state::Millis;
use serde_json::{Map, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tab {
    Settings,
    History,
    Log,
}

#[derive(Debug)]
pub struct Page {
    pub trial: String,
    /// Its name: cell and seed.
    pub title: String,
    pub reply: Option<TrialReply>,
    /// The reason why the last request about it failed.
    pub error: Option<String>,
    /// The end of its trainer's stderr, where this machine can read it.
    pub log: Option<Vec<String>>,
    pub tab: Tab,
    pub scroll: usize,
    pub asked_at: Millis,
}

impl Page {
    pub fn new(trial: &str, title: &str, now: Millis) -> Self {
        Self {
            trial: trial.to_owned(),
            title: title.to_owned(),
            reply: None,
            error: None,
            log: None,
            tab: Tab::Settings,
            scroll: 0,
            asked_at: now,
        }
    }

    pub fn described(&mut self, reply: Result<Box<TrialReply>, String>, log: Option<Vec<String>>) {
        match reply {
            Ok(reply) => {
                self.reply = Some(*reply);
                self.error = None;
                self.log = log;
            }
            Err(reason) => self.error = Some(reason),
        }
        self.scroll_by(0);
    }

    pub fn next_tab(&mut self) {
        self.tab = match self.tab {
            Tab::Settings => Tab::History,
            Tab::History => Tab::Log,
            Tab::Log => Tab::Settings,
        };
        self.scroll = 0;
    }

    pub fn scroll_by(&mut self, rows: isize) {
        let last = self.lines().len().saturating_sub(1);
        self.scroll = self.scroll.saturating_add_signed(rows).min(last);
    }

    /// The lines of the open tab.
    pub fn lines(&self) -> Vec<String> {
        let Some(reply) = &self.reply else {
            return Vec::new();
        };
        match self.tab {
            Tab::Settings => settings(&reply.settings_json),
            Tab::History => reply.explanation.lines().map(str::to_owned).collect(),
            Tab::Log => match &self.log {
                Some(lines) if lines.is_empty() => {
                    vec!["its trainer has written nothing".to_owned()]
                }
                Some(lines) => lines.clone(),
                None if reply.log.is_empty() => vec!["it has not started yet".to_owned()],
                None => vec![
                    format!("if its trainer wrote anything, it is on {}:", reply.host),
                    format!(
                        "{} in the work directory of worker {}",
                        reply.log, reply.worker
                    ),
                ],
            },
        }
    }
}

/// Formats settings one below another, names first.
fn settings(json: &[u8]) -> Vec<String> {
    let fields: Map<String, Value> = serde_json::from_slice(json).unwrap_or_default();
    let width = fields.keys().map(String::len).max().unwrap_or(0);
    let line = |(name, value): (&String, &Value)| match value {
        Value::String(text) => format!("{name:width$}  {text}"),
        value => format!("{name:width$}  {value}"),
    };
    fields.iter().map(line).collect()
}
