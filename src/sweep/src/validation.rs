//! Validation of a compiled sweep received over the network: everything that other code assumes.
//!
//! A peer may send anything. After `check`, indices are in range, fields have possible values,
//! sizes are bounded, and names are valid as names of folders and files. It does not check that the
//! sweep matches its `source`.

use std::collections::BTreeSet;

use crate::axis::check_value_name;
use crate::claims::MAX_PAIRS;
use crate::definition::{Axis, Output, Relation, Search, Sweep};
use crate::derived::SMOKE_SUFFIX;
use crate::draft::{HIGHEST_MAX_TRIALS, check_name};
use crate::expand::num_trials;
use crate::inputs::Content;
use crate::load::MAX_FILE_BYTES;
use crate::output::RESERVED_NAMES;
use crate::program::{MAX_PROGRAM_FILES, MAX_WORDS, Namespace};
use crate::program_block::{self, is_inside};
use crate::recipe;
use crate::seed;
use crate::settings::{Fields, Settings};
use crate::trainer::Trainer;

/// A reason why a sweep is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place} {reason}")]
pub struct BadSweep {
    /// The invalid part of the sweep: `cells[3].set.learning_rate`.
    pub place: String,
    pub reason: String,
}

fn bad(place: impl Into<String>, reason: impl Into<String>) -> BadSweep {
    BadSweep {
        place: place.into(),
        reason: reason.into(),
    }
}

fn ensure(holds: bool, place: &str, reason: &str) -> Result<(), BadSweep> {
    if holds {
        Ok(())
    } else {
        Err(bad(place, reason))
    }
}

const MAX_TEXT: usize = 4096;
/// Largest seed, as in sweep files.
const MAX_SEED: u64 = u32::MAX as u64;

impl Sweep {
    /// Returns the first problem that makes the sweep unusable.
    pub fn check(&self) -> Result<(), BadSweep> {
        self.check_words()?;
        self.check_program()?;
        let fields = self.namespace();
        check_fields(&fields, "base", &self.base.fields())?;
        ensure(self.axes.len() <= 16, "axes", "are more than 16")?;
        let mut names = BTreeSet::new();
        for axis in &self.axes {
            check_axis(&fields, axis)?;
            ensure(
                names.insert(&axis.name),
                "axes",
                "hold two of the same name",
            )?;
        }
        self.check_seeds()?;
        self.check_cells(&fields)?;
        self.check_search(&fields)?;
        self.check_outputs()?;
        self.check_published()?;
        self.check_claims()?;
        self.check_identity()
    }

    /// Checks the records of inputs and of the trainer: names of one line, and hashes.
    fn check_identity(&self) -> Result<(), BadSweep> {
        let line = |text: &str| {
            !text.is_empty() && text.len() <= MAX_TEXT + 64 && !text.contains(char::is_control)
        };
        let hash = |text: &str| {
            (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        ensure(
            self.inputs.len() as u64 <= HIGHEST_MAX_TRIALS,
            "inputs",
            "are too many",
        )?;
        for (name, content) in &self.inputs {
            ensure(
                line(name),
                "inputs",
                "hold a name that is not one line of text",
            )?;
            ensure(hash(&content.hash), name, "has no hash of its content")?;
            ensure(
                content.parts.len() <= Content::MAX_PARTS,
                name,
                "has too many parts",
            )?;
            let parts = content
                .parts
                .iter()
                .all(|(part, digest)| line(part) && hash(digest));
            ensure(parts, name, "has a part without a name or a hash")?;
        }
        if let Trainer::Submitted(program) = &self.trainer {
            ensure(
                line(&program.name) && program.name.len() <= 256,
                "trainer",
                "has no name of one short line",
            )?;
            ensure(hash(&program.archive), "trainer", "has no hash")?;
            let mut files = program.files.iter();
            let sound = files.all(|(path, digest)| line(path) && is_inside(path) && hash(digest));
            ensure(
                sound && program.files.len() <= MAX_PROGRAM_FILES,
                "trainer",
                "has too many files, or one without a name or a hash",
            )?;
            let mut words = program.command.iter().chain(&program.pass);
            let sound = words.all(|word| line(word))
                && !program.command.is_empty()
                && program.command.len() + program.pass.len() <= 2 * MAX_WORDS;
            let folder = program.folder.is_empty() || is_inside(&program.folder);
            let environment = program.environment.as_ref();
            let environment = environment.is_none_or(|environment| line(environment.path()));
            ensure(
                sound && folder && environment,
                "trainer",
                "has an impossible command, folder or environment",
            )?;
        }
        if let Trainer::Foreign(program) = &self.trainer {
            ensure(
                line(&program.name) && program.name.len() <= 256,
                "trainer",
                "has no name of one short line",
            )?;
            ensure(hash(&program.hash), "trainer", "has no hash")?;
        }
        Ok(())
    }

    /// Checks that a program comes with its files, and that no other settings have one.
    fn check_program(&self) -> Result<(), BadSweep> {
        let has_program = self.program.is_some();
        ensure(
            has_program == self.base.program.is_some(),
            "base",
            "has not the settings of its program",
        )?;
        ensure(
            has_program == self.trainer.submitted().is_some(),
            "program",
            "is without its files",
        )?;
        let Some(block) = &self.program else {
            return Ok(());
        };
        program_block::check(block).map_err(|reason| bad("program", reason))
    }

    fn namespace(&self) -> Namespace {
        self.program
            .as_ref()
            .map_or(Namespace::BuiltIn, Namespace::of)
    }

    fn check_words(&self) -> Result<(), BadSweep> {
        let name = if self.smoke {
            self.name.strip_suffix(SMOKE_SUFFIX)
        } else {
            Some(self.name.as_str())
        };
        let name = name.ok_or_else(|| bad("name", "of a rehearsal does not end with -smoke"))?;
        check_name(name).map_err(|reason| bad("name", reason))?;
        ensure(
            self.description.len() <= MAX_TEXT,
            "description",
            "is too long",
        )?;
        ensure(
            self.program.is_some() || recipe::names().any(|name| name == self.recipe),
            "recipe",
            "does not exist",
        )?;
        ensure(
            (1..=64).contains(&self.resources.devices_per_trial),
            "resources",
            "ask for no or too many devices",
        )?;
        ensure(
            self.source.len() as u64 <= MAX_FILE_BYTES,
            "source",
            "is too long",
        )
    }

    fn check_seeds(&self) -> Result<(), BadSweep> {
        let distinct = |seeds: &[u64]| seeds.iter().collect::<BTreeSet<_>>().len() == seeds.len();
        let in_range = |seeds: &[u64]| seeds.iter().all(|seed| *seed <= MAX_SEED);
        let fine = |seeds: &[u64]| {
            !seeds.is_empty() && seeds.len() <= 10_000 && distinct(seeds) && in_range(seeds)
        };
        let nested = |seeds: &[u64], subsets: u32| {
            let pairs = seeds.iter().filter_map(|&seed| seed::pair_of(seed));
            pairs.clone().count() == seeds.len()
                && pairs.max().is_some_and(|(subset, _)| subset < subsets)
                && seeds.len() <= 10_000
                && distinct(seeds)
        };
        ensure(
            nested(&self.seeds, 1000) || fine(&self.seeds),
            "seeds",
            "are none, too many, too large, or not distinct",
        )?;
        let first = (0..self.seeds.len() as u64).collect::<Vec<_>>();
        let budget = self.seed_budget.as_ref();
        ensure(
            budget.is_none_or(|budget| budget.is_valid(first.len()) && self.seeds == first),
            "seed_budget",
            "does not begin with the sweep's seeds, or does not ascend from there",
        )?;
        let of_search = |search: &Search| match search.holdout.folds() {
            1 => fine(&search.seeds),
            _ => nested(&search.seeds, u32::MAX),
        };
        ensure(
            self.search.as_ref().is_none_or(of_search),
            "search.seeds",
            "are none, too many, too large, or not distinct",
        )
    }

    fn check_cells(&self, fields: &Namespace) -> Result<(), BadSweep> {
        ensure(!self.cells.is_empty(), "cells", "are none")?;
        let budget = self.seed_budget.as_ref();
        let most = budget.map_or(self.seeds.len(), |budget| budget.at_most() as usize);
        let trials = num_trials(&self.cells, most, self.search.as_ref());
        ensure(
            trials <= HIGHEST_MAX_TRIALS,
            "cells",
            "make too many trials",
        )?;
        let mut seen = BTreeSet::new();
        for (index, cell) in self.cells.iter().enumerate() {
            let place = format!("cells[{index}]");
            ensure(
                cell.coordinates.len() == self.axes.len(),
                &place,
                "has not one coordinate per axis",
            )?;
            let mut along = cell.coordinates.iter().zip(&self.axes);
            let inside = along.all(|(&value, axis)| (value as usize) < axis.values.len());
            ensure(inside, &place, "lies outside the axes")?;
            ensure(seen.insert(&cell.coordinates), &place, "is there twice")?;
            check_fields(fields, &format!("{place}.set"), &cell.set)?;
            let reason = cell.skipped.as_deref().unwrap_or_default();
            ensure(
                reason.len() <= MAX_TEXT,
                &place,
                "is skipped for too long a reason",
            )?;
            self.check_settings(&place, &cell.set)?;
        }
        Ok(())
    }

    /// Checks that a trainer can use the settings of a cell and of its candidates.
    fn check_settings(&self, place: &str, set: &Fields) -> Result<(), BadSweep> {
        let fine = |base: &Settings, set: &Fields| {
            let settings = base
                .with(set)
                .map_err(|error| bad(place, error.to_string()))?;
            let contradiction = settings.contradictions().into_iter().next();
            contradiction.map_or(Ok(()), |found| Err(bad(place, found.to_string())))
        };
        let Some(search) = &self.search else {
            return fine(&self.base, set);
        };
        for candidate in &search.candidates {
            let mut set = set.clone();
            set.extend(candidate.0.clone());
            fine(&self.base, &set)?;
        }
        Ok(())
    }

    fn check_search(&self, fields: &Namespace) -> Result<(), BadSweep> {
        let Some(search) = &self.search else {
            return Ok(());
        };
        ensure(
            (1..=1000).contains(&search.candidates.len()),
            "search.candidates",
            "are none or too many",
        )?;
        let holdout = Fields::from([(
            "holdout".to_owned(),
            serde_json::to_value(search.holdout).expect("plain data"),
        )]);
        check_fields(fields, "search.holdout", &holdout)?;
        for candidate in &search.candidates {
            check_fields(fields, "search.candidates", &candidate.0)?;
            ensure(
                !candidate.0.is_empty() && candidate.0.keys().eq(search.fields()),
                "search.candidates",
                "do not set the same fields",
            )?;
        }
        Ok(())
    }

    fn check_outputs(&self) -> Result<(), BadSweep> {
        ensure(
            (1..=100).contains(&self.outputs.len()),
            "outputs",
            "are none or too many",
        )?;
        let mut names = BTreeSet::new();
        for output in &self.outputs {
            check_name(output.name()).map_err(|reason| bad("an output's name", reason))?;
            ensure(
                names.insert(output.name()),
                "outputs",
                "hold two of the same name",
            )?;
            let reserved = RESERVED_NAMES.contains(&output.name());
            ensure(
                !reserved,
                "outputs",
                "have the name of a file that every report has",
            )?;
            let caption = match output {
                Output::Table(table) => &table.caption,
                Output::Figure(figure) => &figure.caption,
            };
            ensure(
                caption.len() <= MAX_TEXT,
                "an output's caption",
                "is too long",
            )?;
            if let Output::Table(table) = output {
                let known = table.baseline.iter().all(|named| self.has_value(named));
                ensure(known, output.name(), "has a baseline that does not exist")?;
                let sound = table
                    .tolerance
                    .is_none_or(|points| (0.0..=100.0).contains(&points));
                ensure(sound, output.name(), "has an impossible tolerance")?;
            }
            let placed = output.axes();
            let known = placed
                .iter()
                .all(|name| self.axes.iter().any(|axis| axis.name == *name));
            ensure(known, output.name(), "names an axis that does not exist")?;
            let distinct = placed.iter().collect::<BTreeSet<_>>().len() == placed.len();
            ensure(distinct, output.name(), "uses an axis twice")?;
            let mut several = self.axes.iter().filter(|axis| axis.values.len() > 1);
            let covered = several.all(|axis| placed.contains(&axis.name.as_str()));
            ensure(covered, output.name(), "has no place for an axis")?;
        }
        Ok(())
    }

    /// Returns true if an axis of this name has a value of this name.
    fn has_value(&self, (name, value): (&String, &String)) -> bool {
        let axis = self.axes.iter().find(|axis| axis.name == *name);
        axis.is_some_and(|axis| axis.values.iter().any(|known| known.name == *value))
    }

    fn check_published(&self) -> Result<(), BadSweep> {
        ensure(
            self.published.len() as u64 <= HIGHEST_MAX_TRIALS,
            "published",
            "holds too many values",
        )?;
        ensure(self.footnotes.len() <= 10_000, "footnotes", "are too many")?;
        ensure(
            self.footnotes.iter().all(|text| text.len() <= MAX_TEXT),
            "footnotes",
            "are too long",
        )?;
        for published in &self.published {
            ensure(
                (0.0..=100.0).contains(&published.value),
                "published",
                "is not a percentage",
            )?;
            let footnote = published
                .footnote
                .is_none_or(|index| (index as usize) < self.footnotes.len());
            ensure(
                footnote,
                "published",
                "refers to a footnote that does not exist",
            )?;
            let known = published.cell.iter().all(|named| self.has_value(named));
            ensure(
                known,
                "published",
                "refers to an axis value that does not exist",
            )?;
        }
        Ok(())
    }

    fn check_claims(&self) -> Result<(), BadSweep> {
        let pairs: usize = self.claims.iter().map(|claim| claim.pairs.len()).sum();
        ensure(
            self.claims.len() <= MAX_PAIRS && pairs <= MAX_PAIRS,
            "claims",
            "compare too many pairs of cells",
        )?;
        let known = |index: u32| (index as usize) < self.cells.len();
        for claim in &self.claims {
            ensure(claim.text.len() <= MAX_TEXT, "claims", "are too long")?;
            let (Relation::Beats { by: points } | Relation::Within { points }) = claim.relation;
            ensure(
                (0.0..=100.0).contains(&points),
                "claims",
                "have a number of points that is not from 0 to 100",
            )?;
            ensure(!claim.pairs.is_empty(), "claims", "compare no cells")?;
            for pair in &claim.pairs {
                ensure(
                    known(pair.cell) && pair.against.is_none_or(known),
                    "claims",
                    "refer to a cell that does not exist",
                )?;
            }
        }
        Ok(())
    }
}

fn check_axis(fields: &Namespace, axis: &Axis) -> Result<(), BadSweep> {
    check_name(&axis.name).map_err(|reason| bad("an axis' name", reason))?;
    ensure(!axis.values.is_empty(), &axis.name, "has no values")?;
    let mut names = BTreeSet::new();
    for value in &axis.values {
        ensure(
            check_value_name(&value.name),
            &axis.name,
            "has a value with an impossible name",
        )?;
        ensure(names.insert(&value.name), &axis.name, "has a value twice")?;
        let label = value.label.len() <= MAX_TEXT && !value.label.contains(char::is_control);
        ensure(label, &axis.name, "has a label that is not one line")?;
        check_fields(fields, &axis.name, &value.set)?;
    }
    Ok(())
}

/// Checks for known fields with possible values in the form that `Settings` writes, so that equal
/// settings have equal ids.
fn check_fields(known: &Namespace, place: &str, fields: &Fields) -> Result<(), BadSweep> {
    for (name, value) in fields {
        let place = format!("{place}.{}", name.escape_debug());
        let field = known.find(name).ok_or_else(|| bad(&place, "is no field"))?;
        let checked = field
            .check(value)
            .map_err(|complaint| bad(&place, complaint.message))?;
        ensure(
            checked == *value,
            &place,
            "is not written as settings write it",
        )?;
    }
    Ok(())
}
