//! Published numbers as written: nested by axis, each with its footnote, checked against the cells.

use std::collections::{BTreeMap, BTreeSet};

use crate::axis::DraftAxis;
use crate::definition::{Cell, PublishedValue};
use crate::diagnostic::source;
use crate::field::did_you_mean;
use crate::load::{MAX_FILE_BYTES, ReadFile};
use crate::reader::Reader;
use crate::share::Share;
use crate::yaml::{self, Data, Node};

#[derive(Default)]
pub(crate) struct Published {
    pub values: Vec<PublishedValue>,
    pub footnotes: Vec<String>,
}

/// Reads `published:`, one block or a list of them; a block is in the sweep, or in the `file` that
/// it names.
pub(crate) fn read(
    reader: &mut Reader,
    node: &Node,
    axes: &[DraftAxis],
    cells: Option<&[Cell]>,
    read_file: ReadFile<'_>,
) -> Published {
    let mut published = Published::default();
    for block in reader.one_or_many(node) {
        let Some(mapping) = reader.mapping(
            block,
            "`published`",
            &["file", "axes", "values", "footnotes"],
        ) else {
            continue;
        };
        let Some(file) = mapping.get("file") else {
            Block {
                reader,
                axes,
                cells,
                published: &mut published,
            }
            .read(block);
            continue;
        };
        if mapping.0.len() > 1 {
            reader.refuse(
                &file.at,
                "`file` stands alone",
                "make `published` a list: one item for the file, one for what stands here",
            );
        }
        let Some(path) = reader.text(file, "`published.file`") else {
            continue;
        };
        match read_file(&path) {
            Ok(text) if text.len() as u64 <= MAX_FILE_BYTES => {
                let mut inner = Reader::new(source(&path, text));
                read_in_file(&mut inner, axes, cells, &mut published);
                inner
                    .problems
                    .into_iter()
                    .for_each(|problem| reader.report(problem));
            }
            Ok(_) => {
                reader.report(reader.problem(&file.at, format!("{path} is too large")));
            }
            Err(error) => {
                reader.refuse(
                    &file.at,
                    format!("cannot read {path}: {error}"),
                    "paths are relative to the sweep file's folder",
                );
            }
        }
    }
    published
}

fn read_in_file(
    reader: &mut Reader,
    axes: &[DraftAxis],
    cells: Option<&[Cell]>,
    published: &mut Published,
) {
    let text = reader.source.inner().clone();
    match yaml::parse(&text) {
        Ok(Some(root)) => {
            for block in reader.one_or_many(&root) {
                Block {
                    reader,
                    axes,
                    cells,
                    published,
                }
                .read(block);
            }
        }
        Ok(None) => {
            reader.refuse(
                &(0..0),
                "the file is empty",
                "write `axes` and `values`, or remove `published`",
            );
        }
        Err(error) => {
            reader.refuse(&error.at, error.message, error.help);
        }
    }
}

struct Block<'r, 'a> {
    reader: &'r mut Reader,
    axes: &'a [DraftAxis],
    /// Absent if the sweep is too broken to have cells.
    cells: Option<&'a [Cell]>,
    published: &'r mut Published,
}

impl Block<'_, '_> {
    fn read(&mut self, node: &Node) {
        let Some(mapping) =
            self.reader
                .mapping(node, "`published`", &["axes", "values", "footnotes"])
        else {
            return;
        };
        let footnotes = self.read_footnotes(mapping.get("footnotes"));
        let (Some(order), Some(values)) = (mapping.get("axes"), mapping.get("values")) else {
            self.reader.refuse(
                &node.at,
                "`published` needs `axes` and `values`",
                "write {axes: [loss, dataset], values: {cos: {cub: 67.6}}}",
            );
            return;
        };
        let mut order_indices: Vec<usize> = Vec::new();
        for item in self.reader.one_or_many(order) {
            let Some(name) = self.reader.text(item, "an axis") else {
                return;
            };
            let index = self.axes.iter().position(|axis| axis.name == name);
            let Some(index) = index.filter(|index| !order_indices.contains(index)) else {
                self.reader.report(
                    self.reader
                        .problem(
                            &item.at,
                            format!("`{name}` is no axis, or the same one again"),
                        )
                        .maybe_help(did_you_mean(
                            &name,
                            self.axes.iter().map(|axis| axis.name.as_str()),
                        )),
                );
                return;
            };
            order_indices.push(index);
        }
        let project = |cell: &Cell| -> Vec<u32> {
            order_indices
                .iter()
                .map(|&axis| cell.coordinates[axis])
                .collect()
        };
        let there: Option<BTreeSet<Vec<u32>>> =
            self.cells.map(|cells| cells.iter().map(project).collect());
        self.read_level(
            values,
            &order_indices,
            &mut Vec::new(),
            there.as_ref(),
            &footnotes,
        );
    }

    /// Reads footnotes: name to index.
    fn read_footnotes(&mut self, node: Option<&Node>) -> BTreeMap<String, u32> {
        let mapping = node.and_then(|node| self.reader.mapping(node, "`footnotes`", &[]));
        let mut indices = BTreeMap::new();
        for (key, value) in mapping.map_or_else(Vec::new, |mapping| mapping.0) {
            let Some(text) = self.reader.text(value, "a footnote") else {
                continue;
            };
            let known = self
                .published
                .footnotes
                .iter()
                .position(|footnote| *footnote == text);
            let index = known.unwrap_or_else(|| {
                self.published.footnotes.push(text);
                self.published.footnotes.len() - 1
            });
            indices.insert(key.text.clone(), index as u32);
        }
        indices
    }

    fn read_level(
        &mut self,
        node: &Node,
        order: &[usize],
        path: &mut Vec<u32>,
        there: Option<&BTreeSet<Vec<u32>>>,
        footnotes: &BTreeMap<String, u32>,
    ) {
        let Some(&axis_index) = order.get(path.len()) else {
            self.read_value(node, order, path, there, footnotes);
            return;
        };
        let axis = &self.axes[axis_index];
        let Some(mapping) =
            self.reader
                .mapping(node, &format!("the level of axis `{}`", axis.name), &[])
        else {
            return;
        };
        for (key, value) in mapping.0 {
            let Some(index) = axis.values.iter().position(|value| value.name == key.text) else {
                let message = format!("axis `{}` has no value `{}`", axis.name, key.text);
                self.reader
                    .refuse(&key.at, message, axis.help_for(&key.text));
                continue;
            };
            path.push(index as u32);
            self.read_level(value, order, path, there, footnotes);
            path.pop();
        }
    }

    /// Reads a number above 1, or any number with a per cent sign: `0.91` alone is more likely a
    /// fraction than less than one right answer in a hundred.
    fn read_percent(&mut self, node: &Node) -> Option<f64> {
        if let Data::Text(text) = &node.data
            && let Some(percent) = text
                .trim_end()
                .strip_suffix('%')
                .and_then(|text| text.trim().parse().ok())
        {
            return Some(percent);
        }
        let value = self.reader.number(node, "a published value")?;
        if value > 0.0 && value <= 1.0 {
            let help = format!(
                "write {} if it is a fraction, and `{value} %` if it is per cent",
                Share::of_percent(100.0 * value)
            );
            let message = format!("a published value of {value}: in per cent?");
            self.reader.refuse(&node.at, message, help);
            return None;
        }
        Some(value)
    }

    fn read_value(
        &mut self,
        node: &Node,
        order: &[usize],
        path: &[u32],
        there: Option<&BTreeSet<Vec<u32>>>,
        footnotes: &BTreeMap<String, u32>,
    ) {
        let (number, footnote) = match &node.data {
            Data::Null => return,
            Data::Map(_) => {
                let Some(mapping) =
                    self.reader
                        .mapping(node, "a published value", &["value", "footnote"])
                else {
                    return;
                };
                let Some(number) = mapping.get("value") else {
                    self.reader.refuse(
                        &node.at,
                        "a published value has no `value`",
                        "write 67.6, or {value: 67.6, footnote: a}",
                    );
                    return;
                };
                (number, mapping.get("footnote"))
            }
            _ => (node, None),
        };
        let Some(value) = self.read_percent(number) else {
            return;
        };
        if !(0.0..=100.0).contains(&value) {
            self.reader.refuse(
                &number.at,
                format!("a published value of {value} per cent"),
                "write accuracies in per cent, from 0 to 100",
            );
            return;
        }
        if there.is_some_and(|there| !there.contains(path)) {
            self.reader.refuse(
                &number.at,
                "a published value for a cell that the sweep does not have",
                "remove the value, or the exclusion that removed the cell",
            );
            return;
        }
        let footnote = footnote.and_then(|node| {
            let name = self.reader.scalar_name(node).unwrap_or_default();
            let index = footnotes.get(&name).copied();
            if index.is_none() {
                self.reader.refuse(
                    &node.at,
                    format!("no footnote is called `{name}`"),
                    "add it to `footnotes` of the same block",
                );
            }
            index
        });
        let name = |(&axis, &value): (&usize, &u32)| {
            let axis = &self.axes[axis];
            (axis.name.clone(), axis.values[value as usize].name.clone())
        };
        let cell = order.iter().zip(path).map(name).collect();
        self.published.values.push(PublishedValue {
            cell,
            value,
            footnote,
        });
    }
}
