//! docs/sweep-file.md is correct: its examples compile, and its table of fields matches the
//! program's.

use std::path::Path;

use sweep::field::{FIELDS, Kind};

fn reference() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/sweep-file.md"))
        .unwrap()
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

/// Formats the possible values of a field like the reference.
fn values(kind: &Kind) -> String {
    match kind {
        Kind::Choice(words) => words
            .iter()
            .map(|word| format!("`{word}`"))
            .collect::<Vec<_>>()
            .join(" "),
        Kind::Record(parts) => format!(
            "`{{{}}}`",
            parts
                .iter()
                .map(|part| part.name)
                .collect::<Vec<_>>()
                .join(", ")
        ),
        Kind::Variant(variants) => {
            let shape = |(name, parts): &(&str, &[sweep::field::Part])| match parts.is_empty() {
                true => format!("`{name}`"),
                false => {
                    format!(
                        "`{{{name}: {{{}}}}}`",
                        parts
                            .iter()
                            .map(|part| part.name)
                            .collect::<Vec<_>>()
                            .join(", ")
                    )
                }
            };
            variants.iter().map(shape).collect::<Vec<_>>().join(" ")
        }
        other => other.expected(),
    }
}

#[test]
fn every_field_is_described_with_its_values() {
    let text = reference();
    let rows: Vec<&str> = text
        .lines()
        .skip_while(|line| *line != "| field | values | meaning |")
        .skip(2)
        .collect();
    for (field, row) in FIELDS.iter().zip(rows) {
        let optional = if field.optional { " *or null*" } else { "" };
        let start = format!("| `{}` | {}{optional} | ", field.name, values(&field.kind));
        assert!(
            row.starts_with(&start),
            "expected a row\n{start}... |\nfound\n{row}"
        );
        assert!(row.len() > start.len() + 3 && row.ends_with(" |"), "{row}");
    }
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
