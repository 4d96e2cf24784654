//! Claims as written: cells that shall beat others, or lie near others or their published numbers,
//! checked against the cells.

use crate::axis::DraftAxis;
use crate::definition::{Cell, Claim, ClaimedPair, Measure, PublishedValue, Relation};
use crate::field::did_you_mean;
use crate::reader::{Mapping, Reader};
use crate::yaml::{Data, Node};

/// Maximum number of pairs of cells that the claims of a sweep compare.
pub(crate) const MAX_PAIRS: usize = 1000;

const KEYS: &[&str] = &["cells", "beats", "by", "within", "of", "value"];
const MEASURES: &[(&str, Measure)] = &[("last", Measure::Last), ("best", Measure::Best)];

/// Index of an axis, and the indices of the values that are meant.
type Named = Vec<(usize, Vec<u32>)>;

/// The other side of a claim.
enum Other {
    Cells(Named),
    Published,
}

/// Reads `claims:`. `default` is the measure of the first output.
pub(crate) fn read(
    reader: &mut Reader,
    node: &Node,
    axes: &[DraftAxis],
    cells: &[Cell],
    published: &[PublishedValue],
    default: Measure,
) -> Vec<Claim> {
    let mut claims = Vec::new();
    let mut pairs = 0;
    for item in reader.list(node, "`claims`").unwrap_or_default() {
        let of_sweep = OfSweep {
            axes,
            cells,
            published,
        };
        if let Some(claim) = read_claim(reader, item, &of_sweep, default) {
            pairs += claim.pairs.len();
            claims.push(claim);
        }
    }
    if pairs > MAX_PAIRS {
        reader.refuse(
            &node.at,
            format!("the claims compare {pairs} pairs of cells"),
            format!("at most {MAX_PAIRS}: name fewer cells"),
        );
    }
    claims
}

struct OfSweep<'a> {
    axes: &'a [DraftAxis],
    cells: &'a [Cell],
    published: &'a [PublishedValue],
}

fn read_claim(
    reader: &mut Reader,
    item: &Node,
    sweep: &OfSweep<'_>,
    default: Measure,
) -> Option<Claim> {
    let mapping = reader.mapping(item, "a claim", KEYS)?;
    let Some(cells) = mapping.get("cells") else {
        reader.refuse(
            &mapping.start(item),
            "a claim needs `cells`, and `beats` or `within`",
            "write {cells: {loss: cos, samples_per_class: [10, 25]}, beats: {loss: xent}}",
        );
        return None;
    };
    let named = read_cells(reader, cells, "`cells`", sweep.axes)?;
    let (other, relation) = read_relation(reader, item, &mapping, sweep.axes)?;
    let value = match mapping.get("value") {
        Some(node) => reader.word(node, "`value`", MEASURES)?,
        None => default,
    };
    let mut pairs = Vec::new();
    for (index, cell) in sweep.cells.iter().enumerate() {
        if named
            .iter()
            .all(|(axis, values)| values.contains(&cell.coordinates[*axis]))
        {
            let against = find_other(reader, cells, sweep, cell, &other)?;
            pairs.push(ClaimedPair {
                cell: index as u32,
                against,
            });
        }
    }
    if pairs.is_empty() {
        reader.refuse(
            &cells.at,
            "the claim is about no cell",
            "the sweep has no cell with all of these values: an exclusion removed it",
        );
        return None;
    }
    Some(Claim {
        text: describe(sweep.axes, &named, &other, relation),
        value,
        relation,
        pairs,
    })
}

/// Reads `beats` with `by`, or `within` with `of`.
fn read_relation(
    reader: &mut Reader,
    item: &Node,
    mapping: &Mapping<'_>,
    axes: &[DraftAxis],
) -> Option<(Other, Relation)> {
    let misplaced = |reader: &mut Reader, key: &str, needed: &str| {
        if let Some((key, _)) = mapping.0.iter().find(|(known, _)| known.text == key) {
            let message = format!("`{}` belongs to `{needed}`", key.text);
            reader.refuse(
                &key.at,
                message,
                "a claim is `beats` (`by`), or `within` and `of`",
            );
        }
    };
    match (mapping.get("beats"), mapping.get("within")) {
        (Some(beats), None) => {
            misplaced(reader, "of", "within");
            let other = Other::Cells(read_one_cell(reader, beats, "`beats`", axes)?);
            let by = match mapping.get("by") {
                Some(node) => read_points(reader, node, "`by`")?,
                None => 0.0,
            };
            Some((other, Relation::Beats { by }))
        }
        (None, Some(within)) => {
            misplaced(reader, "by", "beats");
            let points = read_points(reader, within, "`within`")?;
            let Some(of) = mapping.get("of") else {
                reader.refuse(
                    &within.at,
                    "`within` needs `of`",
                    "write `of: published`, or `of: {loss: xent}`",
                );
                return None;
            };
            let other = match &of.data {
                Data::Text(text) if text == "published" => Other::Published,
                Data::Text(text) => {
                    let help = did_you_mean(text, std::iter::once("published"))
                        .unwrap_or_else(|| "write `published`, or {loss: xent}".to_owned());
                    reader.refuse(&of.at, format!("`of` is `{text}`"), help);
                    return None;
                }
                _ => Other::Cells(read_one_cell(reader, of, "`of`", axes)?),
            };
            Some((other, Relation::Within { points }))
        }
        _ => {
            reader.refuse(
                &mapping.start(item),
                "a claim needs either `beats` or `within`",
                "write `beats: {loss: xent}`, or `within: 1.5` and `of: published`",
            );
            None
        }
    }
}

/// Reads a number of points, in per cent of the images.
pub(crate) fn read_points(reader: &mut Reader, node: &Node, what: &str) -> Option<f64> {
    let points = reader.number(node, what)?;
    if (0.0..=100.0).contains(&points) {
        return Some(points);
    }
    reader.refuse(
        &node.at,
        format!("{what} is {points}"),
        "write points of accuracy in per cent, from 0 to 100",
    );
    None
}

/// Reads `{axis: value, axis: [value, value]}`.
fn read_cells(reader: &mut Reader, node: &Node, what: &str, axes: &[DraftAxis]) -> Option<Named> {
    let before = reader.problems.len();
    let mapping = reader.mapping(node, what, &[])?;
    if mapping.0.is_empty() {
        reader.refuse(
            &node.at,
            format!("{what} names nothing"),
            "write {axis: value}",
        );
    }
    let mut named = Vec::new();
    for (key, value) in mapping.0 {
        let Some(index) = axes.iter().position(|axis| axis.name == key.text) else {
            let names: Vec<&str> = axes.iter().map(|axis| axis.name.as_str()).collect();
            let help = did_you_mean(&key.text, names.iter().copied())
                .unwrap_or_else(|| format!("axes of this sweep: {}", names.join(", ")));
            reader.refuse(&key.at, format!("no axis is called `{}`", key.text), help);
            continue;
        };
        let items = reader.one_or_many(value);
        if items.is_empty() {
            reader.report(reader.problem(&value.at, format!("`{}` lists no value", key.text)));
        }
        let values = items.iter();
        let values = values.filter_map(|item| axes[index].value_index(reader, item));
        named.push((index, values.collect()));
    }
    (reader.problems.len() == before).then_some(named)
}

/// Reads `{axis: value}`, which gives each cell of the claim exactly one other cell.
fn read_one_cell(
    reader: &mut Reader,
    node: &Node,
    what: &str,
    axes: &[DraftAxis],
) -> Option<Named> {
    let named = read_cells(reader, node, what, axes)?;
    if let Some((axis, _)) = named.iter().find(|(_, values)| values.len() > 1) {
        reader.refuse(
            &node.at,
            format!("{what} names several values of `{}`", axes[*axis].name),
            "write one claim for each",
        );
        return None;
    }
    Some(named)
}

/// Finds what a cell of a claim is compared with: the cell that has the named values and is
/// otherwise equal, or, as `None`, its published number.
fn find_other(
    reader: &mut Reader,
    place: &Node,
    sweep: &OfSweep<'_>,
    cell: &Cell,
    other: &Other,
) -> Option<Option<u32>> {
    let name = |coordinates: &[u32]| {
        let values = sweep.axes.iter().zip(coordinates);
        let values = values.map(|(axis, &value)| axis.values[value as usize].name.as_str());
        values.collect::<Vec<_>>().join("/")
    };
    let Other::Cells(named) = other else {
        let matches = |value: &PublishedValue| {
            value.cell.iter().all(|(axis, value)| {
                let mut along = sweep.axes.iter().zip(&cell.coordinates);
                along.any(|(known, &at)| {
                    known.name == *axis && known.values[at as usize].name == *value
                })
            })
        };
        if sweep.published.iter().any(matches) {
            return Some(None);
        }
        let message = format!("cell `{}` has no published number", name(&cell.coordinates));
        let help = "add it to `published`, or name in `cells` only those that have one";
        reader.refuse(&place.at, message, help);
        return None;
    };
    let mut coordinates = cell.coordinates.clone();
    for (axis, values) in named {
        coordinates[*axis] = values[0];
    }
    if coordinates == cell.coordinates {
        let message = format!("cell `{}` is compared with itself", name(&coordinates));
        let help = "name other values on the two sides of the claim";
        reader.refuse(&place.at, message, help);
        return None;
    }
    let found = sweep
        .cells
        .iter()
        .position(|other| other.coordinates == coordinates);
    if found.is_none() {
        let message = format!(
            "cell `{}` is compared with `{}`, which the sweep does not have",
            name(&cell.coordinates),
            name(&coordinates)
        );
        let help = "remove the exclusion, or name other cells in the claim";
        reader.refuse(&place.at, message, help);
    }
    found.map(|index| Some(index as u32))
}

/// Describes a claim in words: `cos beats xent at samples per class 10 and 25`.
fn describe(axes: &[DraftAxis], named: &Named, other: &Other, relation: Relation) -> String {
    let labels = |axis: usize, values: &[u32]| {
        let labels = values.iter();
        let labels = labels.map(|&value| axes[axis].values[value as usize].label.as_str());
        let labels: Vec<&str> = labels.collect();
        match labels.split_last() {
            Some((last, [])) => (*last).to_owned(),
            Some((last, others)) => format!("{} and {last}", others.join(", ")),
            None => String::new(),
        }
    };
    let compared: &[(usize, Vec<u32>)] = match other {
        Other::Cells(cells) => cells,
        Other::Published => &[],
    };
    let is_compared = |axis: usize| compared.iter().any(|(other, _)| *other == axis);
    let on_both = named.iter().any(|(axis, _)| is_compared(*axis));
    let (mut subject, mut places) = (Vec::new(), Vec::new());
    for (axis, values) in named {
        // Without an axis of both sides, the first one is the subject.
        if is_compared(*axis) || (!on_both && subject.is_empty()) {
            subject.push(labels(*axis, values));
        } else {
            let heading = axes[*axis].name.replace('_', " ");
            places.push(format!("{heading} {}", labels(*axis, values)));
        }
    }
    let object: Vec<String> = compared
        .iter()
        .map(|(axis, values)| labels(*axis, values))
        .collect();
    let object = match other {
        Other::Cells(_) => object.join(" / "),
        Other::Published => "the published number".to_owned(),
    };
    let relation = match relation {
        Relation::Beats { by } if by > 0.0 => {
            format!("beats {object} by more than {by} points")
        }
        Relation::Beats { .. } => format!("beats {object}"),
        Relation::Within { points } => format!("is within {points} points of {object}"),
    };
    let subject = subject.join(" / ");
    match places.is_empty() {
        true => format!("{subject} {relation}"),
        false => format!("{subject} {relation} at {}", places.join(", ")),
    }
}
