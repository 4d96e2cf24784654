//! Reading pickles as data: no call of a pickle is ever executed, and sizes in a damaged or hostile
//! one aren't trusted.
//!
//! The library builds values by recursion and copies whatever a pickle refers to twice. So the
//! opcodes are checked first: few containers, none of them referenced again, and no more repeated
//! text than the limit for a file. Data sets stay within that. Opcodes: CPython's
//! Lib/pickletools.py.

use std::collections::HashMap;
use std::path::Path;

use serde_pickle::{DeOptions, Value};

use crate::error::Error;

/// Limit for lists, tuples and dictionaries; CIFAR-100 has about twenty.
const MAX_CONTAINERS: usize = 200;
/// Limit for bytes of texts that are referenced again, over all references.
const MAX_REPEATED: usize = 64 << 20;

pub(crate) fn value(path: &Path, bytes: &[u8], options: DeOptions) -> Result<Value, Error> {
    let refused = |reason: String| {
        Error::malformed(path, format!("it is not a pickle, or damaged: {reason}"))
    };
    look_through(bytes).map_err(refused)?;
    serde_pickle::value_from_slice(bytes, options).map_err(|error| {
        // The library quotes the unexpected value, which may be the whole file.
        refused(error.to_string().chars().take(200).collect())
    })
}

/// The last opcode's result on top of the stack.
#[derive(Clone, Copy)]
enum Top {
    Container,
    /// A text, with its number of bytes.
    Text(usize),
    Other,
}

#[derive(Default)]
struct Scan {
    containers: usize,
    repeated: usize,
    memo: HashMap<u64, Top>,
}

fn look_through(bytes: &[u8]) -> Result<(), String> {
    let mut scan = Scan::default();
    let mut top = Top::Other;
    let mut rest = bytes;
    while let Some((&opcode, after)) = rest.split_first() {
        let (argument, after) = argument(opcode, after)?;
        rest = after;
        top = match opcode {
            b'.' => return Ok(()),
            b']' | b'}' | b')' | b'l' | b'd' | b't' | 0x85..=0x87 => {
                scan.containers += 1;
                if scan.containers > MAX_CONTAINERS {
                    return Err(format!(
                        "it has more than {MAX_CONTAINERS} lists, tuples and dictionaries"
                    ));
                }
                Top::Container
            }
            // the container that they change stays on top
            b'a' | b'e' | b's' | b'u' | b'b' => Top::Container,
            b'U' | b'T' | b'X' | b'B' | b'C' | b'S' | b'V' | 0x8c | 0x8d | 0x8e | 0x96 => {
                Top::Text(argument.len())
            }
            b'q' | b'r' | b'p' | 0x94 => {
                let key = if opcode == 0x94 {
                    scan.memo.len() as u64
                } else {
                    number(argument)?
                };
                scan.memo.insert(key, top);
                top
            }
            b'h' | b'j' | b'g' => scan.recall(number(argument)?)?,
            // Python writes these for objects that contain themselves, for sets, and never for data
            b'0' | b'1' | b'2' | 0x8f..=0x91 => {
                return Err(format!("opcode {opcode:#04x} was not expected"));
            }
            b'c' if !is_known(argument) => {
                return Err(format!(
                    "it names {}",
                    String::from_utf8_lossy(argument).replace('\n', ".")
                ));
            }
            _ => Top::Other,
        };
    }
    Err("it ends early".to_owned())
}

impl Scan {
    fn recall(&mut self, key: u64) -> Result<Top, String> {
        match self.memo.get(&key) {
            Some(Top::Container) => {
                Err("it refers to one list, tuple or dictionary twice".to_owned())
            }
            Some(&top @ Top::Text(length)) => {
                self.repeated += length;
                if self.repeated > MAX_REPEATED {
                    return Err(format!("it repeats more than {MAX_REPEATED} bytes of text"));
                }
                Ok(top)
            }
            Some(Top::Other) => Ok(Top::Other),
            None => Err(format!("it refers to entry {key}, which it lacks")),
        }
    }
}

/// Parses an argument that is a decimal line, or a little-endian number.
fn number(argument: &[u8]) -> Result<u64, String> {
    if argument.last() == Some(&b'\n') {
        let text = std::str::from_utf8(argument).map_err(|error| error.to_string())?;
        return text
            .trim_end()
            .parse()
            .map_err(|_| "an entry's number is not a number".to_owned());
    }
    Ok(argument
        .iter()
        .rev()
        .fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

/// Returns true for numpy's arrays, and for Python 3's form of bytes for Python 2.
fn is_known(module_and_name: &[u8]) -> bool {
    module_and_name.starts_with(b"numpy") || module_and_name == b"_codecs\nencode\n"
}

/// Splits off an opcode's argument; returns it and the rest.
fn argument(opcode: u8, rest: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let fixed = |length: usize| (0, length);
    let (prefix, length) = match opcode {
        b'K' | b'h' | b'q' | 0x80 | 0x82 => fixed(1),
        b'M' | 0x83 => fixed(2),
        b'J' | b'j' | b'r' | 0x84 => fixed(4),
        b'G' | 0x95 => fixed(8),
        b'U' | b'C' | 0x8a | 0x8c => counted(rest, 1)?,
        b'T' | b'X' | b'B' | 0x8b => counted(rest, 4)?,
        0x8d | 0x8e | 0x96 => counted(rest, 8)?,
        b'I' | b'L' | b'F' | b'S' | b'V' | b'P' | b'p' | b'g' => fixed(lines(rest, 1)?),
        b'c' | b'i' => fixed(lines(rest, 2)?),
        _ => fixed(0),
    };
    let end = length
        .checked_add(prefix)
        .filter(|&end| end <= rest.len())
        .ok_or("it ends inside a value")?;
    Ok((&rest[prefix..end], &rest[end..]))
}

/// Reads a length of `prefix` bytes; returns `prefix` and the length.
fn counted(rest: &[u8], prefix: usize) -> Result<(usize, usize), String> {
    let length = number(rest.get(..prefix).ok_or("it ends inside a length")?)?;
    Ok((
        prefix,
        usize::try_from(length).map_err(|error| error.to_string())?,
    ))
}

/// Returns the number of bytes in `count` lines.
fn lines(rest: &[u8], count: usize) -> Result<usize, String> {
    let ends = rest
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'\n')
        .map(|(place, _)| place + 1);
    ends.take(count)
        .nth(count - 1)
        .ok_or_else(|| "it ends inside a line".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Value, Error> {
        value(
            Path::new("meta"),
            bytes,
            DeOptions::new().replace_unresolved_globals(),
        )
    }

    #[test]
    fn pickles_of_every_protocol_are_read() {
        // {'a': [1, 'x', 'x'], 'b': (2.5, None)}, the texts shared; pickle.dumps(..., protocol) of
        // CPython 3.11
        let by_protocol: [&[u8]; 4] = [
            b"(dp0\nVa\np1\n(lp2\nI1\naVx\np3\nag3\nasVb\np4\n(F2.5\nNtp5\ns.",
            b"}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01X\x01\x00\x00\x00xq\x03h\x03eX\x01\x00\x00\x00bq\x04(G@\x04\x00\x00\x00\x00\x00\x00Ntq\x05u.",
            b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01X\x01\x00\x00\x00xq\x03h\x03eX\x01\x00\x00\x00bq\x04G@\x04\x00\x00\x00\x00\x00\x00N\x86q\x05u.",
            b"\x80\x04\x95%\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01\x8c\x01x\x94h\x03e\x8c\x01b\x94G@\x04\x00\x00\x00\x00\x00\x00N\x86\x94u.",
        ];
        let values: Vec<Value> = by_protocol
            .iter()
            .map(|bytes| read(bytes).unwrap())
            .collect();
        assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
        let Value::Dict(entries) = &values[0] else {
            panic!("{values:?}")
        };
        assert_eq!(entries.len(), 2);
    }

    /// Pickles that nest deeper than any stack, contain themselves, double at every level, or
    /// repeat a text.
    #[test]
    fn hostile_pickles_are_refused_without_a_crash() {
        const DEEP: usize = 1_000_000;
        let join = |parts: &[&[u8]]| parts.concat();
        let mut repeating = b"\x80\x02]T\x00\x00\x10\x00".to_vec();
        repeating.extend(vec![b'x'; 1 << 20]);
        repeating.extend(join(&[b"q\x00(", &b"h\x00".repeat(100), b"e."]));
        let cases = [
            join(&[
                b"\x80\x02",
                &b"]".repeat(DEEP),
                &b"a".repeat(DEEP - 1),
                b".",
            ]),
            join(&[b"\x80\x02N", &b"\x85".repeat(DEEP), b"."]),
            join(&[
                b"\x80\x02",
                &b"}K\x01".repeat(DEEP),
                b"N",
                &b"s".repeat(DEEP),
                b".",
            ]),
            join(&[b"\x80\x02", &b"(".repeat(DEEP), &b"t".repeat(DEEP), b"."]),
            join(&[b"\x80\x02Nq\x00", &b"h\x00h\x00\x86q\x00".repeat(64), b"."]),
            join(&[b"\x80\x02N\x85", &b"2\x86".repeat(64), b"."]),
            b"\x80\x02]q\x00h\x00a.".to_vec(),
            b"\x80\x02cos\nsystem\n(U\x02lstR.".to_vec(),
            b"\x80\x02U\xff.".to_vec(),
            b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xff.".to_vec(),
            repeating,
        ];
        for bytes in &cases {
            let error = read(bytes).expect_err("it is hostile");
            assert!(
                error.to_string().contains("not a pickle, or damaged"),
                "{error}"
            );
        }
    }
}
