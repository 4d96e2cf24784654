//! Where each setting of a cell comes from: which part of the sweep file decided it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::definition::{Cell, Sweep};
use crate::diagnostic::source;
use crate::draft::{self, Draft};
use crate::reader::Reader;
use crate::settings::{Fields, Settings};
use crate::{expand, recipe, yaml};

/// The recipe whose values are the defaults.
const DEFAULTS: &str = "paper";

/// The part of a sweep file that decides a setting, the weakest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Origin {
    /// The paper's value, for this data set.
    Default,
    /// The recipe differs from the paper.
    Recipe { recipe: String },
    /// `set`, or fields beside the recipe's name.
    Set,
    /// The axis of this field.
    Axis { axis: String },
    /// A value of an axis that sets several fields, or another one than the axis names.
    Bundle { axis: String, value: String },
    /// An override, by its place in the list, from 1.
    Override { number: usize },
    /// The candidate of a search.
    Search,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::Recipe { recipe } => write!(formatter, "recipe {recipe}"),
            Self::Set => formatter.write_str("set"),
            Self::Axis { axis } => write!(formatter, "axis {axis}"),
            Self::Bundle { axis, value } => write!(formatter, "bundle {value} of axis {axis}"),
            Self::Override { number } => write!(formatter, "override {number}"),
            Self::Search => formatter.write_str("search"),
        }
    }
}

impl Sweep {
    /// Returns the origin of each setting of a cell's trials. `of_search`: of those that try a
    /// candidate of the search, or were made of the one that it chose. Empty if the text of the sweep
    /// can no longer be read, as that of another version.
    pub fn origins(&self, cell: &Cell, of_search: bool) -> BTreeMap<String, Origin> {
        let mut reader = Reader::new(source(&self.name, &self.source));
        let root = yaml::parse(&self.source).ok().flatten();
        let draft = root
            .as_ref()
            .and_then(|root| draft::read(&mut reader, root, &self.name));
        let Some(draft) = draft else {
            return BTreeMap::new();
        };
        let overrides = expand::overrides_of(&mut reader, &draft, &cell.coordinates);
        let values = self.cell_settings(cell).fields();
        let dataset = values.get("dataset").and_then(Value::as_str);
        let defaults = match &self.program {
            Some(block) => Some(Settings::of_program(
                dataset.unwrap_or_default(),
                block.defaults(),
            )),
            None => dataset.and_then(|dataset| recipe::settings(DEFAULTS, dataset)),
        };
        let defaults = defaults.map(|settings| settings.fields());
        let searched = self.search.as_ref().filter(|_| of_search);
        let of = |name: &str| {
            if searched.is_some_and(|search| search.chooses(name)) {
                Origin::Search
            } else if let Some(index) = overrides.get(name) {
                Origin::Override { number: index + 1 }
            } else {
                self.weaker_origin(cell, &draft, name, &values, defaults.as_ref())
            }
        };
        let names = values.keys();
        names.map(|name| (name.clone(), of(name))).collect()
    }

    /// Returns the origin of a setting that neither a search nor an override decides.
    fn weaker_origin(
        &self,
        cell: &Cell,
        draft: &Draft<'_>,
        name: &str,
        values: &Fields,
        defaults: Option<&Fields>,
    ) -> Origin {
        let mut axes = self.axes.iter().zip(&cell.coordinates);
        let by_axis = axes.find_map(|(axis, coordinate)| {
            let value = axis.values.get(*coordinate as usize)?;
            value.set.contains_key(name).then_some((axis, value))
        });
        let value = |fields: &Fields| fields.get(name).cloned().unwrap_or(Value::Null);
        match by_axis {
            Some((axis, _)) if axis.name == name => Origin::Axis {
                axis: axis.name.clone(),
            },
            Some((axis, value)) => Origin::Bundle {
                axis: axis.name.clone(),
                value: value.name.clone(),
            },
            None if draft.set.iter().any(|set| set.field.name() == name) => Origin::Set,
            None if defaults.is_some_and(|defaults| value(defaults) == value(values)) => {
                Origin::Default
            }
            None if self.program.is_some() => Origin::Default,
            None => Origin::Recipe {
                recipe: self.recipe.clone(),
            },
        }
    }
}
