//! The page in a headless Chromium while a sweep trains, for `make test-browser`: what people do on
//! it, axe-core's opinion of it, and the pictures of the documents (`make docs-pictures`).

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tests::browser::Rules;
use tests::{Browser, Process, System, wait_for, wait_for_command};

/// The trials of two cells end in seconds. Those of the third do not end by themselves.
const SWEEP: &str = "
name: watched
description: A sweep for somebody to look at
recipe: quick
set: {dataset: digits, model: resnet-8, samples_per_class: 5}
axes:
  length:
    - {name: short, set: {schedule: {constant: {epochs: 6}}}}
    - {name: other, set: {loss: cos, schedule: {constant: {epochs: 5}}}}
    - {name: endless, set: {repeats: 20, schedule: {constant: {epochs: 100000}}}}
seeds: 2
keep: [curves, confusion]
outputs:
  - table: {name: table, caption: Accuracy on digits (%), rows: length}
";

/// The source of axe-core, which `tests/browser/prepare.sh` fetched.
fn axe() -> String {
    let path = std::env::var_os("ORCHESTRATOR_AXE");
    let path = PathBuf::from(path.expect("`make test-browser` sets ORCHESTRATOR_AXE"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A coordinator with its page, and a worker.
struct Served {
    system: System,
    /// `http://127.0.0.1:PORT`
    page: String,
    _processes: Vec<Process>,
}

fn served() -> Served {
    let mut system = System::new();
    system.coordinator_flags = vec!["--http".to_owned(), "127.0.0.1:0".to_owned()];
    let coordinator = system.coordinator();
    // Two of the slots train without an end: the browser comes first.
    let worker = system.worker_command("node-1", 3, 1);
    let mut yielding = system.marked("nice");
    yielding.args(["-n", "5"]).arg(worker.get_program());
    yielding.args(worker.get_args());
    let worker = system.start("node-1", yielding);
    let login = system.ask(&["page"]);
    let page = login.split("/login").next().expect("an address").to_owned();
    Served {
        system,
        page,
        _processes: vec![coordinator, worker],
    }
}

impl Served {
    fn submit(&self, file: &str, sweep: &str) {
        self.system.file(file, sweep);
        let words = [
            "run",
            file,
            "--detach",
            "--data-dir",
            "data",
            "--cache-dir",
            "cache",
        ];
        self.system.ask(&words);
    }

    /// Signs in with the coordinator's token.
    fn sign_in(&self, browser: &Browser) {
        let token = fs::read_to_string(self.system.path("state").join("token"));
        browser.open(&format!("{}/login", self.page));
        browser.write("#secret", token.expect("a coordinator has a token").trim());
        browser.click("form[action='/login'] button");
        browser.shows("Sweeps");
    }

    /// The only sweep, from `status`.
    fn sweep(&self) -> Value {
        let mut status = self.system.status().expect("the coordinator answers");
        status["sweeps"][0].take()
    }

    /// Waits until a trial runs that does not end by itself, and returns its id.
    fn endless_trial(&self) -> String {
        wait_for_command("an endless trial runs", || {
            let sweep = self.sweep();
            let mut running = sweep["running_trials"].as_array()?.iter();
            let endless = running.find(|trial| trial["cell"] == "endless")?;
            Some(endless["trial"].as_str()?.to_owned())
        })
    }
}

/// Checks one page in both colour schemes, at the width of a phone, and the console.
fn look(browser: &Browser, axe: &str, place: &str) {
    for (scheme, rules) in [("dark", Rules::Colours), ("light", Rules::All)] {
        browser.prefer(scheme);
        assert_eq!(browser.faults(axe, rules), [""; 0], "{place}, {scheme}");
    }
    browser.resize(390, 844, true);
    // Charts take the new width one frame later.
    browser.returns("return document.documentElement.scrollWidth", &json!(390));
    browser.resize(1280, 900, false);
    assert_eq!(browser.console(), [""; 0], "{place}");
}

/// Does what a question on the page offers, and waits for the page after it.
fn act(browser: &Browser, question: &str) {
    browser.click(&format!("{question} summary"));
    browser.click(&format!("{question} button"));
    let answered = "return document.querySelector('details.action[open]') === null";
    browser.returns(answered, &json!(true));
}

/// Texts of the second column of the list of trials.
const CELLS: &str = "return [...document.querySelectorAll('table.trials tbody td:nth-child(2)')].map((cell) => cell.innerText)";

/// After each click it waits for something that the page did not show before.
#[test]
#[ignore = "needs Chromium: `make test-browser`"]
fn people_follow_a_sweep_and_change_it() {
    let axe = axe();
    let served = served();
    served.submit("watched.yaml", SWEEP);
    let browser = Browser::start(&served.system, true);
    served.sign_in(&browser);
    look(&browser, &axe, "sweeps");

    // The overview fills by itself.
    browser.click("#sweeps a");
    browser.is_at("/sweep/watched");
    browser.shows("A sweep for somebody to look at");
    browser.shows("Accuracy on digits");
    wait_for("the table shows the cells that have ended", || {
        let rows = "return [...document.querySelectorAll('table.paper tbody tr')].filter((row) => /\\d\\d?\\.\\d/.test(row.innerText)).length";
        (browser.script(rows).as_u64() >= Some(2)).then_some(())
    });
    browser.shows("live");
    browser.shows("Running");
    look(&browser, &axe, "overview");

    // Filter, with the keyboard.
    browser.click("header nav a[href$='/trials']");
    browser.is_at("/trials");
    wait_for("`/` goes to the filter", || {
        browser.press("/");
        (browser.script("return document.activeElement.id") == "filter").then_some(())
    });
    browser.write("#filter", "short\u{E007}");
    browser.is_at("q=short");
    browser.returns(CELLS, &json!(["short", "short"]));
    look(&browser, &axe, "trials");

    // Open a trial: curves, log, confusion matrix.
    browser.click("table.trials tbody th a");
    browser.shows("Where it comes from");
    browser.shows("Confusion matrix");
    wait_for("a chart has a cursor", || {
        let canvases = "document.querySelector('.chart').scrollIntoView();
            return document.querySelectorAll('.uplot canvas').length";
        (browser.script(canvases).as_u64() > Some(0)).then_some(())
    });
    look(&browser, &axe, "trial");
    let trial = browser.url().rsplit('/').next().expect("a path").to_owned();

    // Retry it: it has a second attempt, and then another result.
    act(&browser, "#again");
    wait_for("the trial has a result of its second attempt", || {
        let attempts = "return [...document.querySelectorAll('section[id^=attempts] tbody tr')].map((row) => row.innerText)";
        let attempts = browser.script(attempts);
        let attempts = attempts.as_array()?;
        let second = attempts.get(1)?.as_str()?;
        (attempts.len() == 2 && second.contains("succeeded")).then_some(())
    });
    assert!(browser.url().ends_with(&trial), "{}", browser.url());

    // A cell, and two compared.
    browser.click("dl.facts dd a");
    browser.shows("Compare with");
    look(&browser, &axe, "cell");
    browser.click("header nav a[href$='/compare']");
    browser.is_at("/compare");
    look(&browser, &axe, "comparison to choose");
    browser.write("input[name=a]", "short");
    browser.write("input[name=b]", "other");
    browser.click("form.filter button");
    browser.shows("What differs");
    browser.shows("loss");
    look(&browser, &axe, "comparison");

    // Workers, one of which is drained and gets work again.
    browser.click("header nav a[href='/workers']");
    browser.shows("node-1");
    look(&browser, &axe, "workers");

    // Cancel on the page of a running trial: with the question, and with the keyboard.
    let running = served.endless_trial();
    browser.open(&format!("{}/sweep/watched/trial/{running}", served.page));
    browser.shows("Cancel its sweep");
    wait_for("the question is open", || {
        browser.script("document.querySelector('#cancel summary').focus()");
        browser.press("\u{E007}");
        let open = browser.script("return document.querySelector('#cancel').open");
        (open == true).then_some(())
    });
    browser.shows("Every trial of the sweep that waits or runs is stopped");
    browser.press("\u{E004}\u{E007}");
    browser.shows("cancelled by a user of the page");
    wait_for_command("nothing runs any more", || {
        (served.sweep()["running"] == 0).then_some(())
    });
    look(&browser, &axe, "cancelled sweep");

    // Without the login there is nothing to see, at other addresses neither.
    browser.forget_cookies();
    browser.open(&format!("{}/sweep/watched", served.page));
    browser.shows("Log in");
    assert!(!browser.text().contains("Accuracy on digits"));
}

#[test]
#[ignore = "needs Chromium: `make test-browser`"]
fn pages_work_without_a_script() {
    let served = served();
    served.submit("watched.yaml", SWEEP);
    // Its worker is drained below, which would let it leave if nothing ran.
    served.endless_trial();
    wait_for_command("a trial has ended", || {
        (served.sweep()["succeeded"].as_u64() > Some(0)).then_some(())
    });
    let browser = Browser::start(&served.system, false);
    served.sign_in(&browser);
    browser.click("#sweeps a");
    browser.is_at("/sweep/watched");
    browser.shows("Accuracy on digits");
    // No script ran: one would write `live` here.
    let live = browser.script("return document.getElementById('live').textContent");
    assert_eq!(live, "");
    browser.click("header nav a[href$='/trials']");
    browser.is_at("/trials");
    browser.choose("select[name=phase] option[value=succeeded]");
    browser.click("form.filter button");
    browser.is_at("phase=succeeded");
    browser.click("table.trials tbody th a");
    browser.shows("Where it comes from");
    browser.returns(
        "return document.querySelectorAll('.chart svg').length",
        &json!(2),
    );
    let trial = browser.url();
    act(&browser, "#again");
    wait_for("the trial has a second attempt", || {
        browser.open(&trial);
        let rows = "return document.querySelectorAll('section[id^=attempts] tbody tr').length";
        (browser.script(rows) == 2).then_some(())
    });
    browser.click("header nav a[href='/workers']");
    for (action, presence) in [("drain", "draining"), ("undrain", "present")] {
        act(&browser, &format!("details[id^={action}-]"));
        browser.shows(presence);
    }
    browser.open(&format!("{}/sweep/watched", served.page));
    act(&browser, "#cancel");
    browser.shows("cancelled by a user of the page");
    act(&browser, "#continue");
    wait_for_command("the sweep is cancelled no longer", || {
        (served.sweep()["cancelled_reason"] == "").then_some(())
    });
    assert_eq!(browser.console(), [""; 0]);
    browser.click("footer button");
    browser.shows("Log in");
    browser.open(&served.page);
    browser.shows("Log in");
}

/// Takes the pictures of the documents, of the quickstart sweep once it has ended.
#[test]
#[ignore = "writes to docs: `make docs-pictures`"]
fn pictures() {
    const MAX_BYTES: usize = 120_000;
    let served = served();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let quickstart = fs::read_to_string(root.join("sweeps/quickstart.yaml"));
    served.submit("quickstart.yaml", &quickstart.expect("the sweep is there"));
    let browser = Browser::start(&served.system, true);
    served.sign_in(&browser);
    browser.prefer("light");
    browser.click("#sweeps a");
    // It trains for some minutes: polled here, since it may take longer than `wait_for` waits.
    while served.sweep()["complete"] != true {
        std::thread::sleep(std::time::Duration::from_secs(2));
    }
    let save = |name: &str, height: u32| {
        browser.resize(1000, height, false);
        let picture = browser.picture();
        assert!(picture.len() < MAX_BYTES, "{name}: {} bytes", picture.len());
        let path = root.join("docs/figures").join(name);
        fs::write(&path, picture).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    };
    browser.open(&browser.url());
    browser.shows("complete");
    save("page-sweep.png", 720);
    browser.open(&format!(
        "{}/sweep/quickstart/trials?phase=succeeded",
        served.page
    ));
    browser.click("table.trials tbody th a");
    wait_for("the curves are drawn", || {
        let canvases = browser.script("return document.querySelectorAll('.uplot canvas').length");
        (canvases.as_u64() >= Some(1)).then_some(())
    });
    save("page-trial.png", 720);
}

/// Prints the time until pages of a large sweep are painted, and the memory that they take.
#[test]
#[ignore = "measures, and needs a journal: `make measure-page`"]
fn first_paint_and_memory() {
    const TIMES: usize = 5;
    let folder = std::env::var_os("ORCHESTRATOR_LARGE_STATE");
    let folder = PathBuf::from(folder.expect("`make measure-page` sets ORCHESTRATOR_LARGE_STATE"));
    for trials in ["2000", "100000"] {
        let system = System::new();
        let state = folder.join(trials);
        let state = state.to_str().expect("UTF-8");
        let words = [
            "coordinator",
            "--listen",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
            "--state-dir",
            state,
        ];
        let coordinator = system.start("coordinator", system.orchestrator(&words));
        let login = wait_for("the coordinator serves the page", || {
            let output = system
                .orchestrator(&["page", "--state-dir", state])
                .output();
            let output = output.expect("the command starts");
            output
                .status
                .success()
                .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        });
        let page = login.split("/login").next().expect("an address").to_owned();
        let browser = Browser::start(&system, true);
        browser.open(&login);
        browser.click("#sweeps a");
        let sweep = browser.url();
        browser.click("header nav a[href$='/trials']");
        browser.click("table.trials tbody th a");
        let trial = browser.url();
        let trials_list = format!("{sweep}/trials");
        let searched = format!("{sweep}/trials?q=0.05&sort=accuracy&dir=desc");
        for (name, address) in [
            ("sweeps", format!("{page}/")),
            ("a sweep", sweep.clone()),
            ("trials", trials_list),
            ("trials, filtered and sorted", searched),
            ("a trial", trial),
        ] {
            let mut paints: Vec<f64> = Vec::new();
            let mut heap = 0.0_f64;
            for _ in 0..TIMES {
                browser.open(&address);
                let numbers = wait_for("the page is painted", || {
                    let numbers = browser.script(
                        "const paint = performance.getEntriesByName('first-contentful-paint')[0];
                         return paint ? [paint.startTime, performance.memory.usedJSHeapSize] : null");
                    numbers.is_array().then_some(numbers)
                });
                paints.push(numbers[0].as_f64().expect("milliseconds"));
                heap = heap.max(numbers[1].as_f64().expect("bytes"));
            }
            paints.sort_by(f64::total_cmp);
            println!(
                "{trials} trials, {name}: painted after {:.0} ms (median of {TIMES}; {:.0} to {:.0}), JavaScript heap {:.1} MiB",
                paints[TIMES / 2],
                paints[0],
                paints[TIMES - 1],
                heap / f64::from(1 << 20),
            );
        }
        let status = fs::read_to_string(format!("/proc/{}/status", coordinator.pid()));
        let status = status.expect("the coordinator runs");
        for line in status
            .lines()
            .filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM"))
        {
            println!("{trials} trials, coordinator: {line}");
        }
    }
}
