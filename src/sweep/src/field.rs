//! The fields of the sweep language and their possible values, for sweep files, for their
//! reference, and for compiled sweeps from a peer. `settings.rs` declares them.
//!
//! Checks work on JSON values and know no places in files: complaints have a path into the value
//! instead. Combinations of fields are checked in `contradiction.rs`.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::dataset;

pub use crate::settings::FIELDS;

/// A key of the sweep language that names a field of `Settings`.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    pub kind: Kind,
    /// True if `null` switches it off.
    pub optional: bool,
    /// Its meaning, for the reference.
    pub meaning: &'static str,
}

/// Possible values of a field or of a part of one.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Smallest and largest value, both inclusive.
    Count(u64, u64),
    Real(Range),
    Flag,
    Path,
    /// A data set's name, or `folder:PATH`.
    Dataset,
    /// This word, or a number between the smallest and the largest, both inclusive.
    CountOr(&'static str, u64, u64),
    /// A number, or a mapping with the parts of one of these lists.
    RealOr(Range, &'static [&'static [Part]]),
    /// A mapping with these parts.
    Record(&'static [Part]),
    /// A mapping with one key. Variants without parts are written as text, and so may be those whose
    /// parts all have defaults.
    Variant(&'static [(&'static str, &'static [Part])]),
}

/// An entry of a mapping.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub name: &'static str,
    pub kind: Kind,
    /// Value if it is not written; absent: it must be.
    pub default: Option<PartDefault>,
}

#[derive(Clone, Copy, Debug)]
pub enum PartDefault {
    /// A flag is off.
    Off,
    Number(f64),
}

impl Part {
    const fn is_required(&self) -> bool {
        self.default.is_none()
    }
}

/// A range of numbers.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    pub low: f64,
    pub high: f64,
    pub low_excluded: bool,
    pub high_excluded: bool,
}

/// Describes whole numbers.
pub(crate) const fn count(range: RangeInclusive<u64>) -> Kind {
    Kind::Count(*range.start(), *range.end())
}

/// The lower end of a range of numbers.
#[derive(Clone, Copy)]
pub(crate) struct LowerEnd {
    low: f64,
    excluded: bool,
}

/// Begins a range with its lowest number.
pub(crate) const fn from(low: f64) -> LowerEnd {
    LowerEnd {
        low,
        excluded: false,
    }
}

/// Begins a range above a number.
pub(crate) const fn above(low: f64) -> LowerEnd {
    LowerEnd {
        low,
        excluded: true,
    }
}

impl LowerEnd {
    /// Ends a range with its highest number.
    pub(crate) const fn to(self, high: f64) -> Kind {
        self.range(high, false)
    }

    /// Ends a range below a number.
    pub(crate) const fn below(self, high: f64) -> Kind {
        self.range(high, true)
    }

    const fn range(self, high: f64, high_excluded: bool) -> Kind {
        Kind::Real(Range {
            low: self.low,
            high,
            low_excluded: self.excluded,
            high_excluded,
        })
    }
}

pub fn find(name: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.name == name)
}

pub fn names() -> impl Iterator<Item = &'static str> {
    FIELDS.iter().map(|field| field.name)
}

/// A problem with a value, and its place inside the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Keys from the field's value down to the wrong one; empty for the value itself.
    pub path: Vec<String>,
    /// True if a key of that mapping is wrong, not its value.
    pub key: bool,
    /// Continues a sentence that begins with the field's name: `is 3, but at most 1 is possible`.
    pub message: String,
    pub help: Option<String>,
}

impl Complaint {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            path: Vec::new(),
            key: false,
            message: message.into(),
            help: None,
        }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    fn inside(mut self, name: &str) -> Self {
        self.path.insert(0, name.to_owned());
        self
    }
}

impl Field {
    /// Returns the value in the form that `Settings` writes, so that equal settings have equal
    /// compiled forms: `1` becomes `1.0` for a real number, and shorthands are expanded.
    pub fn check(&self, value: &Value) -> Result<Value, Complaint> {
        if value.is_null() {
            let missing =
                Complaint::new("has no value").help(format!("write {}", self.kind.expected()));
            return if self.optional {
                Ok(Value::Null)
            } else {
                Err(missing)
            };
        }
        self.kind.check(value)
    }
}

impl Kind {
    /// Describes the possible values, for messages and for the reference.
    pub fn expected(&self) -> String {
        match self {
            Self::Choice(names) => format!("one of {}", names.join(", ")),
            Self::Count(low, high) => format!("a whole number from {low} to {high}"),
            Self::Real(range) => {
                let low = if range.low_excluded { "above" } else { "from" };
                let high = if range.high_excluded { "below" } else { "to" };
                format!("a number {low} {} {high} {}", range.low, range.high)
            }
            Self::Flag => "true or false".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::Dataset => "a data set's name, or folder:PATH".to_owned(),
            Self::CountOr(word, low, high) => {
                format!("`{word}`, or a whole number from {low} to {high}")
            }
            Self::RealOr(range, records) => {
                let shapes = records.iter().map(|parts| record_shape(parts));
                let number = std::iter::once(Self::Real(*range).expected());
                number.chain(shapes).collect::<Vec<_>>().join(", or ")
            }
            Self::Record(parts) => record_shape(parts),
            Self::Variant(variants) => {
                let shape = |(name, parts): &(&str, &[Part])| match parts.is_empty() {
                    true => (*name).to_owned(),
                    false => format!("{{{name}: {}}}", record_shape(parts)),
                };
                variants.iter().map(shape).collect::<Vec<_>>().join(" or ")
            }
        }
    }

    fn check(&self, value: &Value) -> Result<Value, Complaint> {
        let wrong_type = || {
            Complaint::new(format!("is {}, which is the wrong type", show(value)))
                .help(format!("write {}", self.expected()))
        };
        let out_of_range = || {
            Complaint::new(format!("is {}, which is out of range", show(value)))
                .help(format!("write {}", self.expected()))
        };
        match self {
            Self::Choice(names) => {
                let text = value.as_str().ok_or_else(wrong_type)?;
                choose(text, names.iter().copied()).map(|()| value.clone())
            }
            Self::Count(low, high) => {
                let number = value.as_number().ok_or_else(wrong_type)?;
                match number.as_u64() {
                    Some(count) if (*low..=*high).contains(&count) => Ok(value.clone()),
                    Some(_) => Err(out_of_range()),
                    None if number.as_i64().is_some() => Err(out_of_range()),
                    None => Err(wrong_type()),
                }
            }
            Self::Real(range) => {
                let number = value.as_f64().ok_or_else(wrong_type)?;
                let low = if range.low_excluded {
                    number > range.low
                } else {
                    number >= range.low
                };
                let high = if range.high_excluded {
                    number < range.high
                } else {
                    number <= range.high
                };
                if low && high {
                    Ok(Value::from(number))
                } else {
                    Err(out_of_range())
                }
            }
            Self::Flag => value
                .is_boolean()
                .then(|| value.clone())
                .ok_or_else(wrong_type),
            Self::Path => {
                let text = value.as_str().ok_or_else(wrong_type)?;
                let usable = !text.trim().is_empty()
                    && text.len() <= 4096
                    && !text.contains(char::is_control);
                usable
                    .then(|| value.clone())
                    .ok_or_else(|| Complaint::new("is not a usable path"))
            }
            Self::Dataset => {
                let text = value.as_str().ok_or_else(wrong_type)?;
                dataset::check_name(text)
                    .map_err(|(message, help)| Complaint::new(message).help(help))?;
                Ok(value.clone())
            }
            Self::CountOr(word, low, high) => match value {
                Value::String(text) if text == word => Ok(value.clone()),
                Value::Number(_) => Self::Count(*low, *high)
                    .check(value)
                    .map_err(|_| out_of_range()),
                _ => Err(wrong_type()),
            },
            Self::RealOr(range, records) => match value.as_object() {
                Some(entries) => {
                    let knows = |parts: &&&[Part]| {
                        let mut names = parts.iter().map(|part| part.name);
                        names.any(|name| entries.contains_key(name))
                    };
                    let parts = records.iter().find(knows).or(records.first());
                    check_parts(entries, parts.copied().unwrap_or_default())
                }
                None if value.is_number() => Self::Real(*range).check(value),
                None => Err(wrong_type()),
            },
            Self::Record(parts) => check_parts(value.as_object().ok_or_else(wrong_type)?, parts),
            Self::Variant(variants) => check_variant(value, variants, wrong_type()),
        }
    }
}

fn check_variant(
    value: &Value,
    variants: &[(&'static str, &'static [Part])],
    wrong_type: Complaint,
) -> Result<Value, Complaint> {
    let names = || variants.iter().map(|(name, _)| *name);
    let of = |name: &str| {
        variants
            .iter()
            .find(|(variant, _)| *variant == name)
            .map(|(_, parts)| *parts)
    };
    match value {
        Value::String(text) => {
            choose(text, names())?;
            match of(text) {
                Some([]) => Ok(value.clone()),
                Some(parts) if !parts.iter().any(Part::is_required) => {
                    let checked = check_parts(&Map::new(), parts)?;
                    Ok(Value::Object(Map::from_iter([(text.clone(), checked)])))
                }
                _ => Err(wrong_type),
            }
        }
        Value::Object(entries) if entries.len() == 1 => {
            let (name, inner) = entries.iter().next().expect("it has one entry");
            choose(name, names()).map_err(|complaint| Complaint {
                key: true,
                ..complaint.inside(name)
            })?;
            let parts = of(name).unwrap_or_default();
            let checked = match (inner, parts) {
                // Shorthand: if the only required part is text, that text alone is enough.
                (Value::String(_), [first, rest @ ..])
                    if matches!(first.kind, Kind::Path) && !rest.iter().any(Part::is_required) =>
                {
                    check_parts(
                        &Map::from_iter([(first.name.to_owned(), inner.clone())]),
                        parts,
                    )
                }
                (Value::Object(entries), [_, ..]) => check_parts(entries, parts),
                _ => Err(wrong_type),
            };
            let checked = checked.map_err(|complaint| complaint.inside(name))?;
            Ok(Value::Object(Map::from_iter([(name.clone(), checked)])))
        }
        _ => Err(wrong_type),
    }
}

fn check_parts(entries: &Map<String, Value>, parts: &[Part]) -> Result<Value, Complaint> {
    for name in entries.keys() {
        let known = choose(name, parts.iter().map(|part| part.name));
        known.map_err(|complaint| Complaint {
            key: true,
            ..complaint.inside(name)
        })?;
    }
    let mut checked = Map::new();
    for part in parts {
        let value = match (entries.get(part.name), part.default) {
            (Some(value), _) => part
                .kind
                .check(value)
                .map_err(|complaint| complaint.inside(part.name))?,
            (None, Some(PartDefault::Off)) => Value::Bool(false),
            (None, Some(PartDefault::Number(number))) => Value::from(number),
            (None, None) => {
                let message = format!("lacks `{}`", part.name);
                return Err(Complaint::new(message).help(format!("write {}", record_shape(parts))));
            }
        };
        checked.insert(part.name.to_owned(), value);
    }
    Ok(Value::Object(checked))
}

fn choose(
    text: &str,
    mut names: impl Iterator<Item = &'static str> + Clone,
) -> Result<(), Complaint> {
    if names.clone().any(|name| name == text) {
        return Ok(());
    }
    let help = did_you_mean(text, names.clone()).unwrap_or_else(|| {
        let first = names.next().unwrap_or_default().to_owned();
        format!(
            "possible: {}",
            names.fold(first, |list, name| list + ", " + name)
        )
    });
    Err(Complaint::new(format!("is `{text}`, which does not exist")).help(help))
}

fn record_shape(parts: &[Part]) -> String {
    let shape = |part: &Part| format!("{}: {}", part.name, part.kind.expected());
    format!(
        "{{{}}}",
        parts.iter().map(shape).collect::<Vec<_>>().join(", ")
    )
}

/// Formats a value for a message.
pub fn show(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Suggests what to write instead of a name that is not a field.
pub(crate) fn help_for(name: &str) -> Option<String> {
    crate::foreign_names::meant(name)
        .map(str::to_owned)
        .or_else(|| did_you_mean(name, names()))
}

/// Returns ``did you mean `cos`?`` for the closest name, if one is close.
pub fn did_you_mean<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let flat = |name: &str| name.to_lowercase().replace([' ', '-'], "_");
    let wanted = flat(text);
    let close = |name: &'a str| {
        let name_flat = flat(name);
        let likeness = strsim::jaro_winkler(&wanted, &name_flat);
        let typo = strsim::osa_distance(&wanted, &name_flat) <= 1 + wanted.chars().count() / 5;
        (likeness > 0.87 || typo).then_some((likeness, name))
    };
    let best = names
        .filter_map(close)
        .max_by(|one, other| one.0.total_cmp(&other.0));
    best.map(|(_, name)| format!("did you mean `{name}`?"))
}
