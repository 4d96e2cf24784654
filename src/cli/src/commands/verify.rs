//! `orchestrator verify`: the verdicts on a sweep's claims, and an exit code for scripts.

use std::io;

use protocol::v1::ReportFiles;
use report::FileSink;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::args::SweepArgs;
use crate::commands::inspect;
use crate::exit::{ExpectedError, Outcome};
use crate::offline;
use crate::output::{Output, SCHEMA};

pub async fn verify(arguments: &SweepArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let mut source = offline::source(&arguments.target).await?;
    let sweep = &source.find_sweep(&arguments.sweep).await?;
    let mut results = InMemory::default();
    inspect::report(&mut source, sweep, ReportFiles::Json, &mut results).await?;
    let claims = claims_of(&results.0, sweep)?;
    output.print(
        || claims.text(),
        || json!({ "schema": SCHEMA, "sweep": sweep, "claims": claims.document }),
    )?;
    Ok(claims.outcome())
}

/// Reads the claims of results.json.
fn claims_of(results: &[u8], sweep: &str) -> Result<Claims, ExpectedError> {
    #[derive(Deserialize)]
    struct Results {
        /// Absent from coordinators of earlier builds.
        #[serde(default)]
        claims: Value,
    }
    let unreadable = |error: serde_json::Error| ExpectedError::Infrastructure {
        what: "the results cannot be read",
        reason: error.to_string(),
    };
    let Results { claims: document } = serde_json::from_slice(results).map_err(unreadable)?;
    let claims: Option<Vec<Claim>> = Deserialize::deserialize(&document).map_err(unreadable)?;
    match claims.filter(|claims| !claims.is_empty()) {
        Some(claims) => Ok(Claims { claims, document }),
        None => Err(ExpectedError::BadInput(format!(
            "sweep `{sweep}` has no claims: write `claims` into its file and submit it again (docs/sweep-file.md)"
        ))),
    }
}

struct Claims {
    claims: Vec<Claim>,
    document: Value,
}

#[derive(Deserialize)]
struct Claim {
    claim: String,
    verdict: Verdict,
    pairs: Vec<Pair>,
}

#[derive(Deserialize)]
struct Pair {
    cell: String,
    against: String,
    verdict: Verdict,
    n: u64,
    difference_percent: Option<f64>,
    margin_percent: Option<f64>,
    missing: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Supported,
    Contradicted,
    Undecided,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Supported => "supported",
            Self::Contradicted => "contradicted",
            Self::Undecided => "undecided",
        }
    }
}

impl Claims {
    fn outcome(&self) -> Outcome {
        let any = |verdict| self.claims.iter().any(|claim| claim.verdict == verdict);
        match (any(Verdict::Contradicted), any(Verdict::Undecided)) {
            (true, _) => Outcome::Contradicted,
            (false, true) => Outcome::Undecided,
            (false, false) => Outcome::Complete,
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for claim in &self.claims {
            text.push_str(&format!("{:<12}  {}\n", claim.verdict.name(), claim.claim));
            for pair in &claim.pairs {
                let number = match (pair.difference_percent, pair.margin_percent) {
                    (Some(difference), Some(margin)) => format!("{difference:+.2} ± {margin:.2}"),
                    (Some(difference), None) => format!("{difference:+.2}"),
                    (None, _) => "no difference".to_owned(),
                };
                let missing = pair.missing.as_deref();
                let missing = missing.map_or_else(String::new, |reason| format!(", {reason}"));
                text.push_str(&format!(
                    "  {:<12}  {} - {}: {number} (n = {}{missing})\n",
                    pair.verdict.name(),
                    pair.cell,
                    pair.against,
                    pair.n
                ));
            }
        }
        text
    }
}

/// A sink that keeps the one file that it receives.
#[derive(Default)]
struct InMemory(Vec<u8>);

impl FileSink for InMemory {
    fn begin(&mut self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(piece);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(verdicts: &[&str]) -> Claims {
        let claim = |verdict: &&str| {
            json!({
                "claim": "cosine beats xent",
                "verdict": verdict,
                "pairs": [{
                    "cell": "cos/10", "against": "xent/10", "verdict": verdict, "n": 5,
                    "difference_percent": 3.0, "margin_percent": 1.25, "missing": null
                }],
            })
        };
        let claims: Vec<Value> = verdicts.iter().map(claim).collect();
        let results = json!({ "schema": 1, "claims": claims }).to_string();
        claims_of(results.as_bytes(), "s").expect("there are claims")
    }

    /// Scripts depend on these numbers.
    #[test]
    fn the_worst_verdict_is_the_exit_code() {
        let code = |verdicts: &[&str]| claims(verdicts).outcome().exit_code();
        assert_eq!(code(&["supported", "supported"]), 0);
        assert_eq!(code(&["supported", "undecided"]), 5);
        assert_eq!(code(&["undecided", "contradicted", "supported"]), 4);
    }

    #[test]
    fn every_claim_is_printed_with_its_evidence() {
        assert_eq!(
            claims(&["contradicted"]).text(),
            "contradicted  cosine beats xent\n  contradicted  cos/10 - xent/10: +3.00 ± 1.25 (n = 5)\n"
        );
    }

    #[test]
    fn a_sweep_without_claims_is_refused() {
        for results in [r#"{"schema": 1, "claims": []}"#, r#"{"schema": 1}"#] {
            let error = claims_of(results.as_bytes(), "table2")
                .err()
                .expect("it is refused");
            assert!(error.render().contains("`table2` has no claims"));
            assert_eq!(error.exit_code(), 1);
        }
    }
}
