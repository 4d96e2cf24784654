//! Problems with outputs and published numbers.

use super::{GOOD, check};

#[test]
fn wrong_outputs() {
    let out = |body: &str| format!("{GOOD}outputs:\n  - {body}\n");
    let table = "table: {rows: loss, columns: samples_per_class";
    for (body, column, message, help) in [
        (
            "table: {rows: loss}",
            13,
            "no place for axis `samples_per_class`",
            "columns",
        ),
        (
            "table: {rows: loss, columns: [samples_per_class, loss]}",
            54,
            "used twice",
            "",
        ),
        (
            "table: {rows: los, columns: samples_per_class}",
            19,
            "no axis is called `los`",
            "`loss`",
        ),
        ("TABLE, value: mean}", 60, "`mean`", "last"),
        (
            "TABLE, baseline: {los: xent}}",
            64,
            "no axis is called `los`",
            "`loss`",
        ),
        (
            "TABLE, baseline: {loss: xnt}}",
            70,
            "has no value `xnt`",
            "`xent`",
        ),
        ("TABLE, baseline: xent}", 63, "`baseline` is", ""),
        ("TABLE, spread: sem}", 61, "`spread` is `sem`", "`se`"),
        (
            "TABLE, style: tables}",
            60,
            "`style` is `tables`",
            "`table`",
        ),
        (
            "TABLE, marks: none}",
            60,
            "`marks` is text",
            "true or false",
        ),
        ("TABLE, name: results}", 5, "cannot be called `results`", ""),
        ("tabel: {rows: loss}", 5, "no key `tabel`", "`table`"),
        (
            "figure: {series: [loss, samples_per_class]}",
            14,
            "`x` of a figure is one axis",
            "",
        ),
        (
            "figure: {x: [samples_per_class, loss]}",
            17,
            "`x` of a figure is one axis",
            "",
        ),
    ] {
        check(
            &out(&body.replace("TABLE", table)),
            (7, column),
            message,
            help,
        );
    }
    let twice = "table: {rows: loss, columns: samples_per_class}\n  - table: {rows: samples_per_class, columns: loss}";
    check(&out(twice), (8, 5), "two outputs are called `table`", "");
}

#[test]
fn wrong_published_numbers() {
    let published = |body: &str| format!("{GOOD}published: {{{body}}}\n");
    for (body, column, message, help) in [
        ("file: gone.yaml", 19, "cannot read gone.yaml", "relative"),
        ("axes: [loss, model], values: {}", 26, "no axis", ""),
        ("axes: loss, values: {mse: 1}", 34, "no value `mse`", ""),
        ("axes: loss, values: {cos: 101}", 39, "101 per cent", ""),
        (
            "axes: loss, values: {cos: {value: 2, footnote: a}}",
            60,
            "no footnote",
            "",
        ),
        (
            "axes: loss, values: {cos: 0.91}",
            39,
            "0.91: in per cent?",
            "write 91.0",
        ),
        (
            "axes: loss, values: {xent: 51.9, cos: {value: 1}}",
            59,
            "1: in per cent?",
            "`1 %`",
        ),
        ("axes: loss, values: {cos: 101 %}", 39, "101 per cent", ""),
        ("axes: loss, values: {cos: high %}", 39, "not a number", ""),
        ("axes: loss, values: {cos: high}", 39, "not a number", ""),
    ] {
        check(&published(body), (6, column), message, help);
    }
    let excluded = format!(
        "{}exclude: [{{when: {{loss: cos}}}}]\n",
        published("axes: loss, values: {cos: 50}")
    );
    check(&excluded, (6, 39), "does not have", "exclusion");
    let in_file = sweep::parse("test.yaml", &published("file: other.yaml"), &|_| {
        Ok("axes: loss\nvalues:\n  mse: 2\n".into())
    });
    let errors = in_file.unwrap_err();
    assert_eq!(
        (errors.problems()[0].file(), errors.problems()[0].position()),
        ("other.yaml", (3, 3))
    );
}
