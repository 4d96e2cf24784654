//! Output of Slurm, from 22.05 to 25.11, and the script that is submitted to it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use launch::script::{Template, notice};
use launch::slurm::text;
use proptest::prelude::*;
use schedule::allocation::{AllocationId, JobState, ObservedJob, SubmitOutcome};

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn assert_golden(name: &str, actual: &str) {
    tests::golden::assert_file(format!("tests/goldens/{name}"), actual);
}

fn shown(jobs: &[ObservedJob]) -> String {
    let mut text = String::new();
    for job in jobs {
        let state = match &job.state {
            JobState::Pending(reason) => {
                format!(
                    "pending ({:?}): {} [{}]",
                    reason.class, reason.sentence, reason.word
                )
            }
            JobState::Ended(cause) => format!("ended: {}", cause.sentence()),
            other => format!("{other:?}"),
        };
        let node = job.node.as_deref().unwrap_or("-");
        let end = job.ends_at.map_or("-".to_owned(), |end| end.to_string());
        text += &format!(
            "{} {} node {node} end {end}  {state}\n",
            job.allocation, job.job
        );
    }
    text
}

/// 22.05 as recorded; 23.11 and 25.11 after their documents.
#[test]
fn queues_of_three_versions_are_understood() {
    let mut text = String::new();
    for file in [
        "22.05/squeue.txt",
        "derived/squeue-23.11.txt",
        "derived/squeue-25.11.txt",
    ] {
        text += &format!("{file}\n{}", shown(&text::queue(&fixture(file))));
    }
    text += &format!(
        "derived/sacct.txt\n{}",
        shown(&text::accounts(&fixture("derived/sacct.txt")))
    );
    assert_golden("queues.txt", &text);
}

#[test]
fn refusals_of_sbatch_are_sorted() {
    let text = fixture("22.05/sbatch-errors.txt");
    let mut sorted = String::new();
    for block in text.split("## ").skip(1) {
        let (request, stderr) = block.split_once('\n').unwrap();
        let outcome = match text::refused(stderr) {
            SubmitOutcome::Submitted(_) => unreachable!("it was refused"),
            SubmitOutcome::Refused { message } => format!("refused: {message}"),
            SubmitOutcome::Full { message } => format!("full: {message}"),
            SubmitOutcome::Unreachable { message } => format!("unreachable: {message}"),
            SubmitOutcome::Unknown { message } => format!("unknown: {message}"),
        };
        sorted += &format!("{request}\n    {outcome}\n");
    }
    assert_golden("refusals.txt", &sorted);
    for limit in [
        "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
        "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
    ] {
        assert!(
            matches!(text::refused(limit), SubmitOutcome::Full { .. }),
            "{limit}"
        );
    }
}

#[test]
fn the_jobs_number_is_found_among_a_sites_greetings() {
    let found = |stdout: &str| text::submitted(stdout).map(|job| job.0.to_string());
    assert_eq!(found("4711\n").as_deref(), Some("4711"));
    assert_eq!(found("4711;cluster2\n").as_deref(), Some("4711"));
    let greeting = "2026 is the year of the new machine\n 17 \nbudget left: 12\n4711;cluster2\n\n";
    assert_eq!(found(greeting).as_deref(), Some("4711"));
    assert_eq!(
        found("Submitted batch job 4711\n"),
        None,
        "not what --parsable prints"
    );
    assert_eq!(found(""), None);
}

#[test]
fn details_of_a_job_are_read_although_values_hold_blanks_and_equals_signs() {
    let details = text::details(&fixture("22.05/scontrol-running.txt"));
    assert_eq!(details["JobState"], "RUNNING");
    assert_eq!(details["Comment"], "two words, \"quoted\"");
    assert_eq!(details["TRES"], "cpu=2,mem=8000M,node=1,billing=2");
    assert_eq!(details["AllocNode:Sid"], "localhost:22424");
    assert_eq!(details["MCS_label"], "N/A");
    assert_eq!(details["Power"], "");
    let details = text::details(&fixture("derived/scontrol-25.11.txt"));
    assert_eq!(details["NodeList"], "node1");
    assert!(details["SubmitLine"].ends_with("/script"));
    assert_eq!(details["StdErr"], "");
}

proptest! {
    #[test]
    fn details_survive_any_values(
        fields in prop::collection::btree_map("[A-Z][A-Za-z/:]{0,12}", "[a-z0-9(),.=:/*\" -]{0,20}", 0..12)
    ) {
        // a value with ` Name=` in it looks like two fields; these values have no capitals
        let line = fields.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ");
        let expected: BTreeMap<String, String> =
            fields.into_iter().map(|(name, value)| (name, value.trim().to_owned())).collect();
        prop_assert_eq!(text::details(&line), expected);
    }

    #[test]
    fn no_output_whatever_breaks_a_parser(text in "(\\PC|\n|\\|){0,200}") {
        text::queue(&text);
        text::accounts(&text);
        text::details(&text);
        text::submitted(&text);
        text::refused(&text);
        text::duration(&text);
    }
}

#[test]
fn durations_of_every_form_are_understood() {
    let seconds = |text: &str| text::duration(text).map(|duration| duration.as_secs());
    for (text, expected) in [
        ("30", Some(1800)),
        ("30:15", Some(1815)),
        ("04:00:00", Some(14400)),
        ("1-00", Some(86400)),
        ("1-12:30", Some(86400 + 12 * 3600 + 1800)),
        ("365-00:00:01", Some(365 * 86400 + 1)),
        ("UNLIMITED", None),
        ("NOT_SET", None),
        ("INVALID", None),
        ("", None),
        ("1-", None),
        ("1:2:3:4", None),
        ("-5", None),
        ("99999999999999999999", None),
        ("18446744073709551615-00", None),
    ] {
        assert_eq!(seconds(text), expected, "{text}");
    }
}

#[test]
fn the_notice_is_at_most_a_third_of_the_time() {
    let of = |minutes: u64| notice(Some(Duration::from_secs(60 * minutes))).as_secs();
    assert_eq!(
        [of(2), of(4), of(5), of(6), of(600)],
        [60, 80, 100, 120, 120]
    );
    assert_eq!(notice(None).as_secs(), 120);
}

#[test]
fn the_script_is_the_worker_and_shows_every_option() {
    let words = |words: &[&str]| {
        words
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    let template = Template {
        folder: "/shared/state/allocations".into(),
        options: words(&[
            "--gpus-per-node=4",
            "--cpus-per-task=32",
            "--time=08:00:00",
            "--partition=gpu",
        ]),
        user_options: words(&[
            "--account",
            "lab 7",
            "-C",
            "a100&nvlink",
            "--comment=the \"first\" try",
        ]),
        notice: notice(Some(Duration::from_secs(8 * 3600))),
        prologue: Some("module load cuda/12\nsource /shared/env/bin/activate".to_owned()),
        wrap: Some("apptainer exec --nv /shared/image.sif".to_owned()),
        worker: words(&[
            "/shared/orchestrator/bin/orchestrator",
            "worker",
            "--token-file",
            "/shared/my state/token",
        ]),
    };
    let allocation = AllocationId::from("orch-table2-7f3a9c1e-3");
    assert_golden("script.txt", &template.text(&allocation, &[]));
    let mut bash = std::process::Command::new("bash");
    bash.arg("-n")
        .arg("-c")
        .arg(template.text(&allocation, &[]));
    assert!(bash.status().unwrap().success());
    let options = template.all_options(&allocation, &["node7".to_owned(), "node9".to_owned()]);
    let position = |word: &str| options.iter().position(|option| option == word);
    assert!(
        position("--exclude=node7,node9").unwrap() < position("--account").unwrap(),
        "an `--exclude` of the user counts: {options:?}"
    );
    assert!(
        options.contains(&"lab 7".to_owned()),
        "unquoted on the command line: {options:?}"
    );
}
