//! How inputs change the model, and what it asks for.

use protocol::v1::{CurvePoint, RunningTrial, StatusReply, SweepStatus};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::model::{Action, Input, Kind, Leaving, Model, Pane, Prompt, Screen};
use super::panes::{number, sparkline};
use super::pictures::{model, press};

fn trial(id: &str, cell: &str, epoch: u32) -> RunningTrial {
    RunningTrial {
        trial: id.to_owned(),
        cell: cell.to_owned(),
        epoch,
        num_epochs: 10,
        train_loss: (epoch > 0).then(|| 1.0 / f64::from(epoch)),
        ..RunningTrial::default()
    }
}

fn sweep(trials: &[RunningTrial]) -> SweepStatus {
    SweepStatus {
        name: "s".to_owned(),
        running: trials.len() as u64,
        running_trials: trials.to_vec(),
        ..SweepStatus::default()
    }
}

fn status(trials: &[RunningTrial]) -> Input {
    Input::Status(Box::new(StatusReply {
        sweeps: vec![sweep(trials)],
        ..StatusReply::default()
    }))
}

fn control(model: &mut Model, symbol: char) -> Vec<Action> {
    let key = KeyEvent::new(KeyCode::Char(symbol), KeyModifiers::CONTROL);
    model.update(Input::Key(key), 0)
}

#[test]
fn the_selected_trial_stays_selected_when_others_come_and_go() {
    let mut model = Model::new("s", Leaving::Detaches);
    let [a, b, c] = ["a", "b", "c"].map(|id| trial(id, id, 0));
    model.update(status(&[a.clone(), b.clone(), c.clone()]), 0);
    press(&mut model, KeyCode::Char('j'));
    assert_eq!(model.cursor(Pane::Trials), 1);
    model.update(status(&[b.clone(), c.clone()]), 0);
    assert_eq!(model.cursor(Pane::Trials), 0, "b is first now");
    model.update(status(&[c]), 0);
    assert_eq!(model.cursor(Pane::Trials), 0, "b has ended");
    press(&mut model, KeyCode::Char('G'));
    let opened = press(&mut model, KeyCode::Enter);
    assert_eq!(opened, [Action::Describe("c".to_owned())]);
    assert!(matches!(&model.screen, Screen::Trial(page) if page.title == "c seed 0"));
}

#[test]
fn the_table_is_asked_for_when_a_trial_has_ended() {
    let mut model = Model::new("", Leaving::Detaches);
    let table = [Action::Table("s".to_owned())];
    assert_eq!(
        model.update(status(&[]), 0),
        table,
        "the only sweep is shown"
    );
    assert_eq!(model.update(status(&[]), 0), []);
    let ended = SweepStatus {
        succeeded: 1,
        ..sweep(&[])
    };
    assert_eq!(model.update(Input::Sweep(Box::new(ended)), 0), table);
    assert_eq!(model.update(Input::Resized, 0), table, "for another width");
    let other = Input::Table {
        sweep: "another".to_owned(),
        text: "title\n".to_owned(),
    };
    model.update(other, 0);
    assert_eq!(
        model.table_title(),
        None,
        "the user has changed to another sweep"
    );
}

#[test]
fn a_curve_grows_with_the_epochs_and_its_beginning_is_asked_for_once() {
    let mut model = Model::new("s", Leaving::Detaches);
    let describe = Action::Describe("a".to_owned());
    let asked = model.update(status(&[trial("a", "a", 5)]), 0);
    assert!(asked.contains(&describe), "{asked:?}");
    let asked = model.update(status(&[trial("a", "a", 6)]), 0);
    assert!(!asked.contains(&describe), "{asked:?}");
    let epochs =
        |model: &Model| -> Vec<u32> { model.curves["a"].iter().map(|point| point.epoch).collect() };
    assert_eq!(epochs(&model), [5, 6]);
    let point = |epoch| CurvePoint {
        epoch,
        train_loss: Some(1.0),
        accuracy: None,
    };
    let reply = protocol::v1::TrialReply {
        curve: (1..7).map(point).collect(),
        ..Default::default()
    };
    let described = Input::Described {
        trial: "a".to_owned(),
        reply: Ok(Box::new(reply)),
        log: None,
    };
    model.update(described, 0);
    assert_eq!(epochs(&model), [1, 2, 3, 4, 5, 6]);
    model.update(status(&[trial("a", "a", 4)]), 0);
    assert_eq!(epochs(&model), [1, 2, 3, 4], "it resumed from a checkpoint");
    model.update(status(&[]), 0);
    assert!(model.curves.is_empty(), "it has ended");
}

#[test]
fn keys_that_change_something_ask_or_need_a_reason() {
    let mut model = model();
    assert_eq!(press(&mut model, KeyCode::Char('c')), []);
    assert_eq!(model.prompt, Some(Prompt::Cancel));
    assert_eq!(press(&mut model, KeyCode::Char('n')), []);
    assert_eq!(model.prompt, None);
    press(&mut model, KeyCode::Char('c'));
    let cancel = Action::Cancel("fashion-mnist".to_owned());
    assert_eq!(press(&mut model, KeyCode::Char('y')), [cancel]);
    let retry = Action::Retry("fashion-mnist".to_owned());
    assert_eq!(press(&mut model, KeyCode::Char('r')), [retry]);
    press(&mut model, KeyCode::Char('q'));
    assert_eq!(press(&mut model, KeyCode::Char('y')), [Action::Leave]);
    assert_eq!(
        control(&mut model, 'c'),
        [Action::Leave],
        "without a question"
    );
    assert_eq!(control(&mut model, 'z'), [Action::Suspend]);

    let mut quiet = Model::new("s", Leaving::Detaches);
    quiet.update(status(&[]), 0);
    assert_eq!(
        press(&mut quiet, KeyCode::Char('r')),
        [],
        "nothing has failed"
    );
    assert_eq!(press(&mut quiet, KeyCode::Char('q')), [Action::Leave]);
}

#[test]
fn the_filter_takes_letters_that_are_keys_otherwise() {
    let mut model = model();
    press(&mut model, KeyCode::Char('/'));
    for symbol in "COS/".chars() {
        press(&mut model, KeyCode::Char(symbol));
    }
    press(&mut model, KeyCode::Enter);
    assert_eq!(model.running().len(), 1, "whatever its case");
    assert_eq!(model.failures().len(), 0);
    assert_eq!(model.sweep().map(|sweep| sweep.running), Some(5));
    press(&mut model, KeyCode::Esc);
    assert_eq!(model.running().len(), 5);
}

#[test]
fn tab_passes_over_parts_that_have_nothing() {
    let mut model = Model::new("s", Leaving::Detaches);
    model.update(status(&[]), 0);
    let mut seen = Vec::new();
    for _ in 0..3 {
        press(&mut model, KeyCode::Tab);
        seen.push(model.focus);
    }
    assert_eq!(seen, [Pane::Workers, Pane::Table, Pane::Trials]);
    press(&mut model, KeyCode::BackTab);
    assert_eq!(model.focus, Pane::Table);
}

#[test]
fn sweeps_take_turns_and_news_are_bounded() {
    let mut model = Model::new("", Leaving::Detaches);
    let named = |name: &str, submitted_at_ms| SweepStatus {
        name: name.to_owned(),
        submitted_at_ms,
        ..SweepStatus::default()
    };
    let reply = StatusReply {
        sweeps: vec![named("old", 1), named("new", 2)],
        ..StatusReply::default()
    };
    model.update(Input::Status(Box::new(reply)), 0);
    assert_eq!(model.shown, "new");
    let asked = press(&mut model, KeyCode::Char('s'));
    assert_eq!(
        (model.shown.as_str(), asked),
        ("old", vec![Action::Table("old".to_owned())])
    );
    for number in 0..2_000 {
        let news = Input::News {
            text: format!("{number}"),
            trial: None,
            kind: Kind::Note,
        };
        model.update(news, number);
    }
    assert!(model.news.len() < 1_000);
    assert_eq!(model.news[0].text, "1999");
}

#[test]
fn sparklines_show_the_whole_course_and_nothing_before_two_epochs() {
    assert_eq!(sparkline(&[], 8), "");
    assert_eq!(sparkline(&[1.0], 8), "");
    assert_eq!(sparkline(&[1.0, 1.0, 1.0], 8), "▄▄▄");
    assert_eq!(sparkline(&[0.0, f64::NAN, 7.0], 8), "▁█");
    let many: Vec<f64> = (0..1_000).map(f64::from).collect();
    assert_eq!(sparkline(&many, 8), "▁▂▃▄▅▆▇█");
}

#[test]
fn numbers_have_the_digits_that_fit() {
    let shown = [0.1234, 12.345, 123.45, 123_456.0, 1e12].map(|value| number(value, 5));
    assert_eq!(shown, ["0.123", "12.35", "123.5", "1e5", "1e12"]);
}

#[test]
fn the_page_of_a_trial_retries_it_alone_after_a_question() {
    let mut model = Model::new("s", Leaving::Detaches);
    model.update(status(&[trial("a", "a", 3)]), 0);
    press(&mut model, KeyCode::Enter);
    assert_eq!(press(&mut model, KeyCode::Char('r')), []);
    assert_eq!(
        press(&mut model, KeyCode::Char('n')),
        [],
        "thought better of"
    );
    press(&mut model, KeyCode::Char('r'));
    let retried = press(&mut model, KeyCode::Char('y'));
    assert_eq!(retried, [Action::RetryTrial("a".to_owned())]);
}
