//! Claims and verdicts on published numbers, from states built by hand.

use crate::fixture::{RUNNING, axis, published, report_of, state, succeeded, sweep, table};
use schedule::state::State;
use serde_json::Value;
use sweep::definition::{Claim, ClaimedPair, Measure, Output, Overall, Relation};

/// Two losses at two sample counts, five seeds: cos is 3 points ahead at 10, and 0.2 at 25.
fn results(claims: Vec<Claim>, tolerance: Option<f64>, is_complete: bool) -> State {
    let axes = vec![
        axis("loss", &[("xent", "xent"), ("cos", "cosine")]),
        axis("samples_per_class", &[("10", "10"), ("25", "25")]),
    ];
    let mut sweep = sweep("claimed", axes, &[0, 1, 2, 3, 4], |_| true);
    let mut main = table("main", "", &["loss"], &["samples_per_class"], Measure::Last);
    main.tolerance = tolerance;
    sweep.outputs = vec![Output::Table(main)];
    sweep.claims = claims;
    sweep.published = vec![
        published(&[("loss", "cos"), ("samples_per_class", "10")], 63.2, None),
        published(&[("loss", "cos"), ("samples_per_class", "25")], 79.9, None),
        published(&[("loss", "xent"), ("samples_per_class", "25")], 71.5, None),
    ];
    state(sweep, |cell, _, seed| {
        let mean = match cell {
            "xent/10" => 0.60,
            "cos/10" => 0.63,
            "xent/25" => 0.700,
            _ => 0.702,
        };
        match seed {
            4 if !is_complete && cell == "cos/25" => RUNNING,
            _ => succeeded(mean + 0.004 * (seed as f64 - 2.0)),
        }
    })
}

fn claim(text: &str, relation: Relation, pairs: &[(u32, Option<u32>)]) -> Claim {
    let pair = |&(cell, against): &(u32, Option<u32>)| ClaimedPair { cell, against };
    Claim {
        text: text.to_owned(),
        value: Measure::Last,
        relation,
        pairs: pairs.iter().map(pair).collect(),
    }
}

fn beats(by: f64) -> Relation {
    Relation::Beats { by }
}

fn file(state: &State, name: &str) -> String {
    let files = report_of(state, "claimed").files;
    let (_, content) = files
        .into_iter()
        .find(|(file, _)| file == name)
        .expect("the report has the file");
    String::from_utf8(content).expect("reports are UTF-8")
}

fn claims_json(state: &State) -> Value {
    let document: Value = serde_json::from_str(&file(state, "results.json")).expect("it is JSON");
    document["claims"].clone()
}

#[test]
fn every_verdict_comes_with_its_evidence() {
    let claims = vec![
        claim("cosine beats xent at 10", beats(0.0), &[(2, Some(0))]),
        claim(
            "cosine beats xent",
            beats(0.0),
            &[(2, Some(0)), (3, Some(1))],
        ),
        claim("xent beats cosine at 10", beats(0.0), &[(0, Some(2))]),
        claim(
            "cosine is near the published",
            Relation::Within { points: 2.0 },
            &[(2, None)],
        ),
    ];
    let state = results(claims, None, true);
    let json = claims_json(&state);
    let of = |field: &str| -> Vec<&str> {
        let claims = json.as_array().expect("a list").iter();
        claims
            .map(|claim| claim[field].as_str().expect("text"))
            .collect()
    };
    assert_eq!(
        of("verdict"),
        ["supported", "undecided", "contradicted", "supported"]
    );
    let pair = &json[1]["pairs"][1];
    assert_eq!(pair["cell"], "cos/25");
    assert_eq!(pair["against"], "xent/25");
    assert_eq!(pair["n"], 5);
    assert_eq!(pair["verdict"], "undecided");
    // A spread of 0.632 points in all cells; ten results of a problem have 8 degrees of freedom, and
    // scipy.stats.t.ppf(1 - 0.05 / (2 * 5), 8) is 3.3553873313333957.
    let margin = pair["margin_percent"].as_f64().expect("a number");
    let expected = 3.355_387_331_333_395_7 * 0.4 * 2.5_f64.sqrt() * (2.0_f64 / 5.0).sqrt();
    assert!(
        (margin - expected).abs() < 1e-6,
        "{margin} is not {expected}"
    );
    let text = report_of(&state, "claimed").text.replace('\n', " ");
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ");
    for shown in [
        "Claim supported: cosine beats xent at 10. cos/10 - xent/10: +3.0 ± 1.3 (n = 5)",
        "Claim undecided: cosine beats xent. ",
        "Claim contradicted: xent beats cosine at 10. xent/10 - cos/10: -3.0 ± 1.3 (n = 5)",
        "cos/10 - published: -0.2 ± 0.9 (n = 5)",
        "(Bonferroni, 5 comparisons)",
    ] {
        assert!(text.contains(shown), "no `{shown}` in {text}");
    }
    assert!(file(&state, "main.tex").contains("Claim supported"));
    assert!(file(&state, "main.md").contains("Claim contradicted"));
}

#[test]
fn what_has_not_all_results_is_undecided() {
    let claims = vec![claim(
        "cosine beats xent at 25",
        beats(0.0),
        &[(3, Some(1))],
    )];
    let state = results(claims, None, false);
    let pair = claims_json(&state)[0]["pairs"][0].clone();
    assert_eq!(pair["verdict"], "undecided");
    assert_eq!(pair["missing"], "results are missing");
    assert_eq!(pair["n"], 4);
    assert_eq!(pair["margin_percent"], Value::Null);
}

/// 63.2 is 0.2 points from the mean of 63, 79.9 is 9.7 from 70.2, and 71.5 is 1.5 from 70.
#[test]
fn published_numbers_have_verdicts_by_a_declared_tolerance() {
    let state = results(Vec::new(), Some(1.5), true);
    let csv = file(&state, "main.csv");
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    let column = rows[0].iter().position(|name| *name == "published_verdict");
    let column = column.expect("the column is there");
    let verdicts: Vec<&str> = rows[1..].iter().map(|row| row[column]).collect();
    assert_eq!(verdicts, ["", "undecided", "agrees", "differs"]);
    let text = report_of(&state, "claimed").text;
    assert!(
        text.contains("63.2 [agrees]") && text.contains("79.9 [differs]"),
        "{text}"
    );
    assert!(text.contains("within 1.5 points"), "{text}");
    let without = results(Vec::new(), None, true);
    assert!(!report_of(&without, "claimed").text.contains("agrees"));
}

/// Two subsets of two initial weights: n is 2, and the spread is that of the subsets' means.
#[test]
fn results_of_one_subset_count_as_one() {
    let text = "recipe: quick\nset: {dataset: digits}\naxes: {loss: [xent, cos]}\n\
                seeds: {subset: 2, init: 2}\nname: claimed\n";
    let no_files = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    let sweep = sweep::parse("claimed.yaml", text, &no_files).expect("it compiles");
    let state = state(sweep, |_, _, seed| {
        let (subset, init) = sweep::seed::pair_of(seed).expect("a pair");
        succeeded(0.5 + 0.04 * f64::from(subset) + 0.01 * f64::from(init))
    });
    let csv = file(&state, "claimed.csv");
    assert!(
        csv.contains("xent,last,complete,2,4,52.5,2.82842712474619"),
        "{csv}"
    );
    let report = report_of(&state, "claimed").text;
    let words: Vec<&str> = report.split_whitespace().collect();
    let report = words.join(" ");
    for shown in [
        "over subsets (n = 2, each the mean of 2 initial weights)",
        // mean squares: 2 * 0.0008 between, 0.00005 within
        "94 % comes from the subset and 6 % from initial weights",
    ] {
        assert!(report.contains(shown), "no `{shown}` in {report}");
    }
    let results = file(&state, "results.csv");
    assert!(results.contains(",4294967297,0,1,result,"), "{results}");
}

/// cos is ahead in both columns; the note counts only columns in which every row is complete.
#[test]
fn rows_are_summarised_over_complete_columns() {
    let summarised = |overall, is_complete| {
        let mut state = results(Vec::new(), None, is_complete);
        let entry = state.sweeps.get_mut("claimed").expect("it exists");
        let Output::Table(table) = &mut std::sync::Arc::make_mut(&mut entry.sweep).outputs[0]
        else {
            panic!("it is a table")
        };
        table.overall = Some(overall);
        let text = report_of(&state, "claimed").text;
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let ranks = summarised(Overall::Rank, true);
    assert!(ranks.contains("over 2 columns of 2"), "{ranks}");
    assert!(ranks.contains("xent 2.00 ["), "{ranks}");
    assert!(ranks.contains("cosine 1.00 ["), "{ranks}");
    let means = summarised(Overall::Iqm, false);
    assert!(
        means.contains("Interquartile mean over 1 column of 2"),
        "{means}"
    );
    assert!(means.contains("cosine 63.0 ["), "{means}");
}
