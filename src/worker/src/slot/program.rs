//! The change of a slot from one program to another.

use sweep::AttemptId;
use sweep::record::FailureClass;

use super::{End, Interrupt, Slot};
use crate::programs::Prepared;

impl Slot {
    /// Returns the failure class of a program that does not start: a sweep's own is at fault itself,
    /// while that of the worker has started before.
    pub(super) fn class_of_start(&self) -> FailureClass {
        match self.launch.trainer.submitted() {
            Some(_) => FailureClass::Crashed,
            None => FailureClass::Node,
        }
    }

    /// Changes the program of the slot, if the trial needs another one: the idle trainer is ended.
    pub(super) async fn use_program(
        &mut self,
        attempt: AttemptId,
        wanted: &sweep::Trainer,
    ) -> Result<(), End> {
        let is_in_use = match wanted.submitted() {
            Some(_) => self.launch.trainer == *wanted,
            None => self.own.is_none(),
        };
        if is_in_use {
            return Ok(());
        }
        let own = self.own.clone().unwrap_or_else(|| self.launch.clone());
        let next = match wanted.submitted() {
            Some(program) => {
                let context = self.context.clone();
                tokio::select! {
                    prepared = context.programs.prepare(program, &own) => prepared?,
                    interrupt = self.interrupt(Some(attempt)) => return Err(match interrupt {
                        Interrupt::Stop(reason) => End::Outcome(reason.outcome()),
                        Interrupt::Kill => End::Killed,
                    }),
                }
            }
            None => Prepared {
                launch: own.clone(),
                libraries: String::new(),
            },
        };
        if let Some(idle) = self.idle_trainer.take() {
            let what_happened = "it had not begun; the trainer of another program ended before it";
            if let Some(failure) = self.end_healthy(idle, what_happened).await {
                return Err(failure.into());
            }
        }
        self.own = wanted.submitted().map(|_| own);
        self.launch = next.launch;
        self.libraries = next.libraries;
        Ok(())
    }
}
