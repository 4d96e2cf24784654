//! The files that a sweep leaves behind: the parts that must not depend on what was killed when.

use std::collections::BTreeMap;
use std::path::Path;

/// The files of a results folder that a disturbed run must reproduce byte for byte. timing.csv
/// holds places and times, results.json the attempts, and the manifest names the machine.
pub fn undisturbed_files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let depends_on_the_run = ["timing.csv", "results.json", "manifest.json"];
    let mut files = all_files(folder);
    files.retain(|name, _| !depends_on_the_run.contains(&name.as_str()));
    assert!(
        files.contains_key("results.csv"),
        "{} holds {:?}",
        folder.display(),
        files.keys()
    );
    files
}

/// The number of attempts of each trial of a results folder, from timing.csv.
pub fn attempts(folder: &Path) -> Vec<u32> {
    let fields = column(folder, "attempts");
    let number = |field: &String| {
        field
            .parse()
            .unwrap_or_else(|error| panic!("attempts `{field}`: {error}"))
    };
    fields.iter().map(number).collect()
}

/// The epoch from which each trial's last attempt resumed; 0 means from the start.
pub fn resumed_from(folder: &Path) -> Vec<u32> {
    let fields = column(folder, "resumed_from_epoch");
    fields
        .iter()
        .map(|field| field.parse().unwrap_or(0))
        .collect()
}

/// Every file of a results folder, including those that a disturbance may change.
pub fn all_files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries =
        std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let files = entries
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.is_file());
    let name = |path: &Path| {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    files
        .map(|path| (name(&path), std::fs::read(&path).expect("a readable file")))
        .collect()
}

/// Returns true if an epoch of any trial, when it was trained again, differed from an earlier
/// attempt's.
pub fn any_departed(folder: &Path) -> bool {
    column(folder, "departed_at_epoch")
        .iter()
        .any(|epoch| !epoch.is_empty())
}

fn column(folder: &Path, name: &str) -> Vec<String> {
    let path = folder.join("timing.csv");
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut lines = text.lines();
    let head: Vec<_> = lines.next().unwrap_or_default().split(',').collect();
    let column = head.iter().position(|field| *field == name);
    let column = column.unwrap_or_else(|| panic!("timing.csv has no column `{name}`"));
    // names of devices, in the middle of the line, may hold commas
    let field = |line: &str| match name {
        "attempts" => line.split(',').nth(column).unwrap_or_default().to_owned(),
        _ => line
            .rsplit(',')
            .nth(head.len() - 1 - column)
            .unwrap_or_default()
            .to_owned(),
    };
    lines.map(field).collect()
}

/// Panics with a readable description of the first difference.
pub fn assert_same(expected: &BTreeMap<String, Vec<u8>>, actual: &BTreeMap<String, Vec<u8>>) {
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(expected),
        names(actual),
        "the results folders hold other files"
    );
    for (name, bytes) in expected {
        let other = &actual[name];
        if bytes != other {
            let (left, right) = (
                String::from_utf8_lossy(bytes),
                String::from_utf8_lossy(other),
            );
            let lines = left
                .lines()
                .zip(right.lines())
                .find(|(left, right)| left != right);
            panic!("{name} differs from the undisturbed run's; first in: {lines:#?}");
        }
    }
}
