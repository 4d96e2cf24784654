//! Allocations where the rules turn: what clears strikes, what is looked for soon, what is given back
//! and how often, and the status that a user sees.

use schedule::allocation::{
    AllocationPhase, ClusterStatus, EndCause, GiveBack, JobState, LaunchAnswer, LaunchEvent,
    LaunchInput, LaunchRequest, PauseCause, QueueSpec, ReasonClass, SubmitOutcome, cluster_status,
};
use schedule::event::{Event, Input};
use schedule::state::WorkerId;

use crate::allocations::{
    MINUTE, accepted, answer, asked, beat, cancel_sweep, cause, join, launching, observe, observed,
    open, pause, pending, phase, spec, strikes, submitted, wait_with,
};
use crate::sweeps::grid;
use crate::world::World;

fn stop(world: &mut World) {
    let stop = LaunchInput::Stop {
        reason: "the run was interrupted".into(),
    };
    world.give(Input::Launch(stop)).expect("it launches");
}

/// Sends heartbeats until the launcher is asked for something.
fn until_asked(world: &mut World, worker: &WorkerId) {
    while asked(world).is_none() {
        world.now += 5_000;
        beat(world, worker);
    }
}

#[test]
fn a_queue_that_is_opened_again_has_no_strikes_and_a_good_end_clears_them() {
    let struck = || {
        let mut world = launching(1, 4);
        let id = accepted(&mut world);
        let detail = "exit 1".into();
        observe(
            &mut world,
            &[(&id, JobState::Ended(EndCause::Failed { detail }))],
        );
        assert_eq!(strikes(&world), 1);
        while !matches!(asked(&world), Some(LaunchRequest::Submit { .. })) {
            world.wait(5_000);
        }
        world
    };
    let mut world = struck();
    open(&mut world, spec(1)).expect("the queue can be opened");
    assert_eq!(strikes(&world), 0);
    let mut world = struck();
    let id = accepted(&mut world);
    let worker = join(&mut world, &id, 1);
    let leaving = Input::Leaving {
        worker,
        reason: "time is up".into(),
    };
    world.give(leaving).expect("it is present");
    while !phase(&world, &id).is_ended() {
        observe(&mut world, &[(&id, JobState::Ended(EndCause::TimedOut))]);
    }
    assert_eq!(strikes(&world), 0);
}

#[test]
fn a_worker_that_hangs_up_is_looked_for_soon() {
    let mut world = launching(1, 4);
    let id = accepted(&mut world);
    let worker = join(&mut world, &id, 1);
    until_asked(&mut world, &worker);
    answer(
        &mut world,
        LaunchAnswer::Observed(Ok(vec![observed(&id, JobState::Running)])),
    );
    let connection = world.state.live.connected[&worker];
    let gone = Input::Disconnected { worker, connection };
    world.give(gone).expect("it is present");
    world.wait(world.config.launch.soon_ms - 1);
    assert_eq!(asked(&world), None);
    world.wait(1);
    assert!(matches!(asked(&world), Some(LaunchRequest::Observe { .. })));
}

#[test]
fn a_surplus_lasts_a_minute_however_long_there_was_none() {
    let mut world = launching(2, 4);
    let first = accepted(&mut world);
    let worker = join(&mut world, &first, 1);
    let second = accepted(&mut world);
    wait_with(&mut world, &[&worker], 3 * MINUTE);
    cancel_sweep(&mut world);
    wait_with(&mut world, &[&worker], 50_000);
    assert!(!phase(&world, &second).is_draining());
    wait_with(&mut world, &[&worker], 20_000);
    assert!(phase(&world, &second).is_draining());
}

#[test]
fn another_way_of_giving_back_does_not_wait_for_the_last_one() {
    let mut world = launching(1, 4);
    world.config.launch.observe_ms = 10 * MINUTE;
    let id = accepted(&mut world);
    stop(&mut world);
    let mut ways = Vec::new();
    for _ in 0..10 {
        if let Some(LaunchRequest::GiveBack { how, .. }) = asked(&world) {
            ways.push(how);
            answer(&mut world, LaunchAnswer::GaveBack(Ok(())));
        } else if let Some(LaunchRequest::Observe { .. }) = asked(&world) {
            let jobs = vec![observed(&id, pending("Priority", ReasonClass::Wait))];
            answer(&mut world, LaunchAnswer::Observed(Ok(jobs)));
        }
        world.wait(5_000);
    }
    assert_eq!(ways, [GiveBack::Waiting, GiveBack::Now]);
}

#[test]
fn an_allocation_that_the_launcher_was_not_asked_for_ends_at_once() {
    let mut world = launching(2, 1);
    let first = accepted(&mut world);
    let worker = join(&mut world, &first, 1);
    until_asked(&mut world, &worker);
    assert!(matches!(asked(&world), Some(LaunchRequest::Observe { .. })));
    world.submit(grid("more", 3, 2, ""));
    let second = world.state.allocations.keys().find(|id| **id != first);
    let second = second.expect("one more is wanted").clone();
    stop(&mut world);
    assert_eq!(cause(&world, &second), EndCause::CancelledByUs);
}

/// A user's stop may end a job before it was given back.
#[test]
fn a_job_that_ends_in_a_stopped_queue_was_cancelled_by_this_program() {
    let mut world = launching(1, 4);
    let id = accepted(&mut world);
    observe(&mut world, &[(&id, pending("Priority", ReasonClass::Wait))]);
    stop(&mut world);
    let over = JobState::Ended(EndCause::CancelledByOthers);
    while !phase(&world, &id).is_ended() {
        observe(&mut world, &[(&id, over.clone())]);
    }
    assert_eq!(cause(&world, &id), EndCause::CancelledByUs);
    assert_eq!(pause(&world), Some(PauseCause::Stopped));
}

#[test]
fn the_status_of_a_cluster_has_those_that_have_not_ended_first_and_reasons_for_all() {
    let mut world = launching(2, 4);
    let status = |world: &World| cluster_status(&world.state, &world.config, world.now);
    assert_eq!(
        cluster_status(&World::new().state, &world.config, 0),
        ClusterStatus::default()
    );
    let states = |world: &World| -> Vec<(String, Option<String>)> {
        let entries = status(world).allocations.into_iter();
        entries.map(|entry| (entry.state, entry.reason)).collect()
    };
    let line = |state: &str, reason: &str| (state.to_owned(), Some(reason.to_owned()));
    let intended = line(
        "intended",
        "the cluster has not answered the request for it",
    );
    assert_eq!(states(&world), [intended]);
    let first = accepted(&mut world);
    observe(&mut world, &[(&first, JobState::Running)]);
    let running = line("running", "its worker has not connected yet");
    assert_eq!(states(&world), [running]);
    let worker = join(&mut world, &first, 1);
    let ran = status(&world).allocations.into_iter();
    let ran: Vec<_> = ran
        .filter(|entry| entry.allocation == first.to_string())
        .collect();
    assert_eq!(
        (ran[0].reason.as_deref(), &ran[0].worker),
        (None, &Some(worker.to_string()))
    );
    let queue = status(&world).queue.expect("it launches");
    assert_eq!(
        (
            queue.wanted,
            queue.paused,
            queue.reason,
            queue.delayed_until_ms
        ),
        (2, None, None, None)
    );
    submitted(
        &mut world,
        SubmitOutcome::Unreachable {
            message: "no controller".into(),
        },
    );
    assert_eq!(status(&world).num_open(), 1);
    assert_eq!(status(&world).allocations[1].state, "ended");
    let queue = |world: &World| status(world).queue.expect("it launches");
    assert_eq!(queue(&world).reason.as_deref(), Some("no controller"));
    let until = queue(&world)
        .delayed_until_ms
        .expect("the next request waits");
    assert_eq!(until, world.now + 10_000);
    world.now = until;
    assert_eq!(queue(&world).delayed_until_ms, None);
    assert_eq!(first.as_str(), first.to_string());
}

#[test]
fn the_newest_allocations_are_listed_first_and_those_that_ended_last() {
    let mut world = launching(3, 9);
    let first = accepted(&mut world);
    world.now += 1_000;
    join(&mut world, &first, 1);
    world.now += 1_000;
    let second = accepted(&mut world);
    let third = accepted(&mut world);
    let status = |world: &World| cluster_status(&world.state, &world.config, world.now);
    let order = |world: &World| -> Vec<String> {
        let entries = status(world).allocations.into_iter();
        entries.map(|entry| entry.allocation).collect()
    };
    let names = |ids: [&_; 3]| ids.map(ToString::to_string);
    assert_eq!(order(&world), names([&third, &second, &first]));
    assert_eq!(status(&world).num_open(), 3);
    let preempted = JobState::Ended(EndCause::Preempted);
    let jobs = [
        (&first, JobState::Running),
        (&second, JobState::Running),
        (&third, preempted),
    ];
    observe(&mut world, &jobs);
    // Its successor is listed before it.
    let fourth = order(&world)[0].clone();
    assert_eq!(order(&world)[1..], names([&second, &first, &third]));
    assert!(!names([&first, &second, &third]).contains(&fourth));
    assert_eq!(status(&world).num_open(), 3);
}

#[test]
fn the_time_left_is_that_of_jobs_that_run() {
    let mut world = launching(1, 4);
    let id = accepted(&mut world);
    let ends_at = world.now + 60 * MINUTE;
    let see = |world: &mut World, state: JobState| {
        let mut job = observed(&id, state);
        job.ends_at = Some(ends_at);
        while !matches!(asked(world), Some(LaunchRequest::Observe { .. })) {
            world.wait(5_000);
        }
        answer(world, LaunchAnswer::Observed(Ok(vec![job])));
        let status = cluster_status(&world.state, &world.config, world.now);
        status.allocations[0].time_left_ms
    };
    let waits = pending("Priority", ReasonClass::Wait);
    assert_eq!(see(&mut world, waits), None);
    assert_eq!(
        see(&mut world, JobState::Running),
        Some(ends_at - world.now)
    );
    assert_eq!(see(&mut world, JobState::Ended(EndCause::Preempted)), None);
}

#[test]
fn an_allocation_is_in_its_state_since_its_phase_changed() {
    let mut world = launching(1, 4);
    let id = accepted(&mut world);
    let since = |world: &World| world.state.allocations[&id].since;
    let see = |world: &mut World, state: JobState| observe(world, &[(&id, state)]);
    see(&mut world, pending("Priority", ReasonClass::Wait));
    let queued = world.now;
    assert_eq!(since(&world), queued);
    see(&mut world, pending("Resources", ReasonClass::Wait));
    assert!(world.now > queued);
    assert_eq!(since(&world), queued, "another reason is no other phase");
    see(&mut world, JobState::Running);
    assert_eq!(since(&world), world.now);
}

/// Only an allocation that has worked, and that did not fail, shows that the queue works.
#[test]
fn strikes_are_cleared_by_nothing_but_a_good_end_of_an_allocation_that_worked() {
    for (joins, cause, expected) in [
        (false, EndCause::Preempted, 1),
        (true, EndCause::NodeFailed, 1),
        (true, EndCause::Preempted, 0),
    ] {
        let mut world = launching(1, 4);
        let id = accepted(&mut world);
        let detail = "exit 1".into();
        let failed = JobState::Ended(EndCause::Failed { detail });
        observe(&mut world, &[(&id, failed)]);
        while !matches!(asked(&world), Some(LaunchRequest::Submit { .. })) {
            world.wait(5_000);
        }
        let id = accepted(&mut world);
        if joins {
            let worker = join(&mut world, &id, 1);
            let connection = world.state.live.connected[&worker];
            let hung_up = Input::Disconnected { worker, connection };
            world.give(hung_up).expect("it is present");
            world.wait(world.config.lease_ms);
        }
        while !phase(&world, &id).is_ended() {
            observe(&mut world, &[(&id, JobState::Ended(cause.clone()))]);
        }
        assert_eq!(strikes(&world), expected, "{joins} {cause:?}");
    }
}

/// Its worker announced that it leaves, and left: nothing failed, and the answers need not be many.
#[test]
fn an_allocation_whose_worker_left_in_order_is_complete_once_its_job_is_missing() {
    let mut world = launching(1, 1);
    let id = accepted(&mut world);
    let worker = join(&mut world, &id, 1);
    cancel_sweep(&mut world);
    let leaving = Input::Leaving {
        worker: worker.clone(),
        reason: "idle".into(),
    };
    world.give(leaving).expect("it is present");
    let connection = world.state.live.connected[&worker];
    let hung_up = Input::Disconnected { worker, connection };
    world.give(hung_up).expect("it is present");
    let left = world.now;
    while !phase(&world, &id).is_ended() {
        observe(&mut world, &[]);
        assert!(world.now < left + world.config.launch.gone_ms);
    }
    assert_eq!(cause(&world, &id), EndCause::Completed);
}

#[test]
fn one_observation_pauses_a_queue_once() {
    let mut world = launching(2, 4);
    let first = accepted(&mut world);
    let worker = join(&mut world, &first, 1);
    let second = accepted(&mut world);
    let connection = world.state.live.connected[&worker];
    let hung_up = Input::Disconnected { worker, connection };
    world.give(hung_up).expect("it is present");
    world.wait(world.config.lease_ms);
    let over = JobState::Ended(EndCause::CancelledByOthers);
    observe(&mut world, &[(&first, over.clone()), (&second, over)]);
    assert!(phase(&world, &first).is_ended() && phase(&world, &second).is_ended());
    let pauses = world
        .journal
        .iter()
        .filter(|recorded| {
            matches!(
                recorded.event,
                Event::Launch(LaunchEvent::QueuePaused { .. })
            )
        })
        .count();
    assert_eq!(pauses, 1);
}

/// Such a job may hold its node for long, and does no work.
#[test]
fn a_job_that_was_given_up_is_replaced_while_it_still_runs() {
    let mut world = launching(1, 4);
    let id = accepted(&mut world);
    let start = world.now;
    while world.state.allocations.len() == 1 {
        match asked(&world) {
            Some(LaunchRequest::Observe { .. }) => {
                observe(&mut world, &[(&id, JobState::Running)]);
            }
            Some(LaunchRequest::GiveBack { .. }) => {
                answer(&mut world, LaunchAnswer::GaveBack(Ok(())));
            }
            _ => world.wait(5_000),
        }
        assert!(world.now < start + 20 * MINUTE, "it is not replaced");
    }
    let draining = AllocationPhase::Draining { has_started: true };
    assert_eq!(phase(&world, &id), draining);
}

/// Jobs of another queue that wait would come when the work is done.
#[test]
fn another_queue_takes_the_place_of_jobs_that_wait_and_of_no_others() {
    let mut world = launching(3, 9);
    let first = accepted(&mut world);
    join(&mut world, &first, 1);
    let second = accepted(&mut world);
    let third = accepted(&mut world);
    let jobs = [
        (&first, JobState::Running),
        (&second, JobState::Running),
        (&third, pending("Priority", ReasonClass::Wait)),
    ];
    observe(&mut world, &jobs);
    let other = QueueSpec {
        request: "--partition=other".into(),
        ..spec(3)
    };
    open(&mut world, other).expect("the queue can be opened");
    let is_draining = |id| phase(&world, id).is_draining();
    assert_eq!(
        [&first, &second, &third].map(is_draining),
        [false, false, true]
    );
}

/// A user waits for the end of a queue that was stopped.
#[test]
fn a_stopped_queue_is_observed_soon_and_often() {
    let mut world = launching(1, 4);
    let id = accepted(&mut world);
    let waits = pending("Priority", ReasonClass::Wait);
    observe(&mut world, &[(&id, waits.clone())]);
    let soon = world.config.launch.soon_ms;
    assert!(soon < world.config.launch.observe_ms);
    world.wait(soon);
    assert_eq!(asked(&world), None, "no user waits");
    stop(&mut world);
    assert!(matches!(
        asked(&world),
        Some(LaunchRequest::GiveBack { .. })
    ));
    answer(&mut world, LaunchAnswer::GaveBack(Ok(())));
    for _ in 0..2 {
        world.wait(soon - 1);
        assert_eq!(asked(&world), None);
        world.wait(1);
        assert!(matches!(asked(&world), Some(LaunchRequest::Observe { .. })));
        let jobs = vec![observed(&id, waits.clone())];
        answer(&mut world, LaunchAnswer::Observed(Ok(jobs)));
    }
}

#[test]
fn the_absence_of_a_job_that_was_given_back_is_believed_soon() {
    let mut world = launching(1, 4);
    let id = accepted(&mut world);
    observe(&mut world, &[(&id, pending("Priority", ReasonClass::Wait))]);
    stop(&mut world);
    let soon = world.config.launch.soon_ms;
    let begun = world.now;
    assert!(4 * soon < world.config.launch.gone_ms);
    while !world.state.allocations[&id].phase.is_ended() {
        match asked(&world) {
            Some(LaunchRequest::Observe { .. }) => {
                answer(&mut world, LaunchAnswer::Observed(Ok(Vec::new())));
            }
            Some(_) => answer(&mut world, LaunchAnswer::GaveBack(Ok(()))),
            None => world.wait(soon),
        }
        assert!(world.now < begun + 4 * soon, "{:?}", asked(&world));
    }
}

#[test]
fn a_worker_that_leaves_already_is_not_asked_again_when_its_queue_stops() {
    let mut world = launching(1, 4);
    let id = accepted(&mut world);
    let worker = join(&mut world, &id, 1);
    let leaving = Input::Leaving {
        worker,
        reason: "SIGTERM".into(),
    };
    world.give(leaving).expect("it is present");
    stop(&mut world);
    let drained = world
        .journal
        .iter()
        .filter(|recorded| matches!(recorded.event, Event::WorkerDraining { .. }));
    assert_eq!(drained.count(), 1);
}

#[test]
fn a_cluster_that_does_not_answer_is_asked_less_and_less_often() {
    let mut world = launching(1, 4);
    accepted(&mut world);
    while asked(&world).is_none() {
        world.wait(5_000);
    }
    let launch = world.config.launch.clone();
    for failures in 1..=8 {
        let no_answer = LaunchAnswer::Observed(Err("no answer".into()));
        answer(&mut world, no_answer);
        let wait = (launch.observe_ms << failures.min(6)).min(launch.longest_wait_ms);
        world.wait(wait - 1);
        assert_eq!(asked(&world), None, "after {failures} failures");
        world.wait(1);
        assert!(
            matches!(asked(&world), Some(LaunchRequest::Observe { .. })),
            "after {failures} failures"
        );
    }
}
