//! Results on their way to other tools (crate `export`): once, or whenever results arrive while a
//! sweep is followed. Training never depends on it.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use export::{Destination, Exporter};
use protocol::v1::ReportFiles;
use report::FileSink;
use sweep::with_causes;
use tokio::sync::watch;
use tokio::task::{JoinHandle, block_in_place};
use tokio::time::{Instant, timeout};

use crate::args::{Target, quoted};
use crate::client::Client;
use crate::exit::ExpectedError;
use crate::offline::Source;
use crate::{reports, stderr};

/// Pause between two passes while results arrive.
const PASS_EVERY: Duration = Duration::from_secs(5);
/// The shortest pause after a pass, as a multiple of the time it took.
const PASS_SHARE: u32 = 10;
/// Pause before a pass that follows a failed one.
const RETRY_PAUSE: Duration = Duration::from_secs(60);
/// Time for the last pass: a command ends without a server that does not answer.
const LAST_PASS: Duration = Duration::from_secs(60);

/// A destination that is open for one sweep.
struct Open {
    destination: Destination,
    exporter: Box<dyn Exporter>,
    /// Why it did not receive everything, if it did not.
    failure: Option<String>,
}

/// The destinations of one sweep.
pub struct Exports {
    sweep: String,
    open: Vec<Open>,
}

/// The number of trials that a destination received, or the problem.
pub struct Exported {
    pub destination: Destination,
    pub trials: Result<usize, String>,
}

impl Exports {
    /// Opens destinations, whose default places are in the sweep's results folder.
    pub fn open(
        destinations: &[Destination],
        sweep: &str,
        results: &Path,
    ) -> Result<Self, ExpectedError> {
        let open = |destination: &Destination| {
            let exporter = destination
                .open(sweep, results)
                .map_err(|error| ExpectedError::BadInput(with_causes(&error)))?;
            Ok::<_, ExpectedError>(Open {
                destination: destination.clone(),
                exporter,
                failure: None,
            })
        };
        Ok(Self {
            sweep: sweep.to_owned(),
            open: destinations.iter().map(open).collect::<Result<_, _>>()?,
        })
    }

    /// Exports what there is now.
    pub async fn pass(&mut self, source: &mut Source) -> Result<Vec<Exported>, ExpectedError> {
        let trials = Trials::fetch(source, &self.sweep).await?;
        // Files and servers may be slow; other tasks of this thread go elsewhere.
        Ok(block_in_place(|| {
            let open = self.open.iter_mut();
            open.map(|open| open.receive(&trials)).collect()
        }))
    }
}

impl Open {
    fn receive(&mut self, trials: &Trials) -> Exported {
        let received = trials
            .read()
            .map_err(|error| error.to_string())
            .and_then(|lines| {
                export::export(lines, trials.complete, &mut *self.exporter)
                    .map_err(|error| with_causes(&error))
            });
        Exported {
            destination: self.destination.clone(),
            trials: received,
        }
    }
}

/// trials.jsonl in a temporary file: exporters may be slower than the sender.
struct Trials {
    file: File,
    complete: bool,
}

impl Trials {
    async fn fetch(source: &mut Source, sweep: &str) -> Result<Self, ExpectedError> {
        let temporary = std::env::temp_dir();
        let file = tempfile::tempfile().map_err(ExpectedError::file("write", &temporary))?;
        let mut spool = Spool(BufWriter::new(file));
        let report = match source {
            Source::Live(client) => client.trials(sweep, &mut spool).await?,
            Source::Journal(journal) => {
                reports::from_journal(journal, sweep, ReportFiles::Trials, &mut spool)?
            }
        };
        let file = spool.0.into_inner().map_err(io::IntoInnerError::into_error);
        Ok(Self {
            file: file.map_err(ExpectedError::file("write", temporary))?,
            complete: report.complete,
        })
    }

    fn read(&self) -> io::Result<BufReader<&File>> {
        let mut file = &self.file;
        file.rewind()?;
        Ok(BufReader::new(file))
    }
}

struct Spool(BufWriter<File>);

impl FileSink for Spool {
    fn begin(&mut self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.0.write_all(piece)
    }
}

/// Exports results as they arrive, in a task of its own.
pub struct LiveExports {
    wanted: watch::Sender<Wanted>,
    task: JoinHandle<Vec<Open>>,
    sweep: String,
    results: PathBuf,
    target: Target,
}

#[derive(Clone, Copy, Default)]
struct Wanted {
    /// Number of results that have arrived.
    arrived: u64,
    /// No more will arrive.
    last: bool,
}

impl LiveExports {
    /// Begins, unless nothing is to be exported. `results` is the folder of all sweeps, for the
    /// command that a message advises.
    pub fn start(
        exports: Exports,
        client: Client,
        results: &Path,
        target: &Target,
    ) -> Option<Self> {
        if exports.open.is_empty() {
            return None;
        }
        let (wanted, wants) = watch::channel(Wanted::default());
        Some(Self {
            wanted,
            sweep: exports.sweep.clone(),
            task: tokio::spawn(run(exports, client, wants)),
            results: results.to_owned(),
            target: target.clone(),
        })
    }

    pub fn result_arrived(&self) {
        self.wanted.send_modify(|wanted| wanted.arrived += 1);
    }

    /// Exports what has arrived since, and names what did not receive everything.
    pub async fn finish(mut self) {
        self.wanted.send_modify(|wanted| wanted.last = true);
        let advice = |destination: &str| {
            format!(
                "orchestrator export {} {} --results {}{}",
                self.sweep,
                quoted(destination),
                quoted(&self.results.to_string_lossy()),
                self.target.flags()
            )
        };
        match timeout(LAST_PASS, &mut self.task).await {
            Ok(Ok(open)) => {
                for Open {
                    destination,
                    failure,
                    ..
                } in open
                {
                    if let Some(reason) = failure {
                        let destination = destination.to_string();
                        let again = advice(&destination);
                        stderr::print(&format!(
                            "{destination} lacks results ({reason}); no result is lost, export them with: {again}"
                        ));
                    }
                }
            }
            Ok(Err(error)) => stderr::print(&format!("results were not exported: {error}")),
            Err(_) => {
                self.task.abort();
                let seconds = LAST_PASS.as_secs();
                stderr::print(&format!(
                    "results were not exported within {seconds} s; the rest, later: {}",
                    advice("DESTINATION")
                ));
            }
        }
    }
}

/// Makes a pass when results have arrived, and a last one.
async fn run(
    mut exports: Exports,
    client: Client,
    mut wants: watch::Receiver<Wanted>,
) -> Vec<Open> {
    let mut source = Source::Live(Box::new(client));
    let mut seen = 0;
    loop {
        let failed = exports.open.iter().any(|open| open.failure.is_some());
        let pause = if failed { RETRY_PAUSE } else { Duration::MAX };
        let next = wants.wait_for(|wanted| wanted.last || wanted.arrived > seen);
        let last = match timeout(pause, next).await {
            Ok(Ok(wanted)) => {
                seen = wanted.arrived;
                wanted.last
            }
            // the command ends without a last pass
            Ok(Err(_)) => return exports.open,
            Err(_) => false,
        };
        let started = Instant::now();
        live_pass(&mut exports, &mut source, last).await;
        if last {
            return exports.open;
        }
        let pause = PASS_EVERY.max(started.elapsed() * PASS_SHARE);
        let _ = timeout(pause, wants.wait_for(|wanted| wanted.last)).await;
    }
}

/// Makes a pass, and reports the first failure of each destination and its end. A coordinator that is
/// away is the follower's matter, until the last pass.
async fn live_pass(exports: &mut Exports, source: &mut Source, last: bool) {
    if let (Source::Live(client), true) = (&mut *source, last) {
        // the pass finds out whether it is back
        let _ = client.reconnect().await;
    }
    let exported = match exports.pass(source).await {
        Ok(exported) => exported,
        Err(error) => {
            if last || !matches!(error, ExpectedError::Unreachable { .. }) {
                let reason = error.render();
                let reason = reason.trim_end().trim_start_matches("error: ");
                for open in &mut exports.open {
                    open.failure.get_or_insert_with(|| reason.to_owned());
                }
            }
            return;
        }
    };
    for (
        open,
        Exported {
            destination,
            trials,
        },
    ) in exports.open.iter_mut().zip(exported)
    {
        match (&open.failure, trials) {
            (None, Err(reason)) => {
                if !last {
                    stderr::print(&format!(
                        "{destination} does not receive results for now ({reason}); training continues, and exporting is retried"
                    ));
                }
                open.failure = Some(reason);
            }
            (Some(_), Err(reason)) => open.failure = Some(reason),
            (Some(_), Ok(_)) => {
                stderr::print(&format!("{destination} receives results again"));
                open.failure = None;
            }
            (None, Ok(_)) => {}
        }
    }
}
