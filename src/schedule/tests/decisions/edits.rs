//! The lines that explain a submission: what an edit changed, and what happens to its trials.

use schedule::event::Input;
use sweep::record::FailureClass;

use crate::sweeps::{grid, search, yaml};
use crate::world::World;

const BASE: &str = "name: a\nrecipe: quick\nseeds: 2\n\
                    set: {dataset: digits, schedule: {constant: {epochs: 1}}}\n";

/// Returns the explanation of an edit, both files in YAML below [`BASE`].
fn explained(before: &str, after: &str) -> Vec<String> {
    let mut world = World::new();
    world.submit(yaml(&format!("{BASE}{before}")));
    world.submit(yaml(&format!("{BASE}{after}"))).explanation
}

#[test]
fn each_kind_of_edit_has_its_line() {
    const RATES: &str = "axes:\n  learning_rate: [0.01, 0.02]\n";
    let cases = [
        (
            RATES,
            "axes:\n  learning_rate: [0.02, 0.03]\n",
            vec![
                "`learning_rate` value `0.03` added",
                "`learning_rate` value `0.01` removed",
                "2 trials waiting or running already: shared, not trained twice",
                "2 trials of the revision before that no sweep wants now: dropped",
            ],
        ),
        (
            RATES,
            "axes:\n  learning_rate: [0.01, 0.02]\n  weight_decay: [0.1]\n",
            vec![
                "axis `weight_decay` added",
                "4 trials of the revision before that no sweep wants now: dropped",
            ],
        ),
        (
            "axes:\n  rate: [{name: low, set: {learning_rate: 0.01}}, {name: high, set: {learning_rate: 0.02}}]\n",
            "axes:\n  rate: [{name: low, set: {learning_rate: 0.01}}, {name: high, set: {learning_rate: 0.03}}]\n",
            vec![
                "`rate` value `high` sets something else",
                "overrides change 1 cells that both revisions have",
                "2 trials waiting or running already: shared, not trained twice",
                "2 trials of the revision before that no sweep wants now: dropped",
            ],
        ),
        (
            RATES,
            "axes:\n  learning_rate: [0.01, 0.02]\noverrides: [{when: {learning_rate: 0.01}, set: {weight_decay: 0.3}}]\n",
            vec![
                "overrides change 1 cells that both revisions have",
                "2 trials waiting or running already: shared, not trained twice",
                "2 trials of the revision before that no sweep wants now: dropped",
            ],
        ),
        (
            RATES,
            "description: a text\naxes:\n  learning_rate: [0.01, 0.02]\n",
            vec![
                "nothing that decides a result changed; outputs, texts or resources did",
                "4 trials waiting or running already: shared, not trained twice",
            ],
        ),
        (
            RATES,
            RATES,
            vec![
                "revision 1 is the same file: nothing is done twice",
                "4 trials waiting or running already: shared, not trained twice",
            ],
        ),
    ];
    for (before, after, lines) in cases {
        assert_eq!(explained(before, after), lines, "{before} became {after}");
    }
}

#[test]
fn a_changed_field_is_explained_with_both_values() {
    let mut world = World::new();
    world.submit(grid("a", 1, 1, ""));
    let mut edited = grid("a", 1, 1, "");
    edited.base.weight_decay = 0.25;
    assert_eq!(
        world.submit(edited).explanation,
        [
            "`weight_decay` was 0.0 and is 0.25".to_owned(),
            "1 trial of the revision before that no sweep wants now: dropped".to_owned(),
        ]
    );
}

#[test]
fn another_search_is_explained() {
    let mut world = World::new();
    world.submit(search("s", 1, 2, 1));
    let lines = world.submit(search("s", 1, 3, 1)).explanation;
    assert_eq!(lines[0], "the search is another one");
}

#[test]
fn failed_and_cancelled_trials_are_explained() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 2, 1, ""));
    let started = world.started()[0].clone();
    world
        .fail(&started, FailureClass::BadInput)
        .expect("it is current");
    assert_eq!(
        world.submit(grid("b", 1, 1, "")).explanation,
        ["1 trial failed before: not retried, except by `orchestrator retry b`"]
    );
    let cancel = Input::Cancel {
        sweep: "a".into(),
        reason: "a test".into(),
    };
    world.give(cancel.clone()).expect("it exists");
    let number = world.journal.len();
    world.give(cancel).expect("it exists");
    assert_eq!(
        world.journal.len(),
        number,
        "a sweep is cancelled only once"
    );
    let again = world.submit(grid("a", 2, 1, ""));
    assert_eq!(again.revision, 2);
    assert!(
        again
            .explanation
            .contains(&"it was cancelled and continues".to_owned()),
        "{again:?}"
    );
}

#[test]
fn a_complete_sweep_cannot_be_cancelled() {
    let mut world = World::new();
    world.join("w", 1);
    world.submit(grid("a", 1, 1, ""));
    let started = world.started()[0].clone();
    world.finish(&started).expect("it is current");
    let number = world.journal.len();
    world
        .give(Input::Cancel {
            sweep: "a".into(),
            reason: "a test".into(),
        })
        .expect("it exists");
    assert_eq!(world.journal.len(), number);
    assert_eq!(world.state.sweeps["a"].cancelled, None);
}
