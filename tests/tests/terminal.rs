//! The view of a real run on a real pseudo-terminal: what it shows, what keys do, and that nothing is
//! left behind on every way out.

use nix::sys::signal::Signal;
use tests::binaries::binary;
use tests::terminal::Terminal;
use tests::{System, wait_for};

const SWEEP: &str = "
name: watched
recipe: quick
set: {dataset: digits, model: resnet-8, samples_per_class: 5}
axes:
  loss: [xent, cos]
  a-long-name-of-an-axis:
    - {name: a-value-whose-name-is-long, set: {momentum: 0.5}}
seeds: 2
search: {field: learning_rate, candidates: [0.1, 0.05]}
outputs:
  - table: {rows: loss, columns: a-long-name-of-an-axis}
";

/// Starts the sweep with a trainer whose epochs take that long, in milliseconds.
fn run(system: &System, epoch_ms: u32, flags: &[&str]) -> Terminal {
    system.file("watched.yaml", SWEEP);
    let trainer = binary("orchestrator-trainer");
    let slow = system.script(
        "trainer",
        &format!(
            "exec {} \"$@\" --rehearse --rehearse-epoch-ms {epoch_ms}",
            trainer.display()
        ),
    );
    let slow = slow.to_str().expect("a path in UTF-8");
    let mut arguments = vec![
        "run",
        "watched.yaml",
        "--devices",
        "cpu",
        "--slots",
        "2",
        "--trainer",
        slow,
    ];
    arguments.extend(flags);
    Terminal::start(system, &arguments)
}

/// Counts the running trials on the screen that have finished an epoch.
fn running(text: &str) -> usize {
    let has_epochs = |line: &&str| line.contains("/84") && !line.contains(" 0/84");
    text.lines().filter(has_epochs).count()
}

/// The terminal is as it was, and below what was printed before is the table.
fn nothing_is_left_behind(terminal: Terminal) -> String {
    let (status, screen) = terminal.ended();
    let text = screen.text();
    assert_eq!(status.code(), Some(130), "{text}");
    assert!(!screen.is_alternate() && !screen.is_cursor_hidden, "{text}");
    assert!(
        text.contains("interrupted; everything done is kept"),
        "{text}"
    );
    assert!(
        text.contains("a-value-whose-name-is-long") && text.contains("───"),
        "the table is in the scrollback: {text}"
    );
    assert!(
        !text.contains("epoch ") && !text.contains("▌Running"),
        "{text}"
    );
    text
}

#[test]
fn a_run_is_seen_and_steered_and_leaves_the_terminal_as_it_was() {
    let system = System::new();
    let mut terminal = run(&system, 300, &[]);
    let overview = terminal.wait_until("two trials are shown after their first epochs", |text| {
        running(text) >= 2
    });
    for part in ["watched", "trials", "▌Running  2", "Workers", "? help"] {
        assert!(overview.contains(part), "no {part} in\n{overview}");
    }
    assert!(
        overview.contains("learning_rate=0.1 seed 0"),
        "candidate and seed stay visible: {overview}"
    );
    assert!(
        overview.contains("a-value-whose-name-is-long"),
        "the table: {overview}"
    );
    assert!(!overview.contains("/0 "), "{overview}");

    terminal.press("?");
    terminal.wait_until("the help", |text| text.contains("draw the screen again"));
    terminal.press("?");
    terminal.press("/no such trial\r");
    terminal.wait_until("no trial passes the filter", |text| {
        text.contains("nothing runs")
    });
    terminal.press("\x1b");
    terminal.wait_until("the filter is forgotten", |text| running(text) >= 2);

    terminal.press("\r");
    let page = terminal.wait_until("the page of a trial with its settings", |text| {
        text.contains("training loss") && text.contains("batch_size")
    });
    assert!(page.contains("learning_rate"), "{page}");
    terminal.press("\t");
    terminal.wait_until("its history", |text| text.contains("attempt 1 runs on"));
    terminal.press("\x1b");

    terminal.resize(120, 40);
    terminal.wait_until("the screen is wider", |text| {
        text.lines().any(|line| line.chars().count() > 100)
    });

    terminal.press("q");
    terminal.wait_until("q asks", |text| text.contains("leave? training stops"));
    terminal.press("n");
    terminal.wait_until("and stays", |text| {
        !text.contains("leave?") && text.contains("q leave")
    });
    terminal.press("\x03");
    nothing_is_left_behind(terminal);
}

#[test]
fn a_signal_gives_the_terminal_back() {
    let system = System::new();
    let terminal = run(&system, 300, &[]);
    terminal.wait_until("the view", |text| text.contains("▌Running"));
    terminal.signal(Signal::SIGTERM);
    nothing_is_left_behind(terminal);
}

/// Ctrl-Z gives the terminal back, and the view is drawn again when the program continues.
#[test]
fn a_stopped_view_is_drawn_again_when_it_continues() {
    let system = System::new();
    let mut terminal = run(&system, 300, &[]);
    terminal.wait_until("the view", |text| text.contains("▌Running"));
    terminal.press("\x1a");
    wait_for("the terminal is given back", || {
        let seen = String::from_utf8_lossy(&terminal.bytes()).into_owned();
        seen.contains("\x1b[?1049l").then_some(())
    });
    // without a shell that could continue it, the kernel does not stop it
    terminal.signal(Signal::SIGCONT);
    terminal.wait_until("the view again", |text| text.contains("▌Running"));
    terminal.press("qy");
    nothing_is_left_behind(terminal);
}

/// Lines of a run without a view fit the terminal and name candidate and seed.
#[test]
fn plain_progress_fits_the_terminal() {
    let system = System::new();
    let terminal = run(&system, 300, &["--view", "plain"]);
    let text = terminal.wait_until("two trials are shown", |text| running(text) >= 2);
    terminal.signal(Signal::SIGINT);
    let (status, screen) = terminal.ended();
    assert_eq!(status.code(), Some(130), "{text}");
    let shown = screen.text();
    assert!(!shown.contains("epoch 0/"), "{shown}");
    let progress: Vec<&str> = shown
        .lines()
        .filter(|line| line.contains("epoch "))
        .collect();
    assert!(progress.len() >= 2, "{shown}");
    for line in progress {
        assert!(line.chars().count() <= 80, "{line}");
        assert!(
            line.contains(" seed ") && line.contains("learning_rate="),
            "{line}"
        );
    }
}
