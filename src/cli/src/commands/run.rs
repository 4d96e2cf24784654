//! `orchestrator run`: a sweep from its file to its table, with a remote coordinator or one inside
//! this process.
//!
//! All checks happen before anything starts. Read `serve.rs` for the embedded coordinator and
//! worker, `follow_sweep.rs` for what happens while the sweep runs.

mod coordinator_job;
mod on_cluster;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use protocol::v1::{RetryRequest, StatusReply, SubmitReply, SweepStatus, WaitReason};
use schedule::state::Slot;
use serde_json::json;
use sweep::{Sweep, counted};

use crate::args::{DeviceArgs, RunArgs, quoted};
use crate::client::{Access, Client};
use crate::commands::follow_sweep::{Follower, LastReport, ResultsWriter, Step, submit};
use crate::commands::serve::{Embedded, slots};
use crate::exit::{ExpectedError, Outcome};
use crate::exports::{Exports, LiveExports};
use crate::follow::View;
use crate::launch_args::How;
use crate::output::{self, Output, SCHEMA};
use crate::preflight::{self, Places};
use crate::results_folder::ResultsFolder;
use crate::signals::{HOW_TO_INSIST, Signals};
use crate::view::{Leaving, Source};
use crate::{advice, estimate, programs, rendezvous, stderr, trainer};

/// Timeout for a remote coordinator to answer when a sweep is submitted.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout for another command that has taken the state directory: its coordinator replays the
/// journal before it answers.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval of checks of a state directory whose coordinator is starting or ending.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

pub fn run(arguments: &RunArgs, output: Output) -> Result<Outcome, ExpectedError> {
    refuse_what_cannot_be_meant(arguments)?;
    arguments.launch.refuse_advertise_alone()?;
    Exports::open(&arguments.export, "", &arguments.results)?;
    let places = Places::of(&arguments.data)?;
    let elsewhere = arguments.target.coordinator.is_some();
    // A login node need not have the data: then the workers report missing inputs.
    let looks = !elsewhere || arguments.data.data_dir.is_some();
    let mut sweep = load(&arguments.file, looks.then_some(&places))?;
    if arguments.smoke {
        sweep = sweep.into_smoke();
    }
    if !looks
        && sweep
            .cells
            .iter()
            .any(|cell| is_folder(&sweep.cell_settings(cell).dataset))
    {
        stderr::print(
            "note: images of `folder:` data sets are not read here, so their sizes are the recipe's; with --data-dir \
             they follow the images",
        );
    }
    let mut sizes = BTreeMap::new();
    if looks {
        let checked = preflight::check(&mut sweep, &places, arguments.skip_missing)?;
        for lacks in checked.missing {
            stderr::print(&format!("left out: {lacks}"));
        }
        for note in checked.notes {
            stderr::print(&format!("data set {note}"));
        }
        sizes = checked.sizes;
    }
    let unknown: Vec<String> = sweep.unknown_inputs().into_iter().collect();
    if !unknown.is_empty() {
        stderr::print(&format!(
            "note: the content of {} is not known here, so a change will not be noticed; --data-dir names it",
            unknown.join(", ")
        ));
    }
    for remark in sweep.remarks() {
        stderr::print(&format!("note: {remark}"));
    }
    let archive = programs::identify(
        &mut sweep,
        &arguments.file,
        arguments.devices.trainer.as_deref(),
    )?;
    if matches!(sweep.trainer, sweep::Trainer::Foreign(_)) {
        stderr::print(&format!(
            "note: {} trains; its results are kept apart from those of others",
            sweep.trainer
        ));
    }
    let run = Run {
        arguments,
        sweep,
        places,
        sizes,
        archive,
        is_fresh: Cell::new(arguments.fresh),
        output,
    };
    if let Some(address) = &arguments.target.coordinator {
        let access = Access::at(address, arguments.target.token_file_of(address))?;
        return super::block_on(async {
            run.with_coordinator(&access, true, &mut Signals::listen()?)
                .await
        });
    }
    if arguments.launch.dry_run {
        return run.print_script();
    }
    super::block_on(run.without_address())
}

/// Refuses flags that contradict each other.
fn refuse_what_cannot_be_meant(arguments: &RunArgs) -> Result<(), ExpectedError> {
    let elsewhere = arguments.target.coordinator.is_some();
    let as_job = arguments.coordinator_job.is_some();
    let problem = match &arguments.launch.launch {
        Some(_) if elsewhere => {
            "--launch is for a coordinator of this command, and --coordinator names another"
        }
        Some(How::Ssh(_)) if as_job => "--coordinator-job is a Slurm job: it needs --launch slurm",
        _ if arguments.detach && !arguments.export.is_empty() => {
            "--export is done while the sweep is followed, and --detach does not follow it: the command `export` does it later"
        }
        _ if arguments.detach && !elsewhere && !as_job => {
            "--detach needs a coordinator that stays: --coordinator URL, or --launch slurm --coordinator-job"
        }
        _ => return Ok(()),
    };
    Err(ExpectedError::BadInput(problem.to_owned()))
}

/// Reads a sweep file; its errors are formatted for the terminal. Sizes follow the images of
/// `folder:` data sets in `places`; without `places`, the recipes' own sizes are used.
pub fn load(file: &Path, places: Option<&Places>) -> Result<Sweep, ExpectedError> {
    let style = sweep::Style {
        colour: stderr::colour(),
        ..sweep::Style::default()
    };
    // Problems of a data set are reported when all data sets are looked for.
    let side = |dataset: &str| {
        data::typical_side(&places?.request(dataset, None))
            .ok()
            .flatten()
    };
    sweep::load_with(file, &side).map_err(|errors| ExpectedError::InFile(errors.render(style)))
}

fn is_folder(dataset: &str) -> bool {
    dataset.starts_with(data::catalog::FOLDER_PREFIX)
}

struct Run<'a> {
    arguments: &'a RunArgs,
    sweep: Sweep,
    places: Places,
    /// The number of images of each data set that was looked at.
    sizes: BTreeMap<String, sweep::dataset::Counts>,
    /// The files of the sweep's program.
    archive: Option<Vec<u8>>,
    /// Earlier results are to be discarded, and have not been.
    is_fresh: Cell<bool>,
    output: Output,
}

/// The reason why following ended.
enum Followed {
    Complete,
    /// No slot of this process can take the sweep's trials, and no other worker can connect.
    Stuck(String),
    /// The signal that interrupted it.
    Interrupted(Signal),
}

impl Run<'_> {
    fn submission(&self) -> (&Sweep, Option<&[u8]>) {
        (&self.sweep, self.archive.as_deref())
    }

    /// Runs with the coordinator of the state directory, which may be part of another `orchestrator
    /// run`: if that one ends before this sweep, this one takes over.
    async fn without_address(&self) -> Result<Outcome, ExpectedError> {
        let mut signals = Signals::listen()?;
        if self.arguments.coordinator_job.is_some() {
            return self.with_coordinator_job(&mut signals).await;
        }
        let state_dir = &self.arguments.target.state_dir;
        let mut taken_since: Option<Instant> = None;
        loop {
            let Some(found) = rendezvous::find(state_dir) else {
                let started = match self.arguments.launch.launch {
                    Some(_) => self.on_cluster(&mut signals).await,
                    None => self.with_embedded(&mut signals).await,
                };
                match started {
                    // another command was faster and does not answer yet, or has not quite ended
                    Err(ExpectedError::Taken(_))
                        if rendezvous::left_elsewhere(state_dir).is_none()
                            && taken_since.is_none_or(|since| since.elapsed() < START_TIMEOUT) =>
                    {
                        if taken_since.is_none() {
                            let place = state_dir.display();
                            stderr::print(&format!(
                                "another command starts or ends on {place} at this moment: waiting for it"
                            ));
                            taken_since = Some(Instant::now());
                        }
                        tokio::select! {
                            () = tokio::time::sleep(CHECK_INTERVAL) => continue,
                            signal = signals.next() => {
                                stderr::print(&format!("{signal}: nothing was submitted"));
                                return Ok(Outcome::Interrupted);
                            }
                        }
                    }
                    ended => return ended,
                }
            };
            taken_since = None;
            let (pid, place) = (found.pid, state_dir.display());
            stderr::print(&format!(
                "a coordinator (process {pid}) runs on {place} already: submitting to it"
            ));
            let borrowed = !found.lasts && found.is_here();
            let attached = match Access::announced(state_dir, &found, None) {
                Ok(access) => {
                    self.with_coordinator(&access, found.lasts, &mut signals)
                        .await
                }
                Err(error) => Err(error),
            };
            match attached {
                Err(error)
                    if borrowed && error.coordinator_is_gone() && self.has_gone(pid).await =>
                {
                    stderr::print(&format!(
                        "process {pid} has ended, and its coordinator with it: continuing here"
                    ));
                }
                ended => return ended,
            }
        }
    }

    /// Waits until the coordinator of this process id is gone. Returns false if it is still there
    /// after a while.
    async fn has_gone(&self, pid: u32) -> bool {
        let deadline = Instant::now() + SUBMIT_TIMEOUT;
        while rendezvous::find(&self.arguments.target.state_dir)
            .is_some_and(|found| found.pid == pid)
        {
            if Instant::now() > deadline {
                return false;
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
        true
    }

    /// Runs with another coordinator. `lasts`: it is a service that comes back, not part of an
    /// `orchestrator run`.
    async fn with_coordinator(
        &self,
        access: &Access,
        lasts: bool,
        signals: &mut Signals,
    ) -> Result<Outcome, ExpectedError> {
        // the coordinator of a job has the flag itself
        if !self.arguments.notify.notify.is_empty() && self.arguments.coordinator_job.is_none() {
            stderr::print(&format!(
                "note: --notify has no effect here: the coordinator at {} gives its own notices",
                access.address
            ));
        }
        if !self.arguments.detach {
            ResultsFolder::new(&self.arguments.results, &self.sweep.name).prepare()?;
        }
        let (mut client, reply) = submit(access, self.submission(), SUBMIT_TIMEOUT).await?;
        self.print_submission(&reply);
        self.print_workers_in_force(&mut client).await?;
        self.discard_results(&mut client, &reply.sweep).await?;
        if self.arguments.detach {
            let name = &reply.sweep;
            let flags = self.arguments.target.flags();
            stderr::print(&format!("follow it with: orchestrator tail {name}{flags}"));
            let text = || format!("{name}\n");
            self.output.print(
                text,
                || json!({ "schema": SCHEMA, "sweep": name, "revision": reply.revision, "outcome": "detached" }),
            )?;
            return Ok(Outcome::Complete);
        }
        let workers = if lasts {
            Workers::Any
        } else {
            Workers::Borrowed
        };
        let mut view = self.view(&client, &reply.sweep, workers);
        let mut writer = self.writer(&client, &reply.sweep)?;
        let mut follower = Follower::new(client, &reply.sweep, lasts);
        let followed = tokio::select! {
            followed = self.follow(&mut follower, &mut writer, &mut view, workers) => followed,
            signal = signals.next() => Ok(Followed::Interrupted(signal)),
        };
        view.finish();
        match followed? {
            Followed::Complete | Followed::Stuck(_) => {
                match writer.last_report(&mut follower).await {
                    // nothing is printed yet: `without_address` takes over
                    Err(error) | Ok((_, Err(error))) if !lasts && error.coordinator_is_gone() => {
                        Err(error)
                    }
                    last => self.conclude(&writer, last, None),
                }
            }
            Followed::Interrupted(signal) => {
                let name = &reply.sweep;
                stderr::print(&format!(
                    "{signal}: no longer following; the sweep continues at {}",
                    access.address
                ));
                let flags = self.arguments.target.flags();
                stderr::print(&format!(
                    "follow it again with the same command, or: orchestrator tail {name}{flags}"
                ));
                Ok(Outcome::Interrupted)
            }
        }
    }

    async fn with_embedded(&self, signals: &mut Signals) -> Result<Outcome, ExpectedError> {
        let devices = self.devices();
        let slots = slots(&devices)?;
        self.print_estimate(&slots);
        let trainer = trainer::ready_for(&self.sweep, devices.trainer.as_deref())?;
        ResultsFolder::new(&self.arguments.results, &self.sweep.name).prepare()?;
        let state_dir = &self.arguments.target.state_dir;
        let mut embedded = Embedded::start(state_dir, slots, trainer, &self.places).await?;
        embedded.notify(self.arguments.notify.notify()).await;
        embedded.serve_page(&self.arguments.http).await?;
        let (mut client, reply) =
            submit(&embedded.access, self.submission(), SUBMIT_TIMEOUT).await?;
        self.print_submission(&reply);
        self.discard_results(&mut client, &reply.sweep).await?;
        self.print_unfinished(&client.status(None).await?, &reply.sweep);
        let mut view = self.view(&client, &reply.sweep, Workers::Own);
        let mut writer = self.writer(&client, &reply.sweep)?;
        let mut follower = Follower::new(client, &reply.sweep, false);
        let followed = tokio::select! {
            followed = self.follow(&mut follower, &mut writer, &mut view, Workers::Own) => followed,
            error = embedded.failed() => Err(error),
            signal = signals.next() => Ok(Followed::Interrupted(signal)),
        };
        view.finish();
        let reason = match &followed {
            Ok(Followed::Interrupted(signal)) => {
                stderr::print(&format!("{signal}: writing checkpoints; {HOW_TO_INSIST}"));
                format!("its run received {signal}")
            }
            Ok(Followed::Complete | Followed::Stuck(_)) => "the sweep ends here".to_owned(),
            Err(_) => "its run has failed".to_owned(),
        };
        embedded.leave(&reason);
        let left = tokio::select! {
            ended = embedded.worker_ended() => ended,
            _ = signals.next() => {
                stderr::print("stopping at once");
                embedded.stop_now();
                embedded.worker_ended().await
            }
        };
        let outcome = match (followed, left) {
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            (Ok(Followed::Complete), Ok(())) => {
                let last = writer.last_report(&mut follower).await;
                self.conclude(&writer, last, None)
            }
            (Ok(Followed::Interrupted(signal)), Ok(())) => {
                let last = writer.last_report(&mut follower).await;
                self.conclude(&writer, last, Some(signal))
            }
            (Ok(Followed::Stuck(because)), Ok(())) => {
                // the reason comes first; results that cannot be written are in the journal anyway
                let _ = writer.finish(&mut follower).await;
                // no other process can start a worker for this coordinator
                let because = because.replace(
                    "start a worker with --devices-per-slot",
                    "give --devices-per-slot",
                );
                let reason = advice::complete(&because, &self.arguments.target, None);
                Err(ExpectedError::Infrastructure {
                    what: "the sweep cannot continue",
                    reason,
                })
            }
        };
        let ended = embedded.shutdown().await;
        outcome.and_then(|outcome| ended.map(|()| outcome))
    }

    /// The devices of each worker, in slots that are large enough for the sweep.
    fn devices(&self) -> DeviceArgs {
        let mut devices = self.arguments.devices.clone();
        let needed = self.sweep.resources.devices_per_trial;
        devices.devices_per_slot = devices.devices_per_slot.or((needed > 1).then_some(needed));
        devices
    }

    /// Begins to write and to export the results of a sweep.
    fn writer(&self, client: &Client, sweep: &str) -> Result<ResultsWriter, ExpectedError> {
        let RunArgs {
            results, target, ..
        } = self.arguments;
        let folder = ResultsFolder::new(results, sweep);
        let exports = Exports::open(&self.arguments.export, sweep, folder.path())?;
        let exports = LiveExports::start(exports, client.clone(), results, target);
        Ok(ResultsWriter::new(folder, exports))
    }

    /// Discards the earlier results of the sweep's trials, once, for `--fresh`.
    async fn discard_results(&self, client: &mut Client, sweep: &str) -> Result<(), ExpectedError> {
        if self.is_fresh.take() {
            let request = RetryRequest {
                sweep: sweep.to_owned(),
                all: true,
                ..RetryRequest::default()
            };
            let again = counted(client.retry(request).await?, "trial");
            stderr::print(&format!(
                "  to be trained again from the start, as --fresh asks for: {again}"
            ));
        }
        Ok(())
    }

    fn view(&self, client: &Client, sweep: &str, workers: Workers) -> View {
        let source = Source {
            client: client.clone(),
            sweep: Some(sweep.to_owned()),
            leaving: match workers {
                Workers::Own | Workers::Launched => Leaving::StopsTraining,
                Workers::Borrowed | Workers::Any => Leaving::Detaches,
            },
            starts_workers: workers != Workers::Any,
            target: self.arguments.target.clone(),
        };
        View::new(self.arguments.view, self.output, source)
    }

    /// Follows until the sweep is complete, or no worker can continue it.
    async fn follow(
        &self,
        follower: &mut Follower,
        writer: &mut ResultsWriter,
        view: &mut View,
        workers: Workers,
    ) -> Result<Followed, ExpectedError> {
        loop {
            tokio::select! {
                step = follower.next() => match step? {
                    // the worker is about to connect, or leaves with its process
                    Step::Status(status) if workers != Workers::Any && status.waits() == WaitReason::NoWorkers => {
                        view.status(&SweepStatus { waits_because: String::new(), ..*status });
                    }
                    Step::Status(status) if matches!(workers, Workers::Own | Workers::Launched) && is_stuck(&status) => {
                        return Ok(Followed::Stuck(status.waits_because));
                    }
                    Step::Status(status) => view.status(&self.advised(*status, follower)),
                    Step::Ended(ended) => {
                        view.ended(&ended, &self.arguments.target);
                        writer.result_arrived();
                    }
                    Step::Note(note) => view.note(&note),
                    Step::Complete(status) => {
                        view.status(&status);
                        return Ok(Followed::Complete);
                    }
                },
                () = writer.due() => writer.refresh(&mut follower.client, &self.sweep.name).await,
            }
        }
    }

    /// Adds to the commands that the coordinator advises the flags that they need to reach it.
    fn advised(&self, status: SweepStatus, follower: &Follower) -> SweepStatus {
        let reach = follower.client.flags();
        let waits_because =
            advice::complete(&status.waits_because, &self.arguments.target, Some(&reach));
        SweepStatus {
            waits_because,
            ..status
        }
    }

    /// Prints an estimate on a CPU if the sweep takes hours.
    fn print_estimate(&self, slots: &[Slot]) {
        let devices: Vec<&String> = slots.iter().flat_map(|slot| &slot.devices).collect();
        let threads = devices.iter().filter(|device| **device == "cpu").count();
        let work = self
            .sweep
            .summary_with(&|dataset| self.sizes.get(dataset).copied())
            .cost;
        let time = estimate::on_cpu(work, threads);
        let is_known = self.sweep.program.is_none();
        if is_known && threads == devices.len() && time >= estimate::LONG {
            stderr::print(&format!(
                "note: from its start the sweep takes about {} on {}; what decides it: `orchestrator plan {}`",
                estimate::text(time),
                counted(threads as u64, "CPU thread"),
                self.arguments.file.display()
            ));
        }
    }

    fn print_submission(&self, reply: &SubmitReply) {
        let trials = counted(reply.trials, "trial");
        stderr::print(&format!(
            "{} (revision {}): {trials}",
            reply.sweep, reply.revision
        ));
        for line in &reply.explanation {
            stderr::print(&format!("  {line}"));
        }
    }

    /// Announces older sweeps of the same state directory that were interrupted: they continue too,
    /// and first. The user should not find this out from a busy machine.
    fn print_unfinished(&self, status: &StatusReply, own: &str) {
        let submitted = status
            .sweeps
            .iter()
            .find(|sweep| sweep.name == own)
            .map_or(0, |sweep| sweep.submitted_at_ms);
        // attempts of a cancelled sweep may still be ending: nothing is left to cancel
        let continues = |sweep: &&SweepStatus| !sweep.complete && sweep.cancelled_reason.is_empty();
        for sweep in status
            .sweeps
            .iter()
            .filter(|sweep| sweep.name != own)
            .filter(continues)
        {
            let name = &sweep.name;
            let left = counted(sweep.waiting + sweep.running, "trial");
            let when = if sweep.submitted_at_ms <= submitted {
                "before these"
            } else {
                "in slots that are free"
            };
            let (place, flags) = (
                self.arguments.target.state_dir.display(),
                self.arguments.target.flags(),
            );
            stderr::print(&format!(
                "unfinished sweep `{name}` of {place} continues too: {left} {when}; not wanted? orchestrator cancel {name}{flags}"
            ));
        }
    }

    /// Prints the tables and reports the outcome. Results that were not written are an error, but
    /// the table is printed anyway.
    fn conclude(
        &self,
        writer: &ResultsWriter,
        last: Result<LastReport, ExpectedError>,
        interrupted: Option<Signal>,
    ) -> Result<Outcome, ExpectedError> {
        let (report, written) = last.map_err(|error| self.not_written(writer, &error))?;
        let outcome = match (interrupted, report.complete && report.failed_trials == 0) {
            (_, true) => Outcome::Complete,
            (Some(_), false) => Outcome::Interrupted,
            (None, false) => Outcome::FailedCells,
        };
        let folder = writer.folder().path();
        self.output.print(
            || output::table(&report.text),
            || {
                json!({
                    "schema": SCHEMA,
                    "sweep": self.sweep.name,
                    "outcome": outcome.name(),
                    "complete": report.complete,
                    "failed_trials": report.failed_trials,
                    "results": folder,
                })
            },
        )?;
        match &written {
            Ok(()) => stderr::print(&format!("results are in {}", folder.display())),
            Err(_) => stderr::print("the table above is complete, its files are not written"),
        }
        match outcome {
            Outcome::Complete
            | Outcome::Contradicted
            | Outcome::Undecided
            | Outcome::WorkOutstanding => {}
            Outcome::FailedCells => stderr::print(&format!(
                "without a result: {}; after fixing the cause: orchestrator retry {}{}",
                counted(report.failed_trials, "trial"),
                self.sweep.name,
                self.arguments.target.flags()
            )),
            Outcome::Interrupted if self.arguments.fresh => {
                stderr::print(
                    "interrupted; everything done is kept, and the same command without --fresh continues",
                );
            }
            Outcome::Interrupted => stderr::print(
                "interrupted; everything done is kept, and the same command continues",
            ),
        }
        written
            .map_err(|error| self.not_written(writer, &error))
            .map(|()| outcome)
    }

    /// The error if files could not be written. The journal has every result.
    fn not_written(&self, writer: &ResultsWriter, error: &ExpectedError) -> ExpectedError {
        let (name, flags) = (&self.sweep.name, self.arguments.target.flags());
        let (folder, results) = (writer.folder().path().display(), &self.arguments.results);
        let reason = error.render();
        let reason = reason.trim_end().trim_start_matches("error: ");
        ExpectedError::Infrastructure {
            what: "results were not written",
            reason: format!(
                "{folder}: {reason}; no result is lost, write them with: orchestrator table {name} --results {}{flags}",
                quoted(&results.to_string_lossy())
            ),
        }
    }
}

/// The workers that can train the sweep.
#[derive(Clone, Copy, PartialEq)]
enum Workers {
    /// The worker of this process.
    Own,
    /// The worker of another `orchestrator run`'s process.
    Borrowed,
    /// Those that this process launches.
    Launched,
    Any,
}

/// Returns true if running workers cannot help: slots stay broken until a user acts, and no slot
/// becomes larger.
fn is_stuck(status: &SweepStatus) -> bool {
    status.running == 0
        && matches!(
            status.waits(),
            WaitReason::SlotsBroken | WaitReason::NoSlotLargeEnough | WaitReason::NoTrainer
        )
}
