//! Leases, streams, reconciliation, fencing, stalls.

use schedule::event::{
    Effect, EndedAttempt, Event, Input, Outcome, Recorded, Rejected, RunningAttempt,
};
use schedule::state::{Phase, Presence, WorkerId, WorkerInfo};
use schedule::{KEPT_GONE, held_up, longest_wait, next_deadline, turn};
use sweep::handoff::Progress;
use sweep::record::FailureClass;

use crate::sweeps::grid;
use crate::world::{Started, World, finished, info, report_of, secret};

fn one_running(world: &mut World) -> (WorkerId, Started) {
    let worker = world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    (worker, world.started()[0].clone())
}

/// Workers of a large cluster come and go for years: their records go with them.
#[test]
fn workers_that_have_been_gone_for_long_leave_their_host_and_nothing_else() {
    let mut world = World::new();
    for number in 0..KEPT_GONE + 3 {
        let worker = world.join(&format!("w{number:04}"), 1);
        world
            .give(Input::Drain {
                name: worker.to_string(),
                reason: "for a test".into(),
            })
            .expect("it joined");
        let connection = world.state.live.connected[&worker];
        world.now += 1;
        world
            .give(Input::Disconnected { worker, connection })
            .expect("it hangs up");
    }
    let (forgotten, whole): (Vec<_>, Vec<_>) = world
        .state
        .workers
        .values()
        .partition(|entry| entry.info.slots.is_empty());
    assert_eq!((forgotten.len(), whole.len()), (3, KEPT_GONE));
    for (number, entry) in forgotten.iter().enumerate() {
        assert_eq!(entry.info.host, format!("w{number:04}"));
        assert!(entry.draining.is_none());
        assert!(matches!(&entry.presence, Presence::Gone { reason, .. } if reason.is_empty()));
    }
    world.restart();
    // One of them may come back.
    world.join("w0000", 1);
    assert!(!world.state.workers[&WorkerId("w0000".into())].is_gone());
}

/// The coordinator was stopped (SIGSTOP, a suspended machine) for twice the lease: no worker was
/// silent.
#[test]
fn a_coordinator_that_was_stopped_gives_every_worker_a_whole_lease() {
    let mut world = World::new();
    let (worker, first) = one_running(&mut world);
    let lease = world.config.lease_ms;
    world.now += 2 * lease;
    assert!(held_up(
        &mut world.state,
        &world.config,
        2 * lease,
        world.now
    ));
    world.wait(lease - 1);
    assert_eq!(
        world.trial(first.id.trial).phase,
        Phase::Running {
            attempt: first.id.number
        }
    );
    // It has missed the lease that was started again.
    world.wait(1);
    assert!(matches!(
        world.state.workers[&worker].presence,
        Presence::Gone { .. }
    ));
}

#[test]
fn a_short_stop_of_the_coordinator_counts_against_no_worker() {
    let mut world = World::new();
    let (worker, first) = one_running(&mut world);
    let lease = world.config.lease_ms;
    assert!(
        !held_up(&mut world.state, &world.config, 1_000, world.now),
        "busy machines are late by as much"
    );
    world.wait(lease / 2);
    let gap = lease / 2 - 1;
    world.now += gap;
    assert!(held_up(&mut world.state, &world.config, gap, world.now));
    world.wait(lease / 2 - 1);
    assert_eq!(
        world.trial(first.id.trial).phase,
        Phase::Running {
            attempt: first.id.number
        }
    );
    // A dead worker is found although the coordinator is slow again and again.
    world.wait(1);
    assert!(matches!(
        world.state.workers[&worker].presence,
        Presence::Gone { .. }
    ));
}

#[test]
fn a_stop_of_the_coordinator_is_no_stall_of_an_attempt() {
    let mut world = World::new();
    let (worker, first) = one_running(&mut world);
    world
        .beat(&worker, std::slice::from_ref(&first), 1)
        .expect("it joined");
    let stall = world.config.stall_ms;
    world.now += stall;
    assert!(held_up(&mut world.state, &world.config, stall, world.now));
    world
        .beat(&worker, std::slice::from_ref(&first), 1)
        .expect("it joined");
    assert_eq!(
        world.trial(first.id.trial).phase,
        Phase::Running {
            attempt: first.id.number
        }
    );
}

#[test]
fn a_coordinator_with_workers_never_waits_so_long_that_a_stop_goes_unnoticed() {
    let mut world = World::new();
    assert_eq!(longest_wait(&world.state, &world.config), None);
    one_running(&mut world);
    assert_eq!(longest_wait(&world.state, &world.config), Some(1_000));
    world.config.lease_ms = 400;
    assert_eq!(longest_wait(&world.state, &world.config), Some(100));
}

#[test]
fn silence_for_longer_than_the_lease_gives_the_trial_to_another() {
    let mut world = World::new();
    let (worker, first) = one_running(&mut world);
    let deadline = next_deadline(&world.state, &world.config, world.now).expect("a lease runs");
    assert_eq!(deadline, world.now + world.config.lease_ms);
    world.wait(world.config.lease_ms - 1);
    assert_eq!(
        world.trial(first.id.trial).phase,
        Phase::Running {
            attempt: first.id.number
        }
    );
    world.wait(1);
    assert!(matches!(
        world.state.workers[&worker].presence,
        Presence::Gone { .. }
    ));
    assert!(
        world
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::Disconnect { .. }))
    );
    let end = world.trial(first.id.trial).attempts[0]
        .ended
        .clone()
        .expect("it has ended");
    assert_eq!(
        end.failure.expect("with a failure").class,
        FailureClass::Unreachable
    );
    world.join("other", 1);
    assert_eq!(
        (world.started()[0].id.trial, world.started()[0].id.number.0),
        (first.id.trial, 2)
    );
}

#[test]
fn a_worker_that_was_cut_off_cannot_write_over_its_successor() {
    let mut world = World::new();
    let (worker, first) = one_running(&mut world);
    world.wait(world.config.lease_ms);
    world.join("other", 1);
    let second = world.started()[0].clone();
    // A heartbeat or an outcome on the old stream does not count: the worker must connect with its
    // lists.
    assert_eq!(
        world.finish(&first),
        Err(Rejected::UnknownWorker(worker.clone()))
    );
    assert!(!world.acknowledged(&first));
    // It comes back with a finished result.
    world
        .connect(&worker, info("w", 1, 1), &[], &[finished(&first)])
        .expect("it may return");
    assert!(world.acknowledged(&first));
    assert_eq!(
        world.trial(first.id.trial).phase,
        Phase::Running {
            attempt: second.id.number
        }
    );
    world.finish(&second).expect("it is current");
    assert!(
        matches!(&world.trial(first.id.trial).phase, Phase::Succeeded { attempt, .. } if *attempt == second.id.number)
    );
    assert!(matches!(
        world.finish(&second),
        Err(Rejected::StaleAttempt { .. })
    ));
    assert!(
        world.acknowledged(&second),
        "a repeated outcome is acknowledged again"
    );
}

#[test]
fn a_worker_that_was_cut_off_stops_what_it_lost_before_its_slot_is_used() {
    let mut world = World::new();
    let (worker, first) = one_running(&mut world);
    world.wait(world.config.lease_ms);
    world
        .connect(&worker, info("w", 1, 1), std::slice::from_ref(&first), &[])
        .expect("it may return");
    assert_eq!(world.stopped(), [first.id.trial]);
    assert_eq!(world.started(), [], "its slot is still occupied");
    world
        .end(&first, Outcome::Stopped)
        .expect("it frees the slot");
    assert_eq!(world.started().len(), 1);
    assert_eq!(world.started()[0].id.number.0, 2);
}

#[test]
fn a_short_cut_leaves_no_trace() {
    let mut world = World::new();
    let (worker, first) = one_running(&mut world);
    let journal = world.journal.len();
    world
        .give(Input::Disconnected {
            worker: worker.clone(),
            connection: 1,
        })
        .expect("always");
    world
        .connect(&worker, info("w", 1, 1), std::slice::from_ref(&first), &[])
        .expect("it may return");
    assert_eq!(world.journal.len(), journal);
    world.finish(&first).expect("it is current");
}

#[test]
fn what_finished_while_cut_off_is_accepted_when_still_current() {
    let mut world = World::new();
    let (worker, first) = one_running(&mut world);
    world
        .connect(&worker, info("w", 1, 1), &[], &[finished(&first)])
        .expect("it may return");
    assert!(matches!(
        world.trial(first.id.trial).phase,
        Phase::Succeeded { .. }
    ));
    assert!(world.acknowledged(&first));
}

#[test]
fn a_start_that_was_lost_with_a_connection_costs_one_attempt_number_and_no_time() {
    let mut world = World::new();
    let (worker, first) = one_running(&mut world);
    world
        .connect(&worker, info("w", 1, 1), &[], &[])
        .expect("it may return");
    assert_eq!(
        (world.started()[0].id.trial, world.started()[0].id.number.0),
        (first.id.trial, 2)
    );
}

#[test]
fn lists_of_an_older_stream_cannot_undo_newer_ones() {
    let mut world = World::new();
    let (worker, first) = one_running(&mut world);
    world
        .connect(&worker, info("w", 1, 1), std::slice::from_ref(&first), &[])
        .expect("it may return");
    let late = Input::Connected {
        worker: worker.clone(),
        connection: 1,
        secret: secret(1),
        info: info("w", 1, 1),
        running: Vec::new(),
        ended: Vec::new(),
    };
    assert!(matches!(
        world.give(late),
        Err(Rejected::StaleConnection { newest: 2, .. })
    ));
    assert_eq!(
        world.trial(first.id.trial).phase,
        Phase::Running {
            attempt: first.id.number
        }
    );
    // The end of the older stream must not be taken for the end of the newer one.
    world
        .give(Input::Disconnected {
            worker: worker.clone(),
            connection: 1,
        })
        .expect("always");
    assert!(world.state.live.connected.contains_key(&worker));
}

#[test]
fn only_the_process_that_joined_can_connect_as_its_worker() {
    let mut world = World::new();
    let (worker, first) = one_running(&mut world);
    let as_process = |process: u8, connection: u64| Input::Connected {
        worker: worker.clone(),
        connection,
        secret: secret(process),
        info: info("w", 1, 1),
        running: vec![report_of(&first, 0)],
        ended: Vec::new(),
    };
    for restarted in [false, true] {
        if restarted {
            world.restart();
        }
        let newest = world.state.live.newest_connection.clone();
        assert_eq!(
            world.give(as_process(2, u64::MAX)),
            Err(Rejected::Impostor(worker.clone()))
        );
        assert_eq!(
            world.state.live.newest_connection, newest,
            "it does not shut the worker out"
        );
        world
            .give(as_process(1, 2 + u64::from(restarted)))
            .expect("it may return");
    }
    world.finish(&first).expect("it is current");
}

/// A worker that joined before secrets were journalled is the process that connects first.
#[test]
fn a_worker_of_an_older_journal_gets_its_secret_when_it_connects() {
    let mut world = World::new();
    let line = r#"{"worker_joined":{"worker":"w","info":{"host":"w","build":"build 1","slots":[
        {"devices":["cpu"],"description":"1 thread"}]}}}"#;
    let event = serde_json::from_str(line).expect("older events are read");
    let recorded = Recorded { at: 0, event };
    world.force(&recorded).expect("it can be replayed");
    world.journal.push(recorded);
    let worker = WorkerId("w".into());
    world
        .connect(&worker, info("w", 1, 1), &[], &[])
        .expect("it may join");
    assert!(
        world.state.workers[&worker]
            .secret
            .as_ref()
            .is_some_and(|known| known.is_same(&secret(1)))
    );
    world.restart();
    assert!(world.state.workers[&worker].secret.is_some());
}

#[test]
fn after_a_restart_leases_start_again_and_running_work_continues() {
    let mut world = World::new();
    let (worker, first) = one_running(&mut world);
    world.now += 10 * world.config.lease_ms;
    world.restart();
    world.wait(world.config.lease_ms - 1);
    assert_eq!(
        world.trial(first.id.trial).phase,
        Phase::Running {
            attempt: first.id.number
        }
    );
    world
        .connect(&worker, info("w", 1, 1), std::slice::from_ref(&first), &[])
        .expect("it may return");
    world.finish(&first).expect("it is current");
}

#[test]
fn a_heartbeat_without_progress_is_not_health() {
    let mut world = World::new();
    let (worker, first) = one_running(&mut world);
    let limit = world.config.stall_ms;
    let step = world.config.heartbeat_ms;
    let beats = |world: &mut World, count: u64, at: &dyn Fn(u64) -> u64| {
        for beat in 0..count {
            world.now += step;
            world
                .beat(&worker, std::slice::from_ref(&first), at(beat))
                .expect("it is present");
        }
    };
    beats(&mut world, 2 * limit / step, &|beat| beat);
    assert_eq!(
        world.trial(first.id.trial).phase,
        Phase::Running {
            attempt: first.id.number
        }
    );
    beats(&mut world, limit / step - 1, &|_| 0);
    assert_eq!(
        world.trial(first.id.trial).phase,
        Phase::Running {
            attempt: first.id.number
        }
    );
    beats(&mut world, 1, &|_| 0);
    let end = world.trial(first.id.trial).attempts[0]
        .ended
        .clone()
        .expect("it has ended");
    assert_eq!(
        end.failure.expect("with a failure").class,
        FailureClass::Stalled
    );
    assert_eq!(
        world.stopped(),
        vec![first.id.trial; 2],
        "at its end, and as the answer to the heartbeat that still lists it"
    );
    // Its slot is free only when the worker reports it.
    world.wait(5_000);
    assert_eq!(world.started(), []);
    world
        .end(&first, Outcome::Stopped)
        .expect("it frees the slot");
    assert_eq!(world.started()[0].id.number.0, 2);
}

#[test]
fn a_silent_worker_is_unreachable_and_not_stalled() {
    let mut world = World::new();
    let (_, first) = one_running(&mut world);
    world.wait(2 * world.config.stall_ms);
    let end = world.trial(first.id.trial).attempts[0]
        .ended
        .clone()
        .expect("it has ended");
    assert_eq!(
        end.failure.expect("with a failure").class,
        FailureClass::Unreachable
    );
}

#[test]
fn an_attempt_that_the_worker_never_reports_stalls() {
    let mut world = World::new();
    let (worker, first) = one_running(&mut world);
    for _ in 0..world.config.stall_ms / 1_000 {
        world.now += 1_000;
        world.beat(&worker, &[], 0).expect("it is present");
    }
    let end = world.trial(first.id.trial).attempts[0]
        .ended
        .clone()
        .expect("it has ended");
    assert_eq!(
        end.failure.expect("with a failure").class,
        FailureClass::Stalled
    );
}

#[test]
fn another_build_is_refused_with_both_names() {
    let mut world = World::new();
    let other = schedule::state::WorkerInfo {
        build: "build 2".to_owned(),
        ..info("w", 1, 1)
    };
    let refused = world
        .connect(&WorkerId("w".into()), other, &[], &[])
        .expect_err("it is another build");
    let text = refused.to_string();
    assert!(
        text.contains("build 1") && text.contains("build 2"),
        "{text}"
    );
    assert!(world.state.workers.is_empty() && world.state.live.connected.is_empty());
}

#[test]
fn contradictory_lists_are_refused() {
    let mut world = World::new();
    let (worker, first) = one_running(&mut world);
    let twice = [first.clone(), first.clone()];
    assert!(matches!(
        world.connect(&worker, info("w", 1, 1), &twice, &[]),
        Err(Rejected::Invalid(_))
    ));
    let outside = Started {
        slot: 7,
        ..first.clone()
    };
    assert!(matches!(
        world.connect(&worker, info("w", 1, 1), &[outside], &[]),
        Err(Rejected::Invalid(_))
    ));
    assert!(matches!(
        world.connect(&worker, info("w", 0, 1), &[], &[]),
        Err(Rejected::Invalid(_))
    ));
}

#[test]
fn work_that_this_journal_never_dispatched_is_stopped_and_its_slot_left_alone() {
    let mut old = World::new();
    let (worker, stray) = one_running(&mut old);
    let mut world = World::new();
    world.submit(grid("a", 2, 1, ""));
    world
        .connect(&worker, info("w", 1, 1), std::slice::from_ref(&stray), &[])
        .expect("it may join");
    assert_eq!(world.stopped(), [stray.id.trial]);
    assert_eq!(world.started(), []);
    // The same trial does not start on this worker a second time, and no other trial starts in the
    // slot.
    world
        .end(&stray, Outcome::Stopped)
        .expect("it frees the slot");
    assert_eq!(world.started().len(), 1);
}

#[test]
fn an_outcome_from_a_worker_that_was_not_given_the_attempt_is_refused() {
    let mut world = World::new();
    let (_, first) = one_running(&mut world);
    let liar = world.join("liar", 1);
    let ended = EndedAttempt {
        id: first.id,
        outcome: Outcome::Stopped,
    };
    let answer = world.give(Input::Ended {
        worker: liar,
        ended,
    });
    assert!(
        matches!(answer, Err(Rejected::StaleAttempt { .. })),
        "{answer:?}"
    );
    assert_eq!(
        world.trial(first.id.trial).phase,
        Phase::Running {
            attempt: first.id.number
        }
    );
}

#[test]
fn a_drained_idle_worker_is_gone_when_it_disconnects_and_still_drains_if_it_returns() {
    let mut world = World::new();
    let (worker, first) = one_running(&mut world);
    drain(&mut world, &worker.0);
    let order = Effect::Drain {
        worker: worker.clone(),
        reason: "maintenance".into(),
    };
    assert!(
        !world.effects.contains(&order),
        "it finishes what runs, and may be undrained until then"
    );
    world.finish(&first).expect("it is current");
    assert!(world.effects.contains(&order));
    world
        .give(Input::Disconnected {
            worker: worker.clone(),
            connection: 1,
        })
        .expect("always");
    assert!(world.state.workers[&worker].is_gone());
    world
        .connect(&worker, info("w", 1, 1), &[], &[])
        .expect("it may return");
    assert!(world.effects.contains(&order));
}

fn drain(world: &mut World, name: &str) {
    world
        .give(Input::Drain {
            name: name.to_owned(),
            reason: "maintenance".into(),
        })
        .expect("it is known");
}

fn undrain(world: &mut World, name: &str) {
    world
        .give(Input::Undrain {
            name: name.to_owned(),
        })
        .expect("it is known");
}

fn on_host(world: &mut World, name: &str) -> WorkerId {
    let worker = WorkerId(name.into());
    let info = WorkerInfo {
        host: "host".into(),
        ..info(name, 1, 1)
    };
    world.connect(&worker, info, &[], &[]).expect("it joins");
    worker
}

/// Drains by the worker's name or its host's, in any combination.
#[test]
fn an_undrained_worker_that_has_not_left_stays_and_works_on() {
    for (drained, undrained) in [("w", "w"), ("w", "host"), ("host", "w"), ("host", "host")] {
        let mut world = World::new();
        on_host(&mut world, "w");
        world.submit(grid("a", 2, 1, ""));
        let first = world.started()[0].clone();
        drain(&mut world, drained);
        undrain(&mut world, undrained);
        world.finish(&first).expect("it is current");
        assert_eq!(
            world.started().len(),
            1,
            "{drained}, {undrained}: the next trial follows"
        );
        let order = world
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::Drain { .. }));
        assert!(!order, "{drained}, {undrained}: it was ordered to leave");
    }
}

#[test]
fn a_drained_host_gives_no_work_to_its_later_workers_either() {
    let mut world = World::new();
    let early = ["one", "two"].map(|name| on_host(&mut world, name));
    drain(&mut world, "host");
    for worker in early {
        let order = Effect::Drain {
            worker,
            reason: "maintenance".into(),
        };
        assert!(
            world.effects.contains(&order),
            "an idle one leaves at once: {order:?}"
        );
    }
    on_host(&mut world, "three");
    world.submit(grid("a", 1, 1, ""));
    assert_eq!(world.started(), []);
    undrain(&mut world, "three");
    assert_eq!(world.started().len(), 1, "{:?}", world.state.hosts);
}

#[test]
fn a_worker_that_leaves_by_itself_is_not_kept_by_undrain() {
    let mut world = World::new();
    let (worker, _) = one_running(&mut world);
    world
        .give(Input::Leaving {
            worker: worker.clone(),
            reason: "SIGTERM".into(),
        })
        .expect("it joined");
    undrain(&mut world, &worker.0);
    assert!(world.state.workers[&worker].draining.is_some());
    // After a restart its next message has the same effect.
    world.restart();
    world
        .connect(&worker, info("w", 1, 1), &[], &[])
        .expect("it may return");
    world
        .give(Input::Leaving {
            worker: worker.clone(),
            reason: "SIGTERM".into(),
        })
        .expect("it joined");
    undrain(&mut world, &worker.0);
    assert!(world.state.workers[&worker].draining.is_some());
}

#[test]
fn a_worker_that_has_left_cannot_be_drained() {
    let mut world = World::new();
    let worker = on_host(&mut world, "w");
    let connection = world.state.live.connected[&worker];
    world
        .give(Input::Leaving {
            worker: worker.clone(),
            reason: "SIGTERM".into(),
        })
        .expect("it joined");
    world
        .give(Input::Disconnected {
            worker: worker.clone(),
            connection,
        })
        .expect("always");
    assert!(world.state.workers[&worker].is_gone());
    let answer = world.give(Input::Drain {
        name: "w".into(),
        reason: "maintenance".into(),
    });
    assert!(
        matches!(&answer, Err(rejected @ Rejected::HasLeft { .. }) if rejected.to_string().contains("SIGTERM"))
    );
}

#[test]
fn inputs_that_came_together_share_one_turn() {
    let mut world = World::new();
    world.join("w", 2);
    world.submit(grid("a", 4, 1, ""));
    let inputs: Vec<Input> = world
        .started()
        .iter()
        .map(|started| Input::Ended {
            worker: started.worker.clone(),
            ended: finished(started),
        })
        .collect();
    let turn = turn(&mut world.state, &world.config, &inputs, world.now);
    let kinds: Vec<bool> = turn
        .recorded
        .iter()
        .map(|r| matches!(r.event, Event::TrialDispatched { .. }))
        .collect();
    assert_eq!(kinds, [false, false, true, true]);
    assert_eq!(turn.answers.len(), 2);
}

#[test]
fn an_impossible_history_is_an_error_value_and_changes_nothing() {
    let mut world = World::new();
    let (worker, first) = one_running(&mut world);
    let before = world.state.clone();
    let at = world.now;
    let impossible = [
        Event::TrialDispatched {
            attempt: first.id,
            worker: worker.clone(),
            slot: 0,
        },
        Event::WorkerGone {
            worker: worker.clone(),
            reason: Default::default(),
        },
        Event::SlotFreed {
            worker: worker.clone(),
            slot: 0,
        },
        Event::SlotFreed { worker, slot: 9 },
        Event::AttemptStopped { attempt: first.id },
        Event::SweepCancelled {
            sweep: "no".into(),
            reason: Default::default(),
        },
    ];
    for event in impossible {
        let error = world
            .force(&Recorded { at, event })
            .expect_err("it cannot follow");
        assert_eq!(error.number, before.applied + 1);
        assert_eq!(world.state, before);
    }
}

#[test]
fn late_reports_of_an_earlier_attempt_do_not_hide_a_stall() {
    let mut world = World::new();
    let (worker, first) = one_running(&mut world);
    world
        .connect(&worker, info("w", 1, 1), &[], &[])
        .expect("its start was lost");
    let second = world.started()[0].clone();
    world
        .beat(&worker, std::slice::from_ref(&second), 5)
        .expect("it is present");
    let late = Input::Heartbeat {
        worker: worker.clone(),
        running: vec![report_of(&first, 900)],
    };
    world.give(late).expect("it is present");
    assert_eq!(
        world.state.live.progress[&first.id.trial].attempt,
        second.id.number
    );
}

/// Epochs, steps and collectives are progress, each on its own.
#[test]
fn any_counter_that_grows_is_progress() {
    type Count = fn(&mut Progress);
    let counters: [Count; 3] = [
        |progress| progress.epoch += 1,
        |progress| progress.step += 1,
        |progress| progress.collectives += 1,
    ];
    for (number, count) in counters.into_iter().enumerate() {
        let mut world = World::new();
        let (worker, first) = one_running(&mut world);
        world.config.lease_ms = 1_000_000_000;
        let mut report = report_of(&first, 7);
        (report.progress.epoch, report.progress.collectives) = (3, 5);
        let beat = |world: &mut World, report: &RunningAttempt| {
            world
                .give(Input::Heartbeat {
                    worker: worker.clone(),
                    running: vec![report.clone()],
                })
                .expect("it is present");
            world.is_waiting(first.id.trial)
        };
        assert!(!beat(&mut world, &report));
        world.now += world.config.stall_ms;
        count(&mut report.progress);
        assert!(!beat(&mut world, &report), "counter {number} grew");
        world.now += world.config.stall_ms - 1;
        assert!(!beat(&mut world, &report));
        world.now += 1;
        assert!(beat(&mut world, &report), "counter {number} stood still");
    }
}

/// One attempt that stands still fails, and its neighbour on the same worker does not.
#[test]
fn a_stall_is_judged_attempt_by_attempt() {
    let mut world = World::new();
    let worker = world.join("w", 2);
    world.submit(grid("a", 2, 1, ""));
    let [moves, stands] = &world.started()[..] else {
        panic!("two start")
    };
    let (moves, stands) = (moves.clone(), stands.clone());
    world.config.lease_ms = 1_000_000_000;
    let running = [moves.clone(), stands.clone()];
    world.beat(&worker, &running, 0).expect("it is present");
    world.now += world.config.stall_ms;
    world
        .give(Input::Heartbeat {
            worker,
            running: vec![report_of(&moves, 1), report_of(&stands, 0)],
        })
        .expect("it is present");
    assert!(world.is_waiting(stands.id.trial) && !world.is_waiting(moves.id.trial));
}

#[test]
fn half_a_lease_without_the_coordinator_starts_every_lease_again() {
    let mut world = World::new();
    let (worker, _) = one_running(&mut world);
    let lease = world.config.lease_ms;
    let now = world.now + lease / 2;
    assert!(held_up(&mut world.state, &world.config, lease / 2, now));
    assert_eq!(world.state.live.last_message[&worker], now);
    // A quarter of a short lease is not worth a change.
    world.config.lease_ms = 2_000;
    assert!(!held_up(&mut world.state, &world.config, 500, now));
    assert!(held_up(&mut world.state, &world.config, 501, now));
}
