//! `orchestrator run`: a sweep from its file to its table, at a coordinator elsewhere or at one inside this process.
//!
//! Everything that can be refused is refused before anything starts. Read `serve.rs` for the embedded coordinator and
//! worker, `follow_sweep.rs` for what happens while the sweep runs.

use std::path::Path;
use std::time::{Duration, Instant};

use protocol::v1::{ReportReply, StatusReply, SubmitReply, SweepStatus};
use schedule::WaitReason;
use serde_json::json;
use sweep::Sweep;

use crate::args::RunArgs;
use crate::client;
use crate::commands::follow_sweep::{Follower, Step, Writer, submit};
use crate::commands::serve::{Embedded, slots};
use crate::exit::{ExpectedError, Outcome};
use crate::follow::View;
use crate::output::{self, Output, SCHEMA, counted};
use crate::preflight::{self, Places};
use crate::results_folder::ResultsFolder;
use crate::signals::Signals;
use crate::{rendezvous, talk, trainer};

/// How long a coordinator elsewhere may be away when a sweep is submitted.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at a state directory whose coordinator is ending.
const AGAIN: Duration = Duration::from_millis(200);

pub fn run(arguments: &RunArgs, output: Output) -> Result<Outcome, ExpectedError> {
    let mut sweep = load(&arguments.file)?;
    if arguments.smoke {
        sweep = sweep.into_smoke();
    }
    let places = Places::of(&arguments.data)?;
    let elsewhere = arguments.target.coordinator.is_some();
    // A login node need not have the data: then its workers say what is missing.
    if !elsewhere || arguments.data.data_dir.is_some() {
        for lacks in preflight::check(&mut sweep, &places, arguments.skip_missing)? {
            talk::say(&format!("left out: {lacks}"));
        }
    }
    for remark in sweep.remarks() {
        talk::say(&format!("note: {remark}"));
    }
    let run = Run { arguments, sweep, places, output };
    if elsewhere {
        let address = arguments.target.coordinator.clone().unwrap_or_default();
        let token = arguments.target.token_file.clone();
        return super::block_on(async { run.elsewhere(address, token, true, &mut Signals::listen()?).await });
    }
    super::block_on(run.here())
}

/// Reads a sweep file; its errors are drawn for the terminal.
pub fn load(file: &Path) -> Result<Sweep, ExpectedError> {
    let style = sweep::Style { colour: talk::colour(), ..sweep::Style::default() };
    sweep::load(file).map_err(|errors| ExpectedError::SweepFile(errors.render(style)))
}

struct Run<'a> {
    arguments: &'a RunArgs,
    sweep: Sweep,
    places: Places,
    output: Output,
}

/// How following ended.
enum Followed {
    Complete,
    /// No slot of this process can take the sweep's trials, and nobody else can.
    Stuck(String),
    /// By this signal.
    Interrupted(&'static str),
}

impl Run<'_> {
    /// At the coordinator of the state directory, which may be part of another `orchestrator run`: when that one ends
    /// before this sweep, this one takes over.
    async fn here(&self) -> Result<Outcome, ExpectedError> {
        let mut signals = Signals::listen()?;
        let state_dir = &self.arguments.target.state_dir;
        let mut taking_over: Option<Instant> = None;
        loop {
            let Some(found) = rendezvous::find(state_dir) else {
                match self.embedded(&mut signals).await {
                    // its process has not quite ended, or another command was faster
                    Err(ExpectedError::Taken(_)) if taking_over.is_some_and(|since| since.elapsed() < PATIENCE) => {
                        tokio::time::sleep(AGAIN).await;
                        continue;
                    }
                    ended => return ended,
                }
            };
            let (pid, place) = (found.pid, state_dir.display());
            talk::say(&format!("a coordinator (process {pid}) runs on {place} already: submitting to it"));
            let borrowed = !found.lasts && found.is_here();
            match self.elsewhere(found.address, found.token_file, found.lasts, &mut signals).await {
                Err(ExpectedError::Unreachable { .. } | ExpectedError::Coordinator { .. })
                    if borrowed && self.has_gone(pid).await =>
                {
                    talk::say(&format!("process {pid} has ended, and its coordinator with it: going on here"));
                    taking_over = Some(Instant::now());
                }
                ended => return ended,
            }
        }
    }

    /// The coordinator of this process answers no longer.
    async fn has_gone(&self, pid: u32) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while rendezvous::find(&self.arguments.target.state_dir).is_some_and(|found| found.pid == pid) {
            if Instant::now() > deadline {
                return false;
            }
            tokio::time::sleep(AGAIN).await;
        }
        true
    }

    /// `lasts`: the coordinator is a service that comes back, not part of somebody's `orchestrator run`.
    async fn elsewhere(
        &self,
        address: String,
        token_file: Option<std::path::PathBuf>,
        lasts: bool,
        signals: &mut Signals,
    ) -> Result<Outcome, ExpectedError> {
        let token = client::token(token_file.as_deref())?;
        let (client, reply) = submit(&address, token.as_ref(), &self.sweep, PATIENCE).await?;
        self.say_submitted(&reply);
        if self.arguments.detach {
            let name = &reply.sweep;
            let flags = self.arguments.target.flags();
            talk::say(&format!("follow it with: orchestrator tail {name}{flags}"));
            let text = || format!("{name}\n");
            self.output.print(
                text,
                || json!({ "schema": SCHEMA, "sweep": name, "revision": reply.revision, "outcome": "detached" }),
            )?;
            return Ok(Outcome::Complete);
        }
        let mut follower = Follower::new(client, token, &reply.sweep, lasts);
        let mut writer = Writer::new(ResultsFolder::new(&self.arguments.results, &reply.sweep));
        let mut view = View::new();
        let followed = tokio::select! {
            followed = self.follow(&mut follower, &mut writer, &mut view, Workers::Any) => followed,
            signal = signals.next() => Ok(Followed::Interrupted(signal)),
        };
        view.finish();
        match followed? {
            Followed::Complete | Followed::Stuck(_) => {
                let report = follower.report().await?;
                self.conclude(&mut writer, &report, None)
            }
            Followed::Interrupted(signal) => {
                let name = &reply.sweep;
                talk::say(&format!("{signal}: no longer following; the sweep goes on at {address}"));
                let flags = self.arguments.target.flags();
                talk::say(&format!("follow it again with the same command, or: orchestrator tail {name}{flags}"));
                Ok(Outcome::Interrupted)
            }
        }
    }

    async fn embedded(&self, signals: &mut Signals) -> Result<Outcome, ExpectedError> {
        let mut devices = self.arguments.devices.clone();
        let needed = self.sweep.resources.devices_per_trial;
        devices.devices_per_slot = devices.devices_per_slot.or((needed > 1).then_some(needed));
        let slots = slots(&devices)?;
        let trainer = trainer::find(devices.trainer.as_deref())?;
        let state_dir = &self.arguments.target.state_dir;
        let mut embedded = Embedded::start(state_dir, slots, trainer, &self.places).await?;
        let token = embedded.token.clone();
        let (mut client, reply) = submit(&embedded.address, Some(&token), &self.sweep, PATIENCE).await?;
        self.say_submitted(&reply);
        self.say_unfinished(&client.status(None).await?, &reply.sweep);
        let mut follower = Follower::new(client, Some(token), &reply.sweep, false);
        let mut writer = Writer::new(ResultsFolder::new(&self.arguments.results, &reply.sweep));
        let mut view = View::new();
        let followed = tokio::select! {
            followed = self.follow(&mut follower, &mut writer, &mut view, Workers::Own) => followed,
            error = embedded.failed() => Err(error),
            signal = signals.next() => Ok(Followed::Interrupted(signal)),
        };
        view.finish();
        let (interrupted, stuck) = match followed? {
            Followed::Complete => (None, None),
            Followed::Stuck(because) => {
                let undrain = format!("`orchestrator undrain{} ", self.arguments.target.flags());
                (None, Some(because.replace("`orchestrator undrain ", &undrain)))
            }
            Followed::Interrupted(signal) => (Some(signal), None),
        };
        if let Some(signal) = interrupted {
            talk::say(&format!("{signal}: writing checkpoints; once more stops at once"));
            embedded.leave(&format!("{signal} to `orchestrator run`"));
        } else {
            embedded.leave("the sweep ends here");
        }
        tokio::select! {
            ended = embedded.worker_ended() => ended?,
            _ = signals.next() => {
                talk::say("stopping at once");
                embedded.stop_now();
                embedded.worker_ended().await?;
            }
        }
        let report = follower.report().await?;
        let outcome = match stuck {
            None => self.conclude(&mut writer, &report, interrupted),
            Some(reason) => {
                writer.write(&report).and(Err(ExpectedError::Infrastructure { what: "the sweep cannot go on", reason }))
            }
        };
        embedded.shutdown().await?;
        outcome
    }

    /// Until the sweep is complete, or nobody can go on with it.
    async fn follow(
        &self,
        follower: &mut Follower,
        writer: &mut Writer,
        view: &mut View,
        workers: Workers,
    ) -> Result<Followed, ExpectedError> {
        loop {
            tokio::select! {
                step = follower.next() => match step? {
                    // it is about to connect
                    Step::Status(status) if workers == Workers::Own && status.waits == WaitReason::NoWorkers.name() => {
                        view.status(&SweepStatus { waits_because: String::new(), ..*status });
                    }
                    Step::Status(status) if workers == Workers::Own && is_stuck(&status) => {
                        return Ok(Followed::Stuck(status.waits_because));
                    }
                    Step::Status(status) => view.status(&status),
                    Step::Ended(ended) => {
                        view.ended(&ended, &self.arguments.target);
                        writer.result_landed();
                    }
                    Step::Note(note) => view.note(&note),
                    Step::Complete(status) => {
                        view.status(&status);
                        return Ok(Followed::Complete);
                    }
                },
                () = writer.due() => {
                    writer.refresh(&mut follower.client, &self.sweep.name).await?;
                }
            }
        }
    }

    fn say_submitted(&self, reply: &SubmitReply) {
        let trials = counted(reply.trials, "trial");
        talk::say(&format!("{} (revision {}): {trials}", reply.sweep, reply.revision));
        for line in &reply.explanation {
            talk::say(&format!("  {line}"));
        }
    }

    /// Older sweeps of the same state directory that were interrupted go on as well, and first: not a thing to find out
    /// from a machine that is busy with something else.
    fn say_unfinished(&self, status: &StatusReply, own: &str) {
        let submitted = status.sweeps.iter().find(|sweep| sweep.name == own).map_or(0, |sweep| sweep.submitted_at_ms);
        for sweep in status.sweeps.iter().filter(|sweep| sweep.name != own && !sweep.complete) {
            let name = &sweep.name;
            let left = counted(sweep.waiting + sweep.running, "trial");
            let when = if sweep.submitted_at_ms <= submitted { "before these" } else { "in slots that are free" };
            let (place, flags) = (self.arguments.target.state_dir.display(), self.arguments.target.flags());
            talk::say(&format!(
                "unfinished sweep `{name}` of {place} goes on as well: {left} {when}; not wanted? orchestrator cancel {name}{flags}"
            ));
        }
    }

    /// Writes the results, prints the tables, and says how it ended.
    fn conclude(
        &self,
        writer: &mut Writer,
        report: &ReportReply,
        interrupted: Option<&'static str>,
    ) -> Result<Outcome, ExpectedError> {
        writer.write(report)?;
        let outcome = match (interrupted, report.complete && report.failed_trials == 0) {
            (_, true) => Outcome::Complete,
            (Some(_), false) => Outcome::Interrupted,
            (None, false) => Outcome::FailedCells,
        };
        let folder = writer.folder().path();
        let name = match outcome {
            Outcome::Complete => "complete",
            Outcome::FailedCells => "failed_cells",
            Outcome::Interrupted => "interrupted",
        };
        self.output.print(
            || output::table(&report.text),
            || {
                json!({
                    "schema": SCHEMA,
                    "sweep": self.sweep.name,
                    "outcome": name,
                    "complete": report.complete,
                    "failed_trials": report.failed_trials,
                    "results": folder,
                })
            },
        )?;
        talk::say(&format!("results are in {}", folder.display()));
        match outcome {
            Outcome::Complete => {}
            Outcome::FailedCells => talk::say(&format!(
                "without a result: {}; after mending the cause: orchestrator retry --failed {}{}",
                counted(report.failed_trials, "trial"),
                self.sweep.name,
                self.arguments.target.flags()
            )),
            Outcome::Interrupted => talk::say("interrupted; everything done is kept, and the same command continues"),
        }
        Ok(outcome)
    }
}

/// Who can train the sweep.
#[derive(Clone, Copy, PartialEq)]
enum Workers {
    /// The one in this process.
    Own,
    Any,
}

/// What runs cannot help: slots stay broken until a person says otherwise, and none is made larger.
fn is_stuck(status: &SweepStatus) -> bool {
    let lasting = [WaitReason::SlotsBroken, WaitReason::NoSlotLargeEnough].map(WaitReason::name);
    status.running == 0 && lasting.contains(&status.waits.as_str())
}
