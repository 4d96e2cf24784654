//! Tables typeset by a real LaTeX: `.ci/run` installs one and runs this. Where there is none, the
//! unit tests of `escape.rs` check the same promise.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use schedule::state::State;
use sweep::definition::{Measure, Output, Style};

use crate::fixture::{axis, every_status_in, report_of, state, succeeded, sweep, table};

/// Rows that fit on a page.
const ROWS: usize = 30;
/// Columns that fit beside each other.
const COLUMNS: usize = 5;

fn run(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .output();
    let output = output.unwrap_or_else(|error| panic!("{program} cannot be started: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} failed:\n{text}");
    text
}

/// Returns the text on the pages of a document, whose end is added.
fn typeset(document: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let document = format!("{document}\\end{{document}}\n");
    std::fs::write(folder.path().join("labels.tex"), document).expect("the folder can be written");
    // twice, so that captions appear in the list of tables, and the legend of a figure
    for _ in 0..2 {
        run(
            folder.path(),
            "pdflatex",
            &["-interaction=nonstopmode", "-halt-on-error", "labels.tex"],
        );
    }
    if let Some(kept) = std::env::var_os("KEEP_PDF") {
        std::fs::copy(folder.path().join("labels.pdf"), kept).expect("the PDF can be copied");
    }
    run(folder.path(), "pdftotext", &["-layout", "labels.pdf", "-"])
}

/// Returns the words on the pages of a document whose tables, in each of these looks, have groups of
/// labels as rows, the first of each as columns, and the very first as caption.
fn words(labels: &[String], rows: usize, looks: &[(Style, bool)]) -> Vec<String> {
    let mut document = "\\documentclass{article}\n\\usepackage{booktabs,siunitx,rotating}\n\
        \\begin{document}\n\\listoftables\n"
        .to_owned();
    for group in labels.chunks(rows) {
        let names: Vec<String> = (0..group.len()).map(|place| format!("v{place}")).collect();
        let values: Vec<(&str, &str)> = names
            .iter()
            .map(String::as_str)
            .zip(group.iter().map(String::as_str))
            .collect();
        let columns = &values[..values.len().min(COLUMNS)];
        for (style, siunitx) in looks {
            let axes = vec![axis("loss", &values), axis("across", columns)];
            let mut sweep = sweep("labels", axes, &[1, 2], |_| true);
            for cell in &mut sweep.cells {
                cell.set.clear();
            }
            let mut table = table("main", &group[0], &["loss"], &["across"], Measure::Last);
            table.look.style = *style;
            table.look.siunitx = *siunitx;
            sweep.outputs = vec![Output::Table(table)];
            let state = state(sweep, |_, _, _| succeeded(0.5));
            let tex = tex(&state, "labels", "main.tex");
            let _ = writeln!(document, "{tex}\\clearpage");
        }
    }
    let text = typeset(&document);
    let plain = |character: char| match character {
        '’' | '‘' => '\'',
        '”' => '"',
        'ˆ' => '^',
        '˜' => '~',
        other => other,
    };
    text.split_whitespace()
        .map(|word| word.chars().map(plain).collect())
        .collect()
}

/// Every style, without and with siunitx.
const LOOKS: [(Style, bool); 8] = [
    (Style::Table, false),
    (Style::Table, true),
    (Style::Wide, false),
    (Style::Wide, true),
    (Style::Sideways, false),
    (Style::Sideways, true),
    (Style::Tabular, false),
    (Style::Tabular, true),
];

#[test]
#[ignore = "needs pdflatex, booktabs and pdftotext, which .ci/run installs"]
fn every_label_survives_a_real_latex() {
    // at the beginning, doubled, inside and at the end
    let labels: Vec<String> = ('!'..='~')
        .map(|symbol| format!("{symbol}{symbol}Q{symbol}Q{symbol}"))
        .collect();
    let found = words(&labels, COLUMNS, &LOOKS);
    // an underscore is drawn as a rule, which is not text
    for label in labels.iter().filter(|label| !label.contains('_')) {
        let count = found.iter().filter(|word| *word == label).count();
        // as a row and as a column of each table
        assert!(
            count >= 2 * LOOKS.len(),
            "{label} is {count} times on the pages: {found:?}"
        );
    }
}

#[test]
#[ignore = "needs pdflatex, booktabs and pdftotext, which .ci/run installs"]
fn characters_of_every_script_are_set_or_named() {
    let letters = '\u{a0}'..='\u{24f}';
    let others = ('\u{370}'..='\u{3ff}')
        .chain('\u{2000}'..='\u{23ff}')
        .chain("中😀\u{301}\u{200b}".chars());
    let labels: Vec<String> = letters
        .chain(others)
        .filter(|symbol| !symbol.is_control())
        .map(|symbol| format!("{symbol}Q"))
        .collect();
    let found = words(&labels, ROWS, &LOOKS[..1]);
    for known in ["U+4E2DQ", "U+1F600Q", "U+0301Q", "λQ", "≤Q", "—Q"] {
        assert!(
            found.iter().any(|word| word == known),
            "{known} is not on the pages: {found:?}"
        );
    }
}

/// Every style, with and without siunitx, and a figure: what the headers of the files ask for is
/// enough to set them, and the numbers are on the pages.
#[test]
#[ignore = "needs pdflatex, booktabs, siunitx, pgfplots and pdftotext, which .ci/run installs"]
fn every_style_and_a_figure_are_set_by_a_real_latex() {
    let mut document =
        "\\documentclass{article}\n\\usepackage{booktabs,siunitx,rotating,pgfplots}\n\
        \\usepgfplotslibrary{groupplots}\n\\begin{document}\n"
            .to_owned();
    let mut add = |tex: &str| {
        let _ = writeln!(document, "{tex}\\clearpage");
    };
    for (style, siunitx) in LOOKS {
        let state = every_status_in(|table| {
            table.look.style = style;
            table.look.siunitx = siunitx;
        });
        add(&tex(&state, "statuses", "main.tex"));
    }
    add(&tex(&every_status_in(|_| {}), "statuses", "growth.tex"));
    let text = typeset(&document);
    let dense: String = text.split_whitespace().collect();
    let count = |wanted: &str| dense.matches(wanted).count();
    // eight tables (two of them rotated) and one figure, with its axis, legend and caption
    assert!(count("90.2±0.4") == 8, "{text}");
    assert!(count("samplesperclass") == 10, "{text}");
    assert!(count("accuracy(%)") == 1, "{text}");
    assert!(count("seedsmissing") == 1, "{text}");
}

fn tex(state: &State, sweep: &str, name: &str) -> String {
    let report = report_of(state, sweep);
    let (_, tex) = report
        .files
        .iter()
        .find(|(file, _)| file == name)
        .expect("every output has a LaTeX file");
    String::from_utf8_lossy(tex).into_owned()
}
