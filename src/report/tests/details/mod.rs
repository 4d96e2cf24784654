//! The rules of a report where they turn: limits of a drawing, of a search's state, of what is
//! listed.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::file;
use crate::fixture::{
    FAILED, RUNNING, WAITING, axis, drawn, every_status, published, report_of, result, state,
    succeeded, sweep, table,
};
use schedule::state::{Phase, State};
use serde_json::{Value, json};
use sweep::Content;
use sweep::definition::{Measure, Output, Search, Select};

/// Returns the places of the ticks of the x axis, from 0 to 1.
fn ticks(svg: &str) -> Vec<f64> {
    let (first, length) = (58.0 + 14.0, 400.0 - 2.0 * 14.0);
    let ticks = svg.lines().filter(|line| line.contains("v5\" stroke"));
    let place = |line: &str| {
        let x: f64 = line.split(['M', ' ']).nth(2)?.parse().ok()?;
        Some(((x - first) / length * 1000.0).round() / 1000.0)
    };
    ticks.map(|line| place(line).expect("a path")).collect()
}

#[test]
fn an_axis_is_logarithmic_from_a_factor_of_twenty_above_zero() {
    for (values, places) in [
        (&["5", "10", "100"][..], vec![0.0, 0.231, 1.0]),
        (&["5", "10", "99"], vec![0.0, 0.053, 1.0]),
        (&["3", "7", "60"], vec![0.0, 0.283, 1.0]),
        (&["0", "10", "100"], vec![0.0, 0.1, 1.0]),
        (&["-1", "10", "99"], vec![0.0, 0.11, 1.0]),
        (&["a", "10", "99"], vec![0.0, 0.5, 1.0]),
        (&["1", "inf", "99"], vec![0.0, 0.5, 1.0]),
        (&["7"], vec![0.5]),
    ] {
        let svg = file(&drawn(values), "drawn", "drawn.svg");
        assert_eq!(ticks(&svg), places, "{values:?}");
        assert!(!svg.contains("NaN"), "{svg}");
    }
}

/// A sweep of one cell with a search among three learning rates and two seeds, and these outcomes
/// by candidate (`None`: the trial of a result) and seed.
fn searching(select: Select, outcome: impl Fn(Option<u32>, u64) -> Phase) -> State {
    let axes = vec![axis("loss", &[("xent", "xent")])];
    let mut sweep = sweep("searching", axes, &[1, 2], |_| true);
    sweep.outputs = vec![Output::Table(table(
        "main",
        "",
        &["loss"],
        &[],
        Measure::Last,
    ))];
    sweep.search = Some(Search {
        holdout: sweep::Holdout::Fraction(0.25),
        ..Search::among(
            "learning_rate",
            &[json!(0.1), json!(0.5), json!(2.5)],
            select,
            &[1, 2],
        )
    });
    state(sweep, |_, candidate, seed| outcome(candidate, seed))
}

fn cell(state: &State) -> Value {
    let document: Value =
        serde_json::from_str(&file(state, "searching", "results.json")).expect("JSON");
    document["cells"][0].clone()
}

#[test]
fn a_search_with_validation_has_the_status_of_what_is_left_to_do() {
    for (outcomes, expected) in [
        ([WAITING, WAITING], "waiting"),
        ([RUNNING, WAITING], "searching"),
        ([succeeded(0.5), WAITING], "searching"),
        ([succeeded(0.5), RUNNING], "searching"),
        ([succeeded(0.5), succeeded(0.5)], "waiting"),
        ([succeeded(0.5), FAILED], "waiting"),
        ([FAILED, FAILED], "failed"),
        ([FAILED, Phase::Cancelled], "failed"),
        ([Phase::Cancelled, Phase::Cancelled], "cancelled"),
    ] {
        let found = searching(Select::Validation, |_, seed| {
            outcomes[seed as usize - 1].clone()
        });
        assert_eq!(cell(&found)["status"], expected, "{outcomes:?}");
    }
    let mut empty = searching(Select::Validation, |_, _| WAITING);
    let entry = empty.sweeps.get_mut("searching").expect("it exists");
    entry.trials = Arc::default();
    assert_eq!(cell(&empty)["status"], "waiting", "no trial is listed yet");
    let text = file(&empty, "searching", "main.txt").replace('\n', " ");
    let how = "chosen on 25 % of the training images held out, then trained on all of them";
    assert!(text.contains(how), "{text}");
    let entry = empty.sweeps.get_mut("searching").expect("it exists");
    let sweep = Arc::make_mut(&mut entry.sweep);
    let search = sweep.search.as_mut().expect("it has one");
    search.holdout = sweep::Holdout::Folds(sweep::held_out::Folds { folds: 5 });
    search.metric = sweep::definition::Metric::MeanOfLast(3);
    let text = file(&empty, "searching", "main.txt").replace('\n', " ");
    let how = "chosen by the mean accuracy of the last 3 evaluations on 5 equal parts of the \
               training images, each held out in turn, then trained on all of them";
    assert!(text.contains(how), "{text}");
}

/// Two seeds of 20 images each: one standard error of a difference is 11 points.
#[test]
fn a_choice_on_few_images_has_a_remark_below_the_table_and_in_why() {
    let mut chosen = searching(Select::Validation, |_, _| succeeded(0.5));
    let entry = chosen.sweeps.get_mut("searching").expect("it exists");
    entry.chosen.insert(0, 1);
    let texts = |state: &State| {
        let why = report::why(state, "searching", "xent")
            .expect("it exists")
            .text;
        let table = file(state, "searching", "main.txt");
        [table, why].map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let [table, why] = texts(&chosen);
    assert!(table.contains("; 6 trainings for each choice."), "{table}");
    assert!(!table.contains("held-out images") && !why.contains("held-out images"));
    for (images, few) in [(20, true), (50, false)] {
        let entry = chosen.sweeps.get_mut("searching").expect("it exists");
        Arc::make_mut(&mut entry.sweep).cells[0].held_out = Some(images);
        let [table, why] = texts(&chosen);
        let below = "1 of 1 choices were made on fewer than 100 held-out images; on 40, differences \
                     below 11 points are noise";
        assert_eq!(table.contains(below), few, "{table}");
        let remark = "on 40 held-out images: differences below 11 points are noise";
        assert_eq!(why.contains(remark), few, "{why}");
    }
}

/// A cell without a complete candidate shows the one with the highest mean so far.
#[test]
fn without_a_whole_candidate_the_best_so_far_is_shown() {
    for (accuracies, best) in [
        ([0.5, 0.7, 0.6], Some(1)),
        ([0.7, 0.5, 0.6], Some(0)),
        ([0.5, 0.6, 0.7], Some(2)),
        ([0.6, 0.6, 0.5], Some(0)),
    ] {
        let found = searching(Select::BestOnTest, |candidate, seed| match seed {
            1 => succeeded(accuracies[candidate.unwrap_or(0) as usize]),
            _ => FAILED,
        });
        let cell = cell(&found);
        let rates = [0.1, 0.5, 2.5];
        let rate = best.map(|best: usize| rates[best]);
        assert_eq!(
            cell["last"]["candidate"]["learning_rate"].as_f64(),
            rate,
            "{accuracies:?}"
        );
        assert_eq!(
            (&cell["status"], &cell["last"]["done"]),
            (&json!("incomplete"), &json!(3))
        );
        assert_eq!(cell["last"]["total"], 6);
    }
    for (outcome, expected) in [
        (FAILED, "failed"),
        (RUNNING, "running"),
        (WAITING, "waiting"),
    ] {
        let none = searching(Select::BestOnTest, |_, _| outcome.clone());
        assert_eq!(cell(&none)["status"], expected);
    }
}

#[test]
fn idle_seconds_are_those_of_the_attempts_that_nothing_accounts_for() {
    let mut state = drawn(&["7"]);
    for trial in state.trials.values_mut() {
        if let Phase::Succeeded { result, .. } = &mut trial.phase {
            let timing = &mut Arc::make_mut(result).timing;
            (timing.start_s, timing.checkpoint_s) = (0.125, 0.0625);
        }
    }
    // Two attempts of 1.5 s each.
    let idle = 3.0 - (0.125 + 1.5 + 0.25 + 0.0625);
    let csv = file(&state, "drawn", "timing.csv");
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    let column = rows[0]
        .iter()
        .position(|name| *name == "idle_s")
        .expect("a column");
    assert!(rows.len() > 1);
    assert!(
        rows[1..]
            .iter()
            .all(|row| row[column] == format!("{idle:.3}")),
        "{csv}"
    );
}

#[test]
fn the_published_number_that_names_most_axes_is_a_cells() {
    for reversed in [false, true] {
        let mut state = drawn(&["5", "10"]);
        let entry = state.sweeps.get_mut("drawn").expect("it exists");
        let sweep = Arc::make_mut(&mut entry.sweep);
        sweep.published = vec![
            published(&[("loss", "cos")], 60.0, Some(7)),
            published(&[("loss", "cos"), ("x", "5")], 70.0, Some(1)),
            published(&[("x", "10")], 65.0, None),
        ];
        sweep.footnotes = vec!["general".to_owned()];
        if reversed {
            sweep.published.reverse();
        }
        let csv = file(&state, "drawn", "drawn.csv");
        let row = |start: &str| {
            csv.lines()
                .find(|line| line.starts_with(start))
                .expect("a row")
        };
        assert!(row("5,cos,").contains(",70,"), "{csv}");
        assert!(
            !row("5,mse,").contains(",70,") && row("10,mse,").contains(",65,"),
            "{csv}"
        );
        // Of two that name one axis each, the first.
        let first = if reversed { ",65," } else { ",60," };
        assert!(row("10,cos,").contains(first), "{csv}");
        // A footnote beyond the list is none.
        let text = file(&state, "drawn", "drawn.txt");
        assert!(text.contains("70.0  ") && !text.contains("[a]"), "{text}");
    }
}

/// Sweeps that read files: their content is in a cell's history, with what changed.
#[test]
fn what_a_cell_reads_is_in_its_history() {
    let axes = vec![
        axis("weights", &[("w.safetensors", "tuned")]),
        axis("loss", &[("cos", "cos")]),
    ];
    let mut sweep = sweep("reads", axes, &[1], |_| true);
    sweep.base.dataset = "folder:mine".to_owned();
    let content = Content {
        hash: "aa11".to_owned(),
        files: 2,
        bytes: 3_000,
        ..Content::default()
    };
    sweep.inputs = [("data set folder:mine".to_owned(), Arc::new(content))].into();
    let mut state = state(sweep, |_, _, _| succeeded(0.5));
    let entry = state.sweeps.get_mut("reads").expect("it exists");
    let sentence = "the content of data set folder:mine changed".to_owned();
    entry.changed_inputs = BTreeMap::from([("data set folder:mine".to_owned(), sentence)]);
    let why = report::why(&state, "reads", "cos").expect("it exists").text;
    let expected = "\nread from outside\n  data set folder:mine: 2 files, 3000 bytes, content aa11\n    with revision 1 the \
                    content of data set folder:mine changed: its trials were trained again\n  weights \
                    w.safetensors: content not known where the sweep was submitted\n";
    assert!(why.contains(expected), "{why}");
    let entry = state.sweeps.get_mut("reads").expect("it exists");
    Arc::make_mut(&mut entry.sweep).smoke = true;
    let why = report::why(&state, "reads", "cos").expect("it exists").text;
    assert!(!why.contains("read from outside"), "{why}");
}

#[test]
fn the_same_input_with_two_contents_is_a_mixture() {
    let warned = |hashes: [&str; 2]| {
        let mut state = drawn(&["7"]);
        let mut hash = hashes.into_iter().cycle();
        for trial in state.trials.values_mut() {
            if let Phase::Succeeded { result, .. } = &mut trial.phase {
                let provenance = Arc::make_mut(&mut Arc::make_mut(result).provenance);
                let hash = hash.next().expect("a cycle").to_owned();
                provenance.inputs = BTreeMap::from([("weights w".to_owned(), hash)]);
            }
        }
        let text = file(&state, "drawn", "drawn.txt");
        text.contains("MIXED: weights w had not the same content everywhere: aa, bb")
    };
    assert!(warned(["aa", "bb"]) && !warned(["aa", "aa"]));
}

#[test]
fn the_manifest_lists_every_file_with_its_size_and_hash() {
    let files = report_of(&drawn(&["5", "10"]), "drawn").files;
    let (last, rest) = files.split_last().expect("a manifest");
    assert_eq!(last.0, "manifest.json");
    let manifest: Value = serde_json::from_slice(&last.1).expect("JSON");
    let listed = manifest["files"].as_array().expect("a list");
    assert_eq!(listed.len(), rest.len());
    for ((name, content), entry) in rest.iter().zip(listed) {
        assert_eq!(entry["bytes"], content.len(), "{name}");
        assert_eq!(
            entry["blake3"],
            blake3::hash(content).to_hex().as_str(),
            "{name}"
        );
    }
}

#[test]
fn a_failed_trial_has_its_failure_and_no_result_in_the_data() {
    let text = file(&every_status(), "statuses", "results.json");
    let document: Value = serde_json::from_str(&text).expect("JSON");
    let trials = document["trials"].as_array().expect("a list");
    let has = |status: &str| trials.iter().any(|trial| trial["status"] == status);
    assert!(
        has("failed") && has("succeeded") && has("waiting"),
        "{text}"
    );
    for trial in trials {
        let failed = trial["status"] == "failed";
        assert_eq!(trial["failure"]["class"] == "non_finite", failed, "{trial}");
        for key in ["result", "provenance", "timing"] {
            assert_eq!(trial[key].is_null(), trial["status"] != "succeeded");
        }
    }
}

/// With more images per class, a higher accuracy is no better method.
#[test]
fn cells_of_one_problem_compete_across_columns_where_rows_are_problems() {
    let axes = vec![
        axis("samples_per_class", &[("10", "few"), ("50", "many")]),
        axis("loss", &[("cos", "cos"), ("mse", "mse")]),
    ];
    let mut sweep = sweep("problems", axes, &[1, 2], |_| true);
    let main = table("main", "", &["samples_per_class"], &["loss"], Measure::Last);
    sweep.outputs = vec![Output::Table(main)];
    let state = state(sweep, |cell, _, _| {
        succeeded(match cell {
            "10/cos" => 0.5,
            "10/mse" => 0.6,
            "50/cos" => 0.9,
            _ => 0.8,
        })
    });
    let text = file(&state, "problems", "main.txt");
    let row = |label: &str| {
        let line = text.lines().find(|line| line.starts_with(label));
        line.expect("a row").to_owned()
    };
    assert!(row("few").contains("60.0 ± 0.0 *"), "{text}");
    assert!(row("many").contains("90.0 ± 0.0 *"), "{text}");
    assert_eq!(
        (row("few") + &row("many")).matches('*').count(),
        2,
        "{text}"
    );
}

#[test]
fn a_note_on_choices_names_eight_cells_and_counts_the_others() {
    for (count, more) in [(8, ""), (9, ", and 1 more"), (10, ", and 2 more")] {
        let names: Vec<String> = (11..11 + count)
            .map(|number: u32| number.to_string())
            .collect();
        let values: Vec<_> = names.iter().map(|name| (&**name, &**name)).collect();
        let mut sweep = sweep(
            "many",
            vec![axis("samples_per_class", &values)],
            &[1],
            |_| true,
        );
        let main = table("main", "", &["samples_per_class"], &[], Measure::Last);
        sweep.outputs = vec![Output::Table(main)];
        sweep.search = Some(Search::among(
            "learning_rate",
            &[json!(0.1), json!(0.5)],
            Select::BestOnTest,
            &[1],
        ));
        let state = state(sweep, |_, candidate, _| {
            let right = if candidate == Some(1) { 0.80 } else { 0.78 };
            let mut result = result(right);
            Arc::make_mut(&mut result.provenance).num_eval_images = 100;
            Phase::Succeeded {
                attempt: ::sweep::AttemptNo(1),
                result: Arc::new(result),
            }
        });
        let tex = file(&state, "many", "main.tex");
        let note = format!(
            "Search: {count} of {count} choices are within one binomial standard error of another \
             value: 11, 12, 13, 14, 15, 16, 17, 18{more}"
        );
        let found = tex
            .lines()
            .find(|line| line.contains("Search: "))
            .expect("a note");
        let (_, found) = found.split_once("Search: ").expect("it was found");
        let end = found.find(['\\', '}']).unwrap_or(found.len());
        assert_eq!(
            format!("Search: {}", found[..end].trim_end()),
            note,
            "{tex}"
        );
    }
}

#[test]
fn points_with_missing_seeds_are_hollow_in_a_latex_figure() {
    let mut state = drawn(&["5", "10", "100"]);
    let hollow = |state: &State| {
        let tex = file(state, "drawn", "drawn.tex");
        tex.matches("fill=white}, forget plot] coordinates").count()
    };
    assert_eq!(hollow(&state), 0);
    let trial = state.sweeps["drawn"].trials[0].id;
    state.trials.get_mut(&trial).expect("it exists").phase = WAITING;
    assert_eq!(hollow(&state), 1, "one point of one line");
}
