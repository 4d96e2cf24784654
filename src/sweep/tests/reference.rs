//! docs/sweep-file.md is correct: its examples compile, and its table of fields matches the
//! program's.

use std::path::{Path, PathBuf};

use sweep::field::{FIELDS, Kind, Part};

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/sweep-file.md")
}

fn reference() -> String {
    std::fs::read_to_string(path()).unwrap()
}

#[test]
fn every_example_compiles() {
    let text = reference();
    let examples: Vec<&str> = text
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(
        examples.len() >= 7,
        "only {} examples found",
        examples.len()
    );
    for example in examples {
        let no_files = |_: &str| Err(std::io::ErrorKind::NotFound.into());
        let sweep = sweep::parse("example.yaml", example, &no_files);
        let sweep = sweep.unwrap_or_else(|errors| panic!("{errors}\nin\n{example}"));
        assert_eq!(sweep.check(), Ok(()), "{example}");
    }
}

#[test]
fn the_first_example_has_the_size_that_is_claimed() {
    let text = reference();
    let example = text
        .split("```yaml\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let sweep = sweep::parse("example.yaml", example, &|_| {
        Err(std::io::ErrorKind::NotFound.into())
    })
    .unwrap();
    let summary = sweep.summary();
    assert_eq!((summary.cells, summary.result_trials), (4, 12));
}

fn names(parts: &[Part]) -> String {
    let names: Vec<&str> = parts.iter().map(|part| part.name).collect();
    names.join(", ")
}

/// Formats the possible values of a field like the reference.
fn values(kind: &Kind) -> String {
    match kind {
        Kind::Choice(words) => words
            .iter()
            .map(|word| format!("`{word}`"))
            .collect::<Vec<_>>()
            .join(" "),
        Kind::Record(parts) => format!("`{{{}}}`", names(parts)),
        Kind::RealOr(range, records) => {
            let records = records
                .iter()
                .map(|parts| format!("`{{{}}}`", names(parts)));
            let number = std::iter::once(Kind::Real(*range).expected());
            number.chain(records).collect::<Vec<_>>().join(", ")
        }
        Kind::Variant(variants) => {
            let shape = |(name, parts): &(&str, &[Part])| match parts.is_empty() {
                true => format!("`{name}`"),
                false => {
                    format!("`{{{name}: {{{}}}}}`", names(parts))
                }
            };
            variants.iter().map(shape).collect::<Vec<_>>().join(" ")
        }
        other => other.expected(),
    }
}

const TABLE_START: &str = "<!-- table of fields: written by a test -->\n";
const TABLE_END: &str = "<!-- /table of fields -->";

#[test]
fn the_table_of_fields_is_the_declaration_of_settings() {
    let mut table = "| field | values | meaning |\n|---|---|---|\n".to_owned();
    for field in FIELDS {
        let or_null = if field.optional { " *or null*" } else { "" };
        let row = [
            format!("`{}`", field.name),
            values(&field.kind) + or_null,
            field.meaning.trim().to_owned(),
        ];
        table += &format!("| {} |\n", row.join(" | "));
    }
    tests::golden::assert_part(path(), TABLE_START, TABLE_END, &table);
}

#[test]
fn every_recipe_data_set_and_key_is_named() {
    let text = reference();
    for (name, _) in sweep::recipe::RECIPES {
        assert!(text.contains(&format!("| `{name}` |")), "{name}");
    }
    for known in sweep::dataset::KNOWN {
        assert!(
            text.contains(&format!("`{}`", known.name)),
            "{}",
            known.name
        );
    }
}
