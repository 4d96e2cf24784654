//! The effective settings of a sweep's trainings, once recipe, `set`, axes and overrides are
//! resolved: for `plan`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::definition::{Cell, Sweep};
use crate::field;
use crate::settings::EvaluateEvery;

/// Maximum number of axis values named in one entry; the rest is counted.
const MAX_LISTED: usize = 4;

impl Sweep {
    /// Returns one entry per field, in the order of `Settings`: `model resnet-8`, or `resize 512
    /// (cub), 256 (mit67)` if cells differ. Fields that are off everywhere come last, as one entry;
    /// fields that an axis lists are left out.
    pub fn settings_in_force(&self) -> Vec<String> {
        let base = self.base.fields();
        let cells: Vec<&Cell> = self
            .cells
            .iter()
            .filter(|cell| cell.skipped.is_none())
            .collect();
        let differing: BTreeSet<&str> = cells
            .iter()
            .flat_map(|cell| cell.set.keys().map(String::as_str))
            .collect();
        let (mut entries, mut off) = (Vec::new(), Vec::new());
        let names: Vec<&str> = match &self.program {
            Some(_) => base.keys().map(String::as_str).collect(),
            None => field::names().collect(),
        };
        let names = names.into_iter();
        for name in names.filter(|name| self.axes.iter().all(|axis| axis.name != *name)) {
            let common = &base[name];
            if self
                .search
                .as_ref()
                .is_some_and(|search| search.chooses(name))
            {
                entries.push(format!("{name} by search"));
            } else if differing.contains(name) {
                entries.push(format!("{name} {}", self.differing(&cells, name, common)));
            } else if matches!(common, Value::Null | Value::Bool(false)) {
                off.push(name);
            } else if name == "evaluate_every" && self.base.evaluate_every == EvaluateEvery::Auto {
                let intervals: BTreeSet<EvaluateEvery> = cells
                    .iter()
                    .map(|cell| {
                        self.spec(self.cell_settings(cell), 0)
                            .settings
                            .evaluate_every
                    })
                    .collect();
                let intervals: Vec<String> = intervals.iter().map(ToString::to_string).collect();
                entries.push(format!("{name} auto ({})", intervals.join(", ")));
            } else {
                entries.push(format!("{name} {}", plain(common)));
            }
        }
        if !off.is_empty() {
            entries.push(format!("off: {}", off.join(" ")));
        }
        entries
    }

    /// Lists the values of a field that differs among cells, each with the values of the first axis
    /// that decides it.
    fn differing(&self, cells: &[&Cell], name: &str, common: &Value) -> String {
        let value = |cell: &Cell| plain(cell.set.get(name).unwrap_or(common));
        for (position, axis) in self.axes.iter().enumerate() {
            let mut by_coordinate: BTreeMap<u32, String> = BTreeMap::new();
            let decides = cells.iter().all(|cell| {
                let found = value(cell);
                *by_coordinate
                    .entry(cell.coordinates[position])
                    .or_insert_with(|| found.clone())
                    == found
            });
            if !decides {
                continue;
            }
            let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
            for (coordinate, value) in by_coordinate {
                let axis_value = axis.values[coordinate as usize].name.as_str();
                match groups.iter_mut().find(|(known, _)| *known == value) {
                    Some((_, names)) => names.push(axis_value),
                    None => groups.push((value, vec![axis_value])),
                }
            }
            let group =
                |(value, names): &(String, Vec<&str>)| match names.len().saturating_sub(MAX_LISTED)
                {
                    0 => format!("{value} ({})", names.join(", ")),
                    more => format!(
                        "{value} ({} and {more} more)",
                        names[..MAX_LISTED].join(", ")
                    ),
                };
            return groups.iter().map(group).collect::<Vec<_>>().join(", ");
        }
        let values: BTreeSet<String> = cells.iter().map(|cell| value(cell)).collect();
        let shown: Vec<&str> = values.iter().take(MAX_LISTED).map(String::as_str).collect();
        let more = if values.len() > MAX_LISTED {
            ", ..."
        } else {
            ""
        };
        format!("{}{more} by cell (--cells)", shown.join(", "))
    }
}

/// Formats a value as in a sweep file.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(entries) => {
            let entries: Vec<String> = entries
                .iter()
                .map(|(name, value)| format!("{name}: {}", plain(value)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Null => "off".to_owned(),
        other => other.to_string(),
    }
}
