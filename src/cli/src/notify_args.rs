//! The arguments about notices.

use std::time::Duration;

use clap::Args;
use coordinator::{Notify, Receiver};

#[derive(Clone, Debug, Args)]
pub struct NotifyArgs {
    /// Who learns when a sweep ends, when its first trial fails, and when it stalls: an address for a
    /// POST (https://...), or a command, which gets the notice as JSON on stdin. Repeatable
    #[arg(long, value_name = "URL|COMMAND")]
    pub notify: Vec<Receiver>,
    /// How long a sweep may make no progress before that is a notice
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = humantime::parse_duration)]
    pub notify_after: Duration,
}

impl NotifyArgs {
    pub fn notify(&self) -> Notify {
        Notify {
            receivers: self.notify.clone(),
            stalled_after: self.notify_after,
        }
    }
    /// Returns the flags that mean the same.
    pub fn flags(&self) -> Vec<String> {
        let receivers = self.notify.iter();
        let mut flags: Vec<String> = receivers.map(|one| format!("--notify={one}")).collect();
        if !flags.is_empty() {
            let seconds = self.notify_after.as_secs();
            flags.push(format!("--notify-after={seconds}s"));
        }
        flags
    }
}
