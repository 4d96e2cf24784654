//! Where the settings of a cell come from.

use sweep::definition::Sweep;

fn parsed(text: &str) -> Sweep {
    match sweep::parse(
        "a.yaml",
        text,
        &|_| Err(std::io::ErrorKind::NotFound.into()),
    ) {
        Ok(sweep) => sweep,
        Err(errors) => panic!("{}", errors.render(sweep::Style::default())),
    }
}

fn origin(sweep: &Sweep, cell: &str, of_search: bool, name: &str) -> String {
    let cell = &sweep.cells[sweep.find_cell(cell).expect("it is a cell")];
    sweep.origins(cell, of_search)[name].to_string()
}

const SWEEP: &str = "
recipe: quick
set: {dataset: digits, batch_size: 20}
axes:
  loss: [xent, cos]
  rate:
    - {name: low, set: {learning_rate: 0.01}}
    - {name: high, set: {learning_rate: 0.1}}
overrides:
  - {when: {loss: xent}, set: {model: resnet-20}}
  - {when: {loss: cos, learning_rate: 0.1}, set: {weight_decay: 0.25}}
";

#[test]
fn each_part_of_a_file_is_an_origin() {
    let sweep = parsed(SWEEP);
    for (cell, name, expected) in [
        ("xent/low", "dataset", "set"),
        ("xent/low", "batch_size", "set"),
        ("xent/low", "loss", "axis loss"),
        ("xent/low", "learning_rate", "bundle low of axis rate"),
        ("cos/high", "learning_rate", "bundle high of axis rate"),
        ("xent/low", "model", "override 1"),
        ("cos/low", "softmax", "recipe quick"),
        ("cos/low", "weight_decay", "default"),
        ("cos/high", "weight_decay", "override 2"),
    ] {
        assert_eq!(origin(&sweep, cell, false, name), expected, "{cell} {name}");
    }
    let cell = &sweep.cells[0];
    let origins = sweep.origins(cell, false);
    let fields = sweep.cell_settings(cell).fields();
    assert!(
        fields
            .keys()
            .all(|name| origins.contains_key(name.as_str()))
    );
}

#[test]
fn the_field_of_a_search_comes_from_it_in_the_trials_of_a_candidate() {
    let sweep = parsed(
        "recipe: quick\nset: {dataset: digits}\nsearch: {field: learning_rate, candidates: [1, 0.1]}\n",
    );
    let cell = &sweep.cells[0];
    let of = |of_search| sweep.origins(cell, of_search)["learning_rate"].to_string();
    assert_eq!(
        (of(true).as_str(), of(false).as_str()),
        ("search", "default")
    );
}
