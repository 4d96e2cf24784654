//! Claims: what they compile to, and every mistake in one.

use sweep::definition::{Claim, ClaimedPair, Measure, Relation};
use sweep::{Errors, Sweep};

const GOOD: &str = "\
recipe: quick
set: {dataset: digits}
axes:
  loss: [xent, {name: cos, label: cosine}]
  samples_per_class: [5, 10, 25]
published: {axes: [loss, samples_per_class], values: {cos: {5: 81.5, 10: 90.2}}}
claims:
";

fn parse(claim: &str) -> Result<Sweep, Errors> {
    let no_files = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    sweep::parse("test.yaml", &format!("{GOOD}  - {claim}\n"), &no_files)
}

fn compiled(claim: &str) -> Claim {
    let sweep = parse(claim).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(sweep.check(), Ok(()));
    let [claim] = <[Claim; 1]>::try_from(sweep.claims).expect("there is one claim");
    claim
}

fn pairs(claim: &Claim) -> Vec<(u32, Option<u32>)> {
    let pair = |&ClaimedPair { cell, against }: &ClaimedPair| (cell, against);
    claim.pairs.iter().map(pair).collect()
}

#[test]
fn a_claim_names_its_pairs_of_cells() {
    let claim = compiled("{cells: {loss: cos, samples_per_class: [10, 25]}, beats: {loss: xent}}");
    assert_eq!(
        claim.text,
        "cosine beats xent at samples per class 10 and 25"
    );
    assert_eq!(claim.relation, Relation::Beats { by: 0.0 });
    assert_eq!(claim.value, Measure::Last);
    assert_eq!(pairs(&claim), [(4, Some(1)), (5, Some(2))]);

    let claim = compiled("{cells: {loss: cos}, beats: {loss: xent}, by: 1.5, value: best}");
    assert_eq!(claim.text, "cosine beats xent by more than 1.5 points");
    assert_eq!(claim.value, Measure::Best);
    assert_eq!(pairs(&claim), [(3, Some(0)), (4, Some(1)), (5, Some(2))]);

    let claim =
        compiled("{cells: {loss: cos, samples_per_class: [5, 10]}, within: 2, of: published}");
    assert_eq!(
        claim.text,
        "cosine is within 2 points of the published number at samples per class 5 and 10"
    );
    assert_eq!(pairs(&claim), [(3, None), (4, None)]);

    let claim = compiled("{cells: {samples_per_class: 25}, beats: {samples_per_class: 5}}");
    assert_eq!(claim.text, "25 beats 5");
    assert_eq!(pairs(&claim), [(2, Some(0)), (5, Some(3))]);
}

/// The best epoch is known only if every epoch is evaluated.
#[test]
fn a_claim_about_the_best_epoch_evaluates_every_epoch() {
    let interval = |claim: &str| {
        let sweep = parse(claim).unwrap_or_else(|errors| panic!("{errors}"));
        let trial = &sweep.cell_trials(0, None)[0];
        trial.spec.settings.evaluate_every
    };
    let last = interval("{cells: {loss: cos}, beats: {loss: xent}}");
    let best = interval("{cells: {loss: cos}, beats: {loss: xent}, value: best}");
    assert_ne!(last, best);
}

#[test]
fn wrong_claims() {
    for (claim, column, message, help) in [
        ("cos beats xent", 5, "a claim is text", "cells"),
        ("{beats: {loss: xent}}", 6, "needs `cells`", "beats"),
        (
            "{cells: {loss: cos}}",
            6,
            "either `beats` or `within`",
            "published",
        ),
        (
            "{cells: {los: cos}, beats: {loss: xent}}",
            14,
            "no axis is called `los`",
            "`loss`",
        ),
        (
            "{cells: {loss: cso}, beats: {loss: xent}}",
            20,
            "has no value `cso`",
            "`cos`",
        ),
        (
            "{cells: {loss: cos}, beat: {loss: xent}}",
            26,
            "no key `beat`",
            "`beats`",
        ),
        (
            "{cells: {loss: cos}, beats: {loss: [xent, cos]}}",
            33,
            "several values",
            "one claim",
        ),
        (
            "{cells: {loss: cos}, beats: {loss: cos}}",
            13,
            "compared with itself",
            "",
        ),
        (
            "{cells: {loss: cos}, beats: {}}",
            33,
            "names nothing",
            "axis",
        ),
        (
            "{cells: {loss: cos}, beats: {loss: xent}, by: -1}",
            51,
            "`by` is -1",
            "0 to 100",
        ),
        (
            "{cells: {loss: cos}, beats: {loss: xent}, of: published}",
            47,
            "belongs to `within`",
            "",
        ),
        (
            "{cells: {loss: cos}, within: 1}",
            34,
            "needs `of`",
            "published",
        ),
        (
            "{cells: {loss: cos}, within: 1, of: publishd}",
            41,
            "`of` is `publishd`",
            "`published`",
        ),
        (
            "{cells: {loss: cos}, within: 1, of: published}",
            13,
            "`cos/25` has no published",
            "add",
        ),
        (
            "{cells: {loss: cos}, beats: {loss: xent}, value: top}",
            54,
            "`top`",
            "last",
        ),
    ] {
        let errors = parse(claim).expect_err(claim);
        let found = errors
            .problems()
            .iter()
            .find(|problem| problem.message().contains(message));
        let problem = found.unwrap_or_else(|| panic!("no `{message}` in\n{errors}\nfor {claim}"));
        assert_eq!(problem.position(), (8, column), "{errors}\nfor {claim}");
        let advice = problem.help_text().unwrap_or_default();
        assert!(advice.contains(help), "`{help}` is not in `{advice}`");
    }
}

#[test]
fn a_claim_about_an_excluded_cell_is_refused() {
    let text = "exclude: [{when: {loss: xent, samples_per_class: 25}}]\n";
    let claims = "claims: [{cells: {loss: cos}, beats: {loss: xent}}]\n";
    let axes = GOOD.split("published").next().expect("it has axes");
    let no_files = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    let errors = sweep::parse("test.yaml", &format!("{axes}{text}{claims}"), &no_files)
        .expect_err("xent/25 is gone");
    assert!(
        errors
            .to_string()
            .contains("`cos/25` is compared with `xent/25`"),
        "{errors}"
    );
}

/// A peer may send anything.
#[test]
fn a_claim_from_the_network_is_checked() {
    let sweep = parse("{cells: {loss: cos}, beats: {loss: xent}}").expect("it compiles");
    let refused = |change: fn(&mut Claim)| {
        let mut sweep = sweep.clone();
        change(&mut sweep.claims[0]);
        assert!(sweep.check().is_err());
    };
    refused(|claim| claim.pairs[0].cell = 6);
    refused(|claim| claim.pairs[0].against = Some(6));
    refused(|claim| claim.pairs.clear());
    refused(|claim| claim.relation = Relation::Within { points: f64::NAN });
    assert!(sweep.clone().into_smoke().claims.is_empty());
}
