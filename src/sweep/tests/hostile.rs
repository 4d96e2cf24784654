//! Hostile input: damaged sweep files, compiled sweeps from a malicious peer, broken frames. Each
//! gives an error value, never a panic.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use sweep::handoff::{self, Progress, Reply, Request, RunRequest};
use sweep::record::{Failure, FailureClass};
use sweep::{Sweep, TrialSpec};

fn sweeps() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sweeps");
    ["quickstart", "table2", "table3", "figure2", "vipriors"]
        .map(|name| std::fs::read_to_string(folder.join(format!("{name}.yaml"))).unwrap())
        .to_vec()
}

fn compile(text: &str) -> Result<Sweep, sweep::Errors> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sweeps");
    sweep::parse("mutant.yaml", text, &|file| {
        std::fs::read_to_string(folder.join(file))
    })
}

/// Damage to a text by an accident with an editor, or by malice.
#[derive(Clone, Debug)]
enum Damage {
    Remove {
        at: usize,
        length: usize,
    },
    Insert {
        at: usize,
        text: String,
    },
    Repeat {
        at: usize,
        length: usize,
        times: usize,
    },
    Swap {
        from: usize,
        to: usize,
    },
}

fn damage() -> impl Strategy<Value = Damage> {
    let tokens = [
        "[",
        "]",
        "{",
        "}",
        ": ",
        "- ",
        "\n",
        "\n  ",
        "\t",
        "&a ",
        "*a",
        "<<: *a",
        "!!str ",
        "'",
        "\"",
        "|\n",
        "#",
        "? ",
        "%",
        "---\n",
        "null",
        "~",
        "-1",
        "1e999",
        ".nan",
        "0x10",
        "99999999999999999999999",
        "é",
        "\u{feff}",
        "\u{0}",
        "\u{1b}",
        ",",
    ];
    let insert = prop_oneof![
        prop::sample::select(tokens.to_vec()).prop_map(str::to_owned),
        any::<String>()
    ];
    prop_oneof![
        (any::<usize>(), 1..200usize).prop_map(|(at, length)| Damage::Remove { at, length }),
        (any::<usize>(), insert).prop_map(|(at, text)| Damage::Insert { at, text }),
        (any::<usize>(), 1..80usize, 1..20usize).prop_map(|(at, length, times)| Damage::Repeat {
            at,
            length,
            times
        }),
        (any::<usize>(), any::<usize>()).prop_map(|(from, to)| Damage::Swap { from, to }),
    ]
}

fn apply(text: &str, damage: &Damage) -> String {
    let symbols: Vec<char> = text.chars().collect();
    let place = |at: usize| at % (symbols.len() + 1);
    let join = |parts: &[&[char]]| {
        parts
            .iter()
            .flat_map(|part| part.iter())
            .collect::<String>()
    };
    match damage {
        Damage::Remove { at, length } => {
            let end = (place(*at) + length).min(symbols.len());
            join(&[&symbols[..place(*at)], &symbols[end..]])
        }
        Damage::Insert { at, text } => {
            let inserted: Vec<char> = text.chars().collect();
            join(&[&symbols[..place(*at)], &inserted, &symbols[place(*at)..]])
        }
        Damage::Repeat { at, length, times } => {
            let end = (place(*at) + length).min(symbols.len());
            let piece = symbols[place(*at)..end].repeat(*times);
            join(&[&symbols[..end], &piece, &symbols[end..]])
        }
        Damage::Swap { from, to } => {
            let mut lines: Vec<&str> = text.lines().collect();
            let count = lines.len().max(1);
            if !lines.is_empty() {
                lines.swap(from % count, to % count);
            }
            lines.join("\n")
        }
    }
}

/// Number of cases. `PROPTEST_CASES=100000 cargo test --release -p sweep --test hostile` tries
/// more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").map_or(400, |cases| cases.parse().expect("a number"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_sweeps_compile_or_have_errors(
        file in 0..5usize, damages in prop::collection::vec(damage(), 1..6),
    ) {
        let text = damages.iter().fold(sweeps()[file].clone(), |text, damage| apply(&text, damage));
        match compile(&text) {
            Ok(sweep) => prop_assert_eq!(sweep.check(), Ok(())),
            Err(errors) => {
                prop_assert!(!errors.problems().is_empty());
                for problem in errors.problems() {
                    prop_assert!(problem.position().0 >= 1);
                }
                prop_assert!(!errors.render(sweep::Style::default()).is_empty());
            }
        }
    }

    #[test]
    fn a_lying_peer_is_refused_or_harmless(file in 0..3usize, path in prop::collection::vec(any::<usize>(), 1..8), lie in 0..LIES) {
        let sweep = compile(&sweeps()[file]).unwrap();
        let mut json = serde_json::to_value(&sweep).unwrap();
        *descend(&mut json, &path) = a_lie(lie);
        let Ok(sweep) = serde_json::from_value::<Sweep>(json) else { return Ok(()) };
        if sweep.check().is_ok() {
            // An accepted sweep must be usable.
            let summary = sweep.summary();
            prop_assert!(summary.cost.is_finite());
            prop_assert!(sweep.cells.iter().all(|cell| sweep.cell_name(cell).len() < 10_000));
        }
    }

    #[test]
    fn any_bytes_are_a_frame_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut stream = bytes.as_slice();
        while let Ok(Some(_)) = handoff::read_frame::<Request>(&mut stream) {}
    }
}

fn descend<'v>(value: &'v mut Value, path: &[usize]) -> &'v mut Value {
    let Some((step, rest)) = path.split_first() else {
        return value;
    };
    let empty = match value {
        Value::Object(entries) => entries.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => true,
    };
    if empty {
        return value;
    }
    match value {
        Value::Object(entries) => {
            let index = step % entries.len();
            descend(
                entries.iter_mut().nth(index).expect("it is not empty").1,
                rest,
            )
        }
        Value::Array(items) => {
            let index = step % items.len();
            descend(&mut items[index], rest)
        }
        _ => unreachable!("handled above"),
    }
}

const LIES: usize = 14;

fn a_lie(number: usize) -> Value {
    match number {
        0 => json!(null),
        1 => json!(-1),
        2 => json!(4_294_967_295u64),
        3 => json!(1e300),
        4 => json!(0.0),
        5 => json!("../../etc"),
        6 => json!(""),
        7 => json!("x".repeat(100_000)),
        8 => json!([]),
        9 => json!({}),
        10 => json!([4_000_000_000u32, 1]),
        11 => json!({"learning_rate": -1.0}),
        12 => json!({"no_such_field": 1}),
        _ => {
            json!({"sgdr": {"base_cycle": 4_000_000_000u32, "multiplier": 4_000_000_000u32, "cycles": 4_000_000_000u32, "learning_rate_min": 0.0}})
        }
    }
}

#[test]
fn check_names_the_invalid_part() {
    let good = compile(&sweeps()[0]).unwrap();
    assert_eq!(good.check(), Ok(()));
    let lie = |change: &dyn Fn(&mut Sweep)| {
        let mut sweep = good.clone();
        change(&mut sweep);
        sweep.check().expect_err("a lie").to_string()
    };
    let has = |text: String, part: &str| assert!(text.contains(part), "{text}");
    has(
        lie(&|sweep| sweep.name = "../x".into()),
        "name holds something else",
    );
    has(lie(&|sweep| sweep.smoke = true), "-smoke");
    has(
        lie(&|sweep| sweep.cells[3].coordinates[0] = 9),
        "cells[3] lies outside",
    );
    has(
        lie(&|sweep| sweep.cells[3].coordinates.clear()),
        "cells[3] has not one coordinate",
    );
    has(
        lie(&|sweep| sweep.cells[4] = sweep.cells[3].clone()),
        "cells[4] is there twice",
    );
    has(lie(&|sweep| sweep.cells.clear()), "cells are none");
    has(
        lie(&|sweep| sweep.seeds = (0..10_001).collect()),
        "seeds are none, too many",
    );
    for seeds in [vec![2_000 << 32], vec![1 << 32, 3]] {
        has(
            lie(&|sweep| sweep.seeds = seeds.clone()),
            "seeds are none, too many, too large",
        );
    }
    has(
        lie(&|sweep| sweep.base.learning_rate = f64::NAN),
        "learning_rate",
    );
    has(lie(&|sweep| sweep.base.batch_size = 0), "batch_size");
    has(
        lie(&|sweep| drop(sweep.cells[0].set.insert("momentum".into(), json!(1)))),
        "cells[0].set.momentum",
    );
    has(
        lie(&|sweep| drop(sweep.cells[0].set.insert("learning_rate".into(), json!(1)))),
        "not written as settings",
    );
    has(
        lie(&|sweep| sweep.axes[0].values[0].name = "a/b".into()),
        "impossible name",
    );
    has(lie(&|sweep| sweep.outputs.clear()), "outputs are none");
    has(
        lie(&|sweep| sweep.resources.devices_per_trial = 0),
        "resources",
    );
    let published = sweep::definition::PublishedValue {
        cell: BTreeMap::new(),
        value: 1.0,
        footnote: Some(3),
    };
    has(
        lie(&|sweep| sweep.published.push(published.clone())),
        "footnote",
    );
}

#[test]
fn settings_cross_the_wire_to_the_last_bit() {
    let sweep = compile(&sweeps()[1]).unwrap();
    let again: Sweep = serde_json::from_str(&serde_json::to_string(&sweep).unwrap()).unwrap();
    assert_eq!(again, sweep);
    let mut spec = sweep.cell_trials(0, None)[0].spec.clone();
    // Needs all 17 digits, and an exact parser.
    spec.settings.learning_rate = 0.1 + 0.2;
    spec.settings.weight_decay = f64::MIN_POSITIVE;
    let again: TrialSpec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
    assert_eq!((again.id(), &again), (spec.id(), &spec));
}

/// A reader that returns one byte at a time and is interrupted before each.
struct Dripping<'a>(&'a [u8], bool);

impl Read for Dripping<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let count = self.0.len().min(buffer.len()).min(1);
        buffer[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}

#[test]
fn frames_come_back_as_they_were_sent() {
    let failure = Failure::new(
        FailureClass::OutOfMemory,
        "line one\nline two \u{1f980}".into(),
    );
    let progress = Progress {
        epoch: 3,
        step: u64::MAX,
        train_loss: Some(0.1),
        ..Progress::default()
    };
    let located = Failure {
        devices: vec!["cuda:1".into()],
        ..failure.clone()
    };
    let sent = [
        Reply::Progress(progress),
        Reply::Failed(failure),
        Reply::Failed(located),
        Reply::Stopped,
    ];
    let mut bytes = Vec::new();
    for reply in &sent {
        handoff::write_frame(&mut bytes, reply).unwrap();
    }
    let mut stream = Dripping(&bytes, false);
    for reply in &sent {
        assert_eq!(
            handoff::read_frame::<Reply>(&mut stream).unwrap().as_ref(),
            Some(reply)
        );
    }
    assert!(
        handoff::read_frame::<Reply>(&mut stream).unwrap().is_none(),
        "a clean end"
    );
}

/// Journals from before devices were named can be read, and failures without devices are written as
/// they were then.
#[test]
fn a_failure_of_no_device_is_written_as_before() {
    let before = r#"{"class":"bad_device","message":"gone"}"#;
    let failure: Failure = serde_json::from_str(before).unwrap();
    assert_eq!(
        failure,
        Failure::new(FailureClass::BadDevice, "gone".into())
    );
    assert_eq!(serde_json::to_string(&failure).unwrap(), before);
}

/// Trainers of users read this form.
#[test]
fn a_run_request_has_trial_and_attempt_as_two_fields() {
    let sweep = compile(&sweeps()[0]).unwrap();
    let request: RunRequest = serde_json::from_value(json!({
        "trial": "t884182218182e510",
        "attempt": 2,
        "num_epochs": 84,
        "spec": sweep.cell_trials(0, None).remove(0).spec,
        "data_dir": "data",
        "cache_dir": "cache",
        "checkpoint_dir": "checkpoints",
    }))
    .unwrap();
    assert_eq!(request.attempt.to_string(), "t884182218182e510#2");
    let sent = serde_json::to_value(&request).unwrap();
    assert_eq!(
        (&sent["trial"], &sent["attempt"]),
        (&json!("t884182218182e510"), &json!(2))
    );
}

#[test]
fn progress_that_is_no_number_is_left_out() {
    let progress = Progress {
        step: 3,
        train_loss: Some(f64::NAN),
        accuracy: Some(f64::INFINITY),
        images_per_s: f64::NAN,
        ..Progress::default()
    };
    let read = |json: &str| serde_json::from_str::<Progress>(json).unwrap();
    let expected = Progress {
        step: 3,
        ..Progress::default()
    };
    assert_eq!(read(&serde_json::to_string(&progress).unwrap()), expected);
    let json = serde_json::to_string(&Progress {
        accuracy: Some(1.5),
        ..expected.clone()
    });
    assert_eq!(read(&json.unwrap()), expected);
}

#[test]
fn broken_frames_are_errors() {
    let read = |bytes: &[u8]| handoff::read_frame::<Reply>(bytes).map_err(|error| error.kind());
    let whole = handoff::encode_frame(&Reply::Stopped);
    for cut in 1..whole.len() {
        assert_eq!(
            read(&whole[..cut]),
            Err(io::ErrorKind::UnexpectedEof),
            "cut at {cut}"
        );
    }
    assert_eq!(
        read(&[0xff; 4]),
        Err(io::ErrorKind::InvalidData),
        "4 GiB announced"
    );
    assert_eq!(
        read(&[0, 0, 0, 0]),
        Err(io::ErrorKind::InvalidData),
        "an empty frame"
    );
    assert_eq!(read(b"\x02\0\0\0{]"), Err(io::ErrorKind::InvalidData));
    let stray = serde_json::to_vec(&json!({"finished": {}})).unwrap();
    let frame = [&(stray.len() as u32).to_le_bytes()[..], &stray].concat();
    assert_eq!(read(&frame), Err(io::ErrorKind::InvalidData));
}
