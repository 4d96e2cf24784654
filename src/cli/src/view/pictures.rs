//! The view as files to look at, drawn from one invented sweep that has every status: text in
//! `goldens/`, and the picture of the documentation.
//!
//! `UPDATE_GOLDENS=1 cargo test -p cli --bin orchestrator view` writes them; read the difference.

use protocol::v1::{
    Condition, CurvePoint, FailedTrial, Presence, RunningTrial, StatusReply, SweepStatus,
    TrialReply, WorkerStatus,
};
use ratatui::buffer::{Buffer, Cell};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier};
use schedule::allocation::{AllocationStatus, ClusterStatus, QueueStatus};

use super::draw::{self, Theme};
use super::model::{Input, Kind, Leaving, Model};

/// The table of docs/results.md while it filled, with cells that still wait.
const TABLE: &str = "\
accuracy: Fashion-MNIST with few images per class
──────────────────────────────────────────────────────────────────────
                 samples per class
loss             5             10            20            50
──────────────────────────────────────────────────────────────────────
cross-entropy    57.6 ± 3.8 ≈  65.8 ± 1.8 ≈  73.6 ± 1.1 ≈  running
label smoothing  59.7 ± 3.9 ≈  66.0 ± 1.4 ≈  73.9 ± 1.1 ≈  waiting
MSE              60.0 ± 2.4 *  67.5 ± 2.6 *  73.9 (2/5)    failed
cosine           54.4 ± 5.0 ≈  57.7 ± 5.3    73.3 ± 1.4 ≈  waiting
cosine + xent    56.2 ± 4.1 ≈  59.0 ± 3.9    74.5 ± 1.2 *  waiting
──────────────────────────────────────────────────────────────────────
";

fn running(trial: u64, cell: &str, seed: u64, epoch: u32) -> RunningTrial {
    let share = f64::from(epoch) / 84.0;
    RunningTrial {
        trial: format!("t{trial:016x}"),
        attempt: 1,
        cell: cell.to_owned(),
        seed,
        worker: "gpu04-1".to_owned(),
        slot: (trial % 4) as u32,
        epoch,
        num_epochs: 84,
        images_per_s: 2050.0 + 13.0 * trial as f64,
        train_loss: (epoch > 0).then(|| loss(share)),
        accuracy: (epoch > 0).then(|| accuracy(share)),
        condition: Condition::Running.into(),
        search: false,
    }
}

fn loss(share: f64) -> f64 {
    0.12 + 2.1 * (-4.5 * share).exp() + 0.03 * (40.0 * share).sin()
}

fn accuracy(share: f64) -> f64 {
    0.80 - 0.62 * (-5.5 * share).exp() + 0.008 * (31.0 * share).sin()
}

fn curve(epochs: u32) -> Vec<CurvePoint> {
    (1..=epochs)
        .map(|epoch| {
            let share = f64::from(epoch) / 84.0;
            CurvePoint {
                epoch,
                train_loss: Some(loss(share)),
                accuracy: Some(accuracy(share)),
            }
        })
        .collect()
}

fn sweep() -> SweepStatus {
    let search = RunningTrial {
        search: true,
        ..running(3, "cos/50 learning_rate=0.03", 1, 41)
    };
    let stalled = RunningTrial {
        condition: Condition::Stalled.into(),
        attempt: 2,
        worker: "gpu05-1".to_owned(),
        ..running(4, "cos_xent/50 learning_rate=0.1", 1, 12)
    };
    let starting = RunningTrial {
        num_epochs: 0,
        images_per_s: 0.0,
        worker: "gpu05-1".to_owned(),
        ..running(5, "smooth/50 learning_rate=0.3", 2, 0)
    };
    SweepStatus {
        name: "fashion-mnist".to_owned(),
        revision: 1,
        waiting: 23,
        running: 5,
        succeeded: 69,
        failed: 2,
        cancelled: 1,
        complete_cells: 13,
        cells: 20,
        remaining_ms: 742_000,
        remaining_low_ms: 655_000,
        remaining_high_ms: 829_000,
        remaining_at_least: true,
        running_trials: vec![
            running(1, "xent/50", 3, 77),
            running(2, "xent/50", 4, 52),
            search,
            stalled,
            starting,
        ],
        failures: vec![
            failed(
                6,
                "mse/50 learning_rate=1.0",
                1,
                "the loss became NaN in epoch 3",
            ),
            failed(
                7,
                "mse/20",
                4,
                "out of memory: 80 MiB were asked for and 12 MiB are free",
            ),
        ],
        ..SweepStatus::default()
    }
}

fn failed(trial: u64, cell: &str, attempts: u32, failure: &str) -> FailedTrial {
    FailedTrial {
        trial: format!("t{trial:016x}"),
        cell: cell.to_owned(),
        seed: 2,
        attempts,
        search: cell.contains('='),
        failure: failure.to_owned(),
    }
}

fn worker(name: &str, presence: Presence, busy_slots: u32) -> WorkerStatus {
    WorkerStatus {
        worker: name.to_owned(),
        presence: presence.into(),
        slots: 4,
        busy_slots,
        silent_ms: 42_000,
        slot_descriptions: vec!["cuda:0: NVIDIA H100 80GB HBM3".to_owned(); 4],
        ..WorkerStatus::default()
    }
}

fn status() -> StatusReply {
    let cluster = ClusterStatus {
        queue: Some(QueueStatus {
            name: "fashion-mnist".to_owned(),
            launcher: "slurm".to_owned(),
            request: "1 node".to_owned(),
            max_allocations: 8,
            wanted: 6,
            paused: None,
            reason: None,
            delayed_until_ms: None,
            error: None,
            avoided: Vec::new(),
        }),
        allocations: vec![AllocationStatus {
            allocation: "orch-fashion-mnist-6".to_owned(),
            job: Some("48213".to_owned()),
            state: "pending".to_owned(),
            reason: Some("it waits for resources (Resources)".to_owned()),
            node: None,
            worker: None,
            time_left_ms: None,
            since_ms: 0,
            log: String::new(),
        }],
    };
    let here = WorkerStatus {
        leaves_in_ms: Some(5_160_000),
        ..worker("gpu04-1", Presence::Present, 3)
    };
    StatusReply {
        sweeps: vec![sweep()],
        workers: vec![
            here,
            worker("gpu05-1", Presence::Unreachable, 2),
            WorkerStatus {
                reason: "its job was preempted".to_owned(),
                ..worker("gpu02-1", Presence::Gone, 0)
            },
        ],
        cluster_json: serde_json::to_vec(&cluster).unwrap(),
        ..StatusReply::default()
    }
}

/// A model that has seen the invented sweep.
pub fn model() -> Model {
    let mut model = Model::new("fashion-mnist", Leaving::StopsTraining);
    let news = |text: &str, trial: Option<u64>, kind: Kind| Input::News {
        text: text.to_owned(),
        trial: trial.map(|trial| format!("t{trial:016x}")),
        kind,
    };
    model.update(
        news(
            "worker gpu02-1 is gone: its job was preempted",
            None,
            Kind::Note,
        ),
        0,
    );
    let text = "mse/50 learning_rate=1.0 seed 2 (search): failed: the loss became NaN in epoch 3";
    model.update(news(text, Some(6), Kind::Failure), 61_000);
    let text = "xent/50 seed 2: 79.1 % test (best 79.4 %), 118.2 s";
    model.update(news(text, Some(8), Kind::Result), 170_000);
    let asked = model.update(Input::Status(Box::new(status())), 182_000);
    for action in asked {
        if let super::Action::Describe(trial) = action {
            let epochs = sweep()
                .running_trials
                .into_iter()
                .find(|known| known.trial == trial);
            let reply = TrialReply {
                curve: curve(epochs.map_or(0, |known| known.epoch)),
                ..TrialReply::default()
            };
            let reply = Ok(Box::new(reply));
            model.update(
                Input::Described {
                    trial,
                    reply,
                    log: None,
                },
                182_000,
            );
        }
    }
    let sweep = "fashion-mnist".to_owned();
    let text = TABLE.to_owned();
    model.update(Input::Table { sweep, text }, 182_000);
    model
}

pub fn press(model: &mut Model, code: KeyCode) -> Vec<super::Action> {
    let key = KeyEvent::new(code, KeyModifiers::NONE);
    model.update(Input::Key(key), 182_000)
}

pub fn drawn(model: &Model, columns: u16, rows: u16) -> Buffer {
    let area = Rect::new(0, 0, columns, rows);
    let mut buffer = Buffer::empty(area);
    draw::draw(model, Theme { colour: true }, area, &mut buffer);
    buffer
}

pub fn text(buffer: &Buffer) -> String {
    let rows = buffer.content.chunks(usize::from(buffer.area.width));
    let line = |row: &[Cell]| {
        let text: String = row.iter().map(Cell::symbol).collect();
        format!("{}\n", text.trim_end())
    };
    rows.map(line).collect()
}

fn compare_text(name: &str, buffer: &Buffer) {
    tests::golden::assert_file(format!("src/view/goldens/{name}.txt"), &text(buffer));
}

#[test]
fn every_status_on_one_page() {
    let model = model();
    compare_text("80x24", &drawn(&model, 80, 24));
    compare_text("120x40", &drawn(&model, 120, 40));
    compare_text("60x16", &drawn(&model, 60, 16));
}

#[test]
fn a_trial_help_and_a_question() {
    let mut model = model();
    let opened = press(&mut model, KeyCode::Enter);
    let [super::Action::Describe(trial)] = &opened[..] else {
        panic!("{opened:?}");
    };
    let reply = TrialReply {
        trial: trial.clone(),
        explanation: format!("{trial}: running\n  attempt 1 runs on gpu04, slot 1, since 97 s\n"),
        settings_json: br#"{"dataset":"fashion-mnist","loss":"xent","model":"resnet-8","learning_rate":0.03,"samples_per_class":50}"#.to_vec(),
        curve: curve(77),
        worker: "gpu04-1".to_owned(),
        host: "gpu04".to_owned(),
        log: format!("logs/{trial}/attempt-1.stderr"),
        ..TrialReply::default()
    };
    let described = |log| Input::Described {
        trial: trial.clone(),
        reply: Ok(Box::new(reply.clone())),
        log,
    };
    model.update(described(None), 182_000);
    compare_text("trial", &drawn(&model, 80, 24));
    press(&mut model, KeyCode::Tab);
    press(&mut model, KeyCode::Tab);
    let elsewhere = text(&drawn(&model, 80, 24));
    assert!(elsewhere.contains("it is on gpu04"), "{elsewhere}");
    model.update(
        described(Some(vec!["a line of its trainer".to_owned()])),
        182_000,
    );
    let log = text(&drawn(&model, 80, 24));
    assert!(log.contains("a line of its trainer"), "{log}");
    press(&mut model, KeyCode::Esc);
    press(&mut model, KeyCode::Char('?'));
    compare_text("help", &drawn(&model, 80, 24));
    press(&mut model, KeyCode::Esc);
    press(&mut model, KeyCode::Char('c'));
    let asked = text(&drawn(&model, 80, 24));
    assert!(
        asked.ends_with("cancel fashion-mnist? 28 trials end without a result   y / n\n"),
        "{asked}"
    );
}

#[test]
fn the_picture_of_the_documentation() {
    let picture = svg(&drawn(&model(), 100, 34));
    tests::golden::assert_file("../../docs/figures/terminal.svg", &picture);
}

/// Nothing is drawn outside the area, and no size makes the view panic.
#[test]
fn every_size_can_be_drawn() {
    let mut model = model();
    for code in [KeyCode::Esc, KeyCode::Enter, KeyCode::Char('?')] {
        press(&mut model, code);
        for columns in (1..130).step_by(7) {
            for rows in 1..50 {
                drawn(&model, columns, rows);
            }
        }
        press(&mut model, KeyCode::Esc);
    }
}

#[test]
fn without_colour_there_is_none() {
    let area = Rect::new(0, 0, 100, 34);
    let mut buffer = Buffer::empty(area);
    draw::draw(&model(), Theme { colour: false }, area, &mut buffer);
    assert!(
        buffer
            .content
            .iter()
            .all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset)
    );
    assert_eq!(text(&buffer), text(&drawn(&model(), 100, 34)));
}

/// The size of a character, and the margin around the screen.
const CELL: (f64, f64) = (8.4, 18.0);
const PADDING: f64 = 18.0;
const BAR: f64 = 30.0;

/// Formats the cells as SVG. Each run of one style is a text of fixed length, so that every font
/// keeps the columns.
fn svg(buffer: &Buffer) -> String {
    let Rect { width, height, .. } = buffer.area;
    let size = (
        f64::from(width) * CELL.0 + 2.0 * PADDING,
        f64::from(height) * CELL.1 + 2.0 * PADDING + BAR,
    );
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0} {1:.0}\" width=\"{0:.0}\" height=\"{1:.0}\" \
         font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"14\">\n\
         <title>The terminal view of a running sweep</title>\n\
         <rect width=\"{0:.0}\" height=\"{1:.0}\" rx=\"10\" fill=\"#14181f\"/>\n",
        size.0, size.1
    );
    for (index, colour) in ["#ec6a5e", "#f4bf4f", "#61c554"].iter().enumerate() {
        let x = 20.0 + 18.0 * index as f64;
        out += &format!("<circle cx=\"{x:.0}\" cy=\"18\" r=\"5.5\" fill=\"{colour}\"/>\n");
    }
    for (row, cells) in buffer.content.chunks(usize::from(width)).enumerate() {
        let y = BAR + PADDING + CELL.1 * row as f64 + 4.0;
        let mut begin = 0;
        while begin < cells.len() {
            let style = |cell: &Cell| (cell.fg, cell.modifier);
            let same = cells[begin..]
                .iter()
                .take_while(|cell| style(cell) == style(&cells[begin]));
            let end = begin + same.count();
            let text: String = cells[begin..end].iter().map(Cell::symbol).collect();
            if !text.trim().is_empty() {
                out += &run(&text, begin, y, &cells[begin]);
            }
            begin = end;
        }
    }
    out + "</svg>\n"
}

fn run(text: &str, column: usize, y: f64, cell: &Cell) -> String {
    let lead = text.chars().take_while(|symbol| *symbol == ' ').count();
    let text = text.trim();
    let x = PADDING + CELL.0 * (column + lead) as f64;
    let length = CELL.0 * text.chars().count() as f64;
    let is_quiet = cell.modifier.contains(Modifier::DIM);
    let colour = match (cell.fg, is_quiet) {
        (Color::Cyan, _) => "#62b8c9",
        (Color::Green, _) => "#8cc57f",
        (Color::Red, _) => "#ef7d77",
        (Color::Yellow, _) => "#e3bf6f",
        (Color::Magenta, _) => "#bd93d8",
        (_, true) => "#77808e",
        (_, false) => "#d5dae3",
    };
    let weight = match cell.modifier.contains(Modifier::BOLD) {
        true => " font-weight=\"bold\"",
        false => "",
    };
    let text = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    format!(
        "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{colour}\"{weight} textLength=\"{length:.1}\" \
         lengthAdjust=\"spacingAndGlyphs\" xml:space=\"preserve\">{text}</text>\n"
    )
}
