//! The verdicts on a sweep's claims and on published numbers, with the evidence for each.
//!
//! The sweep fixes the comparisons of all claims before there are results, so that each gets its share
//! of the error rate (Bonferroni): all verdicts are right with a probability of 95 %. The spread is
//! that of all complete cells of the same problem, or that of the compared cells if it is larger, as
//! in a table.

use std::collections::BTreeMap;

use schedule::comparison::{Comparison, Comparisons, Summary};
use serde_json::{Value, json};
use sweep::definition::{Claim, ClaimedPair, Measure, Relation, Table};

use crate::families::problem;
use crate::grid::published_value;
use crate::results::{CellStatus, CellSummary, Results};

/// The verdict of results on a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Supported,
    Contradicted,
    /// The results so far leave both open.
    Undecided,
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Self::Supported => "supported",
            Self::Contradicted => "contradicted",
            Self::Undecided => "undecided",
        }
    }

    /// Returns the verdict on a published number as tables show it.
    pub fn on_published(self) -> &'static str {
        match self {
            Self::Supported => "agrees",
            Self::Contradicted => "differs",
            Self::Undecided => "undecided",
        }
    }

    /// Returns the verdict on a statement that asserts all of its parts.
    fn of_all(parts: impl Iterator<Item = Self> + Clone) -> Self {
        if parts.clone().any(|part| part == Self::Contradicted) {
            return Self::Contradicted;
        }
        match { parts }.all(|part| part == Self::Supported) {
            true => Self::Supported,
            false => Self::Undecided,
        }
    }
}

/// A claim with its verdict and evidence.
pub struct Judged<'a> {
    pub claim: &'a Claim,
    pub verdict: Verdict,
    pub evidence: Vec<Evidence>,
}

/// The evidence of one pair of cells of a claim.
pub struct Evidence {
    pub pair: ClaimedPair,
    pub verdict: Verdict,
    /// Difference from the other cell or the published number; absent without results of both.
    pub difference: Option<f64>,
    /// The difference with its interval; absent if the pair cannot be compared.
    pub comparison: Option<Comparison>,
    /// Number of results of the cell, and of the other one.
    pub n: [usize; 2],
    /// Reason why the pair cannot be compared.
    pub missing: Option<&'static str>,
}

/// Judges all claims of a sweep.
pub fn judge<'a>(results: &Results<'a>) -> Vec<Judged<'a>> {
    let claims = &results.sweep.claims;
    let count = claims.iter().map(|claim| claim.pairs.len()).sum();
    let mut bench: Vec<(Measure, Bench)> = Vec::new();
    let judge_claim = |claim: &'a Claim| {
        let known = bench.iter().position(|(value, _)| *value == claim.value);
        let at = known.unwrap_or_else(|| {
            let summaries = summaries(results, claim.value);
            bench.push((claim.value, Bench::new(results, summaries, count)));
            bench.len() - 1
        });
        let pairs = claim.pairs.iter();
        let evidence: Vec<Evidence> = pairs
            .map(|&pair| bench[at].1.compare(results, pair, claim.relation))
            .collect();
        Judged {
            claim,
            verdict: Verdict::of_all(evidence.iter().map(|pair| pair.verdict)),
            evidence,
        }
    };
    claims.iter().map(judge_claim).collect()
}

/// Compares every cell of a table with its published number, by the tolerance that the table
/// declares. Cells without a published number have no verdict.
pub fn judge_published(
    results: &Results,
    table: &Table,
    summaries: &[CellSummary],
) -> Vec<Option<Verdict>> {
    let Some(points) = table.tolerance else {
        return vec![None; summaries.len()];
    };
    let cells = &results.sweep.cells;
    let has_number: Vec<bool> = cells
        .iter()
        .map(|cell| published_value(results, cell).is_some())
        .collect();
    let count = has_number.iter().filter(|has| **has).count();
    let mut bench = Bench::new(results, summaries.to_vec(), count);
    let judge_cell = |(index, has): (usize, bool)| {
        let pair = ClaimedPair {
            cell: index as u32,
            against: None,
        };
        has.then(|| bench.compare(results, pair, Relation::Within { points }))
            .map(|evidence| evidence.verdict)
    };
    has_number.into_iter().enumerate().map(judge_cell).collect()
}

fn summaries(results: &Results, value: Measure) -> Vec<CellSummary> {
    let cells = 0..results.sweep.cells.len();
    cells.map(|cell| results.cell(cell, value)).collect()
}

/// The cells of one measure, grouped into families that share their spread.
struct Bench {
    summaries: Vec<CellSummary>,
    /// Index of the family of each cell.
    family_of: Vec<usize>,
    families: Vec<Vec<Summary>>,
    comparisons: Comparisons,
    /// Number of comparisons among which the error rate is divided.
    count: usize,
}

impl Bench {
    fn new(results: &Results, summaries: Vec<CellSummary>, count: usize) -> Self {
        let mut known: BTreeMap<String, usize> = BTreeMap::new();
        let mut families: Vec<Vec<Summary>> = Vec::new();
        let mut family_of = Vec::new();
        for (cell, summary) in results.sweep.cells.iter().zip(&summaries) {
            let family = *known.entry(problem(results, cell)).or_insert_with(|| {
                families.push(Vec::new());
                families.len() - 1
            });
            family_of.push(family);
            if summary.status == CellStatus::Complete {
                families[family].extend(summary.summary);
            }
        }
        Self {
            summaries,
            family_of,
            families,
            comparisons: Comparisons::of_looks(results.sweep.num_looks()),
            count,
        }
    }

    fn compare(&mut self, results: &Results, pair: ClaimedPair, relation: Relation) -> Evidence {
        let cell = &self.summaries[pair.cell as usize];
        let other = pair.against.map(|other| &self.summaries[other as usize]);
        let number = || {
            let cell = &results.sweep.cells[pair.cell as usize];
            published_value(results, cell).map(|value| value.value / 100.0)
        };
        let reference = match other {
            Some(other) => other.summary.map(|summary| summary.mean.fraction()),
            None => number(),
        };
        let difference = cell
            .summary
            .zip(reference)
            .map(|(summary, reference)| summary.mean.fraction() - reference);
        let n = [Some(cell), other].map(|cell| {
            cell.and_then(|cell| cell.summary)
                .map_or(0, |summary| summary.n)
        });
        let mut evidence = Evidence {
            pair,
            verdict: Verdict::Undecided,
            difference,
            comparison: None,
            n,
            missing: None,
        };
        let complete = |cell: &CellSummary| {
            (cell.status == CellStatus::Complete)
                .then_some(cell.summary)
                .flatten()
        };
        let (Some(difference), Some(of_cell)) = (difference, complete(cell)) else {
            evidence.missing = Some("results are missing");
            return evidence;
        };
        let of_other = other.map(complete);
        if of_other == Some(None) {
            evidence.missing = Some("results are missing");
            return evidence;
        }
        // Cells of two data sets or sample counts have the spreads of their own families.
        let mut family = self.families[self.family_of[pair.cell as usize]].clone();
        if let Some(other) = pair.against {
            let theirs = self.family_of[other as usize];
            if theirs != self.family_of[pair.cell as usize] {
                family.extend(&self.families[theirs]);
            }
        }
        let margin =
            self.comparisons
                .margin(&family, &of_cell, of_other.flatten().as_ref(), self.count);
        let Some(margin) = margin else {
            evidence.missing = Some("one seed has no interval");
            return evidence;
        };
        let comparison = Comparison { difference, margin };
        evidence.comparison = Some(comparison);
        evidence.verdict = verdict(relation, comparison, HIGHER_IS_BETTER);
        evidence
    }
}

/// Direction of the accuracies.
pub const HIGHER_IS_BETTER: bool = true;

/// Judges one comparison: supported if the whole interval agrees with the relation, contradicted if
/// the whole interval does not.
fn verdict(relation: Relation, comparison: Comparison, higher_is_better: bool) -> Verdict {
    let Comparison { difference, margin } = comparison;
    let (low, high) = (difference - margin, difference + margin);
    let decide = |agrees: bool, disagrees: bool| match (agrees, disagrees) {
        (true, _) => Verdict::Supported,
        (_, true) => Verdict::Contradicted,
        _ => Verdict::Undecided,
    };
    match relation {
        Relation::Beats { by } => {
            let by = by / 100.0;
            match higher_is_better {
                true => decide(low > by, high < by),
                false => decide(high < -by, low > -by),
            }
        }
        Relation::Within { points } => {
            let points = points / 100.0;
            decide(
                low >= -points && high <= points,
                low > points || high < -points,
            )
        }
    }
}

/// Returns a claim as one line: the verdict, the claim, and the evidence of up to `shown` pairs.
pub fn line(results: &Results, judged: &Judged<'_>, shown: usize) -> String {
    let name = |cell: u32| {
        let sweep = results.sweep;
        sweep.cell_name(&sweep.cells[cell as usize])
    };
    let evidence = |evidence: &Evidence| {
        let pair = evidence.pair;
        let against = pair.against.map_or("published".to_owned(), name);
        let number = match (evidence.comparison, evidence.difference) {
            (Some(Comparison { difference, margin }), _) => {
                format!("{:+.1} ± {:.1}", 100.0 * difference, 100.0 * margin)
            }
            (None, Some(difference)) => format!("{:+.1}", 100.0 * difference),
            (None, None) => "no difference".to_owned(),
        };
        let missing = evidence.missing;
        let missing = missing.map_or_else(String::new, |reason| format!(", {reason}"));
        let [own, other] = evidence.n;
        let n = match pair.against {
            Some(_) if own != other => format!("n = {own} and {other}"),
            _ => format!("n = {own}"),
        };
        format!("{} - {against}: {number} ({n}{missing})", name(pair.cell))
    };
    let lines: Vec<String> = judged.evidence.iter().take(shown).map(evidence).collect();
    let more = match judged.evidence.len().saturating_sub(shown) {
        0 => String::new(),
        more => format!("; {more} more in results.json"),
    };
    format!(
        "Claim {}: {}. {}{more}",
        judged.verdict.name(),
        judged.claim.text,
        lines.join("; ")
    )
}

/// Names the method of all verdicts on claims; nothing without claims.
pub fn method(results: &Results) -> Option<String> {
    let claims = &results.sweep.claims;
    let count: usize = claims.iter().map(|claim| claim.pairs.len()).sum();
    (count > 0).then(|| {
        format!(
            "Claims: differences in points, with intervals that hold together with 95 % \
             (Bonferroni, {}). Undecided: this n leaves both open.",
            sweep::counted(count as u64, "comparison")
        )
    })
}

/// Returns all claims with their verdicts and evidence, for results.json.
pub fn json(results: &Results) -> Value {
    let name = |cell: u32| {
        let sweep = results.sweep;
        sweep.cell_name(&sweep.cells[cell as usize])
    };
    let percent = |fraction: f64| 100.0 * fraction;
    let evidence = |evidence: &Evidence| {
        json!({
            "cell": name(evidence.pair.cell),
            "against": evidence.pair.against.map_or_else(|| "published".to_owned(), name),
            "verdict": evidence.verdict.name(),
            "n": evidence.n[0],
            "n_against": evidence.pair.against.map(|_| evidence.n[1]),
            "difference_percent": evidence.difference.map(percent),
            "margin_percent": evidence.comparison.map(|comparison| percent(comparison.margin)),
            "missing": evidence.missing,
        })
    };
    let claim = |judged: &Judged<'_>| {
        json!({
            "claim": judged.claim.text,
            "value": judged.claim.value,
            "relation": judged.claim.relation,
            "verdict": judged.verdict.name(),
            "pairs": judged.evidence.iter().map(evidence).collect::<Vec<_>>(),
        })
    };
    judge(results).iter().map(claim).collect()
}

#[cfg(test)]
mod tests {
    use ::tests::Normals;
    use schedule::comparison::SIGNIFICANCE;
    use sweep::Share;

    use super::*;

    #[test]
    fn verdicts_follow_the_whole_interval() {
        use Verdict::{Contradicted, Supported, Undecided};
        let of = |relation, difference, margin| {
            verdict(relation, Comparison { difference, margin }, true)
        };
        let beats = Relation::Beats { by: 1.0 };
        assert_eq!(of(beats, 0.03, 0.015), Supported);
        assert_eq!(of(beats, 0.03, 0.025), Undecided);
        assert_eq!(of(beats, -0.03, 0.025), Contradicted);
        assert_eq!(of(beats, 0.0, 0.009), Contradicted);
        assert_eq!(of(Relation::Beats { by: 0.0 }, 0.0, 0.0), Undecided);
        let within = Relation::Within { points: 1.0 };
        assert_eq!(of(within, 0.004, 0.005), Supported);
        assert_eq!(of(within, -0.004, 0.007), Undecided);
        assert_eq!(of(within, -0.03, 0.01), Contradicted);
        assert_eq!(of(within, 0.03, 0.01), Contradicted);
    }

    /// A loss is better where it is lower.
    #[test]
    fn the_direction_of_a_metric_turns_beats_around() {
        let comparison = Comparison {
            difference: -0.03,
            margin: 0.01,
        };
        let beats = Relation::Beats { by: 1.0 };
        assert_eq!(verdict(beats, comparison, true), Verdict::Contradicted);
        assert_eq!(verdict(beats, comparison, false), Verdict::Supported);
        let within = Relation::Within { points: 5.0 };
        for direction in [true, false] {
            assert_eq!(verdict(within, comparison, direction), Verdict::Supported);
        }
    }

    /// Share of simulated sweeps in which any claim is supported, any contradicted, or either.
    #[derive(Debug)]
    struct Rates {
        supported: f64,
        contradicted: f64,
        either: f64,
    }

    /// Judges claims whose truth lies at the edge of what they state, so that each verdict but
    /// `undecided` is wrong on one side: with `published`, that every cell is within a point of its
    /// published number, from which it differs by exactly one; otherwise, that every cell beats the
    /// first, to which all are equal. Results of one seed have this correlation.
    fn error_rates(
        cells: usize,
        seeds: usize,
        correlation: f64,
        published: bool,
        sweeps: usize,
    ) -> Rates {
        let mut normals = Normals::from_seed((cells * 1_000 + seeds) as u64);
        let mut comparisons = Comparisons::of_looks(1);
        let relation = match published {
            true => Relation::Within { points: 1.0 },
            false => Relation::Beats { by: 0.0 },
        };
        let (mut supported, mut contradicted, mut either) = (0, 0, 0);
        for _ in 0..sweeps {
            let common: Vec<f64> = (0..seeds).map(|_| normals.draw()).collect();
            let mut cell = || {
                let result = |common: &f64| {
                    let own = (1.0 - correlation).sqrt() * normals.draw();
                    Share::new(0.5 + 0.01 * (correlation.sqrt() * common + own), 0)
                };
                let results: Vec<Share> = common.iter().map(result).collect();
                Summary::of(&results).expect("there are results")
            };
            let family: Vec<Summary> = (0..cells).map(|_| cell()).collect();
            let (claimed, other) = match published {
                true => (&family[..], None),
                false => (&family[1..], Some(&family[0])),
            };
            let reference = other.map_or(0.49, |other| other.mean.fraction());
            let mut verdicts = Vec::new();
            for cell in claimed {
                let margin = comparisons
                    .margin(&family, cell, other, claimed.len())
                    .expect("there are several seeds");
                let difference = cell.mean.fraction() - reference;
                let comparison = Comparison { difference, margin };
                verdicts.push(verdict(relation, comparison, HIGHER_IS_BETTER));
            }
            let is_supported = verdicts.contains(&Verdict::Supported);
            let is_contradicted = verdicts.contains(&Verdict::Contradicted);
            supported += usize::from(is_supported);
            contradicted += usize::from(is_contradicted);
            either += usize::from(is_supported || is_contradicted);
        }
        let share = |count: usize| count as f64 / sweeps as f64;
        Rates {
            supported: share(supported),
            contradicted: share(contradicted),
            either: share(either),
        }
    }

    /// Highest rate that 5 % can give by chance in this number of sweeps (3.5 standard errors).
    fn highest(sweeps: usize) -> f64 {
        SIGNIFICANCE + 3.5 * (SIGNIFICANCE * (1.0 - SIGNIFICANCE) / sweeps as f64).sqrt()
    }

    #[test]
    fn claims_at_the_edge_of_truth_are_decided_in_five_per_cent_of_sweeps_at_most() {
        const SWEEPS: usize = 1_000;
        for published in [false, true] {
            for (cells, seeds, correlation) in [(2, 3, 0.0), (10, 3, 0.0), (10, 5, 0.5)] {
                let rates = error_rates(cells, seeds, correlation, published, SWEEPS);
                assert!(rates.either <= highest(SWEEPS), "{cells} {seeds} {rates:?}");
            }
            // Nor is the method so cautious that it decides nothing.
            let rates = error_rates(5, 3, 0.0, published, SWEEPS);
            assert!(rates.supported > 0.005 || published, "{rates:?}");
            assert!(rates.contradicted > 0.005, "{rates:?}");
        }
    }

    /// The table of docs/statistics.md.
    #[test]
    #[ignore = "prints a table of docs/statistics.md; takes a minute"]
    fn table_of_error_rates_of_claims() {
        const SWEEPS: usize = 20_000;
        println!("| cells | seeds | beats, 0 | 0.2 | 0.5 | published, 0 | 0.2 | 0.5 |");
        println!("|---:|---:|---:|---:|---:|---:|---:|---:|");
        for cells in [2, 5, 10] {
            for seeds in [3, 4, 5, 8, 20] {
                let mut numbers = Vec::new();
                for published in [false, true] {
                    for correlation in [0.0, 0.2, 0.5] {
                        let rates = error_rates(cells, seeds, correlation, published, SWEEPS);
                        assert!(rates.either <= highest(SWEEPS), "{cells} {seeds} {rates:?}");
                        let percent =
                            [rates.supported, rates.contradicted].map(|rate| 100.0 * rate);
                        numbers.push(format!("{:.1} + {:.1}", percent[0], percent[1]));
                    }
                }
                println!("| {cells} | {seeds} | {} |", numbers.join(" | "));
            }
        }
    }

    #[test]
    fn a_claim_asserts_all_of_its_parts() {
        use Verdict::{Contradicted, Supported, Undecided};
        let of = |parts: &[Verdict]| Verdict::of_all(parts.iter().copied());
        assert_eq!(of(&[Supported, Supported]), Supported);
        assert_eq!(of(&[Supported, Undecided]), Undecided);
        assert_eq!(of(&[Undecided, Contradicted, Supported]), Contradicted);
    }
}
