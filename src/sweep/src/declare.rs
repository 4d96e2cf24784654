//! Macros that declare settings. One declaration gives a field its place in `Settings` and its JSON
//! form, the values that sweep files may give it, the paper's choice, and its row in
//! docs/sweep-file.md.
//!
//! Read `settings.rs` for the declarations and `field.rs` for the table that they fill.

use crate::field::{Kind, from};

/// A type that a field, or a part of one, can have.
pub(crate) trait FieldType {
    /// Possible values, unless a declaration narrows them.
    const KIND: Kind;
    /// True if `null` is possible too.
    const OPTIONAL: bool = false;
}

impl FieldType for bool {
    const KIND: Kind = Kind::Flag;
}

impl FieldType for u32 {
    const KIND: Kind = Kind::Count(0, u32::MAX as u64);
}

impl FieldType for f64 {
    const KIND: Kind = from(f64::MIN).to(f64::MAX);
}

impl FieldType for String {
    const KIND: Kind = Kind::Path;
}

impl<T: FieldType> FieldType for Option<T> {
    const KIND: Kind = T::KIND;
    const OPTIONAL: bool = true;
}

/// Returns the values of a declaration: those that it names, or those of its type.
macro_rules! kind {
    ($type:ty) => {
        <$type as crate::declare::FieldType>::KIND
    };
    ($type:ty, $kind:expr) => {
        $kind
    };
}

/// Returns the default of a part: that of its declaration, or off for a flag with a serde default.
macro_rules! part_default {
    () => {
        None
    };
    (default) => {
        Some(crate::field::PartDefault::Off)
    };
    ($default:literal) => {
        Some(crate::field::PartDefault::Number($default))
    };
}

/// Lists parts of a value: `name: type = default, values;`. A part with a default, or with a serde
/// default, may be left out.
macro_rules! parts {
    ($(
        $(#[serde($flag:ident)])?
        $name:ident: $type:ty $(= $default:literal)? $(, $kind:expr)?;
    )+) => {
        &[$(crate::field::Part {
            name: stringify!($name),
            kind: crate::declare::kind!($type $(, $kind)?),
            default: crate::declare::part_default!($($flag)? $($default)?),
        },)+]
    };
}

/// Declares all fields: the record, `FIELDS` with their values and meanings, and the paper's value
/// of each. A field is `name: type = the paper's value, possible values;`, and its doc comment is
/// its row in docs/sweep-file.md. `paper(dataset)` names the function with the paper's values.
/// `#[not_in_ids_if("is_default")]` is for a field that came later: trials that do not use it keep
/// the ids that they had before.
macro_rules! settings {
    (
        $(#[$about:meta])*
        pub struct $Settings:ident = $paper:ident($dataset:ident);
        $(
            $(#[doc = $meaning:literal])+
            $(#[serde($serde:ident)])?
            $(#[not_in_ids_if($unused:literal)])?
            $name:ident: $type:ty = $value:expr $(, $kind:expr)?;
        )+
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $Settings {
            $(
                $(#[doc = $meaning])+
                $(#[serde($serde)])?
                pub $name: $type,
            )+
            /// Values of the fields that the `program:` of a sweep declares, if it has one. The
            /// settings above have no effect on it, except those of `program::COMMON` and the
            /// number of epochs.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub program: Option<std::collections::BTreeMap<String, serde_json::Value>>,
        }

        /// The settings of the built-in trainer in the form that ids are made of.
        #[derive(Serialize)]
        struct InIds<'a> {
            $(
                $(#[serde(skip_serializing_if = $unused)])?
                $name: &'a $type,
            )+
        }

        /// Every field, in the order of the record.
        pub const FIELDS: &[crate::field::Field] = &[
            $(crate::field::Field {
                name: stringify!($name),
                kind: crate::declare::kind!($type $(, $kind)?),
                optional: <$type as crate::declare::FieldType>::OPTIONAL,
                meaning: concat!($($meaning),+),
            },)+
        ];

        impl $Settings {
            /// Returns the form that ids are made of.
            pub(crate) fn in_ids(&self) -> impl Serialize {
                InIds {
                    $($name: &self.$name,)+
                }
            }

            /// Returns the part that the paper's trainings have in common: optimiser, schedule,
            /// clipping, loss numerics.
            pub(crate) fn $paper($dataset: &str) -> Self {
                Self {
                    $($name: $value,)+
                    program: None,
                }
            }
        }
    };
}

/// Declares a field's words: `Variant = "word",`.
macro_rules! words {
    (
        $(#[$about:meta])*
        pub enum $Type:ident { $($(#[$note:meta])* $Variant:ident = $word:literal,)+ }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $Type {
            $($(#[$note])* #[serde(rename = $word)] $Variant,)+
        }

        impl crate::declare::FieldType for $Type {
            const KIND: crate::field::Kind = crate::field::Kind::Choice(&[$($word,)+]);
        }
    };
}

/// Declares a whole number with a word in its place: `Word = "word", Count = 1..=10`.
macro_rules! count_or {
    (
        $(#[$about:meta])*
        pub enum $Type:ident { $Word:ident = $word:literal, Count = $low:literal..=$high:literal }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $Type {
            Count(u32),
            $Word,
        }

        impl Serialize for $Type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    Self::Count(count) => serializer.serialize_u32(*count),
                    Self::$Word => serializer.serialize_str($word),
                }
            }
        }

        impl<'de> Deserialize<'de> for $Type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = serde_json::Value::deserialize(deserializer)?;
                let count = value.as_u64().filter(|count| ($low..=$high).contains(count));
                match (count.and_then(|count| u32::try_from(count).ok()), value.as_str()) {
                    (Some(count), _) => Ok(Self::Count(count)),
                    (None, Some($word)) => Ok(Self::$Word),
                    _ => Err(serde::de::Error::custom(format!(
                        "{value} where {} was expected",
                        <Self as crate::declare::FieldType>::KIND.expected(),
                    ))),
                }
            }
        }

        impl std::fmt::Display for $Type {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    Self::Count(count) => count.fmt(formatter),
                    Self::$Word => formatter.write_str($word),
                }
            }
        }

        impl crate::declare::FieldType for $Type {
            const KIND: crate::field::Kind = crate::field::Kind::CountOr($word, $low, $high);
        }
    };
}

/// Declares a value that is a mapping: parts as in `parts!`.
macro_rules! record {
    (
        $(#[$about:meta])*
        pub struct $Type:ident {
            $(
                $(#[doc = $note:literal])*
                $(#[serde($serde:ident)])?
                $name:ident: $type:ty $(= $default:literal)? $(, $kind:expr)?;
            )+
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $Type {
            $($(#[doc = $note])* $(#[serde($serde)])? pub $name: $type,)+
        }

        impl $Type {
            const PARTS: &[crate::field::Part] =
                crate::declare::parts!(
                    $($(#[serde($serde)])? $name: $type $(= $default)? $(, $kind)?;)+
                );
        }

        impl crate::declare::FieldType for $Type {
            const KIND: crate::field::Kind = crate::field::Kind::Record(Self::PARTS);
        }
    };
}

/// Declares a value that is a mapping with one key: `Variant = "key" { parts }`.
macro_rules! variants {
    (
        $(#[$about:meta])*
        pub enum $Type:ident {
            $(
                $(#[$note:meta])*
                $Variant:ident = $word:literal { $($name:ident: $type:ty $(, $kind:expr)?;)+ }
            )+
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub enum $Type {
            $($(#[$note])* #[serde(rename = $word)] $Variant { $($name: $type,)+ },)+
        }

        impl crate::declare::FieldType for $Type {
            const KIND: crate::field::Kind = crate::field::Kind::Variant(&[
                $(($word, crate::declare::parts!($($name: $type $(, $kind)?;)+)),)+
            ]);
        }
    };
}

pub(crate) use {count_or, kind, part_default, parts, record, settings, variants, words};
