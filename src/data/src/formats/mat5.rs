//! A reader of MATLAB's level 5 .mat files, limited to what data sets use: numbers, text, cells and
//! structures.
//!
//! Written here because the registry's maintained reader stops at numeric arrays, and the one that
//! reads structures was not shown to survive damaged files. Little-endian files only. Lengths are
//! checked against the available bytes before anything is allocated, compressed parts are bounded,
//! and nesting is limited.

use std::io::Read;
use std::path::Path;

use flate2::read::ZlibDecoder;

use crate::error::Error;
use crate::files;

/// A variable. Arrays are in MATLAB's column-major order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Numbers(Vec<f64>),
    Text(String),
    Cell(Vec<Value>),
    /// Field names, and one value per field for every element of the array.
    Struct {
        fields: Vec<String>,
        elements: Vec<Vec<Value>>,
    },
    /// Objects, sparse matrices and all other types.
    Other,
}

/// Variables by name, in file order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Variables(Vec<(String, Value)>);

/// Limit at fifty times the largest annotation file; a byte may become eight as a number.
const MAX_UNPACKED: u64 = 64 << 20;
const MAX_DEPTH: usize = 8;

mod kind {
    pub(super) const COMPRESSED: u32 = 15;
    pub(super) const MATRIX: u32 = 14;
    pub(super) const UTF8: u32 = 16;
}

pub(crate) fn read(path: &Path) -> Result<Variables, Error> {
    let bytes = files::read(path, files::MAX_LIST_BYTES)?;
    parse(&bytes).map_err(|reason| Error::malformed(path, reason))
}

impl Variables {
    pub(crate) fn get(&self, path: &Path, name: &str) -> Result<&Value, Error> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value).ok_or_else(|| {
            let known: Vec<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
            Error::malformed(
                path,
                format!("it has no variable `{name}`, only: {}", known.join(", ")),
            )
        })
    }

    /// Returns a variable that is a list of whole numbers of at least 1.
    pub(crate) fn ordinals(&self, path: &Path, name: &str) -> Result<Vec<usize>, Error> {
        let Value::Numbers(numbers) = self.get(path, name)? else {
            return Err(Error::malformed(
                path,
                format!("`{name}` does not hold numbers"),
            ));
        };
        numbers
            .iter()
            .map(|&number| ordinal(path, name, number))
            .collect()
    }
}

fn ordinal(path: &Path, name: &str, number: f64) -> Result<usize, Error> {
    if number.fract() == 0.0 && (1.0..=1e9).contains(&number) {
        return Ok(number as usize);
    }
    Err(Error::malformed(
        path,
        format!("`{name}` holds {number} where a whole number of at least 1 was expected"),
    ))
}

impl Value {
    /// Returns one element's field of a structure array, as text.
    pub(crate) fn text(&self, path: &Path, what: &str) -> Result<String, Error> {
        match self {
            Self::Text(text) => Ok(text.trim_end().to_owned()),
            _ => Err(Error::malformed(path, format!("`{what}` is not text"))),
        }
    }

    pub(crate) fn number(&self, path: &Path, what: &str) -> Result<f64, Error> {
        match self {
            Self::Numbers(numbers) if numbers.len() == 1 => Ok(numbers[0]),
            _ => Err(Error::malformed(path, format!("`{what}` is not a number"))),
        }
    }

    pub(crate) fn ordinal(&self, path: &Path, what: &str) -> Result<usize, Error> {
        ordinal(path, what, self.number(path, what)?)
    }

    /// Returns every element of a structure array, with its fields in the requested order.
    pub(crate) fn records(
        &self,
        path: &Path,
        name: &str,
        wanted: &[&str],
    ) -> Result<Vec<Vec<&Value>>, Error> {
        let Self::Struct { fields, elements } = self else {
            return Err(Error::malformed(
                path,
                format!("`{name}` is not a structure array"),
            ));
        };
        let position = |wanted: &&str| {
            fields
                .iter()
                .position(|field| field == wanted)
                .ok_or_else(|| {
                    Error::malformed(
                        path,
                        format!(
                            "`{name}` has no field `{wanted}`, only: {}",
                            fields.join(", ")
                        ),
                    )
                })
        };
        let positions: Vec<usize> = wanted.iter().map(position).collect::<Result<_, _>>()?;
        Ok(elements
            .iter()
            .map(|element| positions.iter().map(|&p| &element[p]).collect())
            .collect())
    }
}

fn parse(bytes: &[u8]) -> Result<Variables, String> {
    let header = bytes
        .get(..128)
        .ok_or("it is shorter than a .mat header of 128 bytes")?;
    match &header[124..128] {
        [_, 1, b'I', b'M'] => {}
        [_, 2, b'I', b'M'] => {
            return Err("it is a version 7.3 file (HDF5); save it with -v7".to_owned());
        }
        _ => return Err("it is not a little-endian MATLAB level 5 file".to_owned()),
    }
    let mut variables = Vec::new();
    let mut budget = MAX_UNPACKED;
    let mut rest = &bytes[128..];
    while !rest.is_empty() {
        let (tag, body, after) = element(rest)?;
        rest = after;
        if tag == kind::COMPRESSED {
            let mut unpacked = Vec::new();
            let read = ZlibDecoder::new(body)
                .take(budget + 1)
                .read_to_end(&mut unpacked);
            read.map_err(|error| format!("a compressed variable is corrupt: {error}"))?;
            budget = budget
                .checked_sub(unpacked.len() as u64)
                .ok_or("it unpacks to more than 64 MiB")?;
            let (tag, body, _) = element(&unpacked)?;
            push(tag, body, &mut variables)?;
        } else {
            push(tag, body, &mut variables)?;
        }
    }
    Ok(Variables(variables))
}

fn push(tag: u32, body: &[u8], variables: &mut Vec<(String, Value)>) -> Result<(), String> {
    if tag == kind::MATRIX {
        variables.push(matrix(body, 0)?);
    }
    Ok(())
}

/// Splits off one data element: its type, its bytes, and the rest.
fn element(bytes: &[u8]) -> Result<(u32, &[u8], &[u8]), String> {
    let tag = bytes
        .get(..8)
        .ok_or("it ends inside a data element's tag")?;
    let first = u32::from_le_bytes([tag[0], tag[1], tag[2], tag[3]]);
    if first >> 16 != 0 {
        // The small form: length and type share a word, up to four bytes follow.
        let length = (first >> 16) as usize;
        let body = tag[4..]
            .get(..length)
            .ok_or("a small data element is longer than 4 bytes")?;
        return Ok((first & 0xffff, body, &bytes[8..]));
    }
    let length = u32::from_le_bytes([tag[4], tag[5], tag[6], tag[7]]) as usize;
    let body = bytes[8..]
        .get(..length)
        .ok_or("it is truncated: a data element is longer than the rest")?;
    let padded = if first == kind::COMPRESSED {
        length
    } else {
        length.next_multiple_of(8)
    };
    Ok((first, body, bytes[8..].get(padded..).unwrap_or_default()))
}

fn matrix(body: &[u8], depth: usize) -> Result<(String, Value), String> {
    if depth > MAX_DEPTH {
        return Err(format!("variables are nested more than {MAX_DEPTH} deep"));
    }
    if body.is_empty() {
        return Ok((String::new(), Value::Numbers(Vec::new())));
    }
    let (_, flags, rest) = element(body)?;
    let class = *flags.first().ok_or("a variable has no flags")?;
    let (_, sides, rest) = element(rest)?;
    let sides = sides
        .chunks_exact(4)
        .map(|side| u32::from_le_bytes([side[0], side[1], side[2], side[3]]) as usize);
    let count = sides.fold(1usize, usize::saturating_mul);
    let (_, name, rest) = element(rest)?;
    let value = match class {
        1 => Value::Cell(children(rest, count, depth)?.0),
        2 => structure(rest, count, depth)?,
        4 => text(rest)?,
        6..=15 => numbers(rest, count)?,
        _ => Value::Other,
    };
    Ok((String::from_utf8_lossy(name).into_owned(), value))
}

/// Reads a number of consecutive variables.
fn children(mut rest: &[u8], count: usize, depth: usize) -> Result<(Vec<Value>, &[u8]), String> {
    if count > rest.len() / 8 {
        return Err(format!(
            "it claims {count} elements, more than its bytes can hold"
        ));
    }
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        let (tag, body, after) = element(rest)?;
        if tag != kind::MATRIX {
            return Err(format!(
                "a data element has type {tag} where a variable was expected"
            ));
        }
        values.push(matrix(body, depth + 1)?.1);
        rest = after;
    }
    Ok((values, rest))
}

fn structure(rest: &[u8], count: usize, depth: usize) -> Result<Value, String> {
    let (_, length, rest) = element(rest)?;
    let length = match *length {
        [a, b, c, d] => u32::from_le_bytes([a, b, c, d]) as usize,
        _ => return Err("a structure has no length of field names".to_owned()),
    };
    let (_, names, rest) = element(rest)?;
    if length == 0 || names.len() % length != 0 {
        return Err("a structure's field names have the wrong length".to_owned());
    }
    let name = |bytes: &[u8]| {
        let end = bytes
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    };
    let fields: Vec<String> = names.chunks_exact(length).map(name).collect();
    let (values, _) = children(rest, count.saturating_mul(fields.len()), depth)?;
    let elements = values
        .chunks(fields.len().max(1))
        .map(<[Value]>::to_vec)
        .collect();
    Ok(Value::Struct { fields, elements })
}

fn text(rest: &[u8]) -> Result<Value, String> {
    let (tag, bytes, _) = element(rest)?;
    Ok(Value::Text(match tag {
        1 | 2 | kind::UTF8 => String::from_utf8_lossy(bytes).into_owned(),
        _ => {
            let units: Vec<u16> = bytes
                .chunks_exact(2)
                .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
                .collect();
            String::from_utf16_lossy(&units)
        }
    }))
}

fn numbers(rest: &[u8], count: usize) -> Result<Value, String> {
    let (tag, bytes, _) = element(rest)?;
    macro_rules! decode {
        ($number:ty) => {{
            let size = size_of::<$number>();
            let number = |bytes: &[u8]| {
                <$number>::from_le_bytes(bytes.try_into().expect("chunks are exact")) as f64
            };
            bytes.chunks_exact(size).map(number).collect::<Vec<f64>>()
        }};
    }
    let numbers = match tag {
        1 => decode!(i8),
        2 => decode!(u8),
        3 => decode!(i16),
        4 => decode!(u16),
        5 => decode!(i32),
        6 => decode!(u32),
        7 => decode!(f32),
        9 => decode!(f64),
        12 => decode!(i64),
        13 => decode!(u64),
        _ => {
            return Err(format!(
                "numbers are stored as type {tag}, which does not exist"
            ));
        }
    };
    if numbers.len() != count {
        return Err(format!(
            "an array of {count} numbers holds {}",
            numbers.len()
        ));
    }
    Ok(Value::Numbers(numbers))
}

/// A writer of the same format, for stand-in files and tests.
pub(crate) mod write {
    use super::Value;

    pub(crate) fn file(variables: &[(&str, &Value)]) -> Vec<u8> {
        let mut bytes = b"MATLAB 5.0 MAT-file, stand-in".to_vec();
        bytes.resize(124, b' ');
        bytes.extend([0, 1, b'I', b'M']);
        variables
            .iter()
            .for_each(|(name, value)| matrix(name, value, &mut bytes));
        bytes
    }

    fn element(kind: u32, body: &[u8], out: &mut Vec<u8>) {
        out.extend(kind.to_le_bytes());
        out.extend((body.len() as u32).to_le_bytes());
        out.extend(body);
        out.resize(out.len().next_multiple_of(8), 0);
    }

    fn matrix(name: &str, value: &Value, out: &mut Vec<u8>) {
        let mut body = Vec::new();
        let (class, count) = match value {
            Value::Numbers(numbers) => (6, numbers.len()),
            Value::Text(text) => (4, text.encode_utf16().count()),
            Value::Cell(values) => (1, values.len()),
            Value::Struct { elements, .. } => (2, elements.len()),
            Value::Other => (5, 0),
        };
        element(6, &[class, 0, 0, 0, 0, 0, 0, 0], &mut body);
        element(
            5,
            &[1i32.to_le_bytes(), (count as i32).to_le_bytes()].concat(),
            &mut body,
        );
        element(1, name.as_bytes(), &mut body);
        match value {
            Value::Numbers(numbers) => {
                let numbers: Vec<u8> = numbers
                    .iter()
                    .flat_map(|number| number.to_le_bytes())
                    .collect();
                element(9, &numbers, &mut body);
            }
            Value::Text(text) => {
                let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
                element(4, &units, &mut body);
            }
            Value::Cell(values) => values.iter().for_each(|value| matrix("", value, &mut body)),
            Value::Struct { fields, elements } => {
                // The length of names in its small form, as MATLAB writes it.
                body.extend([5, 0, 4, 0, 32, 0, 0, 0]);
                let mut names = Vec::new();
                for field in fields {
                    names.extend(field.as_bytes());
                    names.resize(names.len().next_multiple_of(32), 0);
                }
                element(1, &names, &mut body);
                elements
                    .iter()
                    .flatten()
                    .for_each(|value| matrix("", value, &mut body));
            }
            Value::Other => {}
        }
        element(super::kind::MATRIX, &body, out);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn header() -> Vec<u8> {
        write::file(&[])
    }

    fn refused(bytes: &[u8]) -> String {
        parse(bytes).expect_err("it is hostile")
    }

    fn tag(kind: u32, length: u32) -> Vec<u8> {
        [kind.to_le_bytes(), length.to_le_bytes()].concat()
    }

    /// A file of a few hundred kilobytes that would unpack to more than any machine's memory.
    #[test]
    fn a_bomb_is_not_unpacked() {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&tag(kind::MATRIX, u32::MAX)).unwrap();
        let zeros = vec![0; 1 << 20];
        (0..65).for_each(|_| encoder.write_all(&zeros).unwrap());
        let packed = encoder.finish().unwrap();
        assert!(packed.len() < 1 << 20, "{} bytes", packed.len());
        let mut bytes = header();
        for _ in 0..100 {
            bytes.extend(tag(kind::COMPRESSED, packed.len() as u32));
            bytes.extend(&packed);
        }
        assert!(
            refused(&bytes).contains("more than 64 MiB"),
            "{}",
            refused(&bytes)
        );
    }

    #[test]
    fn nesting_of_cells_is_limited() {
        let mut value = Value::Numbers(vec![1.0]);
        for _ in 0..MAX_DEPTH {
            value = Value::Cell(vec![value]);
        }
        parse(&write::file(&[("deep", &value)])).unwrap();
        let deeper = Value::Cell(vec![value]);
        assert!(refused(&write::file(&[("deeper", &deeper)])).contains("nested"));
    }

    #[test]
    fn announced_lengths_are_not_trusted() {
        for class in [1u8, 2, 6] {
            let mut body = tag(6, 8);
            body.extend([class, 0, 0, 0, 0, 0, 0, 0]);
            body.extend(tag(5, 8));
            body.extend([1i32.to_le_bytes(), (1i32 << 30).to_le_bytes()].concat());
            body.extend(tag(1, 0));
            body.extend([5, 0, 4, 0, 32, 0, 0, 0]);
            body.extend(tag(9, u32::MAX));
            let mut bytes = header();
            bytes.extend(tag(kind::MATRIX, body.len() as u32));
            bytes.extend(body);
            assert!(!refused(&bytes).is_empty());
        }
    }
}
