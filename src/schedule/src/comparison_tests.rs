//! Tests of the comparisons: values of scipy, and rates of errors by simulation.

use ::tests::Normals;
use serde_json::Value;
use sweep::Share;

use super::*;

fn cell(n: usize, mean: f64, deviation: f64) -> Summary {
    Summary {
        n,
        mean: Share::new(mean, 0),
        deviation: (n > 1).then_some(deviation),
    }
}

fn close(a: f64, b: f64) {
    assert!((a - b).abs() < 1e-7 * b.abs(), "{a} is not {b}");
}

/// Values of scipy, written by scripts/scipy_goldens.py.
fn scipy(name: &str) -> Vec<Value> {
    let text = include_str!("../../../tests/fixtures/scipy.json");
    let document: Value = serde_json::from_str(text).expect("the file is JSON");
    let values = document[name].as_array().expect("a list");
    assert!(!values.is_empty(), "{name}");
    values.clone()
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

fn numbers(value: &Value) -> Vec<f64> {
    let values = value.as_array().expect("a list");
    values.iter().map(number).collect()
}

fn count(value: &Value) -> usize {
    value.as_u64().expect("a count") as usize
}

/// Summarises the cells of a case of scipy's.
fn summaries(case: &Value) -> Vec<Summary> {
    let cells = case["cells"].as_array().expect("a list of cells");
    let summary = |cell: &Value| {
        let shares: Vec<Share> = numbers(cell)
            .into_iter()
            .map(|result| Share::new(result, 0))
            .collect();
        Summary::of(&shares).expect("there are results")
    };
    cells.iter().map(summary).collect()
}

/// Returns the factor by which a pair that spreads more than its family widens its margin: scipy's
/// intervals have the spread of the family alone.
fn widening(family: &[Summary], pair: [usize; 2]) -> f64 {
    let own = Spread::of(&pair.map(|cell| family[cell])).expect("a spread");
    let all = Spread::of(family).expect("a spread");
    (own.variance / all.variance).sqrt().max(1.0)
}

#[test]
fn points_of_the_studentized_range_are_scipys() {
    for case in scipy("studentized_range") {
        let (cells, freedom) = (count(&case["count"]), count(&case["freedom"]));
        close(
            quantile(number(&case["rate"]), |q| {
                probability_of_range(q, cells, freedom)
            }),
            number(&case["point"]),
        );
    }
}

#[test]
fn points_of_students_t_are_scipys() {
    for case in scipy("students_t") {
        let rate = SIGNIFICANCE / number(&case["comparisons"]);
        close(
            student(rate, count(&case["freedom"])),
            number(&case["point"]),
        );
    }
}

#[test]
fn probabilities_of_dunnetts_statistic_are_scipys() {
    for case in scipy("dunnett_points") {
        close(
            probability_of_control(
                number(&case["limit"]),
                &numbers(&case["shares"]),
                count(&case["freedom"]),
            ),
            number(&case["probability"]),
        );
    }
}

#[test]
fn intervals_around_the_best_are_those_of_scipys_tukey_hsd() {
    for case in scipy("with_best") {
        let family = summaries(&case);
        let best = count(&case["best"]);
        let compared = Comparisons::of_looks(1)
            .with_best(&family)
            .expect("it spreads");
        assert_eq!(compared[best], None);
        for expected in case["compared"].as_array().expect("a list") {
            let cell = count(&expected["cell"]);
            let found = compared[cell].expect("it is compared");
            close(found.difference, number(&expected["difference"]));
            close(
                found.margin,
                number(&expected["margin"]) * widening(&family, [cell, best]),
            );
        }
    }
}

/// scipy's intervals come from random points, which agree to three digits.
#[test]
fn intervals_around_the_baseline_are_those_of_scipys_dunnett() {
    for case in scipy("with_baseline") {
        let family = summaries(&case);
        let compared = Comparisons::of_looks(1)
            .with_baseline(&family[0], &family[1..])
            .expect("it spreads");
        for (index, expected) in numbers(&case["margins"]).into_iter().enumerate() {
            let expected = expected * widening(&family, [index + 1, 0]);
            let found = compared[index].margin;
            assert!(
                (found - expected).abs() < 3e-3 * expected,
                "{found} is not {expected}"
            );
        }
    }
}

#[test]
fn margins_of_pairs_and_of_single_cells_are_those_of_scipys_t_tests() {
    for case in scipy("pairs") {
        let pair = summaries(&case);
        let comparisons = count(&case["comparisons"]);
        let mut methods = Comparisons::of_looks(1);
        close(
            methods
                .margin(&pair, &pair[0], Some(&pair[1]), comparisons)
                .expect("it spreads"),
            number(&case["margin"]),
        );
        close(
            methods
                .margin(&pair[..1], &pair[0], None, comparisons)
                .expect("it spreads"),
            number(&case["margin_of_one"]),
        );
    }
}

fn near(a: f64, b: f64, tolerance: f64) {
    assert!((a - b).abs() < tolerance, "{a} is not {b}");
}

fn share(fraction: f64) -> Share {
    Share::new(fraction, 0)
}

#[test]
fn mean_and_sample_deviation() {
    let values = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0].map(|tenths| share(tenths / 10.0));
    let summary = Summary::of(&values).unwrap();
    near(summary.mean.fraction(), 0.5, 1e-12);
    near(summary.deviation.unwrap(), 0.213_808_993_529_939_5, 1e-12);
    assert_eq!(Summary::of(&[]), None);
    assert_eq!(Summary::of(&values[..1]).unwrap().deviation, None);
}

#[test]
fn spreads_of_five_results() {
    let five = Summary {
        n: 5,
        mean: share(0.5),
        deviation: Some(0.05),
    };
    near(five.spread(Shown::Std).unwrap(), 0.05, 1e-12);
    near(five.spread(Shown::Se).unwrap(), 0.022_360_679_775, 1e-12);
    // 2.776445: the two-sided 5 % point of Student's t at 4 degrees of freedom
    near(
        five.spread(Shown::Ci95).unwrap(),
        2.776_445_105_198 * 0.022_360_679_775,
        1e-9,
    );
    let one = Summary {
        n: 1,
        deviation: None,
        ..five
    };
    assert_eq!(one.spread(Shown::Se), None);
}

#[test]
fn means_errors_and_intervals_are_scipys() {
    for case in scipy("cells") {
        let values: Vec<Share> = numbers(&case["values"]).into_iter().map(share).collect();
        let summary = Summary::of(&values).unwrap();
        near(summary.mean.fraction(), number(&case["mean"]), 1e-12);
        for (shown, name) in [
            (Shown::Std, "std"),
            (Shown::Se, "se"),
            (Shown::Ci95, "ci95"),
        ] {
            near(summary.spread(shown).unwrap(), number(&case[name]), 1e-9);
        }
    }
}

/// Ten cells of three seeds see a gap of 2.9 deviations; Welch's test with Holm's correction
/// needed 5.7.
#[test]
fn the_whole_family_lends_its_spread() {
    let mut family = vec![cell(3, 0.6, 0.02); 10];
    family[4] = cell(3, 0.7, 0.02);
    let compared = Comparisons::of_looks(1).with_best(&family).unwrap();
    assert_eq!(compared[4], None);
    let one = compared[0].unwrap();
    close(one.difference, -0.1);
    close(one.margin, 5.007_882_667_595 * 0.02 / 3.0_f64.sqrt());
    assert!(one.is_shown());
}

/// Five cells that collapsed to one number must not make the others look precise.
#[test]
fn a_pair_that_spreads_more_than_the_family_counts_its_own_spread() {
    let mut family = vec![cell(3, 0.1, 0.0); 10];
    family[0] = cell(3, 0.7, 0.02);
    family[1] = cell(3, 0.65, 0.02);
    let one = Comparisons::of_looks(1).with_best(&family).unwrap()[1].unwrap();
    close(one.margin, 5.007_882_667_595 * 0.02 / 3.0_f64.sqrt());
}

#[test]
fn comparisons_with_a_baseline() {
    let baseline = cell(3, 0.6, 0.02);
    let others = [cell(3, 0.7, 0.02), cell(3, 0.61, 0.02)];
    let compared = Comparisons::of_looks(1)
        .with_baseline(&baseline, &others)
        .unwrap();
    close(compared[0].difference, 0.1);
    close(
        compared[0].margin,
        2.862_750_146_202 * 0.02 * (2.0_f64 / 3.0).sqrt(),
    );
    assert_eq!([true, false], [0, 1].map(|cell| compared[cell].is_shown()));
}

#[test]
fn what_cannot_be_compared() {
    let single = [cell(1, 0.5, 0.0), cell(1, 0.9, 0.0)];
    assert_eq!(Comparisons::of_looks(1).with_best(&single), None);
    assert_eq!(
        Comparisons::of_looks(1).with_baseline(&single[0], &single[1..]),
        None
    );
    let constant = [cell(3, 0.5, 0.0), cell(3, 0.9, 0.0), cell(3, 0.9, 0.0)];
    let compared = Comparisons::of_looks(1).with_best(&constant).unwrap();
    assert!(compared[0].unwrap().is_shown());
    assert!(!compared[2].unwrap().is_shown());
    // A cell with one result is compared by the spread of the others.
    let mixed = [cell(1, 0.5, 0.0), cell(3, 0.9, 0.01), cell(3, 0.9, 0.01)];
    assert!(
        Comparisons::of_looks(1).with_best(&mixed).unwrap()[0]
            .unwrap()
            .is_shown()
    );
}

/// Returns the share of tables in which any cell is called different although all true means
/// are equal, against the best and against the first cell. `deviations` has one number per
/// cell; results of one seed have this correlation.
fn error_rates(deviations: &[f64], seeds: usize, correlation: f64, tables: usize) -> (f64, f64) {
    let count = deviations.len();
    let freedom = count * (seeds - 1);
    let range =
        quantile(SIGNIFICANCE, |q| probability_of_range(q, count, freedom)) / 2.0_f64.sqrt();
    let control = quantile(SIGNIFICANCE, |d| {
        probability_of_control(d, &vec![0.5; count - 1], freedom)
    });
    let mut normals = Normals::from_seed(count as u64 * 1_000_000 + seeds as u64 * 1_000);
    let mut wrong = (0, 0);
    for _ in 0..tables {
        let common: Vec<f64> = (0..seeds).map(|_| normals.draw()).collect();
        let mut family = Vec::new();
        for deviation in deviations {
            let result = |common: &f64| {
                let own = (1.0 - correlation).sqrt() * normals.draw();
                let z = correlation.sqrt() * common + own;
                Share::new(0.5 + 0.01 * deviation * z, 0)
            };
            let results: Vec<Share> = common.iter().map(result).collect();
            family.push(Summary::of(&results).expect("there are results"));
        }
        let spread = Spread::of(&family).expect("there are several seeds");
        let from_best = spread.compare_with_best(&family, range);
        wrong.0 += usize::from(from_best.iter().flatten().any(Comparison::is_shown));
        let mut others = family[1..].iter();
        wrong.1 +=
            usize::from(others.any(|cell| spread.compare(cell, &family[0], control).is_shown()));
    }
    let share = |wrong: usize| wrong as f64 / tables as f64;
    (share(wrong.0), share(wrong.1))
}

/// Highest rate that 5 % can give by chance in this number of tables (3.5 standard errors).
fn highest(tables: usize) -> f64 {
    SIGNIFICANCE + 3.5 * (SIGNIFICANCE * (1.0 - SIGNIFICANCE) / tables as f64).sqrt()
}

#[test]
fn equal_cells_are_called_different_in_five_per_cent_of_tables_at_most() {
    const TABLES: usize = 1_000;
    for (count, seeds) in [(2, 3), (10, 3)] {
        for correlation in [0.0, 0.5] {
            let rates = error_rates(&vec![1.0; count], seeds, correlation, TABLES);
            assert!(rates.0 <= highest(TABLES), "{count} {seeds} {rates:?}");
            assert!(rates.1 <= highest(TABLES), "{count} {seeds} {rates:?}");
        }
    }
    // Nor is the method so cautious that it shows nothing.
    let (best, baseline) = error_rates(&[1.0; 10], 3, 0.0, TABLES);
    assert!(best > 0.02 && baseline > 0.02, "{best} {baseline}");
}

/// The tables of docs/statistics.md.
#[test]
#[ignore = "prints the tables of docs/statistics.md; takes a minute"]
fn tables_of_error_rates() {
    const TABLES: usize = 20_000;
    println!(
        "| cells | seeds | best, 0 | best, 0.2 | best, 0.5 | base, 0 | base, 0.2 | base, 0.5 |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for count in [2, 5, 10] {
        for seeds in [3, 4, 5, 8, 20] {
            let rates = [0.0, 0.2, 0.5]
                .map(|correlation| error_rates(&vec![1.0; count], seeds, correlation, TABLES));
            let shown = |rate: f64| {
                assert!(rate <= highest(TABLES), "{count} {seeds} {rate}");
                format!("{:.1}", 100.0 * rate)
            };
            let numbers: Vec<String> = (rates.iter().map(|rate| shown(rate.0)))
                .chain(rates.iter().map(|rate| shown(rate.1)))
                .collect();
            println!("| {count} | {seeds} | {} |", numbers.join(" | "));
        }
    }
    println!("\n| deviations | seeds | best | base |\n|---|---|---|---|");
    for (name, deviations) in [
        ("two of ten are 2", [&[1.0; 8][..], &[2.0; 2]].concat()),
        ("one of ten is 3", [&[1.0; 9][..], &[3.0; 1]].concat()),
        ("half of ten are 0.3", [[1.0; 5], [0.3; 5]].concat()),
    ] {
        for seeds in [3, 5, 8] {
            let (best, base) = error_rates(&deviations, seeds, 0.0, TABLES);
            println!(
                "| {name} | {seeds} | {:.1} | {:.1} |",
                100.0 * best,
                100.0 * base
            );
        }
    }
}
