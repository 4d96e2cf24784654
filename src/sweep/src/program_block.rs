//! Reads the `program:` of a sweep file. Its files are looked up when they are frozen.

use std::sync::Arc;

use serde_json::Value;

use crate::program::{
    COMMON, EPOCHS, Environment, MAX_DECLARED, MAX_WORDS, OwnField, OwnKind, ProgramBlock, SECRETS,
};
use crate::reader::{Mapping, Reader};
use crate::yaml::{Data, Key, Node};

/// Names that have another meaning in a sweep or for a program.
const RESERVED: [&str; 6] = ["seed", "seeds", "program", "trial", "devices", "threads"];

const EXAMPLE: &str = "write `command: [python, train.py]` and `files: [train.py]`";

/// Reads the block. Parts with problems are left out.
pub(crate) fn read(reader: &mut Reader, node: &Node) -> ProgramBlock {
    let keys = [
        "command",
        "files",
        "folder",
        "pass",
        "environment",
        "fields",
    ];
    let mut block = ProgramBlock::default();
    let Some(mapping) = reader.mapping(node, "`program`", &keys) else {
        return block;
    };
    for key in ["command", "files"] {
        if mapping.get(key).is_none() {
            reader.refuse(
                &mapping.start(node),
                format!("`program` has no `{key}`"),
                EXAMPLE,
            );
        }
    }
    if let Some(node) = mapping.get("command") {
        block.command = words(reader, node, "`program.command`", EXAMPLE);
    }
    if let Some(node) = mapping.get("files") {
        block.files = paths(reader, node, "`program.files`");
    }
    if let Some(node) = mapping.get("folder") {
        block.folder = paths(reader, node, "`program.folder`")
            .into_iter()
            .next()
            .unwrap_or_default();
    }
    if let Some(node) = mapping.get("pass") {
        block.pass = variables(reader, node);
    }
    if let Some(node) = mapping.get("environment") {
        block.environment = environment(reader, node);
    }
    if let Some(node) = mapping.get("fields") {
        block.fields = fields(reader, node);
    }
    block
}

/// Reads a list of at least one word.
fn words(reader: &mut Reader, node: &Node, what: &str, help: &str) -> Vec<String> {
    let items = reader.one_or_many(node);
    if items.is_empty() || items.len() > MAX_WORDS {
        reader.refuse(
            &node.at,
            format!("{what} has {} entries", items.len()),
            format!("write from 1 to {MAX_WORDS} entries: {help}"),
        );
        return Vec::new();
    }
    let mut words = Vec::new();
    for item in items {
        let Some(word) = reader.scalar_name(item) else {
            reader.refuse(
                &item.at,
                format!("an entry of {what} is {}", item.kind()),
                "put it into quotes if text is meant",
            );
            continue;
        };
        if word.is_empty() || word.len() > 4096 || word.contains(char::is_control) {
            reader.refuse(
                &item.at,
                format!("an entry of {what} is not one line of text"),
                help,
            );
            continue;
        }
        words.push(word);
    }
    words
}

/// Returns true for a relative path that never leaves its folder.
pub(crate) fn is_inside(path: &str) -> bool {
    let mut parts = path.split('/');
    !path.is_empty() && !path.starts_with('/') && parts.all(|part| part != "..")
}

fn paths(reader: &mut Reader, node: &Node, what: &str) -> Vec<String> {
    let paths = words(reader, node, what, EXAMPLE);
    if let Some(path) = paths.iter().find(|path| !is_inside(path)) {
        reader.refuse(
            &node.at,
            format!("{what} has `{path}`, which is not in the sweep's own folder"),
            "a program's files are in the folder of the sweep file or below: put them, or a link, there",
        );
    }
    paths
}

fn variables(reader: &mut Reader, node: &Node) -> Vec<String> {
    let names = words(reader, node, "`program.pass`", "write `pass: [NAME]`");
    for name in &names {
        let usable = |symbol: char| symbol.is_ascii_alphanumeric() || symbol == '_';
        let (problem, help) = if !name.chars().all(usable) {
            (
                "is not the name of an environment variable",
                "write only names: the values are those of the worker",
            )
        } else if SECRETS.iter().any(|secret| name.contains(secret)) {
            (
                "looks like a secret, and none is passed to a trainer",
                "let the program read it from a file on the worker",
            )
        } else {
            continue;
        };
        reader.refuse(
            &node.at,
            format!("`{name}` in `program.pass` {problem}"),
            help,
        );
    }
    names
}

fn environment(reader: &mut Reader, node: &Node) -> Option<Environment> {
    let kinds = ["venv", "conda", "container"];
    let mapping = reader.mapping(node, "`program.environment`", &kinds)?;
    let [(key, value)] = mapping.0[..] else {
        reader.refuse(
            &node.at,
            "`program.environment` names more than one environment, or none",
            "write {venv: PATH}, {conda: PREFIX} or {container: IMAGE.sif}",
        );
        return None;
    };
    let path = reader.text(value, "the path of an environment")?;
    if path.is_empty() || path.len() > 4096 || path.contains(char::is_control) {
        reader.refuse(
            &value.at,
            "the path of an environment is not one line of text",
            "write the folder's path on the workers",
        );
        return None;
    }
    Some(match key.text.as_str() {
        "venv" => Environment::Venv(path),
        "conda" => Environment::Conda(path),
        _ => Environment::Container(path),
    })
}

fn fields(reader: &mut Reader, node: &Node) -> Vec<Arc<OwnField>> {
    let Some(mapping) = reader.mapping(node, "`program.fields`", &[]) else {
        return Vec::new();
    };
    if mapping.0.len() > MAX_DECLARED {
        reader.report(reader.problem(
            &node.at,
            format!("`program.fields` declares more than {MAX_DECLARED}"),
        ));
    }
    let declared = mapping.0.into_iter();
    declared
        .filter_map(|(key, value)| field(reader, key, value).map(Arc::new))
        .collect()
}

/// Checks the name of a field, which the program uses as a name too.
pub(crate) fn check_own_name(name: &str) -> Result<(), &'static str> {
    let usable =
        |symbol: char| symbol.is_ascii_lowercase() || symbol.is_ascii_digit() || symbol == '_';
    if !name.starts_with(|symbol: char| symbol.is_ascii_lowercase()) || !name.chars().all(usable) {
        return Err(
            "is not a name: lower-case letters, digits and `_`, with a letter at the beginning",
        );
    }
    if name.len() > 64 {
        return Err("has more than 64 characters");
    }
    if COMMON.contains(&name) || name == EPOCHS {
        return Err("is a field of every program: give it a value with `set`");
    }
    if RESERVED.contains(&name) {
        return Err("has another meaning in a sweep: choose another name");
    }
    Ok(())
}

fn field(reader: &mut Reader, key: &Key, node: &Node) -> Option<OwnField> {
    let name = key.text.clone();
    if let Err(reason) = check_own_name(&name) {
        reader.refuse(
            &key.at,
            format!("the field `{}` {reason}", name.escape_debug()),
            "fields are declared as `learning_rate: 0.1`, or with a type and a range",
        );
        return None;
    }
    let what = format!("the field `{name}`");
    let (mapping, default_node) = match &node.data {
        Data::Map(_) => {
            let keys = ["default", "type", "one_of", "from", "to", "axis"];
            let mapping = reader.mapping(node, &what, &keys)?;
            let Some(default) = mapping.get("default") else {
                reader.refuse(
                    &key.at,
                    format!("{what} has no default"),
                    "add `default: VALUE`, for cells in which no axis and no `set` gives a value",
                );
                return None;
            };
            (Some(mapping), default)
        }
        _ => (None, node),
    };
    let default = default_node.to_json();
    let kind = kind(reader, &what, mapping.as_ref(), default_node)?;
    let axis = mapping
        .as_ref()
        .and_then(|mapping| mapping.get("axis"))
        .and_then(|node| reader.flag(node, "`axis`"));
    match kind.check(&default) {
        Ok(default) => Some(OwnField {
            name,
            kind,
            default,
            axis: axis.unwrap_or(true),
        }),
        Err(complaint) => {
            let message = format!("the default of {what} {}", complaint.message);
            let problem = reader.problem(&default_node.at, message);
            reader.report(problem.maybe_help(complaint.help));
            None
        }
    }
}

/// Returns the type that a declaration names, or that of its default.
fn kind(
    reader: &mut Reader,
    what: &str,
    mapping: Option<&Mapping<'_>>,
    default: &Node,
) -> Option<OwnKind> {
    const TYPES: [(&str, &str); 4] = [
        ("number", "number"),
        ("integer", "integer"),
        ("flag", "flag"),
        ("text", "text"),
    ];
    let part = |name: &str| mapping.and_then(|mapping| mapping.get(name));
    let word = match part("type") {
        Some(node) => reader.word(node, &format!("the type of {what}"), &TYPES)?,
        None => match &default.data {
            Data::Bool(_) => "flag",
            Data::Text(_) => "text",
            Data::Number(number) if number.is_f64() => "number",
            Data::Number(_) => "integer",
            Data::Null | Data::List(_) | Data::Map(_) => {
                reader.refuse(
                    &default.at,
                    format!("the default of {what} is {}", default.kind()),
                    "a field is a number, a whole number, true or false, or text",
                );
                return None;
            }
        },
    };
    let has_range = part("from").or(part("to"));
    let misplaced = match word {
        "number" | "integer" => part("one_of").map(|node| (node, "one_of", "text")),
        "text" => has_range.map(|node| (node, "from` and `to", "numbers")),
        _ => part("one_of")
            .or(has_range)
            .map(|node| (node, "one_of`, `from` and `to", "text and numbers")),
    };
    if let Some((node, key, of)) = misplaced {
        reader.refuse(
            &node.at,
            format!("{what} is of type {word}, for which `{key}` is not possible"),
            format!("`{key}` is for {of}"),
        );
        return None;
    }
    Some(match word {
        "flag" => OwnKind::Flag,
        "text" => match part("one_of") {
            Some(node) => OwnKind::OneOf(words(reader, node, "`one_of`", "write `one_of: [a, b]`")),
            None => OwnKind::Text,
        },
        "integer" => {
            let mut whole = |name: &str| {
                let node = part(name)?;
                let value = node.to_json().as_i64();
                if value.is_none() {
                    reader.refuse(
                        &node.at,
                        format!("`{name}` of {what} is {}, not a whole number", node.kind()),
                        "write a whole number, or `type: number`",
                    );
                }
                value
            };
            let (from, to) = (whole("from"), whole("to"));
            OwnKind::Integer { from, to }
        }
        _ => {
            let mut real = |name: &str| reader.number(part(name)?, &format!("`{name}` of {what}"));
            let (from, to) = (real("from"), real("to"));
            OwnKind::Number { from, to }
        }
    })
}

/// Checks the block of a sweep that a peer sent.
pub(crate) fn check(block: &ProgramBlock) -> Result<(), String> {
    let lists = [&block.command, &block.files, &block.pass];
    let line = |text: &str| text.len() <= 4096 && !text.contains(char::is_control);
    if block.command.is_empty() || lists.iter().any(|list| list.len() > MAX_WORDS) {
        return Err("has no command, or a list that is too long".to_owned());
    }
    if !lists.iter().all(|list| list.iter().all(|text| line(text))) || !line(&block.folder) {
        return Err("has a text that is not one line".to_owned());
    }
    if block.fields.len() > MAX_DECLARED {
        return Err("declares too many fields".to_owned());
    }
    for field in &block.fields {
        check_own_name(&field.name).map_err(|reason| format!("has a field that {reason}"))?;
        let default: Value = field
            .kind
            .check(&field.default)
            .map_err(|complaint| format!("has a default that {}", complaint.message))?;
        if default != field.default {
            return Err("has a default that is not written as settings write it".to_owned());
        }
    }
    Ok(())
}
