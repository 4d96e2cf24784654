//! The reasons that Slurm gives for a job that waits, as sentences, and what to expect of each:
//! it ends by waiting, it never ends, or a person holds the job.

use schedule::allocation::{PendingReason, ReasonClass};
use sweep::text::Line;

/// Understands a reason as `squeue -o %r` prints it. A reason that is not known here counts as one
/// that ends by waiting.
pub fn of(printed: &str) -> PendingReason {
    let printed = printed.trim();
    // `ReqNodeNotAvail, UnavailableNodes:node[1-3]`
    let word = printed.split([',', ' ']).next().unwrap_or_default();
    let word = word.trim_matches(['(', ')']);
    let (class, sentence) = meaning(printed, word);
    PendingReason {
        word: Line::from(printed),
        sentence: Line::from(sentence.as_str()),
        class,
    }
}

/// The reason of a job that a state of its own holds.
pub(super) fn held(state: &str) -> PendingReason {
    PendingReason {
        word: Line::from(state),
        sentence: Line::from(RELEASE),
        class: ReasonClass::Held,
    }
}

const RELEASE: &str = "it is held after it was requeued; `scontrol release JOB` lets it start";

fn meaning(printed: &str, word: &str) -> (ReasonClass, String) {
    use ReasonClass::{Held, Never, Wait};
    let (class, sentence) = match word {
        "" | "None" | "null" => (Wait, "Slurm has not looked at it yet"),
        "Priority" => (Wait, "jobs with a higher priority come first"),
        "Resources" => (Wait, "it waits for free nodes"),
        "BeginTime" => (Wait, "it may not start yet"),
        "Cleaning" => (Wait, "its last start is being cleaned up"),
        "Dependency" => (Wait, "it waits for another job"),
        "DependencyNeverSatisfied" => {
            (Never, "the job that it depends on did not end as it should")
        }
        "Licenses" => (Wait, "it waits for licenses"),
        "Reservation" => (Wait, "it waits for its reservation"),
        "Prolog" => (Wait, "its node is being prepared"),
        "NodeDown" => (Wait, "the node that it needs is down"),
        "PartitionDown" => (Wait, "its partition is down"),
        "PartitionInactive" => (Wait, "its partition starts no jobs at the moment"),
        "ReqNodeNotAvail" => (Wait, "a node that it asked for is not available"),
        "SchedDefer" | "DeadLine" => (Wait, "Slurm has put it off"),
        "PartitionTimeLimit" => (
            Never,
            "its time limit is longer than the partition allows (--time)",
        ),
        "PartitionNodeLimit" => (Never, "the partition does not allow as many nodes"),
        "PartitionConfig" => (Never, "the partition has no node with what it asks for"),
        "AccountNotAllowed" => (
            Never,
            "its account may not use this partition (--account, --partition)",
        ),
        "QOSNotAllowed" => (Never, "its quality of service may not use this partition"),
        "BadConstraints" => (Never, "no node has what it asks for"),
        "InvalidAccount" => (Never, "its account is not valid (--account)"),
        "InvalidQOS" => (Never, "its quality of service is not valid"),
        "JobHeldUser" => (Held, "you hold it; `scontrol release JOB` lets it start"),
        "JobHeldAdmin" => (Held, "an administrator holds it and must release it"),
        "JobLaunchFailure" => (
            Held,
            "it could not be started on its node; `scontrol release JOB` tries again",
        ),
        "NonZeroExitCode" | "SystemFailure" => (
            Held,
            "it failed and is held; `scontrol release JOB` tries again",
        ),
        _ if printed.contains("requeued held") || printed.contains("requeued in held state") => {
            (Held, RELEASE)
        }
        _ if printed.contains("Nodes required for job are DOWN") => (
            Wait,
            "the nodes that it needs are down, drained or reserved",
        ),
        _ => return limit(word),
    };
    (class, sentence.to_owned())
}

/// The limits of associations and qualities of service: `AssocGrpCPULimit`,
/// `QOSMaxJobsPerUserLimit`, `QOSMaxGRESPerJob`. A limit of one job can never be met by waiting;
/// those of users, accounts and groups can.
fn limit(word: &str) -> (ReasonClass, String) {
    let (owner, rest) = match (word.strip_prefix("QOS"), word.strip_prefix("Assoc")) {
        (Some(rest), _) => ("quality of service", rest),
        (_, Some(rest)) => ("account", rest),
        _ => return (ReasonClass::Wait, format!("Slurm gives the reason {word}")),
    };
    let per_job = [
        "PerJob",
        "PerJobLimit",
        "MaxWallDuration",
        "MaxWall",
        "PerNode",
        "MinCPU",
        "MinGRES",
    ];
    if per_job.iter().any(|part| rest.contains(part)) && !rest.starts_with("Grp") {
        let sentence = format!("it asks for more than its {owner} allows to one job ({word})");
        return (ReasonClass::Never, sentence);
    }
    (
        ReasonClass::Wait,
        format!("a limit of its {owner} is reached ({word})"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(printed: &str) -> ReasonClass {
        of(printed).class
    }

    #[test]
    fn reasons_are_sorted_into_wait_never_and_held() {
        use ReasonClass::{Held, Never, Wait};
        for (printed, expected) in [
            ("None", Wait),
            ("Priority", Wait),
            ("Resources", Wait),
            ("PartitionDown", Wait),
            (
                "(Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions)",
                Wait,
            ),
            ("ReqNodeNotAvail, UnavailableNodes:node[1-3]", Wait),
            ("ReqNodeNotAvail(Unavailable:node7)", Wait),
            ("QOSMaxJobsPerUserLimit", Wait),
            ("QOSMaxCpuPerUserLimit", Wait),
            ("QOSGrpNodeLimit", Wait),
            ("AssocGrpGRES", Wait),
            ("AssocMaxJobsLimit", Wait),
            ("AssocGrpCPUMinutesLimit", Wait),
            ("QOSMaxWallDurationPerJobLimit", Never),
            ("AssocMaxWallDurationPerJobLimit", Never),
            ("QOSMaxGRESPerJob", Never),
            ("AssocMaxCpuPerJobLimit", Never),
            ("QOSMinGRES", Never),
            ("PartitionTimeLimit", Never),
            ("PartitionNodeLimit", Never),
            ("PartitionConfig", Never),
            ("BadConstraints", Never),
            ("InvalidAccount", Never),
            ("DependencyNeverSatisfied", Never),
            ("Dependency", Wait),
            ("JobHeldUser", Held),
            ("JobHeldAdmin", Held),
            ("launch failed requeued held", Held),
            ("job requeued in held state", Held),
            ("ReasonOfALaterVersion", Wait),
        ] {
            assert_eq!(class(printed), expected, "{printed}");
        }
    }

    #[test]
    fn a_reason_is_shown_in_words_and_as_slurm_gave_it() {
        let reason = of("QOSMaxJobsPerUserLimit");
        assert_eq!(&*reason.word, "QOSMaxJobsPerUserLimit");
        assert_eq!(
            &*reason.sentence,
            "a limit of its quality of service is reached (QOSMaxJobsPerUserLimit)"
        );
        let reason = of("ReasonOfALaterVersion");
        assert_eq!(
            &*reason.sentence,
            "Slurm gives the reason ReasonOfALaterVersion"
        );
    }
}
