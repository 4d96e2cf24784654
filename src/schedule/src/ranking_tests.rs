//! Tests of the rule for more seeds, and its rates of errors by simulation.

use ::tests::Normals;

use super::*;
use crate::comparison::SIGNIFICANCE;

fn summary(n: usize, mean: f64, deviation: f64) -> Summary {
    Summary {
        n,
        mean: Share::new(mean, 0),
        deviation: Some(deviation),
    }
}

#[test]
fn cells_that_are_not_shown_to_be_lower_are_undecided_with_the_best() {
    let family = [
        summary(3, 0.70, 0.01),
        summary(3, 0.30, 0.01),
        summary(3, 0.71, 0.01),
    ];
    let mut comparisons = Comparisons::of_looks(4);
    assert_eq!(undecided(&family, &mut comparisons), [0, 2]);
    let apart = [family[1], family[2]];
    assert_eq!(undecided(&apart, &mut comparisons), [0usize; 0]);
    assert_eq!(undecided(&family[..1], &mut comparisons), [0usize; 0]);
}

/// The more looks, the larger the difference that one of them needs.
#[test]
fn each_look_has_its_share_of_the_rate() {
    let family = [summary(5, 0.700, 0.01), summary(5, 0.684, 0.01)];
    let open = |looks| undecided(&family, &mut Comparisons::of_looks(looks)).len();
    assert_eq!((open(1), open(4)), (0, 2));
}

/// Rates of wrong marks, and what they cost.
#[derive(Debug)]
struct Outcome {
    /// Share of rankings in which any look, or the table at the end, calls a cell lower than one that
    /// is truly not better.
    wrong: f64,
    /// Mean number of seeds of a cell.
    seeds: f64,
}

/// Follows the rule on simulated cells with these true means, in standard deviations. Results of one
/// seed have this correlation.
fn follow(means: &[f64], looks: &[u32], correlation: f64, rankings: usize) -> Outcome {
    let mut normals = Normals::from_seed(means.len() as u64 * 1_000 + u64::from(looks[0]));
    let mut comparisons = Comparisons::of_looks(looks.len());
    let at_most = looks[looks.len() - 1] as usize;
    let (mut wrong, mut seeds) = (0, 0);
    for _ in 0..rankings {
        let common: Vec<f64> = (0..at_most).map(|_| normals.draw()).collect();
        let cell = |mean: &f64| -> Vec<Share> {
            let result = |common: &f64| {
                let own = (1.0 - correlation).sqrt() * normals.draw();
                Share::new(0.5 + 0.01 * (mean + correlation.sqrt() * common + own), 0)
            };
            common.iter().map(result).collect()
        };
        let results: Vec<Vec<Share>> = means.iter().map(cell).collect();
        let mut trained = vec![looks[0] as usize; means.len()];
        let mut is_wrong = false;
        for look in 0..looks.len() {
            let drawn = results.iter().zip(&trained);
            let family: Vec<Summary> = drawn
                .map(|(results, &n)| Summary::of(&results[..n]).expect("there are results"))
                .collect();
            let compared = comparisons.with_best(&family).expect("they spread");
            let best = compared.iter().position(Option::is_none).expect("one is");
            for (cell, comparison) in compared.iter().enumerate() {
                let shown = comparison.is_some_and(|one| one.is_shown());
                is_wrong |= shown && means[cell] >= means[best];
            }
            let open = undecided(&family, &mut comparisons);
            let Some(&next) = looks.get(look + 1).filter(|_| !open.is_empty()) else {
                break;
            };
            open.into_iter()
                .for_each(|cell| trained[cell] = next as usize);
        }
        wrong += usize::from(is_wrong);
        seeds += trained.iter().sum::<usize>();
    }
    Outcome {
        wrong: wrong as f64 / rankings as f64,
        seeds: seeds as f64 / (rankings * means.len()) as f64,
    }
}

/// Highest rate that 5 % can give by chance in this number of rankings (3.5 standard errors).
fn highest(rankings: usize) -> f64 {
    SIGNIFICANCE + 3.5 * (SIGNIFICANCE * (1.0 - SIGNIFICANCE) / rankings as f64).sqrt()
}

#[test]
fn looking_repeatedly_is_wrong_in_five_per_cent_of_rankings_at_most() {
    const RANKINGS: usize = 300;
    for count in [2, 5] {
        let outcome = follow(&vec![0.0; count], &[3, 6, 12], 0.0, RANKINGS);
        assert!(outcome.wrong <= highest(RANKINGS), "{count} {outcome:?}");
        assert!(
            outcome.seeds > 11.0,
            "equal cells use their budget: {outcome:?}"
        );
    }
    // Cells that are far apart are decided at once.
    let apart = follow(&[0.0, 20.0, 40.0], &[3, 6, 12], 0.0, RANKINGS);
    assert!(apart.seeds < 4.0, "{apart:?}");
}

/// The table of docs/statistics.md.
#[test]
#[ignore = "prints a table of docs/statistics.md; takes minutes"]
fn table_of_error_rates_of_looks() {
    const RANKINGS: usize = 10_000;
    println!("| cells | looks at | equal, 0 | 0.2 | 0.5 | one ahead by 1 | by 2 | by 4 |");
    println!("|---:|---|---:|---:|---:|---:|---:|---:|");
    for count in [2, 5, 10] {
        for looks in [&[3, 6, 12, 20][..], &[5, 10, 20]] {
            let equal = vec![0.0; count];
            let mut numbers = Vec::new();
            for correlation in [0.0, 0.2, 0.5] {
                let outcome = follow(&equal, looks, correlation, RANKINGS);
                assert!(outcome.wrong <= highest(RANKINGS), "{count} {outcome:?}");
                numbers.push(format!("{:.1}", 100.0 * outcome.wrong));
            }
            for ahead in [1.0, 2.0, 4.0] {
                let mut means = equal.clone();
                means[0] = ahead;
                let outcome = follow(&means, looks, 0.0, RANKINGS);
                assert!(outcome.wrong <= highest(RANKINGS), "{count} {outcome:?}");
                let (wrong, seeds) = (100.0 * outcome.wrong, outcome.seeds);
                numbers.push(format!("{wrong:.1} ({seeds:.1})"));
            }
            let looks: Vec<String> = looks.iter().map(u32::to_string).collect();
            println!(
                "| {count} | {} | {} |",
                looks.join(", "),
                numbers.join(" | ")
            );
        }
    }
}
