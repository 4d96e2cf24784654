//! Coordinator and workers in one process, over loopback, with a fake trainer: whole sweeps,
//! disturbed and not.

mod peer;
mod refusals;
mod rig;

use std::time::Duration;

use rig::{Rig, patient};
use schedule::event::Outcome;
use sweep::AttemptNo;
use worker::Ended;

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_run_a_sweep() {
    let mut rig = Rig::new("epoch-ms=2");
    rig.coordinator().await;
    rig.worker(2).await;
    rig.worker(1).await;
    rig.submit().await;
    let summary = rig.complete().await;
    assert_eq!(
        (summary.succeeded, summary.failed, summary.cells),
        (12, 0, 6)
    );
    assert_eq!(summary.complete_cells, 6);
    for worker in 0..2 {
        rig.handle(worker).leave("the sweep is complete");
        assert_eq!(
            patient(rig.handle(worker).wait()).await.unwrap(),
            Ended::Left { outstanding: false }
        );
    }
    assert_eq!(
        rig.checkpoints(),
        0,
        "acknowledged results leave no checkpoints"
    );
    rig.end().await;
}

/// Results of an older training would share cells with those of the present one.
#[tokio::test(flavor = "multi_thread")]
async fn trials_of_an_older_training_are_refused_until_the_file_is_submitted_again() {
    let mut rig = Rig::new("");
    rig.submitted_by_an_older_version();
    rig.coordinator().await;
    rig.worker(2).await;
    let summary = rig
        .until(|status| status.waiting + status.running == 0)
        .await;
    assert_eq!((summary.succeeded, summary.failed), (0, 12));
    assert_eq!(rig.most_attempts().await, 1, "bad input is not retried");
    assert_eq!(rig.submit().await.revision, 2);
    let summary = rig.complete().await;
    assert_eq!((summary.succeeded, summary.failed), (12, 0));
    assert_eq!(rig.results().await, Rig::results_of_undisturbed_run().await);
    rig.end().await;
}

/// A killed worker cannot clean up. The next one asks the coordinator and leaves files that it does
/// not know.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_left_of_finished_trials_is_removed() {
    let mut rig = Rig::new("");
    rig.coordinator().await;
    rig.worker(1).await;
    rig.submit().await;
    rig.complete().await;
    let results = rig.results().await;
    let finished = results
        .lines()
        .nth(1)
        .and_then(|line| line.split(',').next())
        .unwrap();
    rig.leave_checkpoint(finished, 1000);
    rig.leave_checkpoint("t00000000000000ff", 10);
    patient(async {
        while rig.checkpoints() > 1 || rig.status().await.workers[0].work_dir_bytes == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(
        rig.checkpoints(),
        1,
        "what the coordinator does not know stays"
    );
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_counts_has_its_kept_files() {
    let mut rig = Rig::new("first=crash epoch-ms=1");
    rig.coordinator().await;
    rig.submit_keeping_predictions().await;
    rig.worker(3).await;
    rig.complete().await;
    let files = rig.kept_files().await;
    assert_eq!(files.len(), 12);
    for (attempt, content) in &files {
        assert!(
            attempt.ends_with("#2"),
            "the first attempt crashed: {attempt}"
        );
        assert_eq!(*content, format!("predictions of {attempt}").repeat(30_000));
    }
    // the same file under a new coordinator
    rig.drop_coordinator().await;
    rig.coordinator().await;
    assert_eq!(rig.kept_files().await, files);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_file_waits_for_a_coordinator_that_is_away() {
    let mut rig = Rig::new("epoch-ms=20");
    rig.coordinator().await;
    rig.submit_keeping_predictions().await;
    rig.worker(1).await;
    rig.until(|status| status.running == 1).await;
    rig.drop_coordinator().await;
    while !rig.has_written_predictions() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    rig.coordinator().await;
    rig.complete().await;
    assert_eq!(rig.kept_files().await.len(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_that_crash_are_tried_again() {
    let undisturbed = Rig::results_of_undisturbed_run().await;
    for behaviour in [
        "first=crash epoch-ms=1",
        "first=garbage",
        "first=grandchild",
        "first=ignore-end",
    ] {
        let mut rig = Rig::new(behaviour);
        rig.coordinator().await;
        rig.worker(3).await;
        rig.submit().await;
        let summary = rig.complete().await;
        if behaviour.contains("ignore-end") {
            // the fake trainer reports that the loss is not finite, which is never retried
            assert_eq!((summary.succeeded, summary.failed), (0, 12));
        } else {
            assert_eq!((summary.succeeded, summary.failed), (12, 0), "{behaviour}");
            assert_eq!(rig.results().await, undisturbed);
        }
        rig.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_costs_time_and_nothing_else() {
    let mut rig = Rig::new("epoch-ms=20").with_short_lease();
    rig.coordinator().await;
    let doomed = rig.worker(2).await;
    rig.submit().await;
    rig.until(|summary| {
        summary.running == 2 && summary.running_trials.iter().all(|trial| trial.epoch > 0)
    })
    .await;
    rig.kill(doomed).await;
    rig.worker(2).await;
    let summary = rig.complete().await;
    assert_eq!(summary.succeeded, 12);
    assert_eq!(rig.results().await, Rig::results_of_undisturbed_run().await);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_coordinator_continues() {
    let mut rig = Rig::new("epoch-ms=20");
    rig.coordinator().await;
    rig.worker(2).await;
    rig.submit().await;
    for succeeded in [1, 4, 8] {
        rig.until(|summary| summary.succeeded >= succeeded && summary.running > 0)
            .await;
        rig.drop_coordinator().await;
        rig.coordinator().await;
    }
    let summary = rig.complete().await;
    assert_eq!(summary.succeeded, 12);
    assert_eq!(rig.results().await, Rig::results_of_undisturbed_run().await);
    assert_eq!(
        rig.most_attempts().await,
        1,
        "workers trained on while there was no coordinator"
    );
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaving_worker_checkpoints_and_loses_nothing() {
    let mut rig = Rig::new("epoch-ms=30");
    rig.coordinator().await;
    let leaver = rig.worker(2).await;
    rig.submit().await;
    rig.until(|summary| {
        summary.running == 2 && summary.running_trials.iter().all(|trial| trial.epoch > 0)
    })
    .await;
    rig.handle(leaver).leave("the node is needed");
    assert_eq!(
        patient(rig.handle(leaver).wait()).await.unwrap(),
        Ended::Left { outstanding: true }
    );
    let status = rig.status().await;
    assert_eq!(status.workers[0].presence(), protocol::v1::Presence::Gone);
    assert_eq!(status.sweeps[0].running, 0);
    assert!(rig.checkpoints() > 0);
    rig.worker(2).await;
    assert_eq!(rig.complete().await.succeeded, 12);
    assert_eq!(rig.results().await, Rig::results_of_undisturbed_run().await);
    rig.end().await;
}

/// Slurm signals every process of a cancelled job at once, and the coordinator may end first.
#[tokio::test(flavor = "multi_thread")]
async fn a_leaving_worker_does_not_wait_for_a_coordinator_that_is_gone() {
    let mut rig = Rig::new("epoch-ms=600000");
    rig.goodbye_takes(Duration::from_secs(3_600));
    rig.coordinator().await;
    let leaver = rig.worker(2).await;
    rig.submit().await;
    rig.until(|summary| summary.running == 2).await;
    rig.drop_coordinator().await;
    rig.handle(leaver).leave("SIGTERM");
    assert_eq!(
        patient(rig.handle(leaver).wait()).await.unwrap(),
        Ended::Left { outstanding: true }
    );
    rig.coordinator().await;
    rig.end().await;
}

/// The coordinator is asked to end in order: it waits for what is given back.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_ends_takes_back_what_leaving_workers_hold() {
    let mut rig = Rig::new("epoch-ms=600000");
    rig.coordinator().await;
    let leaver = rig.worker(2).await;
    rig.submit().await;
    rig.until(|summary| summary.running == 2).await;
    rig.handle(leaver).leave("SIGTERM");
    patient(rig.end_coordinator()).await;
    assert_eq!(
        patient(rig.handle(leaver).wait()).await.unwrap(),
        Ended::Left { outstanding: true }
    );
    rig.coordinator().await;
    let summary = rig.sweep_status().await;
    assert_eq!(
        (summary.running, summary.waiting),
        (0, 12),
        "nothing waits for a lease"
    );
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_leaves_when_no_trial_waits_for_it() {
    let mut rig = Rig::new("epoch-ms=2");
    rig.idle_for(Duration::from_millis(300));
    rig.coordinator().await;
    rig.submit().await;
    let worker = rig.worker(2).await;
    let ended = patient(rig.handle(worker).wait()).await.unwrap();
    assert_eq!(
        ended,
        Ended::Drained {
            reason: "idle for 300ms".into()
        }
    );
    let summary = rig.sweep_status().await;
    assert_eq!((summary.succeeded, summary.waiting), (12, 0));
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_without_a_coordinator_reports_it_and_leaves() {
    let mut rig = Rig::new("");
    rig.choose_port();
    rig.idle_for(Duration::from_millis(300));
    let worker = rig.worker(1).await;
    let error = patient(rig.handle(worker).wait()).await.unwrap_err();
    let expected = format!(
        "no coordinator has answered at `http://127.0.0.1:{}` for 300ms",
        rig.port()
    );
    assert!(error.to_string().contains(&expected), "{error}");
    rig.coordinator().await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_worker_finishes_and_ends() {
    let mut rig = Rig::new("epoch-ms=200");
    rig.coordinator().await;
    let drained = rig.worker(1).await;
    rig.submit().await;
    rig.until(|summary| summary.running == 1).await;
    rig.drain(drained).await;
    let ended = patient(rig.handle(drained).wait()).await.unwrap();
    assert_eq!(
        ended,
        Ended::Drained {
            reason: "for a test".into()
        }
    );
    assert_eq!(rig.sweep_status().await.succeeded, 1);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_stops_what_runs() {
    let mut rig = Rig::new("epoch-ms=600000");
    rig.coordinator().await;
    rig.worker(2).await;
    rig.submit().await;
    rig.until(|summary| summary.running == 2).await;
    rig.cancel().await;
    let summary = rig.complete().await;
    assert_eq!((summary.cancelled, summary.succeeded), (12, 0));
    let status = rig.status().await;
    assert_eq!(status.workers[0].busy_slots, 0);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_attempt_cannot_write() {
    let mut rig = Rig::new("epoch-ms=1").with_short_lease();
    rig.coordinator().await;
    rig.submit().await;
    let mut stale = rig.peer("stale-1-1").await;
    stale.hello(1).await;
    let attempt = stale.start().await;
    assert_eq!(attempt.number, AttemptNo(1));
    // silent for longer than the lease, while another worker does the work
    rig.worker(1).await;
    assert_eq!(rig.complete().await.succeeded, 12);
    let before = rig.results().await;
    let mut returned = rig.peer("stale-1-1").await;
    returned.hello_with(2, vec![attempt]).await;
    returned.stopped(attempt).await;
    returned
        .ended(attempt, Outcome::Finished(Box::new(peer::result(0.123456))))
        .await;
    returned.acknowledged(attempt).await;
    assert_eq!(rig.results().await, before);
    assert!(!before.contains("0.123456"));
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_stream_replaces_the_first() {
    let mut rig = Rig::new("");
    rig.coordinator().await;
    let mut first = rig.peer("twice-1-1").await;
    first.hello(1).await;
    first.welcome().await;
    let mut second = rig.peer("twice-1-1").await;
    second.hello(2).await;
    second.welcome().await;
    first.is_closed().await;
    // an older stream that arrives late does not replace the newer one
    let mut late = rig.peer("twice-1-1").await;
    late.hello(1).await;
    late.is_closed().await;
    rig.submit().await;
    second.start().await;
    rig.end().await;
}

/// It reports an outcome under the connection number of the true worker's stream, before its Hello
/// was checked.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_alone_cannot_take_a_workers_place_or_shut_it_out() {
    let mut rig = Rig::new("");
    rig.coordinator().await;
    rig.submit().await;
    let mut worker = rig.peer("victim-1-1").await;
    worker.hello(1).await;
    let attempt = worker.start().await;
    for connection in [1, 2, u64::from(u32::MAX)] {
        let mut impostor = rig.peer("victim-1-1").await.with_another_secret();
        impostor.hello_with(connection, vec![attempt]).await;
        impostor
            .ended(attempt, Outcome::Finished(Box::new(peer::result(0.123456))))
            .await;
        assert!(impostor.refused().await.contains("is another process"));
        impostor.is_closed().await;
    }
    // also after a restart, when the coordinator does not know any stream
    rig.drop_coordinator().await;
    rig.coordinator().await;
    let mut impostor = rig.peer("victim-1-1").await.with_another_secret();
    impostor.hello(u64::from(u32::MAX)).await;
    assert!(impostor.refused().await.contains("is another process"));
    let mut worker = rig.peer("victim-1-1").await;
    worker.hello_with(2, vec![attempt]).await;
    worker.welcome().await;
    worker.ended(attempt, Outcome::Stopped).await;
    worker.acknowledged(attempt).await;
    assert_eq!(
        rig.sweep_status().await.succeeded,
        0,
        "the impostor's result does not count"
    );
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_message_closes_the_stream_and_names_the_field() {
    let mut rig = Rig::new("");
    rig.coordinator().await;
    let mut peer = rig.peer("peer-1-1").await;
    peer.send_empty_hello().await;
    let status = peer.is_closed().await.unwrap();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(
        status.message().contains("hello.worker"),
        "{}",
        status.message()
    );
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_do_not_belong_are_refused() {
    let mut rig = Rig::new("");
    rig.coordinator().await;
    let refused = |error: worker::Error| match error {
        worker::Error::Refused { reason } => reason,
        other => panic!("{other}"),
    };
    let mut options = rig.worker_options(1);
    let address = format!("http://127.0.0.1:{}", rig.port());
    let other = Some(protocol::Token::random().unwrap());
    options.coordinator = worker::Coordinator::at(address, other, None);
    let mut stranger = worker::start(options).await.unwrap();
    let reason = refused(patient(stranger.wait()).await.unwrap_err());
    assert!(reason.contains("not the coordinator's"), "{reason}");

    let mut options = rig.worker_options(1);
    options.trainer = rig.trainer_of_build("start=other-build");
    options.build = "other".into();
    let mut older = worker::start(options).await.unwrap();
    let reason = refused(patient(older.wait()).await.unwrap_err());
    assert!(
        reason.contains("`other`") && reason.contains("`test`"),
        "{reason}"
    );

    let mut changed = rig.peer("changed-1-1").await;
    changed.send_hello_of_another_build().await;
    let reason = changed.refused().await;
    assert!(
        reason.contains("`other`") && reason.contains("`test`"),
        "{reason}"
    );
    changed.is_closed().await;

    let mut options = rig.worker_options(1);
    options.trainer = rig.trainer_of_build("start=other-build");
    let error = worker::start(options).await.err().unwrap().to_string();
    assert!(
        error.contains("is of build `other`, this worker of `test`"),
        "{error}"
    );
    rig.end().await;
}

/// The other slots of the machine keep running; those that share the device are not used either.
#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_is_gone_takes_its_slots_out_of_use() {
    let mut rig = Rig::new("absent=GPU-a");
    rig.coordinator().await;
    let mut options = rig.worker_options(3);
    for (slot, (name, uuid)) in options.slots.iter_mut().zip([
        ("cuda:0", "GPU-a"),
        ("cuda:1", "GPU-b"),
        ("cuda:0", "GPU-a"),
    ]) {
        (slot.devices, slot.uuids) = (vec![name.into()], vec![uuid.into()]);
    }
    let mut worker = patient(worker::start(options)).await.unwrap();
    rig.submit().await;
    assert_eq!(rig.complete().await.succeeded, 12);
    let described = rig.status().await.workers.remove(0).slot_descriptions;
    let broken: Vec<bool> = described
        .iter()
        .map(|slot| slot.contains("broken"))
        .collect();
    assert_eq!(broken, [true, false, true], "{described:?}");
    worker.stop_now();
    patient(worker.wait()).await.unwrap();

    let mut options = rig.worker_options(1);
    (options.slots[0].devices, options.slots[0].uuids) =
        (vec!["cuda:0".into()], vec!["GPU-a".into()]);
    let error = worker::start(options).await.err().unwrap().to_string();
    assert!(
        error.contains("does not find the devices of its slot (cuda:0)"),
        "{error}"
    );
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_another_build_or_without_token_are_refused() {
    let mut rig = Rig::new("");
    rig.coordinator().await;
    let refused = rig.try_submit("other", rig.token()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    let refused = rig.try_submit("test", None).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn submitting_twice_does_nothing_twice() {
    let mut rig = Rig::new("");
    rig.coordinator().await;
    rig.worker(2).await;
    let first = rig.submit().await;
    assert_eq!((first.trials, first.reused), (12, 0));
    rig.complete().await;
    let second = rig.submit().await;
    assert_eq!((second.trials, second.reused), (12, 12));
    assert!(rig.complete().await.complete);
    assert_eq!(rig.most_attempts().await, 1);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_sends_every_result_and_ends() {
    let mut rig = Rig::new("epoch-ms=1");
    rig.coordinator().await;
    rig.submit().await;
    let tail = tokio::spawn(rig.tail().await);
    rig.worker(2).await;
    let (ended, complete) = patient(tail).await.unwrap();
    assert_eq!(ended.len(), 12);
    assert!(complete.complete);
    rig.end().await;
}

#[tokio::test]
async fn a_coordinator_that_others_can_reach_needs_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let options = coordinator::Options {
        listen: coordinator::Listen::Address("0.0.0.0:0".parse().unwrap()),
        state_dir: dir.path().into(),
        token: None,
        token_file: None,
        config: schedule::Config::new("test"),
    };
    let error = coordinator::Coordinator::start(options)
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("--token-file"), "{error}");
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing was made"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_coordinator_on_the_same_state_is_refused() {
    let mut rig = Rig::new("");
    rig.coordinator().await;
    let error = rig.start_coordinator(0).await.err().unwrap();
    assert!(
        matches!(
            error,
            coordinator::Error::Journal(journal::Error::Locked { .. })
        ),
        "{error}"
    );
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_waits_for_its_coordinator() {
    let mut rig = Rig::new("");
    rig.choose_port();
    let early = rig.worker(1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    rig.coordinator().await;
    rig.submit().await;
    assert_eq!(rig.complete().await.succeeded, 12);
    rig.handle(early).stop_now();
    assert_eq!(
        patient(rig.handle(early).wait()).await.unwrap(),
        Ended::Stopped
    );
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_want_the_token_everywhere() {
    let mut rig = Rig::new("");
    rig.coordinator().await;
    rig.submit().await;
    let page = rig.page("127.0.0.1:0").await.unwrap();
    let bearer = format!("Bearer {}", rig.token().unwrap().reveal());
    let answer = rig::get(page.address().port(), "/metrics", Some(&bearer)).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("orchestrator_trials"),
        "{answer}"
    );
    assert!(
        rig::get(page.address().port(), "/status", Some(&bearer))
            .await
            .contains("\"waiting\":12")
    );
    let guarded = rig.page("0.0.0.0:0").await.unwrap();
    for port in [page.address().port(), guarded.address().port()] {
        for wrong in [None, Some("Bearer wrong")] {
            let answer = rig::get(port, "/", wrong).await;
            assert!(
                answer.starts_with("HTTP/1.1 401") && !answer.contains("small"),
                "{answer}"
            );
        }
    }
    drop((page, guarded));
    rig.end().await;
}
