//! The words by which Slurm names the state of a job. A word that is not here is kept and shown,
//! never guessed at: Slurm adds some with every version.

use schedule::allocation::{EndCause, JobState};
use sweep::text::{Line, Lines};

use super::reason;

/// Understands the state of a job as `squeue` and `sacct` print it, with the reason that `squeue`
/// gives beside it. `CANCELLED by 1000` is how sacct writes it. A failed job has no detail yet.
pub fn job_state(state: &str, why: &str) -> JobState {
    let word = state.split_whitespace().next().unwrap_or_default();
    // sacct marks states whose name it had to cut
    let word = word.trim_end_matches('+');
    let ended = JobState::Ended;
    match word {
        "CONFIGURING" => JobState::Pending(reason::of("Prolog")),
        "PENDING" | "REQUEUED" | "REQUEUE_FED" | "RESV_DEL_HOLD" | "EXPEDITING" => {
            JobState::Pending(reason::of(why))
        }
        "REQUEUE_HOLD" | "SPECIAL_EXIT" => JobState::Pending(reason::held(word)),
        "RUNNING" | "SIGNALING" | "RESIZING" | "SUSPENDED" | "STOPPED" | "STAGE_OUT" => {
            JobState::Running
        }
        "COMPLETING" => JobState::Ending,
        "COMPLETED" => ended(EndCause::Completed),
        "TIMEOUT" | "DEADLINE" => ended(EndCause::TimedOut),
        "PREEMPTED" => ended(EndCause::Preempted),
        "NODE_FAIL" | "BOOT_FAIL" => ended(EndCause::NodeFailed),
        "OUT_OF_MEMORY" => ended(EndCause::OutOfMemory),
        "CANCELLED" => ended(EndCause::CancelledByOthers),
        "REVOKED" => ended(EndCause::Gone),
        "FAILED" | "LAUNCH_FAILED" => ended(EndCause::Failed {
            detail: Lines::from(word),
        }),
        unknown => JobState::Unknown(Line::from(unknown)),
    }
}

#[cfg(test)]
mod tests {
    use schedule::allocation::ReasonClass;

    use super::*;

    /// Every state of Slurm's documents up to 25.11, and one that no version has.
    #[test]
    fn every_state_has_a_meaning_and_an_unknown_one_is_kept() {
        let mut table = String::new();
        for word in [
            "BOOT_FAIL",
            "CANCELLED",
            "CANCELLED by 1000",
            "CANCELLED+",
            "COMPLETED",
            "COMPLETING",
            "CONFIGURING",
            "DEADLINE",
            "EXPEDITING",
            "FAILED",
            "LAUNCH_FAILED",
            "NODE_FAIL",
            "OUT_OF_MEMORY",
            "OUT_OF_ME+",
            "PENDING",
            "PREEMPTED",
            "REQUEUED",
            "REQUEUE_FED",
            "REQUEUE_HOLD",
            "RESIZING",
            "RESV_DEL_HOLD",
            "REVOKED",
            "RUNNING",
            "SIGNALING",
            "SPECIAL_EXIT",
            "STAGE_OUT",
            "STOPPED",
            "SUSPENDED",
            "TIMEOUT",
            "UPDATE_DB",
            "",
        ] {
            let meaning = match job_state(word, "Priority") {
                JobState::Pending(reason) => format!("pending, {:?}", reason.class),
                JobState::Ended(cause) => format!("ended: {}", cause.sentence()),
                JobState::Unknown(word) => format!("unknown: `{word}`"),
                other => format!("{other:?}"),
            };
            table += &format!("{word}: {meaning}\n");
        }
        assert_eq!(
            table,
            "BOOT_FAIL: ended: its node failed\n\
             CANCELLED: ended: it was cancelled from outside\n\
             CANCELLED by 1000: ended: it was cancelled from outside\n\
             CANCELLED+: ended: it was cancelled from outside\n\
             COMPLETED: ended: its worker left\n\
             COMPLETING: Ending\n\
             CONFIGURING: pending, Wait\n\
             DEADLINE: ended: its time was over\n\
             EXPEDITING: pending, Wait\n\
             FAILED: ended: it failed: FAILED\n\
             LAUNCH_FAILED: ended: it failed: LAUNCH_FAILED\n\
             NODE_FAIL: ended: its node failed\n\
             OUT_OF_MEMORY: ended: it used more memory than it had asked for\n\
             OUT_OF_ME+: unknown: `OUT_OF_ME`\n\
             PENDING: pending, Wait\n\
             PREEMPTED: ended: it was preempted\n\
             REQUEUED: pending, Wait\n\
             REQUEUE_FED: pending, Wait\n\
             REQUEUE_HOLD: pending, Held\n\
             RESIZING: Running\n\
             RESV_DEL_HOLD: pending, Wait\n\
             REVOKED: ended: the cluster no longer knows it\n\
             RUNNING: Running\n\
             SIGNALING: Running\n\
             SPECIAL_EXIT: pending, Held\n\
             STAGE_OUT: Running\n\
             STOPPED: Running\n\
             SUSPENDED: Running\n\
             TIMEOUT: ended: its time was over\n\
             UPDATE_DB: unknown: `UPDATE_DB`\n\
             : unknown: ``\n"
        );
        let JobState::Pending(held) = job_state("PENDING", "JobHeldUser") else {
            panic!("it waits")
        };
        assert_eq!(held.class, ReasonClass::Held);
    }
}
