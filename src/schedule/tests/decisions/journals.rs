//! Journals with content that is now refused: they open, and their output is bounded and clean.

use schedule::event::{Input, Recorded};
use schedule::state::{Phase, Presence, State, WorkerId};
use schedule::{explain, replay};
use serde_json::Value;
use sweep::text::MAX_LINE_BYTES;

use crate::sweeps::grid;
use crate::world::World;

/// Replays a sweep of one trial with its result, on a worker that was drained and ended, after a
/// change to each event.
fn replayed(change: impl Fn(&mut Value)) -> State {
    let mut world = World::new();
    let worker = world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let started = world.started().remove(0);
    world.finish(&started).expect("it is current");
    world
        .give(Input::Drain {
            name: worker.to_string(),
            reason: "REASON".into(),
        })
        .expect("it joined");
    let connection = world.state.live.connected[&worker];
    world
        .give(Input::Disconnected { worker, connection })
        .expect("it hangs up");
    let events = world.journal.iter().map(|recorded| {
        let mut value = serde_json::to_value(recorded).expect("plain data");
        change(&mut value);
        serde_json::from_value::<Recorded>(value).expect("it can still be read")
    });
    replay(&events.collect::<Vec<_>>()).expect("it can still be replayed")
}

#[test]
fn texts_without_bounds_are_cut_and_cleaned() {
    let dirty = || Value::from(format!("\u{1b}[2J{}", "x".repeat(4 << 20)));
    let state = replayed(|recorded| {
        let event = &mut recorded["event"];
        for kind in ["worker_draining", "worker_gone"] {
            if !event[kind].is_null() {
                event[kind]["reason"] = dirty();
            }
        }
        if !event["sweep_submitted"].is_null() {
            let sweep = &mut event["sweep_submitted"]["sweep"];
            sweep["description"] = dirty();
            sweep["footnotes"] = vec![dirty()].into();
            sweep["outputs"][0]["table"]["caption"] = dirty();
            sweep["axes"][0]["values"][0]["label"] = dirty();
            sweep["cells"][0]["skipped"] = dirty();
        }
        if !event["attempt_succeeded"].is_null() {
            event["attempt_succeeded"]["result"]["provenance"]["host"] = dirty();
            event["attempt_succeeded"]["result"]["epochs"][0]["state_hash"] = dirty();
        }
    });
    let worker = &state.workers[&WorkerId("w".into())];
    let Presence::Gone { reason, .. } = &worker.presence else {
        panic!("{worker:?}")
    };
    let entry = &state.sweeps["a"];
    let Phase::Succeeded { result, .. } = &state.trials.values().next().expect("one trial").phase
    else {
        panic!()
    };
    let lines = [
        reason,
        worker.draining.as_ref().expect("it was drained"),
        &entry.sweep.axes[0].values[0].label,
    ]
    .into_iter()
    .chain(&entry.sweep.cells[0].skipped)
    .chain([&result.provenance.host, &result.state_hash]);
    for line in lines {
        assert!(
            line.starts_with("xxx") && line.len() <= MAX_LINE_BYTES,
            "{} bytes",
            line.len()
        );
    }
    let description = &entry.sweep.description;
    assert!(description.starts_with("xxx") && description.len() <= sweep::text::MAX_LINES_BYTES);
    assert!(entry.sweep.footnotes[0].starts_with("xxx"));
}

#[test]
fn numbers_without_bounds_are_explained_without_a_panic() {
    let state = replayed(|recorded| {
        if let Some(succeeded) = recorded["event"].get_mut("attempt_succeeded") {
            succeeded["result"]["best_epoch"] = u32::MAX.into();
            succeeded["result"]["epochs"] = Value::Array(Vec::new());
            succeeded["result"]["last_accuracy"] = f64::MAX.into();
            succeeded["result"]["timing"]["departed_at_epoch"] = u32::MAX.into();
        }
    });
    let id = *state.trials.keys().next().expect("one trial");
    let config = schedule::Config::new("build 1");
    assert!(
        explain(&state, &config, id, u64::MAX)
            .expect("it exists")
            .to_string()
            .contains("succeeded")
    );
}

/// One line for each kind of event that names an attempt, as journals have them.
#[test]
fn events_about_attempts_keep_their_form() {
    let lines = [
        r#"{"at":7,"event":{"worker_joined":{"worker":"w","info":{"host":"h","build":"b","slots":[{"devices":["cpu"],"description":"1 thread"}]},"occupied":{"0":["t884182218182e510",2]}}}}"#,
        r#"{"at":8,"event":{"trial_dispatched":{"trial":"t884182218182e510","attempt":1,"worker":"w","slot":0}}}"#,
        r#"{"at":9,"event":{"attempt_failed":{"trial":"t884182218182e510","attempt":1,"failure":{"class":"crashed","message":"it ended"},"then":{"retry":{"not_before":1009}},"slot_free":true}}}"#,
        r#"{"at":9,"event":{"attempt_succeeded":{"trial":"t884182218182e510","attempt":2,"result":{"last_accuracy":0.5,"best_accuracy":0.5,"best_epoch":0,"last_balanced_accuracy":0.5,"train_loss":0.1,"eval_loss":0.2,"epochs":[{"train_loss":0.1,"accuracy":0.5,"state_hash":"0123456789abcdef"}],"provenance":{"trainer":"0.1.0","libtorch":"2.11.0","devices":["cpu"],"host":"h","precision":"f32","execution":"queued","kernels":"libtorch","images":"host","libraries":[],"data_fingerprint":"0123456789abcdef","skipped_images":0,"subset":"all","num_eval_images":10,"num_parameters":20},"timing":{"train_s":1.0,"evaluate_s":0.0,"checkpoint_s":0.0,"data_wait_s":0.0,"start_s":0.0,"images_per_s":0.0,"peak_memory_mib":0.0,"resumed_from_epoch":0}}}}}"#,
        r#"{"at":9,"event":{"attempt_stopped":{"trial":"t884182218182e510","attempt":1}}}"#,
    ];
    for line in lines {
        let recorded: Recorded = serde_json::from_str(line).expect("it can be read");
        assert_eq!(serde_json::to_string(&recorded).expect("plain data"), line);
    }
}
