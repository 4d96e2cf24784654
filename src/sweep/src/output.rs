//! Tables and figures as written, checked against the axes: each must have a place for every cell.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::axis::DraftAxis;
use crate::definition::{Axis, Figure, Look, Measure, Output, Overall, Spread, Style, Table};
use crate::field::did_you_mean;
use crate::reader::{Mapping, Reader};
use crate::yaml::{Data, Node};

const MEASURES: &[(&str, &[Measure])] = &[
    ("last", &[Measure::Last]),
    ("best", &[Measure::Best]),
    ("both", &[Measure::Last, Measure::Best]),
];

const OVERALL: &[(&str, Overall)] = &[("rank", Overall::Rank), ("iqm", Overall::Iqm)];

const STYLES: &[(&str, Style)] = &[
    ("table", Style::Table),
    ("table*", Style::Wide),
    ("sideways", Style::Sideways),
    ("tabular", Style::Tabular),
];

const SPREADS: &[(&str, Spread)] = &[
    ("std", Spread::Std),
    ("se", Spread::Se),
    ("ci95", Spread::Ci95),
];

/// Files of a report that do not belong to an output.
pub(crate) const RESERVED_NAMES: [&str; 6] = [
    "results", "timing", "curves", "classes", "manifest", "sweep",
];

pub(crate) fn read(reader: &mut Reader, node: &Node, axes: &[DraftAxis]) -> Vec<Output> {
    let Some(items) = reader.list(node, "`outputs`") else {
        return Vec::new();
    };
    if items.is_empty() {
        reader.refuse(
            &node.at,
            "`outputs` is empty",
            "remove it to get one table of all axes",
        );
    }
    let mut outputs = Vec::new();
    let mut names = BTreeSet::new();
    for item in items {
        let Some(mapping) = reader.mapping(item, "an output", &["table", "figure"]) else {
            continue;
        };
        if mapping.0.len() != 1 {
            reader.refuse(
                &item.at,
                "an output is either one `table` or one `figure`",
                "start a new `- ` item for each",
            );
        }
        for (key, body) in mapping.0 {
            let read = if key.text == "table" {
                read_table(reader, body, axes)
            } else {
                read_figure(reader, body, axes)
            };
            for output in read {
                if RESERVED_NAMES.contains(&output.name()) {
                    let message = format!("an output cannot be called `{}`", output.name());
                    reader.refuse(
                        &key.at,
                        message,
                        "every report has files of that name already: choose another `name`",
                    );
                }
                if !names.insert(output.name().to_owned()) {
                    let message = format!("two outputs are called `{}`", output.name());
                    reader.refuse(
                        &key.at,
                        message,
                        "give each a `name` of its own: it becomes a file's name",
                    );
                }
                outputs.push(output);
            }
        }
    }
    outputs
}

/// Returns the outputs of a sweep without `outputs`: one table, with data sets as columns if there
/// are several, otherwise the last axis with several values.
pub(crate) fn default_outputs(axes: &[Axis], name: &str, caption: &str) -> Vec<Output> {
    let several: Vec<&str> = axes
        .iter()
        .filter(|axis| axis.values.len() > 1)
        .map(|axis| axis.name.as_str())
        .collect();
    let column = match several.len() {
        0 | 1 => None,
        _ if several.contains(&"dataset") => Some("dataset"),
        _ => several.last().copied(),
    };
    let mut rows: Vec<String> = several
        .iter()
        .filter(|name| Some(**name) != column)
        .map(|name| (*name).to_owned())
        .collect();
    if rows.is_empty() {
        rows.extend(axes.first().map(|axis| axis.name.clone()));
    }
    let columns = column.map(str::to_owned).into_iter().collect();
    let name = if RESERVED_NAMES.contains(&name) {
        "table"
    } else {
        name
    };
    let table = Table {
        name: name.to_owned(),
        caption: caption.to_owned(),
        rows,
        columns,
        value: Measure::Last,
        baseline: BTreeMap::new(),
        tolerance: None,
        overall: None,
        look: Look::default(),
    };
    vec![Output::Table(table)]
}

fn read_table(reader: &mut Reader, node: &Node, axes: &[DraftAxis]) -> Vec<Output> {
    let keys = [
        "name",
        "caption",
        "rows",
        "columns",
        "value",
        "baseline",
        "tolerance",
        "overall",
        "spread",
        "marks",
        "style",
        "siunitx",
    ];
    let Some(mapping) = reader.mapping(node, "`table`", &keys) else {
        return Vec::new();
    };
    let rows = axis_list(reader, &mapping, "rows", axes);
    let columns = axis_list(reader, &mapping, "columns", axes);
    check_cover(
        reader,
        &mapping.start(node),
        "table",
        "`rows` or `columns`",
        &[&rows, &columns],
        axes,
    );
    let name = read_name(reader, &mapping, "table");
    let caption = read_caption(reader, &mapping);
    let baseline = read_baseline(reader, &mapping, axes);
    let tolerance = mapping
        .get("tolerance")
        .and_then(|node| crate::claims::read_points(reader, node, "`tolerance`"));
    let overall = mapping
        .get("overall")
        .and_then(|node| reader.word(node, "`overall`", OVERALL));
    let look = read_look(reader, &mapping);
    let make = |(name, value): (String, Measure)| {
        let (rows, columns) = (names(&rows), names(&columns));
        Output::Table(Table {
            name,
            caption: caption.clone(),
            rows,
            columns,
            value,
            baseline: baseline.clone(),
            tolerance,
            overall,
            look: look.clone(),
        })
    };
    measures(reader, &mapping, &name)
        .into_iter()
        .map(make)
        .collect()
}

fn read_look(reader: &mut Reader, mapping: &Mapping<'_>) -> Look {
    let mut look = Look::default();
    if let Some(node) = mapping.get("spread") {
        look.spread = reader.word(node, "`spread`", SPREADS).unwrap_or_default();
    }
    if let Some(node) = mapping.get("style") {
        look.style = reader.word(node, "`style`", STYLES).unwrap_or_default();
    }
    if let Some(node) = mapping.get("marks") {
        look.unmarked = reader.flag(node, "`marks`") == Some(false);
    }
    if let Some(node) = mapping.get("siunitx") {
        look.siunitx = reader.flag(node, "`siunitx`") == Some(true);
    }
    look
}

/// Reads `baseline: {loss: xent}`: axis to value, by name.
fn read_baseline(
    reader: &mut Reader,
    mapping: &Mapping<'_>,
    axes: &[DraftAxis],
) -> BTreeMap<String, String> {
    let named = mapping
        .get("baseline")
        .and_then(|node| reader.mapping(node, "`baseline`", &[]));
    let mut baseline = BTreeMap::new();
    for (key, node) in named.map_or_else(Vec::new, |named| named.0) {
        let Some(axis) = find_axis(reader, &key.text, &key.at, axes) else {
            continue;
        };
        if let Some(index) = axis.value_index(reader, node) {
            let value = axis.values[index as usize].name.clone();
            baseline.insert(axis.name.clone(), value);
        }
    }
    baseline
}

fn read_figure(reader: &mut Reader, node: &Node, axes: &[DraftAxis]) -> Vec<Output> {
    let keys = ["name", "caption", "x", "series", "panels", "value"];
    let Some(mapping) = reader.mapping(node, "`figure`", &keys) else {
        return Vec::new();
    };
    let x = axis_list(reader, &mapping, "x", axes);
    let series = axis_list(reader, &mapping, "series", axes);
    let panels = axis_list(reader, &mapping, "panels", axes);
    check_cover(
        reader,
        &mapping.start(node),
        "figure",
        "`x`, `series` or `panels`",
        &[&x, &series, &panels],
        axes,
    );
    for (key, list, needed) in [("x", &x, true), ("panels", &panels, false)] {
        if list.len() > 1 || (needed && mapping.get(key).is_none()) {
            let at = mapping
                .get(key)
                .map_or_else(|| mapping.start(node), |node| node.at.clone());
            reader.refuse(
                &at,
                format!("`{key}` of a figure is one axis"),
                format!("write `{key}: AXIS`; further axes can be `series`"),
            );
        }
    }
    let name = read_name(reader, &mapping, "figure");
    let caption = read_caption(reader, &mapping);
    let x = names(&x).into_iter().next().unwrap_or_default();
    let make = |(name, value): (String, Measure)| {
        let (series, panels) = (names(&series), names(&panels).into_iter().next());
        Output::Figure(Figure {
            name,
            caption: caption.clone(),
            x: x.clone(),
            series,
            panels,
            value,
        })
    };
    measures(reader, &mapping, &name)
        .into_iter()
        .map(make)
        .collect()
}

type AxisList = Vec<(String, Range<usize>)>;

fn names(list: &AxisList) -> Vec<String> {
    list.iter().map(|(name, _)| name.clone()).collect()
}

fn axis_list(
    reader: &mut Reader,
    mapping: &Mapping<'_>,
    key: &str,
    axes: &[DraftAxis],
) -> AxisList {
    let Some(node) = mapping.get(key) else {
        return Vec::new();
    };
    let mut list = Vec::new();
    for item in reader.one_or_many(node) {
        let Some(name) = reader.text(item, &format!("`{key}`")) else {
            continue;
        };
        if find_axis(reader, &name, &item.at, axes).is_some() {
            list.push((name, item.at.clone()));
        }
    }
    list
}

/// Finds an axis by its name; reports a problem if there is none.
fn find_axis<'a>(
    reader: &mut Reader,
    name: &str,
    at: &Range<usize>,
    axes: &'a [DraftAxis],
) -> Option<&'a DraftAxis> {
    let found = axes.iter().find(|axis| axis.name == name);
    if found.is_none() {
        let axes: Vec<&str> = axes.iter().map(|axis| axis.name.as_str()).collect();
        let help = did_you_mean(name, axes.iter().copied())
            .unwrap_or_else(|| format!("axes of this sweep: {}", axes.join(", ")));
        reader.refuse(at, format!("no axis is called `{name}`"), help);
    }
    found
}

/// Checks that every axis with several values has a place, and that no axis has two.
fn check_cover(
    reader: &mut Reader,
    at: &Range<usize>,
    what: &str,
    places: &str,
    lists: &[&AxisList],
    axes: &[DraftAxis],
) {
    let mut seen: Vec<&(String, Range<usize>)> = Vec::new();
    for entry in lists.iter().flat_map(|list| list.iter()) {
        if let Some((_, first)) = seen.iter().find(|(name, _)| *name == entry.0) {
            reader.report(
                reader
                    .problem(
                        &entry.1,
                        format!("axis `{}` is used twice in this {what}", entry.0),
                    )
                    .label("again")
                    .also(first.clone(), "first here"),
            );
        }
        seen.push(entry);
    }
    for axis in axes.iter().filter(|axis| axis.values.len() > 1) {
        if seen.iter().all(|(name, _)| *name != axis.name) {
            let message = format!(
                "the {what} has no place for axis `{}`, which has several values",
                axis.name
            );
            reader.report(
                reader
                    .problem(at, message)
                    .also(axis.at.clone(), "the axis")
                    .help(format!("add it to {places}")),
            );
        }
    }
}

fn read_name(reader: &mut Reader, mapping: &Mapping<'_>, default: &str) -> String {
    let Some(node) = mapping.get("name") else {
        return default.to_owned();
    };
    let name = reader
        .text(node, "`name`")
        .unwrap_or_else(|| default.to_owned());
    if let Err(reason) = crate::draft::check_name(&name) {
        reader.refuse(
            &node.at,
            format!("the name `{}` {reason}", name.escape_debug()),
            "it becomes a file's name",
        );
    }
    name
}

fn read_caption(reader: &mut Reader, mapping: &Mapping<'_>) -> String {
    mapping
        .get("caption")
        .and_then(|node| reader.text(node, "`caption`"))
        .unwrap_or_default()
}

/// Returns the measures and the name of each output: `both` makes two outputs.
fn measures(reader: &mut Reader, mapping: &Mapping<'_>, name: &str) -> Vec<(String, Measure)> {
    let value = mapping.get("value").and_then(|node| match &node.data {
        Data::Text(_) => reader.word(node, "`value`", MEASURES),
        _ => {
            reader.refuse(
                &node.at,
                format!("`value` is {}", node.kind()),
                "write last (after the last epoch), best (best epoch on the test set), or both",
            );
            None
        }
    });
    let suffix = |measure: Measure| {
        if measure == Measure::Best {
            "-best"
        } else {
            ""
        }
    };
    match value.unwrap_or(&[Measure::Last]) {
        [one] => vec![(name.to_owned(), *one)],
        several => several
            .iter()
            .map(|&measure| (format!("{name}{}", suffix(measure)), measure))
            .collect(),
    }
}

impl Output {
    pub fn name(&self) -> &str {
        match self {
            Self::Table(table) => &table.name,
            Self::Figure(figure) => &figure.name,
        }
    }

    pub fn value(&self) -> Measure {
        match self {
            Self::Table(table) => table.value,
            Self::Figure(figure) => figure.value,
        }
    }

    /// Returns the axes that have a place in it.
    pub fn axes(&self) -> Vec<&str> {
        match self {
            Self::Table(table) => table
                .rows
                .iter()
                .chain(&table.columns)
                .map(String::as_str)
                .collect(),
            Self::Figure(figure) => {
                let places = std::iter::once(&figure.x)
                    .chain(&figure.series)
                    .chain(&figure.panels);
                places.map(String::as_str).collect()
            }
        }
    }
}
