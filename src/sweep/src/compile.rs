//! Compiles the text of a sweep file: reads, expands, checks outputs, and collects every problem on
//! the way.

use std::path::Path;

use crate::claims;
use crate::definition::{Output, Select, Sweep};
use crate::diagnostic::{Errors, source};
use crate::draft::{self, Draft};
use crate::expand::{self, Expanded};
use crate::inputs::Inputs;
use crate::load::{FindSide, MAX_FILE_BYTES, ReadFile};
use crate::output;
use crate::published::{self, Published};
use crate::reader::Reader;
use crate::trainer::Trainer;
use crate::yaml;

pub(crate) fn compile(
    name: &str,
    text: &str,
    read_file: ReadFile<'_>,
    find_side: FindSide<'_>,
) -> Result<Sweep, Errors> {
    if text.len() as u64 > MAX_FILE_BYTES {
        let reader = Reader::new(source(name, ""));
        let message = format!("the file is larger than {} MiB", MAX_FILE_BYTES >> 20);
        let problem = reader.problem(&(0..0), message);
        return Err(problem.help("is it a sweep file?").into());
    }
    let mut reader = Reader::new(source(name, text));
    let root = match yaml::parse(text) {
        Ok(Some(root)) => root,
        Ok(None) => {
            let problem = reader.problem(&(0..0), "the file is empty");
            return Err(problem
                .help("start from sweeps/quickstart.yaml; docs/sweep-file.md describes every key")
                .into());
        }
        Err(error) => {
            let problem = reader.problem(&error.at, error.message);
            return Err(problem.help(error.help).into());
        }
    };
    let stem = Path::new(name)
        .file_stem()
        .map_or_else(|| "sweep".into(), |stem| stem.to_string_lossy());
    let draft = draft::read(&mut reader, &root, &stem);
    let sweep = draft.and_then(|draft| assemble(&mut reader, &draft, text, read_file, find_side));
    match (Errors::of(reader.problems), sweep) {
        (Some(errors), _) => Err(errors),
        (None, Some(sweep)) => Ok(sweep),
        (None, None) => unreachable!("what does not compile has a problem"),
    }
}

/// Checks everything that can be checked, even if an earlier part was wrong.
fn assemble(
    reader: &mut Reader,
    draft: &Draft<'_>,
    text: &str,
    read_file: ReadFile<'_>,
    find_side: FindSide<'_>,
) -> Option<Sweep> {
    let outputs = draft
        .outputs
        .map(|node| output::read(reader, node, &draft.axes));
    let expanded = match reader.problems.is_empty() {
        true => expand::expand(reader, draft, find_side),
        false => {
            expand::report_conflicts(reader, draft);
            None
        }
    };
    let cells = expanded.as_ref().map(|expanded| expanded.cells.as_slice());
    let published = draft
        .published
        .map(|node| published::read(reader, node, &draft.axes, cells, read_file));
    let Published { values, footnotes } = published.unwrap_or_default();
    let Expanded { base, cells } = expanded?;
    let axes: Vec<_> = draft.axes.iter().map(|axis| axis.compiled()).collect();
    let outputs =
        outputs.unwrap_or_else(|| output::default_outputs(&axes, &draft.name, &draft.description));
    check_seed_budget(reader, draft, &outputs);
    let claims = draft.claims.map(|node| {
        let default = outputs[0].value();
        claims::read(reader, node, &draft.axes, &cells, &values, default)
    });
    Some(Sweep {
        name: draft.name.clone(),
        description: draft.description.clone(),
        recipe: draft.recipe.clone(),
        program: draft.program.clone(),
        base,
        axes,
        cells,
        seeds: draft.seeds.clone(),
        seed_budget: draft.seed_budget.as_ref().map(|(_, budget)| budget.clone()),
        search: draft.search.as_ref().map(|search| search.search.clone()),
        outputs,
        published: values,
        footnotes,
        claims: claims.unwrap_or_default(),
        on_failure: draft.on_failure,
        keep: draft.keep.clone(),
        resources: draft.resources.clone(),
        smoke: false,
        inputs: Inputs::new(),
        trainer: Trainer::BuiltIn,
        source: text.to_owned(),
    })
}

/// Refuses a budget of seeds beside what decides by another rule.
fn check_seed_budget(reader: &mut Reader, draft: &Draft<'_>, outputs: &[Output]) {
    let Some((at, _)) = &draft.seed_budget else {
        return;
    };
    let has_baseline = |output: &Output| match output {
        Output::Table(table) => !table.baseline.is_empty(),
        Output::Figure(_) => false,
    };
    if outputs.iter().any(has_baseline) {
        reader.refuse(
            at,
            "`until: decided` compares cells with the best, and a table with its `baseline`",
            "remove the `baseline`, or write a fixed number of seeds",
        );
    }
    let search = draft.search.as_ref().map(|search| &search.search);
    if search.is_some_and(|search| search.select == Select::BestOnTest) {
        reader.refuse(
            at,
            "`until: decided` has no use with `select: best_on_test`",
            "candidates chosen on the test set are no fair ranking: write `select: validation`, or a fixed number of seeds",
        );
    }
}
