//! What a sweep left behind, as files: the parts that must not depend on what was killed when.

use std::collections::BTreeMap;
use std::path::Path;

/// Every file of a results folder that a disturbed run must reproduce byte for byte. timing.csv says where and how
/// long, results.json holds the attempts, and the manifest names the machine.
pub fn undisturbed_files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let depends_on_the_run = ["timing.csv", "results.json", "manifest.json"];
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files = BTreeMap::new();
    for entry in entries {
        let entry = entry.expect("a readable folder");
        let name = entry.file_name().to_string_lossy().into_owned();
        if !depends_on_the_run.contains(&name.as_str()) && entry.path().is_file() {
            files.insert(name, std::fs::read(entry.path()).expect("a readable file"));
        }
    }
    assert!(files.contains_key("results.csv"), "{} holds {:?}", folder.display(), files.keys());
    files
}

/// Attempts over all trials of a results folder, from timing.csv.
pub fn attempts(folder: &Path) -> Vec<u32> {
    let fields = column(folder, "attempts");
    let number = |field: &String| field.parse().unwrap_or_else(|error| panic!("attempts `{field}`: {error}"));
    fields.iter().map(number).collect()
}

/// Whether any trial found an epoch, when it was trained again, to differ from an earlier attempt's.
pub fn any_departed(folder: &Path) -> bool {
    column(folder, "departed_at_epoch").iter().any(|epoch| !epoch.is_empty())
}

fn column(folder: &Path, name: &str) -> Vec<String> {
    let path = folder.join("timing.csv");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut lines = text.lines();
    let head: Vec<_> = lines.next().unwrap_or_default().split(',').collect();
    let column = head.iter().position(|field| *field == name);
    let column = column.unwrap_or_else(|| panic!("timing.csv has no column `{name}`"));
    // names of devices, in the middle of the line, may hold commas
    let field = |line: &str| match name {
        "attempts" => line.split(',').nth(column).unwrap_or_default().to_owned(),
        _ => line.rsplit(',').nth(head.len() - 1 - column).unwrap_or_default().to_owned(),
    };
    lines.map(field).collect()
}

/// Panics with the first difference in words that help.
pub fn assert_same(expected: &BTreeMap<String, Vec<u8>>, actual: &BTreeMap<String, Vec<u8>>) {
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(expected), names(actual), "the results folders hold other files");
    for (name, bytes) in expected {
        let other = &actual[name];
        if bytes != other {
            let (left, right) = (String::from_utf8_lossy(bytes), String::from_utf8_lossy(other));
            let lines = left.lines().zip(right.lines()).find(|(left, right)| left != right);
            panic!("{name} differs from the undisturbed run's; first in: {lines:#?}");
        }
    }
}
