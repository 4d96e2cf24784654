//! The identity of a trial beside its settings: the content of its data, and the program that
//! trains it.

use schedule::WaitReason;
use schedule::state::WorkerInfo;
use sweep::{Content, Program, Sweep, Trainer};

use crate::sweeps::grid;
use crate::world::{World, info};

/// Returns trials on a folder of this content; `None`: not known.
fn on(hash: Option<&str>, values: u32) -> Sweep {
    let mut sweep = grid("a", values, 2, "");
    sweep.base.dataset = "folder:t".to_owned();
    let parts = hash
        .map(|hash| [("train/cat/1.png".to_owned(), hash.to_owned())].into())
        .unwrap_or_default();
    let content = hash.map(|hash| Content {
        hash: hash.to_owned(),
        files: 8,
        bytes: 80,
        parts,
    });
    sweep
        .inputs
        .extend(content.map(|content| ("data set folder:t".to_owned(), content.into())));
    sweep
}

fn train_all(world: &mut World) {
    while let Some(started) = world.started().first().cloned() {
        world.finish(&started).expect("it is current");
    }
}

fn explains(explanation: &[String], part: &str) -> bool {
    explanation.iter().any(|line| line.contains(part))
}

#[test]
fn changed_data_are_trained_again_and_the_reason_is_counted() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(on(Some("aa"), 2));
    train_all(&mut world);
    let unchanged = world.submit(on(Some("aa"), 2));
    assert_eq!((unchanged.revision, unchanged.reused), (1, 4));
    // One more cell does not concern the data.
    let changed = world.submit(on(Some("bb"), 3));
    assert_eq!(
        (changed.revision, changed.trials, changed.reused),
        (2, 6, 0)
    );
    let line = "4 trials are trained again: the content of data set folder:t changed";
    assert!(explains(&changed.explanation, line), "{changed:?}");
    assert!(
        explains(&changed.explanation, "changed: train/cat/1.png differs"),
        "{changed:?}"
    );
    assert!(
        !explains(&changed.explanation, "nothing that decides"),
        "{changed:?}"
    );
    assert_eq!(
        world.state.sweeps["a"].changed_inputs["data set folder:t"],
        "the content of data set folder:t changed"
    );
    train_all(&mut world);
    let back = world.submit(on(Some("aa"), 2));
    assert_eq!(back.reused, 4);
    assert!(!explains(&back.explanation, "trained again"), "{back:?}");
    world.restart();
}

#[test]
fn content_that_is_unknown_before_or_after_an_edit_is_reported() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(on(None, 1));
    train_all(&mut world);
    let known = world.submit(on(Some("aa"), 1));
    let line = "2 trials are trained again: the content of data set folder:t was not known before";
    assert!(explains(&known.explanation, line), "{known:?}");
    train_all(&mut world);
    let unknown = world.submit(on(None, 1));
    assert!(
        explains(
            &unknown.explanation,
            "the content of data set folder:t is not known any more"
        ),
        "{unknown:?}"
    );
    assert_eq!(unknown.reused, 2);
}

/// A data set that is read for the first time has not changed.
#[test]
fn a_new_input_is_no_change() {
    let mut world = World::new();
    world.submit(grid("a", 1, 1, ""));
    let other = world.submit(on(Some("aa"), 1));
    assert!(
        !explains(&other.explanation, "trained again")
            && !explains(&other.explanation, "not known before"),
        "{other:?}"
    );
}

fn foreign(hash: &str) -> Trainer {
    Trainer::Foreign(
        Program {
            name: "mine.sh".to_owned(),
            hash: hash.to_owned(),
        }
        .into(),
    )
}

fn by(trainer: &Trainer) -> Sweep {
    Sweep {
        trainer: trainer.clone(),
        ..grid("a", 1, 2, "")
    }
}

#[test]
fn a_worker_gets_the_trials_of_its_own_trainer_alone() {
    let mut world = World::new();
    let mine = foreign("11");
    world.join("built-in", 2);
    world.submit(by(&mine));
    assert_eq!(world.started(), []);
    assert_eq!(world.waits(), [WaitReason::NoTrainer; 2]);
    let waits = schedule::sweep_waits(&world.state, "a", world.now).expect("it waits");
    assert!(
        waits
            .because
            .contains("no connected worker has the trainer `mine.sh` (11): start one with"),
        "{waits:?}"
    );
    let other = WorkerInfo {
        trainer: foreign("22"),
        ..info("other", 2, 1)
    };
    world
        .connect(&schedule::state::WorkerId("other".into()), other, &[], &[])
        .expect("it may join");
    assert_eq!(world.started(), []);
    let own = WorkerInfo {
        trainer: mine,
        ..info("own", 1, 1)
    };
    let worker = schedule::state::WorkerId("own".into());
    world.connect(&worker, own, &[], &[]).expect("it may join");
    assert_eq!(
        world
            .started()
            .iter()
            .map(|started| &started.worker)
            .collect::<Vec<_>>(),
        [&worker]
    );
    world.restart();
}

#[test]
fn another_trainer_trains_again_and_the_reason_is_reported() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(by(&Trainer::BuiltIn));
    train_all(&mut world);
    let other = world.submit(by(&foreign("11")));
    assert_eq!(other.reused, 0);
    let line = "2 trials are trained again: the trainer `mine.sh` (11) trains, and not the built-in trainer any more";
    assert!(explains(&other.explanation, line), "{other:?}");
    assert_eq!(world.submit(by(&Trainer::BuiltIn)).reused, 2);
}

/// Old ids had no letter, and inputs and trainers were not recorded.
#[test]
fn a_journal_of_an_older_version_replays() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 2, 2, ""));
    let first = world.started().remove(0);
    world.finish(&first).expect("it is current");
    let mut text = serde_json::to_string(&world.journal).expect("events are JSON");
    for id in world.state.trials.keys() {
        let id = id.to_string();
        text = text.replace(&id, &id[1..]);
    }
    assert!(
        !text.contains("inputs") && !text.contains("trainer\":\"built_in"),
        "{text}"
    );
    let old: Vec<schedule::event::Recorded> = serde_json::from_str(&text).expect("it can be read");
    let replayed = schedule::replay(&old).expect("it is a possible history");
    assert!(replayed.same_history(&world.state));
}
