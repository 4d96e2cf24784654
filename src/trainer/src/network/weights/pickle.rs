//! Reads the part of Python's pickle format that state dicts are written in, and executes nothing.
//!
//! libtorch's own reader returns nothing for what `torch.save(model.state_dict())` writes, because
//! an ordered dict with attributes is beyond it. Calls of anything but tensor constructors become
//! `Value::Other`: they are an error only if used as a tensor. Opcodes: CPython's
//! Lib/pickletools.py. Next: state_dict.rs.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead, Read};
use std::rc::Rc;

/// Limit for a module or class name.
const MAX_NAME_BYTES: u64 = 1000;
/// Largest number of dimensions that libtorch allows.
const MAX_DIMENSIONS: usize = 64;

/// A pickled value. Containers are kept in a list and referenced by index, so that a value is small
/// even if a hostile pickle nests a million deep, contains itself, or holds one container a
/// thousand times.
#[derive(Clone, Debug)]
pub enum Value {
    Int(i64),
    Text(Rc<str>),
    Tuple(usize),
    List(usize),
    /// Alternating keys and values.
    Dict(usize),
    /// A global, as `module.name`.
    Global(Rc<str>),
    /// The storage that a persistent id of torch.save names.
    Storage(Rc<Storage>),
    Tensor(Rc<StoredTensor>),
    /// Anything else, from which no tensor is made, including the results of calls that are not
    /// executed.
    Other,
    Mark,
}

impl Value {
    /// Kind of value, for messages, which never quote a file's content.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Int(_) => "a number",
            Self::Text(_) => "a text",
            Self::Tuple(_) => "a tuple",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dictionary",
            Self::Global(_) => "a name of Python",
            Self::Storage(_) | Self::Tensor(_) => "a tensor",
            Self::Other | Self::Mark => "something else",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Class of the storage: `FloatStorage`, `HalfStorage`, ...
    pub class: String,
    pub key: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    pub storage: Rc<Storage>,
    /// Offset in elements.
    pub offset: i64,
    pub size: Vec<i64>,
    pub stride: Vec<i64>,
}

/// Content of one pickle.
#[derive(Debug)]
pub struct Pickle {
    pub top: Value,
    /// Element class of each storage that the pickle names, by key.
    pub storage_classes: BTreeMap<String, String>,
    containers: Vec<Vec<Value>>,
}

impl Pickle {
    /// Returns the items of a list.
    pub fn list(&self, value: &Value) -> Option<&[Value]> {
        match value {
            Value::List(place) => Some(&self.containers[*place]),
            _ => None,
        }
    }

    /// Returns the entries of a dict.
    pub fn dict(&self, value: &Value) -> Option<impl Iterator<Item = (&Value, &Value)>> {
        match value {
            Value::Dict(place) => Some(
                self.containers[*place]
                    .chunks_exact(2)
                    .map(|entry| (&entry[0], &entry[1])),
            ),
            _ => None,
        }
    }
}

/// Reads one pickle and leaves the reader after its last byte.
pub fn read(reader: &mut impl BufRead) -> Result<Pickle, String> {
    let mut machine = Machine::default();
    loop {
        let opcode = byte(reader)?;
        if opcode == b'.' {
            let top = machine.pop()?;
            return Ok(Pickle {
                top,
                storage_classes: machine.storage_classes,
                containers: machine.containers,
            });
        }
        machine.step(opcode, reader)?;
    }
}

#[derive(Default)]
struct Machine {
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
    containers: Vec<Vec<Value>>,
    storage_classes: BTreeMap<String, String>,
}

impl Machine {
    fn pop(&mut self) -> Result<Value, String> {
        self.stack
            .pop()
            .ok_or_else(|| "the pickle takes more than it holds".to_owned())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self
            .stack
            .iter()
            .rposition(|value| matches!(value, Value::Mark));
        let mark = mark.ok_or_else(|| "the pickle lacks a mark".to_owned())?;
        let values = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(values)
    }

    fn top(&mut self) -> Result<&Value, String> {
        self.stack
            .last()
            .ok_or_else(|| "the pickle takes more than it holds".to_owned())
    }

    fn container(&mut self, items: Vec<Value>) -> usize {
        self.containers.push(items);
        self.containers.len() - 1
    }

    fn step(&mut self, opcode: u8, reader: &mut impl BufRead) -> Result<(), String> {
        let value = match opcode {
            b'(' => Value::Mark,
            b'N' | 0x88 | 0x89 => Value::Other,
            b'J' => Value::Int(i64::from(i32::from_le_bytes(bytes(reader)?))),
            b'K' => Value::Int(i64::from(byte(reader)?)),
            b'M' => Value::Int(i64::from(u16::from_le_bytes(bytes(reader)?))),
            0x8a => long(reader)?,
            b'G' => {
                bytes::<8>(reader)?;
                Value::Other
            }
            b'X' => {
                let length = u32::from_le_bytes(bytes(reader)?);
                text(reader, length)?
            }
            0x8c | b'U' => {
                let length = u32::from(byte(reader)?);
                text(reader, length)?
            }
            b'c' => Value::Global(format!("{}.{}", line(reader)?, line(reader)?).into()),
            b']' => Value::List(self.container(Vec::new())),
            b'}' => Value::Dict(self.container(Vec::new())),
            b')' => Value::Tuple(self.container(Vec::new())),
            b't' => {
                let items = self.pop_to_mark()?;
                Value::Tuple(self.container(items))
            }
            0x85..=0x87 => {
                let from = self.stack.len().checked_sub(usize::from(opcode - 0x84));
                let items = self
                    .stack
                    .split_off(from.ok_or("the pickle takes more than it holds")?);
                Value::Tuple(self.container(items))
            }
            b'h' => {
                let key = u32::from(byte(reader)?);
                self.recall(key)?
            }
            b'j' => self.recall(u32::from_le_bytes(bytes(reader)?))?,
            b'Q' => {
                let id = self.pop()?;
                self.persistent(&id)?
            }
            b'R' | 0x81 => {
                let arguments = self.pop()?;
                let function = self.pop()?;
                self.call(&function, &arguments)?
            }
            _ => return self.step_without_push(opcode, reader),
        };
        self.stack.push(value);
        Ok(())
    }

    /// Executes the opcodes that only change existing values.
    fn step_without_push(&mut self, opcode: u8, reader: &mut impl BufRead) -> Result<(), String> {
        match opcode {
            0x80 => drop(byte(reader)?),
            b'q' => {
                let key = u32::from(byte(reader)?);
                self.remember(key)?;
            }
            b'r' => {
                let key = u32::from_le_bytes(bytes(reader)?);
                self.remember(key)?;
            }
            b'0' => drop(self.pop()?),
            // attributes of an object, such as the versions of a state dict
            b'b' => drop(self.pop()?),
            b'a' => {
                let item = self.pop()?;
                self.extend_list(vec![item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.extend_list(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.extend_dict(vec![key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.extend_dict(items)?;
            }
            _ => {
                return Err(format!(
                    "the pickle has the unexpected opcode {opcode:#04x}"
                ));
            }
        }
        Ok(())
    }

    fn remember(&mut self, key: u32) -> Result<(), String> {
        let value = self.top()?.clone();
        self.memo.insert(key, value);
        Ok(())
    }

    fn recall(&self, key: u32) -> Result<Value, String> {
        self.memo
            .get(&key)
            .cloned()
            .ok_or_else(|| format!("the pickle refers to entry {key}, which it lacks"))
    }

    fn extend_list(&mut self, items: Vec<Value>) -> Result<(), String> {
        match *self.top()? {
            Value::List(place) => self.containers[place].extend(items),
            Value::Other => {}
            ref other => return Err(format!("the pickle appends to {}", other.kind())),
        }
        Ok(())
    }

    fn extend_dict(&mut self, mut items: Vec<Value>) -> Result<(), String> {
        // a key without a value
        items.truncate(items.len() / 2 * 2);
        match *self.top()? {
            Value::Dict(place) => self.containers[place].extend(items),
            Value::Other => {}
            ref other => return Err(format!("the pickle sets items of {}", other.kind())),
        }
        Ok(())
    }

    /// Reads torch.save's reference to a storage: ("storage", class, key, place, number of
    /// elements, ...).
    fn persistent(&mut self, id: &Value) -> Result<Value, String> {
        let unknown = || "the pickle refers to an unknown outside object".to_owned();
        let Value::Tuple(place) = id else {
            return Err(unknown());
        };
        match self.containers[*place].as_slice() {
            [
                Value::Text(kind),
                Value::Global(class),
                Value::Text(key),
                ..,
            ] if &**kind == "storage" => {
                let class = class.rsplit('.').next().unwrap_or_default().to_owned();
                self.storage_classes.insert(key.to_string(), class.clone());
                Ok(Value::Storage(Rc::new(Storage {
                    class,
                    key: key.to_string(),
                })))
            }
            _ => Err(unknown()),
        }
    }

    fn call(&mut self, function: &Value, arguments: &Value) -> Result<Value, String> {
        let (Value::Global(name), Value::Tuple(place)) = (function, arguments) else {
            return Ok(Value::Other);
        };
        match (&**name, self.containers[*place].as_slice()) {
            ("collections.OrderedDict", []) => Ok(Value::Dict(self.container(Vec::new()))),
            (
                "torch._utils._rebuild_tensor_v2",
                [
                    Value::Storage(storage),
                    Value::Int(offset),
                    Value::Tuple(size),
                    Value::Tuple(stride),
                    ..,
                ],
            ) => Ok(Value::Tensor(Rc::new(StoredTensor {
                storage: storage.clone(),
                offset: *offset,
                size: whole_numbers(&self.containers[*size])?,
                stride: whole_numbers(&self.containers[*stride])?,
            }))),
            ("torch._utils._rebuild_parameter", [tensor @ Value::Tensor(_), ..]) => {
                Ok(tensor.clone())
            }
            _ => Ok(Value::Other),
        }
    }
}

fn whole_numbers(values: &[Value]) -> Result<Vec<i64>, String> {
    let number = |value: &Value| match value {
        Value::Int(number) => Ok(*number),
        other => Err(format!("a tensor's shape has {} in it", other.kind())),
    };
    if values.len() > MAX_DIMENSIONS {
        return Err(format!("a tensor has {} dimensions", values.len()));
    }
    values.iter().map(number).collect()
}

fn bytes<const N: usize>(reader: &mut impl BufRead) -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    reader
        .read_exact(&mut bytes)
        .map_err(|error| ended(&error))?;
    Ok(bytes)
}

fn byte(reader: &mut impl BufRead) -> Result<u8, String> {
    bytes::<1>(reader).map(|[byte]| byte)
}

fn ended(error: &io::Error) -> String {
    format!("the pickle ends early ({error})")
}

fn text(reader: &mut impl BufRead, length: u32) -> Result<Value, String> {
    let mut bytes = Vec::new();
    // not allocated in advance: the length may be false
    Read::take(&mut *reader, u64::from(length))
        .read_to_end(&mut bytes)
        .map_err(|error| ended(&error))?;
    if bytes.len() != length as usize {
        return Err("the pickle ends inside a text".to_owned());
    }
    String::from_utf8(bytes)
        .map(|text| Value::Text(text.into()))
        .map_err(|_| "the pickle has a text that is not UTF-8".to_owned())
}

fn line(reader: &mut impl BufRead) -> Result<String, String> {
    let mut line = String::new();
    Read::take(&mut *reader, MAX_NAME_BYTES)
        .read_line(&mut line)
        .map_err(|error| ended(&error))?;
    line.strip_suffix('\n')
        .map(str::to_owned)
        .ok_or_else(|| "the pickle ends inside a name".to_owned())
}

/// Reads little-endian two's complement of any length; the ten-byte magic number of old files is
/// not needed whole.
fn long(reader: &mut impl BufRead) -> Result<Value, String> {
    let length = usize::from(byte(reader)?);
    let mut value = 0i64;
    let mut last = 0;
    for index in 0..length {
        last = byte(reader)?;
        if index < 8 {
            value |= i64::from(last) << (8 * index);
        }
    }
    if length < 8 && last & 0x80 != 0 {
        value -= 1 << (8 * length);
    }
    Ok(Value::Int(value))
}
