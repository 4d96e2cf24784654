//! The enums of `control.proto` as words: the same on terminals, in JSON and on the page.

use std::fmt;

use serde::Serializer;

use crate::v1::{Condition, Presence, WaitReason};

/// `present`, `unreachable`, `draining` or `gone`.
impl fmt::Display for Presence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_word(formatter, self.as_str_name(), "PRESENCE_")
    }
}

/// `running`, `unreachable`, `stalled` or `no_coordinator`.
impl fmt::Display for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_word(formatter, self.as_str_name(), "CONDITION_")
    }
}

/// `slots_busy`, for example. Nothing if there is no reason.
impl fmt::Display for WaitReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unspecified => Ok(()),
            _ => write_word(formatter, self.as_str_name(), "WAIT_REASON_"),
        }
    }
}

fn write_word(formatter: &mut fmt::Formatter<'_>, name: &str, prefix: &str) -> fmt::Result {
    let word = name.strip_prefix(prefix).unwrap_or(name);
    formatter.write_str(&word.to_ascii_lowercase())
}

/// Serializes the number of an enum of type `E` as its word.
pub(crate) fn word<E, S>(number: &i32, serializer: S) -> Result<S::Ok, S::Error>
where
    E: TryFrom<i32> + Default + fmt::Display,
    S: Serializer,
{
    serializer.collect_str(&E::try_from(*number).unwrap_or_default())
}

impl From<schedule::WaitReason> for WaitReason {
    fn from(reason: schedule::WaitReason) -> Self {
        use schedule::WaitReason as Reason;
        match reason {
            Reason::SlotsBroken => Self::SlotsBroken,
            Reason::NoSlotLargeEnough => Self::NoSlotLargeEnough,
            Reason::NoTrainer => Self::NoTrainer,
            Reason::NoWorkers => Self::NoWorkers,
            Reason::SlotsPaused => Self::SlotsPaused,
            Reason::SlotsBusy => Self::SlotsBusy,
            Reason::AnotherHost => Self::AnotherHost,
            Reason::Backoff => Self::Backoff,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::v1::{Condition, Presence, RunningTrial, SweepStatus, WaitReason, WorkerStatus};

    #[test]
    fn enums_are_words_in_json() {
        let trial = RunningTrial {
            condition: Condition::NoCoordinator.into(),
            ..RunningTrial::default()
        };
        let worker = WorkerStatus {
            presence: Presence::Gone.into(),
            ..WorkerStatus::default()
        };
        let sweep = SweepStatus {
            waits: WaitReason::NoSlotLargeEnough.into(),
            running_trials: vec![trial],
            ..SweepStatus::default()
        };
        let sweep = serde_json::to_value(sweep).unwrap();
        assert_eq!(sweep["waits"], json!("no_slot_large_enough"));
        assert_eq!(
            sweep["running_trials"][0]["condition"],
            json!("no_coordinator")
        );
        let worker = serde_json::to_value(worker).unwrap();
        assert_eq!(worker["presence"], json!("gone"));
        let idle = serde_json::to_value(SweepStatus::default()).unwrap();
        assert_eq!(idle["waits"], json!(""));
    }

    #[test]
    fn a_wait_has_the_word_that_explanations_give_it() {
        use schedule::WaitReason as Reason;
        for reason in [
            Reason::SlotsBroken,
            Reason::NoSlotLargeEnough,
            Reason::NoTrainer,
            Reason::NoWorkers,
            Reason::SlotsPaused,
            Reason::SlotsBusy,
            Reason::AnotherHost,
            Reason::Backoff,
        ] {
            let word = WaitReason::from(reason).to_string();
            assert_eq!(json!(reason), json!(word));
        }
    }
}
