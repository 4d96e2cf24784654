//! The output for people, compared with files in `tests/goldens`.

mod fixture;

use schedule::state::State;

fn check(name: &str, found: &str) {
    tests::golden::assert_file(format!("tests/goldens/{name}"), found);
}

fn file(state: &State, sweep: &str, name: &str) -> String {
    let report = fixture::report_of(state, sweep);
    let (_, content) = report
        .files
        .into_iter()
        .find(|(file, _)| file == name)
        .expect("the report has the file");
    String::from_utf8(content).expect("reports are UTF-8")
}

#[test]
fn every_status_at_80_and_120_columns() {
    let state = fixture::every_status();
    for width in [80, 120] {
        let text = report::report_at(&state, &mut fixture::Stored, "statuses", width)
            .unwrap()
            .text;
        assert!(
            text.lines().all(|line| line.chars().count() <= width),
            "wider than {width}:\n{text}"
        );
        check(&format!("statuses.{width}.txt"), &text);
    }
}

#[test]
fn every_status_in_markup_and_data() {
    let state = fixture::every_status();
    for name in [
        "main.md",
        "main.tex",
        "main.csv",
        "results.csv",
        "curves.csv",
        "classes.csv",
        "timing.csv",
        "growth.svg",
    ] {
        check(&format!("statuses.{name}"), &file(&state, "statuses", name));
    }
}

#[test]
fn two_axes_on_each_side() {
    let state = fixture::nested();
    check(
        "nested.80.txt",
        &report::report_at(&state, &mut fixture::Stored, "nested", 80)
            .unwrap()
            .text,
    );
    check(
        "nested.120.txt",
        &report::report_at(&state, &mut fixture::Stored, "nested", 120)
            .unwrap()
            .text,
    );
    check("nested.md", &file(&state, "nested", "nested.md"));
    check("nested.tex", &file(&state, "nested", "nested.tex"));
}

#[test]
fn the_papers_protocol_is_labelled() {
    let state = fixture::searched();
    check(
        "searched.80.txt",
        &report::report_at(&state, &mut fixture::Stored, "searched", 80)
            .unwrap()
            .text,
    );
    let why = report::why(&state, "searched", "xent").unwrap();
    assert_eq!(why.json["cell"]["best"]["candidate"]["learning_rate"], 0.5);
    check("searched.why.txt", &why.text);
}

#[test]
fn why_a_cell_is_what_it_is() {
    let state = fixture::every_status();
    let whole: String = ["cos/10", "mse/10", "cos_xent/10", "cos_xent/50"]
        .map(|cell| report::why(&state, "statuses", cell).unwrap().text)
        .join("\n================\n\n");
    check("statuses.why.txt", &whole);
}

#[test]
fn panels_points_and_legends_are_drawn_where_they_were() {
    let mut panels = fixture::nested();
    let entry = panels.sweeps.get_mut("nested").expect("it exists");
    let lines = fixture::figure("samples_per_class", &["model", "loss"], Some("dataset"));
    std::sync::Arc::make_mut(&mut entry.sweep).outputs = vec![lines];
    let one_point = fixture::drawn(&["7"]);
    for (name, state, sweep) in [
        ("panels", &panels, "nested"),
        ("point", &one_point, "drawn"),
    ] {
        check(&format!("{name}.svg"), &file(state, sweep, "drawn.svg"));
    }
    let numbers = fixture::drawn(&["5", "10", "100"]);
    let text = |state: &State, sweep: &str, width| {
        report::report_at(state, &mut fixture::Stored, sweep, width)
            .expect("it exists")
            .text
    };
    let drawn: Vec<String> = [60, 80]
        .iter()
        .flat_map(|width| {
            [
                text(&panels, "nested", *width),
                text(&numbers, "drawn", *width),
            ]
        })
        .collect();
    check("panels.txt", &drawn.join("\n"));
}
