//! Comma-separated values that can be read back exactly: every column has a unique name, and text
//! stays text.

/// Formats one record. Quotes a field where RFC 4180 requires it, and where a reader might trim.
pub fn line(fields: impl IntoIterator<Item = String>) -> String {
    let mut line = String::new();
    for (position, field) in fields.into_iter().enumerate() {
        if position > 0 {
            line.push(',');
        }
        if field.contains([',', '"', '\n', '\r']) || field.trim() != field {
            line.push('"');
            line.push_str(&field.replace('"', "\"\""));
            line.push('"');
        } else {
            line.push_str(&field);
        }
    }
    line.push('\n');
    line
}

/// Formats text from a user as a field. A spreadsheet treats a field that begins with one of these
/// characters as a formula, which can run programs; a leading apostrophe makes it text. Numbers
/// stay numbers.
pub fn text(text: impl Into<String>) -> String {
    const FORMULA: [char; 10] = ['=', '+', '-', '@', '\t', '\r', '＝', '＋', '－', '＠'];
    let text = text.into();
    if text.starts_with(FORMULA) && text.parse::<f64>().is_err() {
        format!("'{text}")
    } else {
        text
    }
}

/// Returns the axes' names as column names: `axis_status` if `status` is taken by another column.
pub fn axis_columns<'a>(
    axes: impl Iterator<Item = &'a str> + Clone,
    others: &[&str],
) -> Vec<String> {
    let own: Vec<&str> = axes.clone().collect();
    let mut columns: Vec<String> = Vec::with_capacity(own.len());
    for axis in axes {
        let mut column = axis.to_owned();
        let taken =
            |column: &str| others.contains(&column) || columns.iter().any(|known| known == column);
        while taken(&column) || (column != axis && own.contains(&column.as_str())) {
            column.insert_str(0, "axis_");
        }
        columns.push(text(column));
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_have_names_of_their_own() {
        let columns =
            |axes: &[&str]| axis_columns(axes.iter().copied(), &["trial", "status", "axis_status"]);
        assert_eq!(columns(&["loss", "model"]), ["loss", "model"]);
        assert_eq!(
            columns(&["status", "trial"]),
            ["axis_axis_status", "axis_trial"]
        );
        assert_eq!(
            columns(&["trial", "axis_trial", "axis_axis_trial"]),
            ["axis_axis_axis_trial", "axis_trial", "axis_axis_trial"]
        );
    }

    #[test]
    fn formulas_become_text_and_numbers_stay_numbers() {
        for formula in [
            "=1+1",
            "+cmd|' /C calc'!A0",
            "-2+3",
            "@SUM(A1)",
            "\t=1",
            "\r=1",
            "＝1+1",
        ] {
            assert_eq!(text(formula), format!("'{formula}"));
        }
        for harmless in ["cos", "-0.5", "+3", "1e-3", "", "a=b", "'quoted'"] {
            assert_eq!(text(harmless), harmless);
        }
    }

    #[test]
    fn what_a_reader_could_misread_is_quoted() {
        let fields = ["plain", "a,b", "say \"x\"", "two\nlines", " padded", ""].map(str::to_owned);
        assert_eq!(
            line(fields),
            "plain,\"a,b\",\"say \"\"x\"\"\",\"two\nlines\",\" padded\",\n"
        );
    }
}
