//! Tables that docs/ARCHITECTURE.md prints and that tests of this crate keep up to date.

/// Requires the table between its two markers to be `table`.
pub(crate) fn assert_table(name: &str, table: &str) {
    tests::golden::assert_part(
        "../../docs/ARCHITECTURE.md",
        &format!("<!-- table of {name}: written by a test -->\n"),
        &format!("<!-- /table of {name} -->"),
        table,
    );
}
