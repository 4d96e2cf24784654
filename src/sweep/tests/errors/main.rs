//! Every kind of problem in a sweep file: the place, the message and the help.

mod file;
mod grid;
mod outputs;
mod values;

use std::io;

use sweep::{Errors, Style, Sweep};

fn no_files(_: &str) -> io::Result<String> {
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        "there are no files here",
    ))
}

fn parse(text: &str) -> Result<Sweep, Errors> {
    sweep::parse("test.yaml", text, &no_files)
}

const GOOD: &str = "\
recipe: quick
set: {dataset: digits}
axes:
  loss: [xent, cos]
  samples_per_class: [5, 10]
";

/// Checks the `line:column` of the first problem, and text that its message and help must contain.
fn check(text: &str, place: (usize, usize), message: &str, help: &str) {
    let errors = match parse(text) {
        Ok(sweep) => panic!("compiled to {} cells:\n{text}", sweep.cells.len()),
        Err(errors) => errors,
    };
    let found = errors
        .problems()
        .iter()
        .find(|problem| problem.message().contains(message));
    let problem = found.unwrap_or_else(|| panic!("no `{message}` in\n{errors}\nfor\n{text}"));
    assert_eq!(problem.position(), place, "{errors}\nfor\n{text}");
    let advice = problem.help_text().unwrap_or_default();
    assert!(advice.contains(help), "`{help}` is not in `{advice}`");
    let drawn = errors.render(Style::default());
    assert!(drawn.contains("test.yaml"), "{drawn}");
    assert!(!drawn.contains('\u{1b}'), "no colours asked for: {drawn:?}");
}

#[test]
fn the_file_that_these_tests_change_compiles() {
    assert_eq!(
        parse(GOOD)
            .map(|sweep| sweep.cells.len())
            .map_err(|errors| errors.to_string()),
        Ok(4)
    );
}

#[test]
fn every_problem_of_a_file_is_reported_in_order() {
    let text = "\
recipe: quick
sedes: 3
set: {dataset: digits, flip: 3, lerning_rate: 1}
axes:
  loss: [cos, coss]
overrides:
  - {when: {loss: [cos, mse], model: resnet-9}, set: {momentum: 2}}
outputs:
  - table: {rows: los}
";
    let errors = parse(text).unwrap_err();
    let places: Vec<_> = errors
        .problems()
        .iter()
        .map(|problem| problem.position())
        .collect();
    assert_eq!(
        places,
        [(2, 1), (3, 30), (3, 33), (5, 15), (7, 38), (7, 65), (9, 19)],
        "{errors}"
    );
    assert!(errors.render(Style::default()).contains("7 problems"));
}

#[test]
fn a_message_shows_the_line_and_what_to_do() {
    let errors = parse("recipe: quick\nset: {dataset: digits, los: cos}\n").unwrap_err();
    assert_eq!(
        errors.to_string(),
        "test.yaml:2:24: no field is called `los` (did you mean `loss`?)"
    );
    let drawn = errors.render(Style {
        colour: false,
        width: 80,
    });
    let expected = "  x no field is called `los`
   ,-[test.yaml:2:24]
 1 | recipe: quick
 2 | set: {dataset: digits, los: cos}
   :                        ^|^
   :                         `-- unknown field
   `----
  help: did you mean `loss`?

";
    assert_eq!(drawn, expected);
    assert!(
        errors
            .render(Style {
                colour: true,
                width: 80
            })
            .contains('\u{1b}')
    );
}
