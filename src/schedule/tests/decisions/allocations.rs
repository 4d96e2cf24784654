//! Allocations: how many are asked for, what a cluster's answers prove, what counts as a failure,
//! and how everything is given back.

use schedule::allocation::{
    AllocationId, AllocationPhase, EndCause, GiveBack, JobId, JobState, LaunchAnswer, LaunchInput,
    LaunchRequest, ObservedJob, PauseCause, PendingReason, QueueName, QueueSpec, ReasonClass,
    SubmitOutcome,
};
use schedule::event::{Input, Recorded, Rejected};
use schedule::state::WorkerId;

use crate::sweeps::grid;
use crate::world::{Started, World, info};

pub const MINUTE: u64 = 60_000;

pub fn spec(max_allocations: u32) -> QueueSpec {
    QueueSpec {
        launcher: "slurm".to_owned(),
        request: "--partition=gpu".into(),
        folder: "state/allocations".to_owned(),
        max_allocations,
        time_limit_ms: Some(4 * 60 * MINUTE),
        notice_ms: 3 * MINUTE,
    }
}

/// A world whose coordinator launches, and that has this number of trials to train.
pub fn launching(max_allocations: u32, trials: u32) -> World {
    let mut world = World::new();
    world.submit(grid("table", trials, 1, ""));
    open(&mut world, spec(max_allocations)).expect("the queue can be opened");
    world
}

pub fn open(world: &mut World, spec: QueueSpec) -> Result<(), Rejected> {
    let name = QueueName::new("table", 7);
    let opened = world.give(Input::Launch(LaunchInput::Open { name, spec }));
    opened.map(drop)
}

pub fn asked(world: &World) -> Option<LaunchRequest> {
    let live = world.state.live.launch.as_ref();
    live.and_then(|live| live.asked.clone())
}

pub fn answer(world: &mut World, answer: LaunchAnswer) {
    let answered = world.give(Input::Launch(LaunchInput::Answered(answer)));
    answered.expect("the launcher was asked");
}

/// The allocation that the launcher is asked to submit now.
fn submission(world: &World) -> AllocationId {
    match asked(world) {
        Some(LaunchRequest::Submit { allocation, .. }) => allocation,
        other => panic!("a submission was expected, not {other:?}"),
    }
}

pub fn submitted(world: &mut World, outcome: SubmitOutcome) -> AllocationId {
    let allocation = submission(world);
    let (id, outcome) = (allocation.clone(), outcome);
    answer(
        world,
        LaunchAnswer::Submitted {
            allocation,
            outcome,
        },
    );
    id
}

pub fn accepted(world: &mut World) -> AllocationId {
    let job = job_of(&submission(world));
    submitted(world, SubmitOutcome::Submitted(job))
}

fn job_of(id: &AllocationId) -> JobId {
    JobId(format!("job of {id}").into())
}

pub fn observed(id: &AllocationId, state: JobState) -> ObservedJob {
    ObservedJob {
        allocation: id.clone(),
        job: job_of(id),
        state,
        node: None,
        ends_at: None,
    }
}

/// Waits until the cluster is observed, and answers with these jobs.
pub fn observe(world: &mut World, jobs: &[(&AllocationId, JobState)]) {
    let jobs = jobs.iter().map(|(id, state)| observed(id, state.clone()));
    observe_with(world, Ok(jobs.collect()));
}

fn observe_with(world: &mut World, jobs: Result<Vec<ObservedJob>, sweep::text::Line>) {
    for _ in 0..200 {
        match asked(world) {
            Some(LaunchRequest::Observe { .. }) => {
                return answer(world, LaunchAnswer::Observed(jobs));
            }
            Some(LaunchRequest::GiveBack { .. }) => answer(world, LaunchAnswer::GaveBack(Ok(()))),
            Some(LaunchRequest::Submit { allocation, .. }) => {
                panic!("{allocation} is submitted, and nothing is observed")
            }
            None => world.wait(5_000),
        }
    }
    panic!("the cluster is not observed");
}

pub fn pending(word: &str, class: ReasonClass) -> JobState {
    JobState::Pending(PendingReason {
        word: word.into(),
        sentence: "it waits".into(),
        class,
    })
}

pub fn join(world: &mut World, id: &AllocationId, slots: u32) -> WorkerId {
    let worker = WorkerId(format!("worker of {id}").into());
    join_with(world, id, &worker, slots, None);
    worker
}

fn join_with(
    world: &mut World,
    id: &AllocationId,
    worker: &WorkerId,
    slots: u32,
    leaves_at_ms: Option<u64>,
) {
    let info = schedule::state::WorkerInfo {
        allocation: Some(id.to_string()),
        leaves_at_ms,
        ..info("node", slots, 1)
    };
    world.connect(worker, info, &[], &[]).expect("it may join");
}

/// A heartbeat of everything that the worker should hold.
pub fn beat(world: &mut World, worker: &WorkerId) {
    let held = world.state.current_attempts(worker);
    let held: Vec<_> = held
        .map(|(slot, id)| Started {
            worker: worker.clone(),
            slot,
            id,
        })
        .collect();
    let step = world.now;
    world.beat(worker, &held, step).expect("it is present");
}

/// Keeps these workers' leases.
pub fn wait_with(world: &mut World, workers: &[&WorkerId], ms: u64) {
    let until = world.now + ms;
    while world.now < until {
        world.now += 5_000;
        workers.iter().for_each(|worker| beat(world, worker));
        if let Some(LaunchRequest::Observe { .. }) = asked(world) {
            answer(world, LaunchAnswer::Observed(Err("no answer".into())));
        }
    }
}

pub fn phase(world: &World, id: &AllocationId) -> AllocationPhase {
    world.state.allocations[id].phase.clone()
}

pub fn cause(world: &World, id: &AllocationId) -> EndCause {
    match phase(world, id) {
        AllocationPhase::Ended { cause } => cause,
        other => panic!("{id} is {other:?}"),
    }
}

pub fn pause(world: &World) -> Option<PauseCause> {
    let queue = world
        .state
        .launch_queues
        .values()
        .next()
        .expect("it was opened");
    queue.paused.as_ref().map(|pause| pause.cause)
}

pub fn strikes(world: &World) -> u32 {
    world
        .state
        .launch_queues
        .values()
        .next()
        .expect("it was opened")
        .strikes
}

/// Complaint 5: a storm of allocations that can never run the work.
#[test]
fn the_first_is_alone_until_its_worker_has_reported_what_it_has() {
    let mut world = launching(8, 10);
    let first = accepted(&mut world);
    assert_eq!(asked(&world), None, "one is enough to learn from");
    observe(
        &mut world,
        &[(&first, pending("Priority", ReasonClass::Wait))],
    );
    assert_eq!(world.state.allocations.len(), 1);
    join(&mut world, &first, 2);
    // Ten trials, two slots each: five allocations, of which the first runs.
    let mut later = Vec::new();
    for _ in 0..4 {
        later.push(accepted(&mut world));
    }
    assert!(asked(&world).is_none(), "no more than four wait");
    assert_eq!(world.state.allocations.len(), 5);
}

#[test]
fn no_more_than_the_work_needs_and_no_more_than_the_user_allows() {
    for (max, trials, expected) in [(2, 10, 2), (8, 5, 3), (8, 2, 1)] {
        let mut world = launching(max, trials);
        let first = accepted(&mut world);
        join(&mut world, &first, 2);
        while let Some(LaunchRequest::Submit { .. }) = asked(&world) {
            accepted(&mut world);
        }
        assert_eq!(world.state.allocations.len(), expected, "{max} {trials}");
    }
}

/// A host that cannot be reached keeps no other from its work, and is tried for as long as there is
/// work.
#[test]
fn hosts_that_cannot_be_reached_do_not_count() {
    let mut world = World::new();
    world.submit(grid("table", 2, 1, ""));
    let hosts = QueueSpec {
        launcher: "ssh".to_owned(),
        ..spec(4)
    };
    open(&mut world, hosts).expect("the queue can be opened");
    let unreachable = || pending("unreachable", ReasonClass::Wait);
    let first = accepted(&mut world);
    let second = accepted(&mut world);
    assert_eq!(asked(&world), None, "two trials, two hosts");
    observe(
        &mut world,
        &[(&first, unreachable()), (&second, unreachable())],
    );
    let third = accepted(&mut world);
    let fourth = accepted(&mut world);
    let all = [&first, &second, &third, &fourth].map(|id| (id, unreachable()));
    observe(&mut world, &all);
    world.wait(10 * MINUTE);
    assert_eq!(world.state.allocations.len(), 4, "the file has no more");
    world
        .give(Input::Cancel {
            sweep: "table".into(),
            reason: "test".into(),
        })
        .expect("it is known");
    for _ in 0..8 {
        observe(&mut world, &all);
        world.wait(MINUTE);
    }
    for id in [&first, &second, &third, &fourth] {
        assert!(phase(&world, id).is_draining(), "{id}");
    }
}

#[test]
fn trials_that_no_worker_of_the_queue_can_take_ask_for_nothing() {
    let mut world = launching(8, 1);
    let first = accepted(&mut world);
    let worker = join(&mut world, &first, 2);
    world.submit(grid("wide", 9, 1, "resources: {devices_per_trial: 4}\n"));
    wait_with(&mut world, &[&worker], 10 * MINUTE);
    assert_eq!(world.state.allocations.len(), 1);
}

#[test]
fn an_allocation_that_cannot_hold_a_checkpoint_is_refused() {
    let mut world = World::new();
    let short = QueueSpec {
        time_limit_ms: Some(3 * MINUTE),
        ..spec(1)
    };
    let refused = open(&mut world, short)
        .expect_err("it is too short")
        .to_string();
    assert!(refused.contains("ask for more time"), "{refused}");
    assert!(world.state.launch_queues.is_empty());
}

/// The intent is journalled before the effect, so that its job is found by its name.
#[test]
fn a_coordinator_killed_before_or_after_the_submission_finds_its_job_by_name() {
    for submitted in [false, true] {
        let mut world = launching(1, 4);
        let id = submission(&world);
        world.restart();
        open(&mut world, spec(1)).expect("the queue can be opened");
        let jobs = if submitted {
            vec![(&id, JobState::Running)]
        } else {
            Vec::new()
        };
        observe(&mut world, &jobs);
        if submitted {
            assert_eq!(phase(&world, &id), AllocationPhase::Running);
            assert_eq!(world.state.allocations[&id].job, Some(job_of(&id)));
            continue;
        }
        // One answer without it proves nothing.
        assert_eq!(phase(&world, &id), AllocationPhase::Intended);
        observe(&mut world, &[]);
        observe(&mut world, &[]);
        assert!(matches!(cause(&world, &id), EndCause::NotSubmitted { .. }));
        world.wait(MINUTE);
        assert_ne!(submission(&world), id, "a name is never used twice");
    }
}

#[test]
fn a_lost_answer_asks_for_nothing_until_the_job_is_found_or_missing_for_a_minute() {
    let mut world = launching(4, 9);
    let first = accepted(&mut world);
    join(&mut world, &first, 1);
    let message = "Socket timed out on send/recv operation".into();
    let id = submitted(&mut world, SubmitOutcome::Unknown { message });
    let running = (&first, JobState::Running);
    observe(&mut world, std::slice::from_ref(&running));
    assert_eq!(phase(&world, &id), AllocationPhase::Intended);
    observe(
        &mut world,
        &[running, (&id, pending("Priority", ReasonClass::Wait))],
    );
    assert!(matches!(
        phase(&world, &id),
        AllocationPhase::Pending { .. }
    ));
    assert_ne!(accepted(&mut world), id);
}

/// Complaint 3: a live allocation declared gone after one bad answer.
#[test]
fn gone_only_after_five_minutes_without_a_worker() {
    let mut world = launching(1, 4);
    let id = accepted(&mut world);
    observe(&mut world, &[(&id, JobState::Running)]);
    observe(&mut world, &[]);
    observe_with(&mut world, Err("Unable to contact slurm controller".into()));
    assert_eq!(phase(&world, &id), AllocationPhase::Running);
    // It is there again: the five minutes start over.
    observe(&mut world, &[(&id, JobState::Running)]);
    let since = world.now;
    while !phase(&world, &id).is_ended() {
        observe(&mut world, &[]);
        assert!(world.now < since + 10 * MINUTE);
    }
    assert!(world.now >= since + 5 * MINUTE);
    assert_eq!(cause(&world, &id), EndCause::Gone);
}

#[test]
fn a_connected_worker_outranks_the_cluster() {
    let mut world = launching(1, 4);
    let id = accepted(&mut world);
    let worker = join(&mut world, &id, 1);
    let wrong = [
        JobState::Ended(EndCause::NodeFailed),
        pending("BeginTime", ReasonClass::Wait),
    ];
    for state in wrong {
        while asked(&world).is_none() {
            world.now += 5_000;
            beat(&mut world, &worker);
        }
        answer(
            &mut world,
            LaunchAnswer::Observed(Ok(vec![observed(&id, state)])),
        );
        assert_eq!(phase(&world, &id), AllocationPhase::Running);
    }
}

#[test]
fn an_allocation_declared_over_comes_back_with_its_worker() {
    let mut world = launching(1, 4);
    let id = accepted(&mut world);
    observe(&mut world, &[(&id, JobState::Ended(EndCause::NodeFailed))]);
    assert_eq!(cause(&world, &id), EndCause::NodeFailed);
    join(&mut world, &id, 1);
    assert_eq!(phase(&world, &id), AllocationPhase::Running);
}

/// Complaint 1: preemption counted as a failure.
#[test]
fn what_is_taken_away_is_replaced_at_once_and_is_no_strike() {
    let taken = [
        EndCause::Preempted,
        EndCause::NodeFailed,
        EndCause::TimedOut,
    ];
    let mut world = launching(1, 4);
    for cause in taken.iter().cycle().take(9) {
        let id = accepted(&mut world);
        observe(&mut world, &[(&id, JobState::Running)]);
        observe(&mut world, &[(&id, JobState::Ended(cause.clone()))]);
        assert_eq!((pause(&world), strikes(&world)), (None, 0), "{cause:?}");
    }
    submission(&world);
}

/// The nodes that the submission under way avoids.
fn avoided(world: &World) -> Vec<String> {
    match asked(world) {
        Some(LaunchRequest::Submit { avoid, .. }) => avoid,
        other => panic!("a submission was expected, not {other:?}"),
    }
}

fn ends_on(world: &mut World, node: &str, cause: EndCause) {
    let id = accepted(world);
    let seen = ObservedJob {
        node: Some(node.to_owned()),
        ..observed(&id, JobState::Ended(cause))
    };
    observe_with(world, Ok(vec![seen]));
    while asked(world).is_none() {
        world.wait(5_000);
    }
}

#[test]
fn a_node_on_which_an_allocation_failed_is_avoided_for_an_hour() {
    let mut world = launching(1, 4);
    assert_eq!(avoided(&world), Vec::<String>::new());
    ends_on(&mut world, "n1", EndCause::NodeFailed);
    ends_on(&mut world, "n2", EndCause::Preempted);
    assert_eq!(
        avoided(&world),
        ["n1"],
        "preemption is not the node's fault"
    );
    let detail = "no such driver".into();
    ends_on(&mut world, "n3", EndCause::Failed { detail });
    assert_eq!(avoided(&world), ["n3", "n1"]);
    let id = accepted(&mut world);
    world.wait(61 * MINUTE);
    observe(&mut world, &[(&id, JobState::Ended(EndCause::Preempted))]);
    assert_eq!(avoided(&world), Vec::<String>::new());
}

/// On a small cluster the nodes that failed may be all there are.
#[test]
fn a_refusal_of_a_request_that_avoids_nodes_is_none_of_the_request() {
    let mut world = launching(1, 4);
    ends_on(&mut world, "n1", EndCause::NodeFailed);
    assert_eq!(avoided(&world), ["n1"]);
    let refused = || SubmitOutcome::Refused {
        message: "Requested node configuration is not available".into(),
    };
    submitted(&mut world, refused());
    assert_eq!(pause(&world), None);
    while asked(&world).is_none() {
        world.wait(5_000);
    }
    assert_eq!(avoided(&world), Vec::<String>::new());
    submitted(&mut world, refused());
    assert_eq!(pause(&world), Some(PauseCause::Refused));
}

/// Complaint 2: it stopped submitting without a reason.
#[test]
fn three_failures_in_a_row_pause_the_queue_with_the_reason_until_it_is_resumed() {
    let mut world = launching(1, 4);
    let detail = "exit 127\nmodule: command not found";
    for strike in 1..=3 {
        while !matches!(asked(&world), Some(LaunchRequest::Submit { .. })) {
            world.wait(5_000);
        }
        let id = accepted(&mut world);
        let cause = EndCause::Failed {
            detail: detail.into(),
        };
        observe(&mut world, &[(&id, JobState::Ended(cause))]);
        assert_eq!(strikes(&world), strike);
    }
    assert_eq!(pause(&world), Some(PauseCause::Strikes));
    let queue = world
        .state
        .launch_queues
        .values()
        .next()
        .expect("it was opened");
    let reason = queue.paused.as_ref().map(|pause| pause.reason.to_string());
    assert!(reason.is_some_and(|reason| reason.contains("module: command not found")));
    world.wait(60 * MINUTE);
    assert_eq!(asked(&world), None);
    world
        .give(Input::Launch(LaunchInput::Resume))
        .expect("it is paused");
    submission(&world);
}

#[test]
fn a_refusal_pauses_the_queue_with_the_clusters_own_line() {
    let mut world = launching(1, 4);
    let message = "sbatch: error: invalid partition specified: gpu9";
    submitted(
        &mut world,
        SubmitOutcome::Refused {
            message: message.into(),
        },
    );
    assert_eq!(pause(&world), Some(PauseCause::Refused));
    let queue = world
        .state
        .launch_queues
        .values()
        .next()
        .expect("it was opened");
    assert_eq!(
        queue.paused.as_ref().map(|pause| pause.reason.as_ref()),
        Some(message)
    );
}

#[test]
fn a_controller_that_is_away_is_tried_again_for_ever_with_growing_delays() {
    let mut world = launching(1, 4);
    let mut last = world.now;
    for wait in [0, 10, 30, 60, 120, 120, 120] {
        while !matches!(asked(&world), Some(LaunchRequest::Submit { .. })) {
            world.wait(1_000);
        }
        assert_eq!(
            (world.now - last).div_euclid(5_000) * 5,
            wait,
            "after {last}"
        );
        last = world.now;
        let message = "Unable to contact slurm controller".into();
        submitted(&mut world, SubmitOutcome::Unreachable { message });
        assert_eq!((pause(&world), strikes(&world)), (None, 0));
    }
}

#[test]
fn a_job_that_can_never_start_is_cancelled_after_a_minute_and_pauses_the_queue() {
    let mut world = launching(1, 4);
    let id = accepted(&mut world);
    let never = pending("PartitionTimeLimit", ReasonClass::Never);
    observe(&mut world, &[(&id, never.clone())]);
    assert_eq!(pause(&world), None, "clusters under repair report it too");
    observe(&mut world, &[(&id, never.clone())]);
    observe(&mut world, &[(&id, never)]);
    assert_eq!(pause(&world), Some(PauseCause::NeverStarts));
    let Some(LaunchRequest::GiveBack { allocations, how }) = asked(&world) else {
        panic!("it is cancelled");
    };
    assert_eq!(
        (allocations, how),
        (vec![(id.clone(), Some(job_of(&id)))], GiveBack::Waiting)
    );
}

#[test]
fn a_job_cancelled_by_another_user_pauses_the_queue_and_one_of_ours_does_not() {
    let mut world = launching(1, 4);
    let id = accepted(&mut world);
    observe(
        &mut world,
        &[(&id, JobState::Ended(EndCause::CancelledByOthers))],
    );
    assert_eq!(pause(&world), Some(PauseCause::CancelledByOthers));
    world
        .give(Input::Launch(LaunchInput::Resume))
        .expect("it is paused");
    let id = accepted(&mut world);
    cancel_sweep(&mut world);
    observe(&mut world, &[(&id, pending("Priority", ReasonClass::Wait))]);
    world.wait(MINUTE);
    observe(
        &mut world,
        &[(&id, JobState::Ended(EndCause::CancelledByOthers))],
    );
    assert_eq!(cause(&world, &id), EndCause::CancelledByUs);
    assert_eq!(pause(&world), None);
}

/// scancel sends TERM, so the worker of a job that runs leaves in order before the job is cancelled.
#[test]
fn a_worker_that_leaves_because_its_job_is_cancelled_pauses_the_queue_too() {
    let mut world = launching(1, 4);
    let id = accepted(&mut world);
    let worker = join(&mut world, &id, 1);
    let leaving = Input::Leaving {
        worker: worker.clone(),
        reason: "SIGTERM".into(),
    };
    world.give(leaving).expect("it is present");
    let over = JobState::Ended(EndCause::CancelledByOthers);
    while !phase(&world, &id).is_ended() {
        observe(&mut world, &[(&id, over.clone())]);
    }
    assert_eq!(cause(&world, &id), EndCause::CancelledByOthers);
    assert_eq!(pause(&world), Some(PauseCause::CancelledByOthers));
}

pub fn cancel_sweep(world: &mut World) {
    let cancelled = world.give(Input::Cancel {
        sweep: "table".to_owned(),
        reason: "test".into(),
    });
    cancelled.expect("it exists");
}

/// Complaint 4: scale-down kills starting or busy workers.
#[test]
fn jobs_that_wait_are_cancelled_a_minute_after_the_work_is_gone_and_those_that_run_never() {
    let mut world = launching(2, 4);
    let first = accepted(&mut world);
    let worker = join(&mut world, &first, 1);
    let second = accepted(&mut world);
    let jobs = [
        (&first, JobState::Running),
        (&second, pending("Priority", ReasonClass::Wait)),
    ];
    observe(&mut world, &jobs);
    join(&mut world, &first, 1);
    cancel_sweep(&mut world);
    assert_eq!(asked(&world), None, "the work may come back");
    let mut given_back = Vec::new();
    for _ in 0..60 {
        wait_with(&mut world, &[&worker], 5_000);
        if let Some(LaunchRequest::GiveBack { allocations, how }) = asked(&world) {
            assert_eq!(how, GiveBack::Waiting);
            given_back.extend(allocations);
            answer(&mut world, LaunchAnswer::GaveBack(Ok(())));
        }
    }
    assert!(
        given_back.iter().all(|(id, _)| *id == second),
        "{given_back:?}"
    );
    assert!(!given_back.is_empty());
    assert_eq!(phase(&world, &first), AllocationPhase::Running);
}

/// Complaint 9: wall time.
#[test]
fn a_successor_is_in_the_queue_before_an_allocation_ends_and_no_trial_starts_too_late() {
    let mut world = launching(1, 9);
    let id = accepted(&mut world);
    let worker = WorkerId("w".into());
    let ends_at = world.now + 60 * MINUTE;
    join_with(&mut world, &id, &worker, 1, Some(ends_at));
    assert_eq!(world.started().len(), 1);
    wait_with(&mut world, &[&worker], 40 * MINUTE);
    assert_eq!(world.state.allocations.len(), 1);
    wait_with(&mut world, &[&worker], 8 * MINUTE);
    assert_eq!(world.state.allocations.len(), 2, "its successor");
    // Three minutes of notice, and half a minute for the first checkpoint.
    let second = WorkerId("late".into());
    world.now = ends_at - 3 * MINUTE - 29_000;
    join_with(&mut world, &id, &second, 1, Some(ends_at));
    assert_eq!(world.started(), []);
}

#[test]
fn a_job_that_runs_without_a_worker_for_five_minutes_is_given_up_and_is_a_strike() {
    let mut world = launching(1, 4);
    let id = accepted(&mut world);
    let since = world.now;
    while phase(&world, &id) != (AllocationPhase::Draining { has_started: true }) {
        match asked(&world) {
            Some(_) => observe(&mut world, &[(&id, JobState::Running)]),
            None => world.wait(5_000),
        }
        assert!(world.now < since + 10 * MINUTE);
    }
    assert_eq!(strikes(&world), 1);
    let is_explained = |recorded: &Recorded| {
        let event = format!("{:?}", recorded.event);
        event.contains("its job has run for 5 min and no worker connected")
    };
    assert!(world.journal.iter().any(is_explained));
    let how = match asked(&world) {
        Some(LaunchRequest::GiveBack { how, .. }) => how,
        other => panic!("{other:?}"),
    };
    assert_eq!(how, GiveBack::Now);
}

#[test]
fn a_stopped_queue_gives_everything_back() {
    let mut world = launching(2, 4);
    let first = accepted(&mut world);
    let worker = join(&mut world, &first, 1);
    let second = accepted(&mut world);
    let stop = LaunchInput::Stop {
        reason: "the run was interrupted".into(),
    };
    world.give(Input::Launch(stop)).expect("it launches");
    let mut ways = Vec::new();
    while let Some(LaunchRequest::GiveBack { allocations, how }) = asked(&world) {
        ways.push((allocations[0].0.clone(), how));
        answer(&mut world, LaunchAnswer::GaveBack(Ok(())));
    }
    assert_eq!(
        ways,
        [
            (second.clone(), GiveBack::Waiting),
            (first.clone(), GiveBack::Leave)
        ]
    );
    assert!(world.state.workers[&worker].draining.is_some());
    assert_eq!(pause(&world), Some(PauseCause::Stopped));
    // Whatever is left after half a minute is ended at once.
    wait_with(&mut world, &[&worker], 30_000);
    let Some(LaunchRequest::GiveBack { how, .. }) = asked(&world) else {
        panic!("they are ended: {:?}", asked(&world));
    };
    assert_eq!(how, GiveBack::Now);
}

#[test]
fn a_coordinator_without_a_launcher_refuses_its_commands() {
    let mut world = World::new();
    let refused = world.give(Input::Launch(LaunchInput::Resume));
    assert_eq!(refused, Err(Rejected::NoLauncher));
}

/// The moment differs from one allocation to the next, so that not all are renewed at once.
#[test]
fn successors_are_asked_for_at_moments_that_depend_on_when_an_allocation_was_intended() {
    for offset in 0..4 {
        let mut world = World::new();
        world.now += offset;
        world.submit(grid("table", 9, 1, ""));
        open(&mut world, spec(1)).expect("the queue can be opened");
        let intended = world.now;
        let id = accepted(&mut world);
        let worker = WorkerId("w".into());
        let ends_at = world.now + 4 * 60 * MINUTE;
        join_with(&mut world, &id, &worker, 1, Some(ends_at));
        let notice = 3 * MINUTE;
        let renew = world.config.launch.renew_ms.min((4 * 60 - 3) * MINUTE / 2);
        let moment = ends_at - notice - renew - intended % 4 * renew / 8;
        let steps = (moment - 1 - world.now) / 5_000;
        wait_with(&mut world, &[&worker], steps * 5_000);
        world.now = moment - 1;
        beat(&mut world, &worker);
        assert_eq!(world.state.allocations.len(), 1, "offset {offset}");
        world.now = moment;
        beat(&mut world, &worker);
        assert_eq!(world.state.allocations.len(), 2, "offset {offset}");
    }
}
