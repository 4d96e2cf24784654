//! Axes as written: values of a field, or named bundles of fields.

use std::ops::Range;

use serde_json::Value;

use crate::dataset;
use crate::definition::{Axis, AxisValue};
use crate::field::did_you_mean;
use crate::program::FieldRef;
use crate::reader::{Assignment, Reader};
use crate::yaml::{Data, Key, Node};

const MAX_AXES: usize = 16;
/// Maximum number of characters of a label.
const MAX_LABEL: usize = 200;

pub(crate) struct DraftAxis {
    pub name: String,
    pub at: Range<usize>,
    pub values: Vec<DraftValue>,
    /// True if the whole axis could be read. If not, references to it are not reported as problems.
    pub sound: bool,
}

pub(crate) struct DraftValue {
    pub name: String,
    pub label: String,
    pub set: Vec<Assignment>,
    pub at: Range<usize>,
}

impl DraftAxis {
    /// Returns true if some value of the axis sets this field.
    pub(crate) fn sets(&self, field: &str) -> bool {
        self.values
            .iter()
            .any(|value| value.set.iter().any(|set| set.field.name() == field))
    }

    /// Finds the value that an item of a `when` refers to: by name, or by the number or word given
    /// to the axis's own field.
    pub(crate) fn value_index(&self, reader: &mut Reader, node: &Node) -> Option<u32> {
        let name = reader.scalar_name(node);
        let by_name = self
            .values
            .iter()
            .position(|value| Some(&value.name) == name.as_ref());
        let canonical = reader
            .fields
            .find(&self.name)
            .and_then(|field| field.check(&node.to_json()).ok());
        let means = |value: &DraftValue| {
            let own = value.set.iter().find(|set| set.field.name() == self.name);
            canonical.is_some() && own.map(|set| &set.value) == canonical.as_ref()
        };
        let by_value = || self.values.iter().position(means);
        if let Some(index) = by_name.or_else(by_value) {
            return u32::try_from(index).ok();
        }
        if !self.sound {
            return None;
        }
        let shown = name.unwrap_or_else(|| node.kind().to_owned());
        let message = format!("axis `{}` has no value `{shown}`", self.name);
        reader.refuse(&node.at, message, self.help_for(&shown));
        None
    }

    /// Suggests what to write instead of a name that none of the values has.
    pub(crate) fn help_for(&self, name: &str) -> String {
        const SHOWN: usize = 20;
        let names = || self.values.iter().map(|value| value.name.as_str());
        did_you_mean(name, names()).unwrap_or_else(|| {
            let shown: Vec<&str> = names().take(SHOWN).collect();
            let more = if self.values.len() > SHOWN {
                ", ..."
            } else {
                ""
            };
            format!("its values are {}{more}", shown.join(", "))
        })
    }

    pub(crate) fn compiled(&self) -> Axis {
        let value = |value: &DraftValue| AxisValue {
            name: value.name.clone(),
            label: value.label.clone(),
            set: value
                .set
                .iter()
                .map(|set| (set.field.name().to_owned(), set.value.clone()))
                .collect(),
        };
        Axis {
            name: self.name.clone(),
            values: self.values.iter().map(value).collect(),
        }
    }
}

pub(crate) fn read(reader: &mut Reader, node: &Node) -> Vec<DraftAxis> {
    let Some(mapping) = reader.mapping(node, "`axes`", &[]) else {
        return Vec::new();
    };
    if mapping.0.len() > MAX_AXES {
        reader.refuse(
            &node.at,
            format!("there are more than {MAX_AXES} axes"),
            "put fields that vary together into one axis of named bundles",
        );
        return Vec::new();
    }
    let mut axes = Vec::with_capacity(mapping.0.len());
    for (key, value) in mapping.0 {
        let before = reader.problems.len();
        let values = read_values(reader, key, value).unwrap_or_default();
        let sound = reader.problems.len() == before;
        axes.push(DraftAxis {
            name: key.text.clone(),
            at: key.at.clone(),
            values,
            sound,
        });
    }
    axes
}

fn read_values(reader: &mut Reader, key: &Key, node: &Node) -> Option<Vec<DraftValue>> {
    let name = key.text.as_str();
    if let Err(reason) = crate::draft::check_name(name) {
        reader.report(reader.problem(
            &key.at,
            format!("the axis name `{}` {reason}", name.escape_debug()),
        ));
        return None;
    }
    if matches!(name, "seed" | "seeds") {
        reader.refuse(
            &key.at,
            "seeds are no axis",
            "write `seeds: 5` beside `axes`: results are averaged over them",
        );
        return None;
    }
    let items = reader.list(node, &format!("axis `{name}`"))?;
    let field = reader.fields.find(name);
    if field.as_ref().is_some_and(|field| !field.may_vary()) {
        reader.refuse(
            &key.at,
            format!("`{name}` cannot be an axis"),
            "its declaration in `program.fields` has `axis: false`",
        );
        return None;
    }
    let only_bundles = items.iter().all(|item| matches!(item.data, Data::Map(_)));
    if field.is_none() && !only_bundles {
        let help = reader.fields.help_for(name).unwrap_or_else(|| {
            "an axis with a name of its own needs values of the form {name: ..., set: {field: value}}".to_owned()
        });
        reader.refuse(&key.at, format!("no field is called `{name}`"), help);
        return None;
    }
    if items.is_empty() {
        reader.refuse(
            &key.at,
            format!("axis `{name}` has no values"),
            "list at least one value, or remove the axis",
        );
        return None;
    }
    let mut values: Vec<DraftValue> = Vec::with_capacity(items.len());
    for item in items {
        let value = match item.data {
            Data::Map(_) => read_bundle(reader, name, field.as_ref(), item),
            _ => read_scalar(reader, name, field.as_ref(), item),
        };
        let Some(value) = value else { continue };
        let twin = values
            .iter()
            .find(|other| other.name == value.name || same_scalar(item, other, &value));
        if let Some(first) = twin {
            let message = format!("axis `{name}` has the value `{}` twice", value.name);
            reader.refuse_again(&value.at, &first.at, message, "keep one of the two");
            continue;
        }
        values.push(value);
    }
    Some(values)
}

/// Returns true for `0.1` and `1e-1`. Bundles may be equal here and be distinguished by overrides.
fn same_scalar(item: &Node, one: &DraftValue, other: &DraftValue) -> bool {
    let (one, other) = (&one.set[..], &other.set[..]);
    !matches!(item.data, Data::Map(_))
        && one.len() == 1
        && other.len() == 1
        && one[0].value == other[0].value
}

fn read_scalar(
    reader: &mut Reader,
    axis: &str,
    field: Option<&FieldRef>,
    node: &Node,
) -> Option<DraftValue> {
    let field = field?;
    // the value that switches a field off is a value like any other
    let off = (node.data == Data::Null && field.is_optional()).then(|| "null".to_owned());
    let Some(name) = off.or_else(|| reader.scalar_name(node)) else {
        reader.refuse(
            &node.at,
            format!("a value of axis `{axis}` is {}", node.kind()),
            "give it a name: {name: ..., set: {field: value}}",
        );
        return None;
    };
    let value = reader.value(field, node)?;
    let label = match &value {
        Value::String(text) if field.name() == "dataset" => dataset::label(text),
        _ => None,
    };
    let name = usable_name(reader, axis, name, &node.at)?;
    let label = label.unwrap_or_else(|| name.clone());
    let set = vec![Assignment {
        field: field.clone(),
        value,
        at: node.at.clone(),
    }];
    Some(DraftValue {
        name,
        label,
        set,
        at: node.at.clone(),
    })
}

fn read_bundle(
    reader: &mut Reader,
    axis: &str,
    field: Option<&FieldRef>,
    node: &Node,
) -> Option<DraftValue> {
    let mapping = reader.mapping(
        node,
        &format!("a value of axis `{axis}`"),
        &["name", "label", "set"],
    )?;
    let Some(name_node) = mapping.get("name") else {
        let at = mapping.start(node);
        reader.refuse(
            &at,
            format!("a value of axis `{axis}` has no `name`"),
            "write {name: ..., set: {field: value}}",
        );
        return None;
    };
    let Some(name) = reader.scalar_name(name_node) else {
        reader.report(reader.problem(&name_node.at, format!("`name` is {}", name_node.kind())));
        return None;
    };
    let name = usable_name(reader, axis, name, &name_node.at)?;
    let mut set = mapping
        .get("set")
        .map_or_else(Vec::new, |node| reader.assignments(node, "`set`"));
    if let Some(field) = field
        && set
            .iter()
            .all(|assignment| assignment.field.name() != field.name())
    {
        // On axis `loss`, `{name: cos, label: ...}` means the same as `cos` alone.
        match field.check(&name_node.to_json()) {
            Ok(value) => set.insert(
                0,
                Assignment {
                    field: field.clone(),
                    value,
                    at: name_node.at.clone(),
                },
            ),
            Err(_) => {
                let message =
                    format!("`{name}` is no value of `{axis}`, and its `set` does not name one");
                reader.refuse(
                    &name_node.at,
                    message,
                    format!("add `{axis}: VALUE` to its `set`"),
                );
                return None;
            }
        }
    }
    let known = dataset::label(&name).filter(|_| axis == "dataset");
    let label = mapping
        .get("label")
        .and_then(|node| read_label(reader, node));
    let label = label.or(known).unwrap_or_else(|| name.clone());
    Some(DraftValue {
        name,
        label,
        set,
        at: name_node.at.clone(),
    })
}

fn read_label(reader: &mut Reader, node: &Node) -> Option<String> {
    let Some(label) = reader.scalar_name(node) else {
        reader.refuse(
            &node.at,
            format!("`label` is {}, not text", node.kind()),
            "put it into quotes if text is meant",
        );
        return None;
    };
    let characters = label.chars().count();
    let (message, help) = if label.contains(char::is_control) {
        (
            "`label` has a line break or another control character".to_owned(),
            "write one line of text".to_owned(),
        )
    } else if characters > MAX_LABEL {
        let message =
            format!("`label` has {characters} characters, at most {MAX_LABEL} are possible");
        (
            message,
            "it is the head of a row or column: explain it in the caption".to_owned(),
        )
    } else {
        return Some(label);
    };
    reader.refuse(&node.at, message, help);
    None
}

fn usable_name(reader: &mut Reader, axis: &str, name: String, at: &Range<usize>) -> Option<String> {
    if check_value_name(&name) {
        return Some(name);
    }
    let message = format!(
        "`{}` cannot be the name of an axis value",
        name.escape_debug()
    );
    reader.refuse(at, message, format!(
        "names have up to 100 characters and no `/`, `,` or `=`: write {{name: SHORT, set: {{{axis}: ...}}}}"
    ));
    None
}

/// Checks the name of a value. Names of values are typed in command lines as `cub/cos`.
pub(crate) fn check_value_name(name: &str) -> bool {
    let separators = ['/', ',', '='];
    let bad = |symbol: char| symbol.is_control() || separators.contains(&symbol);
    !name.trim().is_empty()
        && name.trim() == name
        && name.chars().count() <= 100
        && !name.contains(bad)
}
