//! The launcher and a real Slurm. Needs slurmctld: `make test-cluster` runs it with `--ignored`.
//!
//! The program starts a cluster and then itself again, with the variables of that cluster, and with
//! those of a job that a user might start the coordinator in.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use launch::script::Template;
use launch::slurm::{Slurm, details, version};
use nix::sys::signal::Signal;
use schedule::allocation::{
    AllocationId, EndCause, GiveBack, JobId, JobState, LaunchAnswer, LaunchRequest, Launcher,
    ObservedJob, ReasonClass, SubmitOutcome,
};
use tests::cluster::Cluster;

const PART: &str = "ORCHESTRATOR_TEST_PART";

fn main() {
    if !std::env::args().any(|argument| argument == "--ignored") {
        println!("real_slurm ... ignored, needs slurmctld: make test-cluster");
        return;
    }
    if let Ok(part) = std::env::var(PART) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        match &*part {
            "life" => runtime.block_on(life_of_jobs()),
            "refused" => runtime.block_on(requests_that_are_refused()),
            "hangs" => runtime.block_on(a_submission_whose_answer_is_lost()),
            "lost" => runtime.block_on(the_job_of_the_lost_answer_is_found()),
            "gone" => runtime.block_on(a_controller_that_is_gone()),
            other => panic!("no part `{other}`"),
        }
        return;
    }
    let cluster = Cluster::start(&["--nodes", "2"]);
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let run = |part: &str| {
        let mut command = Command::new(std::env::current_exe().expect("a program has a path"));
        command.arg("--ignored").env(PART, part);
        command.current_dir(folder.path());
        command.env("SLURM_CONF", cluster.config());
        // as inside a job: sbatch refuses these two together
        command
            .env("SLURM_MEM_PER_CPU", "100")
            .env("SLURM_MEM_PER_NODE", "100");
        command.env("SLURM_JOB_ID", "1");
        // a user's habits
        command
            .env("SQUEUE_FORMAT", "%i")
            .env("SLURM_TIME_FORMAT", "relative");
        command
            .env("SBATCH_PARTITION", "closed")
            .env("SBATCH_REQUEUE", "1");
        assert!(command.status().expect("it starts").success(), "{part}");
        println!("real_slurm::{part} ... ok");
    };
    run("life");
    run("refused");
    cluster.signal("slurmctld", Signal::SIGSTOP);
    run("hangs");
    cluster.signal("slurmctld", Signal::SIGCONT);
    run("lost");
    cluster.signal("slurmctld", Signal::SIGKILL);
    run("gone");
    cluster.start_controller();
}

/// A launcher whose worker is this shell script.
fn launcher(worker: &str, user_options: &[&str]) -> Slurm {
    let folder = std::env::current_dir().expect("a folder");
    let script = folder.join(format!("worker-{}", worker.len()));
    tests::write_executable(&script, &format!("#!/bin/bash\n{worker}\n"));
    Slurm::new(Template {
        folder: folder.join("100% allocations"),
        options: ["--cpus-per-task=1", "--time=10", "--partition=main"]
            .map(str::to_owned)
            .into(),
        user_options: user_options.iter().map(|word| (*word).to_owned()).collect(),
        notice: Duration::from_secs(60),
        prologue: Some("export FROM_PROLOGUE=yes".to_owned()),
        wrap: Some("env WRAPPED=yes".to_owned()),
        worker: vec![
            script.to_str().expect("UTF-8").to_owned(),
            "two words".to_owned(),
        ],
    })
}

async fn submit(slurm: &mut Slurm, name: &str) -> SubmitOutcome {
    let allocation = AllocationId::from(name);
    match slurm
        .perform(LaunchRequest::Submit {
            allocation,
            avoid: Vec::new(),
        })
        .await
    {
        LaunchAnswer::Submitted { outcome, .. } => outcome,
        other => panic!("{other:?}"),
    }
}

async fn submitted(slurm: &mut Slurm, name: &str) -> JobId {
    match submit(slurm, name).await {
        SubmitOutcome::Submitted(job) => job,
        other => panic!("{name}: {other:?}"),
    }
}

async fn observe(slurm: &mut Slurm, name: &str) -> Vec<ObservedJob> {
    let allocations = vec![AllocationId::from(name)];
    match slurm.perform(LaunchRequest::Observe { allocations }).await {
        LaunchAnswer::Observed(Ok(jobs)) => jobs,
        other => panic!("{other:?}"),
    }
}

async fn give_back(slurm: &mut Slurm, name: &str, job: Option<JobId>, how: GiveBack) {
    let allocations = vec![(AllocationId::from(name), job)];
    let answer = slurm
        .perform(LaunchRequest::GiveBack { allocations, how })
        .await;
    assert_eq!(answer, LaunchAnswer::GaveBack(Ok(())));
}

/// Asks until the only job of this name is in such a state.
async fn until(slurm: &mut Slurm, name: &str, wanted: impl Fn(&JobState) -> bool) -> ObservedJob {
    let deadline = SystemTime::now() + Duration::from_secs(120);
    loop {
        let jobs = observe(slurm, name).await;
        assert_eq!(jobs.len(), 1, "{jobs:?}");
        if wanted(&jobs[0].state) {
            return jobs[0].clone();
        }
        assert!(SystemTime::now() < deadline, "it stays {jobs:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn log(name: &str) -> String {
    std::fs::read_to_string(Path::new("100% allocations").join(name).join("log")).expect("a log")
}

async fn life_of_jobs() {
    let version = version().await.expect("Slurm is there");
    assert!(version.starts_with("slurm"), "{version}");
    let mut slurm = launcher(
        "trap 'echo leaving; exit 75' USR1\necho \"$FROM_PROLOGUE $WRAPPED $*\"\nwhile true; do sleep 0.1; done",
        &["--comment", "the \"first\" try"],
    );
    let running = |state: &JobState| *state == JobState::Running;
    let job = submitted(&mut slurm, "orch-a-1").await;
    let seen = until(&mut slurm, "orch-a-1", running).await;
    assert_eq!(seen.job, job);
    let node = seen.node.expect("it runs somewhere");
    assert!(node.starts_with("127.0.1."), "{node}");
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970");
    let left = seen.ends_at.expect("it has a time limit") / 1000 - now.as_secs();
    assert!((540..=601).contains(&left), "{left} s of 10 min left");
    let known = details(&job).await.expect("Slurm knows it");
    assert_eq!(known["Comment"], "the \"first\" try");
    assert_eq!(known["Requeue"], "0", "SBATCH_REQUEUE does not decide");
    assert_eq!(
        known["Partition"], "main",
        "SBATCH_PARTITION does not decide"
    );

    // one that has started is left alone by a request for waiting ones
    give_back(&mut slurm, "orch-a-1", Some(job.clone()), GiveBack::Waiting).await;
    assert_eq!(
        until(&mut slurm, "orch-a-1", |_| true).await.state,
        JobState::Running
    );
    give_back(&mut slurm, "orch-a-1", Some(job), GiveBack::Leave).await;
    let end = until(&mut slurm, "orch-a-1", |state| {
        matches!(state, JobState::Ended(_))
    })
    .await;
    assert_eq!(
        end.state,
        JobState::Ended(EndCause::Completed),
        "left with work outstanding"
    );
    assert_eq!(
        log("orch-a-1"),
        "yes yes two words --allocation orch-a-1\nleaving\n"
    );

    // by name alone, as after a lost answer
    submitted(&mut slurm, "orch-a-2").await;
    until(&mut slurm, "orch-a-2", running).await;
    give_back(&mut slurm, "orch-a-2", None, GiveBack::Now).await;
    let cancelled = JobState::Ended(EndCause::CancelledByOthers);
    until(&mut slurm, "orch-a-2", |state| *state == cancelled).await;
    // what has ended is no error
    give_back(
        &mut slurm,
        "orch-a-2",
        Some(JobId("424242".into())),
        GiveBack::Now,
    )
    .await;

    let mut held = launcher("exit 0", &["--hold"]);
    let job = submitted(&mut held, "orch-a-3").await;
    let seen = until(&mut held, "orch-a-3", |state| {
        matches!(state, JobState::Pending(_))
    })
    .await;
    let JobState::Pending(reason) = seen.state else {
        unreachable!()
    };
    assert_eq!(
        (&*reason.word, reason.class),
        ("JobHeldUser", ReasonClass::Held)
    );
    give_back(&mut held, "orch-a-3", Some(job), GiveBack::Waiting).await;
    until(&mut held, "orch-a-3", |state| *state == cancelled).await;

    let mut fails = launcher("echo no libtorch here >&2; exit 2", &[]);
    submitted(&mut fails, "orch-a-4").await;
    let seen = until(&mut fails, "orch-a-4", |state| {
        matches!(state, JobState::Ended(_))
    })
    .await;
    let JobState::Ended(EndCause::Failed { detail }) = seen.state else {
        panic!("{seen:?}")
    };
    assert!(detail.starts_with("exit code 2; "), "{detail}");
    assert!(detail.ends_with("ends with:\nno libtorch here"), "{detail}");

    // accounts are not kept here: asked once, and never an error
    assert_eq!(observe(&mut fails, "orch-never-1").await, []);
}

async fn requests_that_are_refused() {
    for option in [
        "--partition=nowhere",
        "--mem=999G",
        "--gpus-per-node=2",
        "--time=soon",
    ] {
        let mut slurm = launcher("exit 0", &[option]);
        let outcome = submit(&mut slurm, "orch-b-1").await;
        assert!(
            matches!(outcome, SubmitOutcome::Refused { .. }),
            "{option}: {outcome:?}"
        );
        let tested = slurm.test(&AllocationId::from("orch-b-2")).await;
        assert!(tested.is_err(), "{option}");
        // Slurm keeps a failed job of some requests that it refused.
        for job in observe(&mut slurm, "orch-b-1").await {
            assert!(matches!(job.state, JobState::Ended(_)), "{job:?}");
        }
    }
    let slurm = launcher("exit 0", &[]);
    assert_eq!(slurm.test(&AllocationId::from("orch-b-3")).await, Ok(()));
}

async fn a_submission_whose_answer_is_lost() {
    let outcome = submit(&mut launcher("exit 0", &["--hold"]), "orch-c-1").await;
    assert!(
        matches!(outcome, SubmitOutcome::Unknown { .. }),
        "{outcome:?}"
    );
}

async fn the_job_of_the_lost_answer_is_found() {
    let mut slurm = launcher("exit 0", &["--hold"]);
    let seen = until(&mut slurm, "orch-c-1", |state| {
        matches!(state, JobState::Pending(_))
    })
    .await;
    give_back(&mut slurm, "orch-c-1", Some(seen.job), GiveBack::Now).await;
}

async fn a_controller_that_is_gone() {
    let mut slurm = launcher("exit 0", &[]);
    let outcome = submit(&mut slurm, "orch-d-1").await;
    assert!(
        matches!(outcome, SubmitOutcome::Unreachable { .. }),
        "{outcome:?}"
    );
    let allocations = vec![AllocationId::from("orch-d-1")];
    let answer = slurm.perform(LaunchRequest::Observe { allocations }).await;
    let LaunchAnswer::Observed(Err(message)) = answer else {
        panic!("{answer:?}")
    };
    assert!(
        message.contains("Unable to contact slurm controller"),
        "{message}"
    );
}
