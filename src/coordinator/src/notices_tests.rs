//! Tests of `notices.rs`.

use protocol::v1::RunningTrial;

use super::*;

const MINUTE: u64 = 60_000;

fn watch() -> Watch {
    Watch::new(Duration::from_millis(10 * MINUTE))
}

fn sweep(name: &str) -> SweepStatus {
    SweepStatus {
        name: name.to_owned(),
        revision: 1,
        waiting: 4,
        ..SweepStatus::default()
    }
}

fn complete(name: &str, failed: u64) -> SweepStatus {
    SweepStatus {
        waiting: 0,
        succeeded: 4 - failed,
        failed,
        complete: true,
        ..sweep(name)
    }
}

fn events(notices: &[Value]) -> Vec<String> {
    let line = |notice: &Value| {
        let part = |name: &str| notice[name].as_str().unwrap_or_default().to_owned();
        format!("{} {}", part("event"), part("text"))
    };
    notices.iter().map(line).collect()
}

#[test]
fn a_sweep_ends_once_and_what_had_ended_before_is_no_news() {
    let mut watch = watch();
    assert!(
        watch
            .look(0, &[complete("old", 1), sweep("new")])
            .is_empty()
    );
    let both = [complete("old", 1), complete("new", 1)];
    let notices = watch.look(MINUTE, &both);
    assert_eq!(
        events(&notices),
        ["ended new has ended: 3 of 4 trials have results, 1 failed"]
    );
    assert!(watch.look(2 * MINUTE, &both).is_empty());
    // a retry, and the end of it
    let retried = SweepStatus {
        waiting: 1,
        failed: 0,
        complete: false,
        ..complete("new", 1)
    };
    assert!(watch.look(3 * MINUTE, &[retried]).is_empty());
    let notices = watch.look(4 * MINUTE, &[complete("new", 0)]);
    assert_eq!(
        events(&notices),
        ["ended new has ended: 4 of 4 trials have results"]
    );
}

#[test]
fn a_sweep_that_comes_and_ends_between_two_looks_is_news() {
    let mut watch = watch();
    watch.look(0, &[]);
    assert_eq!(watch.look(1, &[complete("quick", 0)]).len(), 1);
    let again = SweepStatus {
        revision: 2,
        ..complete("quick", 0)
    };
    assert_eq!(watch.look(2, &[again]).len(), 1);
}

#[test]
fn the_first_failure_is_news_and_has_its_reason() {
    let mut watch = watch();
    watch.look(0, &[sweep("s")]);
    let mut failing = SweepStatus {
        failed: 1,
        waiting: 3,
        ..sweep("s")
    };
    failing.failures.push(protocol::v1::FailedTrial {
        failure: "out_of_memory: 2 GiB".to_owned(),
        ..Default::default()
    });
    let notices = watch.look(MINUTE, &[failing.clone()]);
    assert_eq!(
        events(&notices),
        ["failed s: a trial failed; 0 of 4 trials have results, 1 failed so far"]
    );
    assert_eq!(notices[0]["reason"], "out_of_memory: 2 GiB");
    (failing.failed, failing.waiting) = (2, 2);
    assert!(watch.look(2 * MINUTE, &[failing]).is_empty());
}

#[test]
fn a_cancelled_sweep_ends_when_nothing_runs_any_more() {
    let mut watch = watch();
    watch.look(0, &[sweep("s")]);
    let mut cancelled = SweepStatus {
        waiting: 0,
        cancelled: 3,
        running: 1,
        cancelled_reason: "by a user".to_owned(),
        ..sweep("s")
    };
    assert!(watch.look(1, &[cancelled.clone()]).is_empty());
    (cancelled.running, cancelled.cancelled) = (0, 4);
    let notices = watch.look(2, &[cancelled]);
    assert_eq!(
        events(&notices),
        ["ended s was cancelled (by a user): 0 of 4 trials have results"]
    );
}

#[test]
fn stalled_is_what_neither_runs_nor_changes_for_the_whole_time() {
    let mut watch = watch();
    let running = |condition: Condition| SweepStatus {
        waiting: 3,
        running: 1,
        running_trials: vec![RunningTrial {
            condition: condition.into(),
            ..RunningTrial::default()
        }],
        waits_because: "no worker".to_owned(),
        ..sweep("s")
    };
    // a trial that runs, however long, is progress
    assert!(watch.look(0, &[running(Condition::Running)]).is_empty());
    assert!(
        watch
            .look(60 * MINUTE, &[running(Condition::Running)])
            .is_empty()
    );
    let stalled = [running(Condition::Stalled)];
    assert!(watch.look(69 * MINUTE, &stalled).is_empty());
    let notices = watch.look(70 * MINUTE, &stalled);
    assert_eq!(
        events(&notices),
        ["stalled s makes no progress: 0 of 4 trials have results"]
    );
    assert_eq!(notices[0]["reason"], "no worker");
    assert!(watch.look(90 * MINUTE, &stalled).is_empty(), "once");
    // it moves, and stalls again
    assert!(
        watch
            .look(91 * MINUTE, &[running(Condition::Running)])
            .is_empty()
    );
    assert_eq!(watch.look(101 * MINUTE, &stalled).len(), 1);
}

#[test]
fn receivers_are_addresses_or_words_of_a_command() {
    assert_eq!(
        "https://host/hook?key=1".parse::<Receiver>(),
        Ok(Receiver::Webhook("https://host/hook?key=1".to_owned()))
    );
    let words = ["mail", "-s", "sweep ended; $HOME", "me@host"].map(str::to_owned);
    assert_eq!(
        "mail -s 'sweep ended; $HOME' me@host".parse::<Receiver>(),
        Ok(Receiver::Command(words.to_vec()))
    );
    let shown = Receiver::Command(words.to_vec()).to_string();
    assert_eq!(
        shown.parse::<Receiver>(),
        Ok(Receiver::Command(words.to_vec()))
    );
    assert!("mail 'me".parse::<Receiver>().is_err());
    assert!(" ".parse::<Receiver>().is_err());
}

#[tokio::test]
async fn a_command_gets_the_notice_on_stdin_and_its_failure_is_returned() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("notice.json");
    let notice = notice(Kind::Ended, 7, &complete("s", 0));
    let words = |script: &str| {
        let path = file.display().to_string();
        ["sh", "-c", script, "hook", &path].map(str::to_owned)
    };
    command(&words("cat > \"$1\""), &notice).await.unwrap();
    let written: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(written, notice);
    let failed = command(&words("echo no mail here >&2; exit 3"), &notice).await;
    assert!(failed.unwrap_err().ends_with("no mail here"));
    let absent = command(&["/no/such/program".to_owned()], &notice).await;
    assert!(absent.unwrap_err().starts_with("it does not start"));
}

#[test]
fn a_wait_in_the_queue_of_a_cluster_is_no_stall() {
    let cluster = |error: Option<&str>, state: &str| {
        let queue = json!({"name": "q", "launcher": "slurm", "request": "1 GPU", "max_allocations": 1, "wanted": 1,
                           "error": error});
        let allocation = json!({"allocation": "a1", "state": state, "reason": "Priority", "since_ms": 0, "log": ""});
        json!({"queue": queue, "allocations": [allocation]}).to_string()
    };
    assert!(is_queued(cluster(None, "pending").as_bytes()));
    assert!(!is_queued(cluster(None, "ended").as_bytes()));
    assert!(!is_queued(
        cluster(Some("sbatch: no"), "pending").as_bytes()
    ));
    assert!(!is_queued(b""));

    let mut watch = watch();
    let mut waits = SweepStatus {
        waits: WaitReason::NoWorkers.into(),
        ..sweep("s")
    };
    watch.is_queued = true;
    assert!(watch.look(0, &[waits.clone()]).is_empty());
    assert!(watch.look(60 * MINUTE, &[waits.clone()]).is_empty());
    // the time begins when it is in the queue no more
    watch.is_queued = false;
    assert!(watch.look(69 * MINUTE, &[waits.clone()]).is_empty());
    assert_eq!(watch.look(70 * MINUTE, &[waits.clone()]).len(), 1);
    // a worker is there and its slots are broken: no queue helps
    watch.is_queued = true;
    waits.waits = WaitReason::SlotsBroken.into();
    assert!(
        watch
            .look(
                80 * MINUTE,
                &[SweepStatus {
                    revision: 2,
                    ..waits.clone()
                }]
            )
            .is_empty()
    );
    assert_eq!(
        watch
            .look(
                90 * MINUTE,
                &[SweepStatus {
                    revision: 2,
                    ..waits
                }]
            )
            .len(),
        1
    );
}
