//! Searches over spaces of several fields: grids, random draws, and what is refused.

use serde_json::json;
use sweep::definition::{Metric, Role};
use sweep::{Holdout, Sweep, seed};

fn parse(search: &str) -> Result<Sweep, String> {
    let text = format!(
        "name: s\nrecipe: quick\nset: {{dataset: digits, samples_per_class: 10}}\n\
         axes: {{loss: [xent, cos]}}\nseeds: 2\nsearch:\n{search}"
    );
    let no_files = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    sweep::parse("s.yaml", &text, &no_files).map_err(|errors| {
        let help = errors
            .problems()
            .iter()
            .filter_map(|problem| problem.help_text());
        format!("{errors}\n{}", help.collect::<Vec<_>>().join("\n"))
    })
}

fn compiled(search: &str) -> Sweep {
    parse(search).expect(search)
}

fn candidates(sweep: &Sweep) -> Vec<String> {
    let search = sweep.search.as_ref().expect("it has one");
    (0..search.candidates.len())
        .filter_map(|number| search.assignment(number))
        .collect()
}

#[test]
fn a_grid_has_every_combination() {
    let sweep =
        compiled("  space: {weight_decay: [0.0, 0.001], learning_rate: {choice: [0.5, 0.1]}}\n");
    assert_eq!(
        candidates(&sweep),
        [
            "learning_rate=0.5 weight_decay=0.0",
            "learning_rate=0.5 weight_decay=0.001",
            "learning_rate=0.1 weight_decay=0.0",
            "learning_rate=0.1 weight_decay=0.001",
        ]
    );
    let trial = sweep.trial_spec(0, Some(1), Role::Search, 7);
    let settings = &trial.settings;
    assert_eq!(
        (
            settings.learning_rate,
            settings.weight_decay,
            settings.holdout
        ),
        (0.5, 0.001, Some(Holdout::Fraction(0.2)))
    );
}

/// One field as a space is the search that `field` and `candidates` write.
#[test]
fn a_space_of_one_list_is_a_list_of_candidates() {
    let list = compiled("  field: learning_rate\n  candidates: [0.5, 0.1]\n").search;
    let space = compiled("  space: {learning_rate: [0.5, 0.1]}\n").search;
    assert_eq!(list, space);
}

const RANDOM: &str = "  space:\n    learning_rate: {log_uniform: [0.001, 1.0]}\n    \
                      batch_size: {log_uniform: [8, 64]}\n    nesterov: [true, false]\n";

#[test]
fn random_draws_are_decided_by_the_seed_and_their_number() {
    let drawn = |lines: &str| candidates(&compiled(&format!("{RANDOM}{lines}")));
    let ten = drawn("  candidates: 10\n");
    assert_eq!(ten.len(), 10);
    assert_eq!(
        ten,
        drawn("  method: random\n  candidates: 10\n  seed: 0\n")
    );
    // More candidates leave the first ones as they are, so their trials are reused.
    assert_eq!(ten, drawn("  candidates: 20\n")[..10]);
    assert_ne!(ten, drawn("  candidates: 10\n  seed: 1\n"));
    let sweep = compiled(&format!("{RANDOM}  candidates: 200\n"));
    for candidate in &sweep.search.as_ref().expect("it has one").candidates {
        let (rate, batch) = (&candidate.0["learning_rate"], &candidate.0["batch_size"]);
        assert!(
            rate.as_f64()
                .is_some_and(|rate| (0.001..=1.0).contains(&rate)),
            "{rate}"
        );
        assert!(
            batch
                .as_u64()
                .is_some_and(|batch| (8..=64).contains(&batch)),
            "{batch}"
        );
    }
}

#[test]
fn draws_of_a_small_space_are_distinct() {
    let mut drawn = candidates(&compiled(
        "  space: {learning_rate: [0.5, 0.1, 0.05], nesterov: [true, false]}\n  candidates: 5\n",
    ));
    drawn.sort();
    drawn.dedup();
    assert_eq!(drawn.len(), 5);
}

#[test]
fn the_search_survives_its_journal_and_is_described() {
    let sweep = compiled(&format!("{RANDOM}  candidates: 10\n"));
    let written = serde_json::to_value(&sweep).expect("plain data");
    assert_eq!(written["search"]["field"], json!(null));
    assert_eq!(
        serde_json::from_value::<Sweep>(written).expect("the same type"),
        sweep
    );
    let search = sweep.search.expect("it has one");
    assert_eq!(
        search.origin(),
        "10 random values (search seed 0) of batch_size (log-uniform from 8 to 64), learning_rate \
         (log-uniform from 0.001 to 1), nesterov (true, false)"
    );
}

/// Every image of a subset is held out once with each of its search seeds.
#[test]
fn folds_are_trainings_of_one_subset() {
    let list = "  field: learning_rate\n  candidates: [0.5, 0.1]\n";
    let sweep = compiled(&format!("{list}  holdout: {{folds: 4}}\n  seeds: 2\n"));
    let trials = sweep.cell_trials(0, None);
    let names: Vec<String> = trials
        .iter()
        .map(|trial| seed::name(trial.spec.seed))
        .collect();
    let once = ["0.0", "0.1", "0.2", "0.3", "1.0", "1.1", "1.2", "1.3"];
    assert_eq!(names, [once, once].concat());
    let holdout = trials[0].spec.settings.holdout.as_ref();
    assert_eq!(holdout.map(Holdout::folds), Some(4));
    assert_eq!(sweep.search_images(&sweep.cells[0]), Some(200));
    // 100 images of 10 classes are all evaluated on: one pass over the folds is enough
    let automatic = compiled(&format!("{list}  holdout: {{folds: 4}}\n"));
    assert_eq!(automatic.cell_trials(0, None).len(), 2 * 4);
    assert_eq!(
        (automatic.check(), automatic.remarks()),
        (Ok(()), Vec::new())
    );
    let written = serde_json::to_value(&sweep).expect("plain data");
    assert_eq!(written["search"]["holdout"], json!({"folds": 4}));
    assert_eq!(
        serde_json::from_value::<Sweep>(written).expect("the same type"),
        sweep
    );
}

#[test]
fn a_floor_and_a_mean_are_part_of_a_search() {
    let list = "  field: learning_rate\n  candidates: [0.5, 0.1]\n  holdout: ";
    let sweep = compiled(&format!(
        "{list}{{fraction: 0.1, at_least_per_class: 3}}\n  metric: {{mean_of_last: 3}}\n"
    ));
    let search = sweep.search.as_ref().expect("it has one");
    assert_eq!(search.metric, Metric::MeanOfLast(3));
    assert_eq!(
        search.holdout.to_string(),
        "10 % of the training images held out (at least 3 of each class)"
    );
    assert_eq!(sweep.cells[0].held_out, Some(30));
    let written = serde_json::to_value(search).expect("plain data");
    assert_eq!(written["metric"], json!({"mean_of_last": 3}));
    let plain = compiled(&format!("{list}0.2\n  metric: last\n"));
    let written = serde_json::to_value(&plain.search).expect("plain data");
    assert_eq!(
        (&written["holdout"], written.get("metric")),
        (&json!(0.2), None)
    );
}

#[test]
fn what_cannot_be_searched_is_refused_with_what_to_write() {
    for (search, message, help) in [
        (
            "  space: {learning_rate: {log_uniform: [0.1, 0.01]}}\n  candidates: 5\n",
            "`search.space.learning_rate.log_uniform` is no range",
            "the lower number first",
        ),
        (
            "  space: {weight_decay: {log_uniform: [0, 0.01]}}\n  candidates: 5\n",
            "`search.space.weight_decay.log_uniform` is no range",
            "both above 0",
        ),
        (
            "  space: {momentum: {uniform: [0.5, 1.5]}}\n  candidates: 5\n",
            "`momentum` is 1.5, which is out of range",
            "write a number from 0 below 1",
        ),
        (
            "  space: {init: {uniform: [0, 1]}}\n  candidates: 5\n",
            "`init` is not a number",
            "list its values",
        ),
        (
            "  space: {loss: [xent, cos]}\n",
            "`loss` cannot be searched over",
            "a field that no axis sets",
        ),
        (
            "  space: {learning_rate: {log_uniform: [0.01, 0.1]}}\n",
            "a random search has no end",
            "`candidates: 20`",
        ),
        (
            "  space: {learning_rate: {log_uniform: [0.01, 0.1]}}\n  method: grid\n",
            "a grid cannot hold every value of `learning_rate`",
            "`method: random`",
        ),
        (
            "  space: {learning_rate: [0.1, 0.2]}\n  method: grid\n  candidates: 5\n",
            "`search.candidates` has no use with `method: grid`",
            "remove it",
        ),
        (
            "  space: {learning_rate: [0.1, 0.2]}\n  candidates: 2\n",
            "`search.space` has 2 combinations, and 2 are to be drawn",
            "`method: grid`",
        ),
        (
            "  space: {learning_rate: [0.1]}\n",
            "a search between 1 candidates",
            "put the one value into `set`",
        ),
        (
            "  space: {learning_rate: {gaussian: [0, 1]}}\n  candidates: 5\n",
            "`search.space.learning_rate` has no key `gaussian`",
            "log_uniform",
        ),
        (
            "  field: learning_rate\n  space: {learning_rate: [0.1, 0.2]}\n",
            "`search` has `field` and `space`",
            "keep `space`",
        ),
        (
            "  field: learning_rate\n  candidates: [0.1, 0.2]\n  seed: 3\n",
            "`search.seed` has no use with `field` and `candidates`",
            "remove it",
        ),
        (
            "  space: {learning_rate: [0.1, 0.2]}\n  holdout: {folds: 11}\n",
            "`holdout` needs 11 training images of every class, and `samples_per_class` is 10",
            "hold less out",
        ),
        (
            "  space: {learning_rate: [0.1, 0.2]}\n  holdout: {fraction: 0.1, at_least_per_class: 10}\n",
            "`holdout` needs 11 training images of every class",
            "hold less out",
        ),
        (
            "  space: {learning_rate: [0.1, 0.2]}\n  holdout: {fraction: 0.1}\n",
            "`holdout` lacks `at_least_per_class`",
            "fraction: a number above 0 below 1",
        ),
        (
            "  space: {learning_rate: [0.1, 0.2]}\n  holdout: {folds: 2}\n  seeds: [4294967295]\n",
            "2 folds of these seeds",
            "each below 4294967295",
        ),
        (
            "  space: {learning_rate: [0.1, 0.2]}\n  holdout: null\n",
            "`search.holdout` has no value",
            "0.2",
        ),
        (
            "  space: {learning_rate: [0.1, 0.2]}\n  metric: {mean_of_last: 1}\n",
            "`search.metric.mean_of_last` is 1",
            "2 to 10",
        ),
        (
            "  space: {learning_rate: [0.1, 0.2]}\n  metric: best\n",
            "`search.metric`",
            "last",
        ),
        (
            "  space: {learning_rate: [0.1, 0.2]}\n  metric: last\n  select: best_on_test\n",
            "`metric` has no use with `select: best_on_test`",
            "remove it",
        ),
        (
            "  space: {learning_rate: [0.1, 0.1]}\n",
            "has this value twice",
            "s.yaml:7",
        ),
    ] {
        let refused = parse(search).expect_err(search);
        assert!(refused.contains(message), "{search}: {refused}");
        assert!(refused.contains(help), "{search}: {refused}");
    }
}
