//! Tables that docs/ARCHITECTURE.md prints and that tests of this crate keep up to date.

/// Requires the table between its two markers to be `table`; with UPDATE_GOLDENS it is written.
pub(crate) fn assert_table(name: &str, table: &str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/ARCHITECTURE.md");
    let document = std::fs::read_to_string(path).unwrap();
    let begin = format!("<!-- table of {name}: written by a test -->\n");
    let end = format!("<!-- /table of {name} -->");
    let (before, rest) = document
        .split_once(&begin)
        .expect("the table has its place");
    let (written, after) = rest.split_once(&end).expect("the table has an end");
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        std::fs::write(path, format!("{before}{begin}{table}{end}{after}")).unwrap();
        return;
    }
    assert_eq!(
        written, table,
        "run this test with UPDATE_GOLDENS=1 and read the difference"
    );
}
