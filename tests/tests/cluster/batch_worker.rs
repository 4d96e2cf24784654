//! A worker as the batch process of a job, for a coordinator that stays: what it reports about the
//! job, and how it leaves.

use serde_json::Value;
use tests::cluster::Cluster;
use tests::results::{assert_same, undisturbed_files};
use tests::{Process, System, wait_for_command};

const SWEEP: &str = "
name: job
recipe: quick
set: {dataset: digits, model: resnet-8, samples_per_class: 20, schedule: {constant: {epochs: 40}}}
axes:
  loss: [xent, cos]
seeds: 2
outputs:
  - table: {rows: loss}
";

/// `proctrack/linuxproc`, the cluster's default, signals every process below the batch script.
#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn trials_of_cancelled_and_ending_jobs_are_preempted_and_never_crash() {
    let cluster = Cluster::start(&["--nodes", "2"]);
    let mut system = System::new();
    let coordinator = system.coordinator();
    let mut run = submit_sweep(&system);
    let signals = ["USR1", "TERM", "USR1", "TERM"];
    for (attempt, signal) in (1..).zip(signals) {
        // sleeping in each step of this attempt, no trial ends before the signal
        let fault = format!("ORCHESTRATOR_FAULT='slow=400 epoch=0 attempt={attempt}'");
        let job = submit_worker_with(
            &fault,
            &cluster,
            &system,
            &["--time=10"],
            "--idle-timeout 2s",
        );
        wait_for_command("both slots train", || {
            (epochs_under_way(&system) == 2).then_some(())
        });
        let signal = format!("--signal={signal}");
        cluster.ask("scancel", &["--full", &signal, &job]);
        assert_eq!(cluster.ended(&job), "FAILED", "{}", log(&system, &job));
        assert_eq!(
            cluster.exit_code(&job),
            "75:0",
            "work is left: {}",
            log(&system, &job)
        );
        let log = log(&system, &job);
        assert!(!log.contains("stopping at once"), "{log}");
    }
    let job = submit_worker(&cluster, &system, &["--time=10"], "--idle-timeout 2s");
    run.expect_exit(0);
    assert_eq!(cluster.ended(&job), "COMPLETED", "{}", log(&system, &job));
    assert_eq!(cluster.exit_code(&job), "0:0", "idle, and nothing is left");
    let journal = system.journal();
    let failures: Vec<&str> = journal
        .iter()
        .filter_map(|entry| entry["event"]["attempt_failed"]["failure"]["class"].as_str())
        .collect();
    assert!(failures.len() >= 8, "{failures:?}");
    assert!(
        failures.iter().all(|class| *class == "preempted"),
        "{failures:?}"
    );
    drop(coordinator);
    let local = System::new();
    local.file("job.yaml", SWEEP);
    local
        .start("run", local.orchestrator(&["run", "job.yaml"]))
        .expect_exit(0);
    assert_same(
        &undisturbed_files(&local.results("job")),
        &undisturbed_files(&system.results("job")),
    );
}

#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn a_worker_reports_its_node_and_the_end_of_its_job() {
    let cluster = Cluster::start(&["--nodes", "2"]);
    let mut system = System::new();
    let _coordinator = system.coordinator();
    for (limit, at_most_ms) in [("--time=10", Some(600_000)), ("--time=UNLIMITED", None)] {
        let options = [limit, "--nodelist=127.0.1.2"];
        let job = submit_worker(&cluster, &system, &options, "");
        let worker = wait_for_command("the worker joins", || {
            let status = system.status()?;
            let workers = status["workers"].as_array()?.clone();
            workers
                .into_iter()
                .find(|worker| worker["presence"] == "present")
        });
        assert_eq!(worker["host"], "127.0.1.2");
        match at_most_ms {
            Some(at_most_ms) => {
                let left = worker["leaves_in_ms"]
                    .as_u64()
                    .expect("the job has a limit");
                assert!((1..=at_most_ms).contains(&left), "{worker}");
                assert!(system.ask(&["status"]).contains(", leaves in "));
            }
            None => assert_eq!(worker["leaves_in_ms"], Value::Null),
        }
        cluster.ask("scancel", &["--full", "--signal=USR1", &job]);
        assert_eq!(cluster.ended(&job), "COMPLETED", "{}", log(&system, &job));
        assert_eq!(cluster.exit_code(&job), "0:0", "it held nothing");
    }
}

/// GRES without a driver: never the CPU in silence.
#[test]
#[ignore = "needs slurmctld: make test-cluster"]
fn granted_gpus_that_are_not_there_are_an_error() {
    let cluster = Cluster::start(&["--nodes", "1", "--gpus", "2"]);
    let mut system = System::new();
    let _coordinator = system.coordinator();
    system.script(
        "gpus.sh",
        &format!(
            "exec {} worker --state-dir state --data-dir data --cache-dir cache",
            tests::binaries::binary("orchestrator").display()
        ),
    );
    let job = submit(&cluster, &system, &["--gpus-per-node=2"], "gpus.sh");
    assert_eq!(cluster.ended(&job), "FAILED", "{}", log(&system, &job));
    let log = log(&system, &job);
    assert!(
        log.contains("CUDA_VISIBLE_DEVICES=0,1 promises 2 GPUs"),
        "{log}"
    );
}

fn submit_sweep(system: &System) -> Process {
    system.file("job.yaml", SWEEP);
    let url = system.url();
    system.start(
        "run",
        system.orchestrator(&["run", "job.yaml", "--coordinator", &url]),
    )
}

/// Submits a job whose batch script becomes a worker with two slots and these flags.
fn submit_worker(cluster: &Cluster, system: &System, options: &[&str], flags: &str) -> String {
    submit_worker_with("", cluster, system, options, flags)
}

/// Does the same with this assignment of an environment variable.
fn submit_worker_with(
    variable: &str,
    cluster: &Cluster,
    system: &System,
    options: &[&str],
    flags: &str,
) -> String {
    let command = format!(
        "{variable} exec {} worker --state-dir state --devices cpu --slots 2 --devices-per-slot 1 --work-dir work \
         --data-dir data --cache-dir cache {flags}",
        tests::binaries::binary("orchestrator").display(),
    );
    system.script("worker.sh", &command);
    submit(cluster, system, options, "worker.sh")
}

fn submit(cluster: &Cluster, system: &System, options: &[&str], script: &str) -> String {
    let mut command = cluster.command(system, "sbatch");
    command
        .args(["--parsable", "--no-requeue", "--output=%j.log"])
        .args(options)
        .arg(script);
    let output = command.output().expect("sbatch starts");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn log(system: &System, job: &str) -> String {
    std::fs::read_to_string(system.path(&format!("{job}.log"))).unwrap_or_default()
}

/// The number of running trials that have finished an epoch.
fn epochs_under_way(system: &System) -> usize {
    let Some(status) = system.status() else {
        return 0;
    };
    let trials = status["sweeps"][0]["running_trials"].as_array();
    trials.map_or(0, |trials| {
        let trained = trials
            .iter()
            .filter(|trial| trial["epoch"].as_u64().is_some_and(|epoch| epoch >= 1));
        trained.count()
    })
}
