//! The events of an archive, and planted differences.

use std::sync::Arc;

use report::StoredResults;
use report::archive::{Difference, ReportFiles, differences, journal_part, report_of};
use schedule::event::{Event, Recorded};
use schedule::state::{Slot, SweepTrial, WorkerId, WorkerInfo};
use sweep::definition::{Claim, ClaimedPair, Measure, Output, Relation};
use sweep::{AttemptNo, Sweep, TrialId};

use crate::fixture::{Stored, axis, sweep, table};

fn named(name: &str, losses: &[&str]) -> Sweep {
    let losses: Vec<(&str, &str)> = losses.iter().map(|loss| (*loss, *loss)).collect();
    let mut sweep = sweep(name, vec![axis("loss", &losses)], &[0, 1, 2], |_| true);
    sweep.outputs = vec![Output::Table(table(
        "main",
        "",
        &["loss"],
        &[],
        Measure::Last,
    ))];
    sweep
}

/// A journal in which `first` trains xent and cos, `second` reuses cos and trains mse, and `third`
/// trains something else.
struct History(Vec<Recorded>);

impl History {
    fn new() -> Self {
        let slot = Slot {
            devices: vec!["cpu".to_owned()],
            uuids: Vec::new(),
            description: "cpu".to_owned(),
        };
        let mut history = Self(Vec::new());
        history.add(Event::WorkerJoined {
            worker: WorkerId("node1-77-ab".into()),
            info: WorkerInfo {
                host: "node1".to_owned(),
                build: "0.1.0+abc".to_owned(),
                trainer: Default::default(),
                slots: vec![slot],
                allocation: None,
                leaves_at_ms: None,
            },
            secret: None,
            occupied: Default::default(),
        });
        let mut second = named("second", &["cos", "mse"]);
        second.claims = vec![Claim {
            text: "cos beats mse".to_owned(),
            value: Measure::Last,
            relation: Relation::Beats { by: 0.0 },
            pairs: vec![ClaimedPair {
                cell: 0,
                against: Some(1),
            }],
        }];
        history.submit(&named("first", &["xent", "cos"]), true);
        history.submit(&named("third", &["cos_xent"]), true);
        history.submit(&second, true);
        history
    }

    fn add(&mut self, event: Event) {
        let at = 1_795_435_200_000 + self.0.len() as u64;
        self.0.push(Recorded { at, event });
    }

    fn is_trained(&self, id: TrialId) -> bool {
        self.0.iter().any(|recorded| match &recorded.event {
            Event::AttemptSucceeded { attempt, .. } => attempt.trial == id,
            _ => false,
        })
    }

    fn submit(&mut self, sweep: &Sweep, train: bool) {
        let planned = (0..sweep.cells.len()).flat_map(|cell| sweep.cell_trials(cell, None));
        let trials = planned.map(|planned| SweepTrial {
            id: planned.id,
            cell: planned.cell as u32,
            candidate: None,
            role: planned.role,
            seed: planned.spec.seed,
            cost: 1.0,
        });
        let trials: Arc<Vec<SweepTrial>> = Arc::new(trials.collect());
        self.add(Event::SweepSubmitted {
            sweep: Arc::new(sweep.clone()),
            trials: trials.clone(),
        });
        for trial in trials.iter().filter(|_| train) {
            if self.is_trained(trial.id) {
                continue;
            }
            let attempt = trial.id.attempt(AttemptNo(1));
            self.add(Event::TrialDispatched {
                attempt,
                worker: WorkerId("node1-77-ab".into()),
                slot: 0,
            });
            let mut result = Stored.result(9).expect("a result");
            result.last_accuracy = 0.75 + 0.01 * trial.seed as f64;
            result.best_accuracy = result.last_accuracy;
            self.add(Event::AttemptSucceeded {
                attempt,
                result: Box::new(result),
            });
        }
    }
}

#[test]
fn a_part_of_the_journal_gives_the_report_of_the_whole() {
    let events = History::new().0;
    let (part, files) = journal_part(events.clone(), "second").expect("it has a report");
    assert!(!part.is_whole);
    assert!(part.events.len() < events.len());
    let is_of_third = |recorded: &Recorded| match &recorded.event {
        Event::SweepSubmitted { sweep, .. } => sweep.name == "third",
        _ => false,
    };
    assert!(!part.events.iter().any(is_of_third));
    assert_eq!(report_of(&part.events, "second"), Ok(files.clone()));
    assert_eq!(report_of(&events, "second"), Ok(files));
    assert!(journal_part(events, "fourth").is_err());
}

fn planted(name: &str, from: &str, to: &str) -> Vec<Difference> {
    let (_, files) = journal_part(History::new().0, "second").expect("it has a report");
    let change = |(file, content): &(String, Vec<u8>)| {
        let mut text = String::from_utf8(content.clone()).expect("text");
        if file == name {
            assert!(text.contains(from), "no `{from}` in {text}");
            text = text.replacen(from, to, 1);
        }
        (file.clone(), text.into_bytes())
    };
    let changed: ReportFiles = files.iter().map(change).collect();
    assert_eq!(differences(&files, &files), []);
    differences(&changed, &files)
}

/// Each names the cell, the field and both values.
#[test]
fn planted_differences_are_found_and_named() {
    let value = |text: &str| Some(text.to_owned());
    let found = planted(
        "main.csv",
        "cos,last,complete,3,3,76,",
        "cos,last,complete,3,3,79,",
    );
    assert_eq!(
        found,
        [Difference {
            place: "main.csv, cell cos".to_owned(),
            field: "mean_percent".to_owned(),
            archived: value("79"),
            recomputed: value("76"),
        }]
    );
    let found = planted("results.json", "\"undecided\"", "\"supported\"");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].place, "results.json, claim cos beats mse");
    assert_eq!(found[0].archived, value("\"supported\""));
    assert_eq!(found[0].recomputed, value("\"undecided\""));
    let found = planted("results.csv", ",0.76,0.76,", ",0.96,0.76,");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].place.starts_with("results.csv, cell cos, trial t"),
        "{found:?}"
    );
    assert_eq!(found[0].field, "last_accuracy");
    let found = planted("main.txt", "76.0", "79.0");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].field.starts_with("line "), "{found:?}");
}

/// A result that was changed in the events no longer gives the archived table.
#[test]
fn a_changed_result_shows_in_its_cell() {
    let (mut part, files) = journal_part(History::new().0, "second").expect("it has a report");
    let result = part
        .events
        .iter_mut()
        .find_map(|recorded| match &mut recorded.event {
            Event::AttemptSucceeded { result, .. } => Some(result),
            _ => None,
        });
    result.expect("there is one").last_accuracy = 0.5;
    let recomputed = report_of(&part.events, "second").expect("it has a report");
    // the first result is of xent/0, which `second` does not have
    assert_eq!(differences(&files, &recomputed), []);
    for recorded in &mut part.events {
        if let Event::AttemptSucceeded { result, .. } = &mut recorded.event {
            result.last_accuracy = 0.5;
        }
    }
    let recomputed = report_of(&part.events, "second").expect("it has a report");
    let found = differences(&files, &recomputed);
    let names = |place: &str, field: &str| {
        found
            .iter()
            .any(|one| one.place == place && one.field == field)
    };
    assert!(names("main.csv, cell cos", "mean_percent"), "{found:?}");
    assert!(names("results.json, cell mse", "last.mean"), "{found:?}");
}

#[test]
fn files_that_only_one_side_has_are_named() {
    let (_, files) = journal_part(History::new().0, "second").expect("it has a report");
    let fewer: ReportFiles = files
        .iter()
        .filter(|(name, _)| name != "curves.csv")
        .cloned()
        .collect();
    let found = differences(&fewer, &files);
    assert_eq!(found.len(), 1);
    assert_eq!(
        (&*found[0].place, &found[0].archived),
        ("curves.csv", &None)
    );
    assert_eq!(differences(&files, &fewer)[0].recomputed, None);
}
