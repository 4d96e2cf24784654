//! Text files of `id value` lines, as in the bird data sets. Ids are text, never numbers.

use std::collections::HashMap;
use std::path::Path;

use crate::error::Error;
use crate::files;

/// Reads `id value` lines in file order; the value may contain spaces.
pub(crate) fn pairs(path: &Path) -> Result<Vec<(String, String)>, Error> {
    let text = files::text(path)?;
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    let pairs = lines.map(
        |(number, line)| match line.trim().split_once(char::is_whitespace) {
            Some((id, value)) => Ok((id.to_owned(), value.trim().to_owned())),
            None => Err(Error::malformed(
                path,
                format!("line {} is not `id value`", number + 1),
            )),
        },
    );
    let pairs: Vec<_> = pairs.collect::<Result<_, _>>()?;
    if pairs.is_empty() {
        return Err(Error::malformed(path, "it is empty"));
    }
    Ok(pairs)
}

/// Reads the same by id; a duplicate id is an error.
pub(crate) fn by_id(path: &Path) -> Result<HashMap<String, String>, Error> {
    let mut map = HashMap::new();
    for (id, value) in pairs(path)? {
        if map.contains_key(&id) {
            return Err(Error::malformed(path, format!("id `{id}` is there twice")));
        }
        map.insert(id, value);
    }
    Ok(map)
}

/// Returns the non-empty lines, trimmed.
pub(crate) fn lines(path: &Path) -> Result<Vec<String>, Error> {
    let lines: Vec<String> = files::text(path)?
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    if lines.is_empty() {
        return Err(Error::malformed(path, "it is empty"));
    }
    Ok(lines)
}
