//! `orchestrator check FILE`: makes the report of an archive again from its events, offline, and
//! names every value that differs.

use report::archive::{self as contents, Difference};
use serde_json::json;
use sweep::counted;

use crate::archive::{self, Archive};
use crate::args::CheckArgs;
use crate::exit::{ExpectedError, Outcome};
use crate::output::{Output, SCHEMA};
use crate::stderr;

/// Number of differences that are printed; the JSON has all.
const SHOWN: usize = 50;

pub fn check(arguments: &CheckArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let path = &arguments.archive;
    let Archive {
        list,
        events,
        files,
        changed,
    } = archive::read(path)?;
    let impossible = |reason: String| {
        ExpectedError::BadInput(format!(
            "{}: damaged: its events give no report of sweep `{}`: {reason}",
            path.display(),
            list.sweep
        ))
    };
    let recomputed = contents::report_of(&events, &list.sweep).map_err(impossible)?;
    let differences = contents::differences(&files, &recomputed);
    let is_sound = changed.is_empty() && differences.is_empty();
    if !is_sound && list.build != sweep::build() {
        stderr::print(&format!(
            "note: build {} wrote the archive, and this is build {}: a report of another build may have other fields",
            list.build,
            sweep::build()
        ));
    }
    output.print(
        || text(&list.sweep, events.len(), files.len(), &changed, &differences),
        || {
            let difference = |one: &Difference| {
                json!({ "place": one.place, "field": one.field, "archived": one.archived, "recomputed": one.recomputed })
            };
            json!({
                "schema": SCHEMA,
                "sweep": list.sweep,
                "build": list.build,
                "events": events.len(),
                "sound": is_sound,
                "changed": changed,
                "differences": differences.iter().map(difference).collect::<Vec<_>>(),
            })
        },
    )?;
    Ok(match is_sound {
        true => Outcome::Complete,
        false => Outcome::Contradicted,
    })
}

fn text(
    sweep: &str,
    events: usize,
    files: usize,
    changed: &[String],
    differences: &[Difference],
) -> String {
    let mut text = String::new();
    for name in changed {
        text.push_str(&format!(
            "{name}: changed after the archive was written: its content has not the hash in archive.json\n"
        ));
    }
    let shown = |value: &Option<String>| match value.as_deref() {
        None => "nothing".to_owned(),
        Some(value) => format!("`{value}`"),
    };
    for one in differences.iter().take(SHOWN) {
        text.push_str(&format!(
            "{}: {}: the archive has {}, its events give {}\n",
            one.place,
            one.field,
            shown(&one.archived),
            shown(&one.recomputed)
        ));
    }
    if differences.len() > SHOWN {
        let more = differences.len() - SHOWN;
        text.push_str(&format!("{more} more; --output json lists all\n"));
    }
    if text.is_empty() {
        return format!(
            "sound: sweep `{sweep}`: {} made again from {}, all equal\n",
            counted(files as u64, "file"),
            counted(events as u64, "event")
        );
    }
    text
}
