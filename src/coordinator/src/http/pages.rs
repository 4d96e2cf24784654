//! The pages: each asks the owner for its data, and reads whole results from the journal. Large
//! sweeps take long to draw, so pages are drawn on threads of their own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path as FilePath};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Extension, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use page::{CellView, Markup, Place, Scene, TrialCurve, TrialView};
use protocol::Invalid;
use protocol::v1::{StatusReply, SweepStatus};
use report::{Reporter, Results, StoredResults};
use schedule::curve::{self, Point};
use schedule::state::{Phase, State as Known};
use sweep::TrialId;
use sweep::text::Lines;
use tonic::{Code, Status};

use super::{Shared, Sources, ask_status};
use crate::answers::NoAnswer;
use crate::requests::{self, OwnerRequest, Question, TrialParts};

/// Sweeps whose tables are kept while they do not change.
const KEPT_SWEEPS: usize = 16;
/// Trials of a cell whose curves are drawn.
const MAX_CURVES: usize = 200;
/// Bytes at the end of a log that are shown.
const LOG_BYTES: u64 = 16 * 1024;

type Answer = Result<Html<String>, Problem>;
type Pairs = Query<Vec<(String, String)>>;
/// Set by the check of the login.
type Visit = Extension<Place>;

/// The page for a request that cannot be answered.
#[derive(Debug)]
pub struct Problem(Status);

impl From<Status> for Problem {
    fn from(status: Status) -> Self {
        Self(status)
    }
}

impl From<Invalid> for Problem {
    fn from(problem: Invalid) -> Self {
        Self(problem.into())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (code, title) = match self.0.code() {
            Code::NotFound => (StatusCode::NOT_FOUND, "Not found"),
            Code::InvalidArgument => (StatusCode::BAD_REQUEST, "Invalid request"),
            Code::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "Not available now"),
            Code::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "A fault of the coordinator",
            ),
            _ => (StatusCode::CONFLICT, "Refused"),
        };
        (code, Html(page::problem(title, self.0.message()))).into_response()
    }
}

/// The last drawn tables of each sweep.
#[derive(Clone, Default)]
pub struct TableCache(Arc<Mutex<BTreeMap<String, Arc<Tables>>>>);

struct Tables {
    /// `SweepState::changed`.
    changed: u64,
    markup: Markup,
    /// Name and drawing.
    figures: Vec<(String, String)>,
}

impl TableCache {
    fn get(&self, sweep: &str) -> Option<Arc<Tables>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(sweep).cloned()
    }

    fn put(&self, sweep: &str, tables: Arc<Tables>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_SWEEPS && !kept.contains_key(sweep) {
            kept.pop_first();
        }
        kept.insert(sweep.to_owned(), tables);
    }
}

impl Shared {
    async fn snapshot(
        &self,
        sweep: &str,
        known: Option<u64>,
    ) -> Result<Option<Arc<Known>>, Status> {
        let question = |reply| {
            OwnerRequest::Question(Question::Snapshot {
                sweep: sweep.to_owned(),
                known,
                reply,
            })
        };
        requests::ask(&self.sources.owner, question).await
    }

    async fn trial_parts(&self, trial: String) -> Result<TrialParts, Status> {
        let question = |reply| OwnerRequest::Question(Question::TrialParts { trial, reply });
        requests::ask(&self.sources.owner, question).await
    }

    /// Returns the tables of a sweep, drawn again if it has changed.
    async fn tables(&self, sweep: &str) -> Result<Arc<Tables>, Status> {
        let kept = self.tables.get(sweep);
        let known = kept.as_ref().map(|tables| tables.changed);
        let Some(state) = self.snapshot(sweep, known).await? else {
            return kept.ok_or_else(no_snapshot);
        };
        let name = sweep.to_owned();
        let made = drawn(move || -> Result<Tables, NoAnswer> {
            let reporter = Reporter::of(&state, &name)?;
            let layouts = reporter.layouts().into_iter();
            let figures = layouts.filter_map(|layout| Some((layout.grid.name, layout.svg?)));
            Ok(Tables {
                changed: reporter.results().state.changed,
                markup: page::tables(Place::Served { may_change: false }, &reporter),
                figures: figures.collect(),
            })
        });
        let made = Arc::new(made.await??);
        self.tables.put(sweep, made.clone());
        Ok(made)
    }

    /// Returns the data of a page about one sweep.
    async fn sweep(&self, sweep: &str, place: Place) -> Result<Snapshot, Status> {
        let state = self.snapshot(sweep, None).await?.ok_or_else(no_snapshot)?;
        let status = ask_status(&self.sources.owner).await?;
        Ok(Snapshot {
            state,
            status,
            place,
            sweep: sweep.to_owned(),
        })
    }

    /// Returns the curves of a cell's trials.
    async fn curves(
        &self,
        snapshot: &Snapshot,
        cells: &[usize],
    ) -> Result<Vec<TrialCurve>, Status> {
        let state = &snapshot.state;
        let entry = state.sweep(&snapshot.sweep).map_err(NoAnswer::from)?;
        let of_cells = entry
            .trials
            .iter()
            .filter(|trial| cells.contains(&(trial.cell as usize)));
        let ids: Vec<TrialId> = of_cells.map(|trial| trial.id).take(MAX_CURVES).collect();
        let phase = |id: &TrialId| state.trials.get(id).map(|trial| &trial.phase);
        let mut curves = Vec::new();
        let mut finished = Vec::new();
        for id in ids {
            match phase(&id) {
                Some(Phase::Succeeded { result, .. }) => finished.push((id, result.event)),
                Some(Phase::Running { .. }) => {
                    let points = self.trial_parts(id.to_string()).await?.curve;
                    curves.push(TrialCurve { trial: id, points });
                }
                _ => {}
            }
        }
        let results = self.sources.results.clone();
        let read = drawn(move || {
            let mut stored = results();
            let curve = |(trial, event)| TrialCurve {
                trial,
                points: points(&mut *stored, event),
            };
            finished.into_iter().map(curve).collect::<Vec<_>>()
        });
        curves.extend(read.await?);
        Ok(curves)
    }
}

/// Returns the curve of a result; no points while the journal cannot be read.
fn points(stored: &mut dyn StoredResults, event: u64) -> Vec<Point> {
    let result = stored.result(event);
    result.map_or_else(|_| Vec::new(), |result| curve::of_epochs(&result.epochs))
}

/// The state of the coordinator, the status of all sweeps, and the name of the one that a page shows.
struct Snapshot {
    state: Arc<Known>,
    status: StatusReply,
    place: Place,
    sweep: String,
}

impl Snapshot {
    fn scene(&self) -> Scene<'_> {
        Scene {
            status: &self.status,
            place: self.place,
        }
    }

    fn results(&self) -> Result<Results<'_>, Status> {
        Ok(Results::of(&self.state, &self.sweep).map_err(NoAnswer::from)?)
    }

    fn sweep_status(&self) -> Result<&SweepStatus, Status> {
        let mut sweeps = self.status.sweeps.iter();
        let found = sweeps.find(|sweep| sweep.name == self.sweep);
        found.ok_or_else(|| Status::not_found("the sweep was removed"))
    }
}

fn no_snapshot() -> Status {
    Status::internal("no snapshot was taken")
}

/// Draws on a thread of its own. A panic fails this page and no other.
async fn drawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "a page cannot be drawn");
        Status::internal(
            "the coordinator has a fault and cannot draw this page: its log has the details",
        )
    })
}

pub async fn unknown() -> Problem {
    Problem(Status::not_found("no page has this address"))
}

pub async fn sweeps(State(shared): State<Shared>, Extension(place): Visit) -> Answer {
    let status = ask_status(&shared.sources.owner).await?;
    let tables = match page::newest(&status) {
        // It may be removed meanwhile.
        Some(sweep) => shared.tables(&sweep.name).await.ok(),
        None => None,
    };
    let scene = Scene {
        status: &status,
        place,
    };
    let tables = tables.as_ref().map(|tables| &tables.markup);
    Ok(Html(page::sweeps(scene, tables)))
}

pub async fn workers(State(shared): State<Shared>, Extension(place): Visit) -> Answer {
    let status = ask_status(&shared.sources.owner).await?;
    let scene = Scene {
        status: &status,
        place,
    };
    Ok(Html(page::workers(scene)))
}

pub async fn sweep(
    State(shared): State<Shared>,
    Extension(place): Visit,
    Path(name): Path<String>,
) -> Answer {
    let tables = shared.tables(&name).await?;
    let status = ask_status(&shared.sources.owner).await?;
    let mut sweeps = status.sweeps.iter();
    let found = sweeps.find(|sweep| sweep.name == name);
    let found = found.ok_or_else(|| Status::not_found("the sweep was removed"))?;
    let scene = Scene {
        status: &status,
        place,
    };
    Ok(Html(page::sweep(scene, found, &tables.markup)))
}

pub async fn figure(
    State(shared): State<Shared>,
    Path((sweep, figure)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let tables = shared.tables(&sweep).await?;
    let mut figures = tables.figures.iter();
    let (_, svg) = figures
        .find(|(name, _)| *name == figure)
        .ok_or_else(|| Status::not_found("the sweep has no figure of this name"))?;
    let headers = [
        (header::CONTENT_TYPE, "image/svg+xml"),
        // It has its own style, and nothing else.
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'",
        ),
    ];
    Ok((headers, svg.clone()).into_response())
}

pub async fn trials(
    State(shared): State<Shared>,
    Extension(place): Visit,
    Path(name): Path<String>,
    Query(pairs): Pairs,
) -> Answer {
    let snapshot = shared.sweep(&name, place).await?;
    let page = drawn(move || {
        let pairs = pairs.iter().map(|(name, value)| (&**name, &**value));
        let query = page::Query::from_pairs(pairs);
        Ok::<_, Status>(page::trials(
            snapshot.scene(),
            snapshot.sweep_status()?,
            &snapshot.results()?,
            &query,
        ))
    });
    Ok(Html(page.await??))
}

pub async fn trial(
    State(shared): State<Shared>,
    Extension(place): Visit,
    Path((name, trial)): Path<(String, String)>,
) -> Answer {
    let snapshot = shared.sweep(&name, place).await?;
    let TrialParts { explanation, curve } = shared.trial_parts(trial).await?;
    let Sources {
        results,
        kept,
        work_dir,
        ..
    } = shared.sources.clone();
    let page = drawn(move || {
        let id = explanation.trial;
        let folded = snapshot.results()?;
        let mut rows = folded.trials.iter();
        let row = rows
            .find(|row| row.trial.id == id)
            .ok_or_else(|| Status::not_found(format!("the sweep has no trial {id}")))?;
        let result = row
            .result()
            .and_then(|result| results().result(result.event).ok());
        let confusion = kept.confusion(&explanation);
        let last = explanation.attempts.last();
        let log = last.and_then(|tried| end_of_log(&work_dir, &tried.log));
        let view = TrialView {
            results: &folded,
            row,
            explanation: &explanation,
            curve: &curve,
            result: result.as_ref(),
            confusion: confusion.as_deref(),
            log: log.as_deref(),
        };
        Ok::<_, Status>(page::trial(
            snapshot.scene(),
            snapshot.sweep_status()?,
            &view,
        ))
    });
    Ok(Html(page.await??))
}

/// Returns the end of a log in a work directory, without escape sequences; `None` if there is no
/// such file.
fn end_of_log(work_dir: &FilePath, log: &str) -> Option<String> {
    let is_below = FilePath::new(log)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let mut file = File::open(work_dir.join(log)).ok().filter(|_| is_below)?;
    let length = file.metadata().ok()?.len();
    let from = length.saturating_sub(LOG_BYTES);
    file.seek(SeekFrom::Start(from)).ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    // The first line may have lost its beginning.
    let whole = match text.split_once('\n') {
        Some((_, rest)) if from > 0 => rest.to_owned(),
        _ => text,
    };
    Some(String::from(Lines::from(whole.as_str())))
}

pub async fn cell(
    State(shared): State<Shared>,
    Extension(place): Visit,
    Path(name): Path<String>,
    Query(pairs): Pairs,
) -> Answer {
    let snapshot = shared.sweep(&name, place).await?;
    let wanted = value(&pairs, "cell").unwrap_or_default();
    let cell = find_cell(&snapshot, wanted)?;
    let curves = shared.curves(&snapshot, &[cell]).await?;
    let page = drawn(move || {
        let results = snapshot.results()?;
        let view = CellView {
            results: &results,
            cell,
            curves: &curves,
        };
        Ok::<_, Status>(page::cell(
            snapshot.scene(),
            snapshot.sweep_status()?,
            &view,
        ))
    });
    Ok(Html(page.await??))
}

pub async fn compare(
    State(shared): State<Shared>,
    Extension(place): Visit,
    Path(name): Path<String>,
    Query(pairs): Pairs,
) -> Answer {
    let snapshot = shared.sweep(&name, place).await?;
    let chosen = value(&pairs, "a").zip(value(&pairs, "b"));
    let chosen = chosen.map(|(a, b)| Ok((find_cell(&snapshot, a)?, find_cell(&snapshot, b)?)));
    let (a, b) = match chosen {
        Some(Ok(pair)) => pair,
        none_or_unknown => {
            let problem =
                none_or_unknown.and_then(|chosen: Result<(usize, usize), Status>| chosen.err());
            let message = problem.as_ref().map(Status::message);
            let results = snapshot.results()?;
            return Ok(Html(page::compare_form(
                snapshot.scene(),
                &results,
                message,
            )));
        }
    };
    let curves = shared.curves(&snapshot, &[a, b]).await?;
    let page = drawn(move || {
        let results = snapshot.results()?;
        let view = |cell| CellView {
            results: &results,
            cell,
            curves: &curves,
        };
        Ok::<_, Status>(page::compare(snapshot.scene(), &view(a), &view(b)))
    });
    Ok(Html(page.await??))
}

fn value<'a>(pairs: &'a [(String, String)], wanted: &str) -> Option<&'a str> {
    let found = pairs.iter().find(|(name, _)| name == wanted);
    found.map(|(_, value)| value.as_str())
}

fn find_cell(snapshot: &Snapshot, name: &str) -> Result<usize, Status> {
    let entry = snapshot
        .state
        .sweep(&snapshot.sweep)
        .map_err(NoAnswer::from)?;
    entry.sweep.find_cell(name).map_err(Status::not_found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_shown_and_no_other_file() {
        let dir = tempfile::tempdir().unwrap();
        let long = "first line\n".repeat(3_000) + "\x1b[31mlast\x1b[0m\n";
        std::fs::write(dir.path().join("log"), long).unwrap();
        let shown = end_of_log(dir.path(), "log").unwrap();
        assert!(shown.starts_with("first line\n") && shown.trim_end().ends_with("last"));
        assert!(shown.len() as u64 <= LOG_BYTES);
        let below = dir.path().join("below");
        std::fs::create_dir(&below).unwrap();
        assert_eq!(end_of_log(&below, "../log"), None);
        assert_eq!(end_of_log(&below, "/etc/hostname"), None);
    }
}
