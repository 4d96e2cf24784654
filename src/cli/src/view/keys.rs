//! The keys and their effects.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::model::{Action, Leaving, Model, Prompt, Screen};

/// Rows by which page up and page down move.
const PAGE: isize = 10;

/// Keys and their meaning, for the help.
pub const HELP: [(&str, &str); 13] = [
    (
        "tab, shift-tab",
        "the next part of the screen, the previous one",
    ),
    (
        "j k, ↓ ↑",
        "move in it; page up and page down move ten rows",
    ),
    ("g G", "its first row, its last row"),
    ("enter", "open a trial: curve, settings, history, log"),
    ("esc", "back; forget the filter"),
    ("/", "show only trials whose name contains a text"),
    ("s", "the next sweep of this coordinator"),
    ("c", "cancel the sweep; asks first"),
    (
        "r",
        "retry the trials that failed; on a trial's page, it alone",
    ),
    ("ctrl-l", "draw the screen again"),
    ("ctrl-z", "stop this program; `fg` continues it"),
    ("q", "leave; asks first if that stops training"),
    ("ctrl-c", "leave at once"),
];

impl Model {
    pub(super) fn key(&mut self, key: KeyEvent) -> Vec<Action> {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => vec![Action::Leave],
                KeyCode::Char('z') => vec![Action::Suspend],
                KeyCode::Char('l') => vec![Action::Redraw],
                _ => Vec::new(),
            };
        }
        if let Some(prompt) = self.prompt {
            return self.answer(prompt, key.code);
        }
        match &self.screen {
            Screen::Overview => self.overview_key(key.code),
            Screen::Help => {
                self.screen = Screen::Overview;
                Vec::new()
            }
            Screen::Trial(_) => self.page_key(key.code),
        }
    }

    fn answer(&mut self, prompt: Prompt, code: KeyCode) -> Vec<Action> {
        match (prompt, code) {
            (Prompt::Filter, KeyCode::Char(symbol)) => self.filter.push(symbol),
            (Prompt::Filter, KeyCode::Backspace) => {
                self.filter.pop();
            }
            (Prompt::Filter, KeyCode::Enter) => self.prompt = None,
            (Prompt::Filter, KeyCode::Esc) => {
                self.filter.clear();
                self.prompt = None;
            }
            (Prompt::Filter, _) => {}
            (asked, answer) => {
                self.prompt = None;
                return match (asked, answer) {
                    (Prompt::Cancel, KeyCode::Char('y' | 'Y')) => {
                        vec![Action::Cancel(self.shown.clone())]
                    }
                    (Prompt::Retry, KeyCode::Char('y' | 'Y')) => match &self.screen {
                        Screen::Trial(page) => vec![Action::RetryTrial(page.trial.clone())],
                        Screen::Overview | Screen::Help => Vec::new(),
                    },
                    (Prompt::Leave, KeyCode::Char('y' | 'Y')) => vec![Action::Leave],
                    _ => Vec::new(),
                };
            }
        }
        Vec::new()
    }

    fn overview_key(&mut self, code: KeyCode) -> Vec<Action> {
        match code {
            KeyCode::Tab => self.move_focus(true),
            KeyCode::BackTab => self.move_focus(false),
            KeyCode::Char('j') | KeyCode::Down => self.move_cursor(1),
            KeyCode::Char('k') | KeyCode::Up => self.move_cursor(-1),
            KeyCode::PageDown => self.move_cursor(PAGE),
            KeyCode::PageUp => self.move_cursor(-PAGE),
            KeyCode::Char('g') | KeyCode::Home => self.move_cursor(isize::MIN),
            KeyCode::Char('G') | KeyCode::End => self.move_cursor(isize::MAX),
            KeyCode::Char('?') => self.screen = Screen::Help,
            KeyCode::Char('/') => self.prompt = Some(Prompt::Filter),
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Enter => return self.open(),
            KeyCode::Char('s') => return self.next_sweep(),
            KeyCode::Char('c') => {
                let can = self.sweep().is_some_and(|sweep| !sweep.complete);
                self.prompt = can.then_some(Prompt::Cancel);
            }
            KeyCode::Char('r') if self.sweep().is_some_and(|sweep| sweep.failed > 0) => {
                return vec![Action::Retry(self.shown.clone())];
            }
            KeyCode::Char('q') => match self.leaving {
                Leaving::StopsTraining => self.prompt = Some(Prompt::Leave),
                Leaving::Detaches => return vec![Action::Leave],
            },
            _ => {}
        }
        Vec::new()
    }

    fn page_key(&mut self, code: KeyCode) -> Vec<Action> {
        let Screen::Trial(page) = &mut self.screen else {
            return Vec::new();
        };
        match code {
            KeyCode::Char('r') => self.prompt = Some(Prompt::Retry),
            KeyCode::Esc | KeyCode::Backspace | KeyCode::Left | KeyCode::Char('q') => {
                self.screen = Screen::Overview;
            }
            KeyCode::Tab | KeyCode::BackTab => page.next_tab(),
            KeyCode::Char('j') | KeyCode::Down => page.scroll_by(1),
            KeyCode::Char('k') | KeyCode::Up => page.scroll_by(-1),
            KeyCode::PageDown => page.scroll_by(PAGE),
            KeyCode::PageUp => page.scroll_by(-PAGE),
            KeyCode::Char('g') | KeyCode::Home => page.scroll_by(isize::MIN),
            KeyCode::Char('G') | KeyCode::End => page.scroll_by(isize::MAX),
            _ => {}
        }
        Vec::new()
    }
}
