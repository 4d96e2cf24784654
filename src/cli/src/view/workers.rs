//! The part of the overview about workers: their slots and problems, and the allocations whose
//! workers are still to come.

use protocol::v1::{Presence, WorkerStatus};
use ratatui::text::{Line, Span};
use schedule::allocation::AllocationStatus;
use unicode_width::UnicodeWidthStr;

use super::draw::Theme;
use super::model::{Model, Pane};
use super::panes::{GAP, Part, left};
use crate::{fit, follow};

/// Slots of a worker that are drawn one by one.
const MAX_SQUARES: u32 = 8;

pub fn part<'a>(model: &'a Model, theme: Theme, width: usize) -> Part<'a> {
    let names = model
        .workers
        .iter()
        .map(|worker| worker.worker.width())
        .max();
    let names = names.unwrap_or(0).min(width / 3);
    let squares = model
        .workers
        .iter()
        .map(|worker| slots(worker).width())
        .max();
    let squares = squares.unwrap_or(0);
    let waiting = waiting_allocations(model);
    let mut rows: Vec<Line> = model
        .workers
        .iter()
        .map(|worker| worker_row(worker, (names, squares), theme, width))
        .collect();
    rows.extend(waiting.iter().map(|entry| {
        let job = entry
            .job
            .as_ref()
            .map_or_else(String::new, |job| format!(" job {job}"));
        let reason = entry
            .reason
            .as_ref()
            .map_or_else(String::new, |reason| format!(": {reason}"));
        let text = format!("{}{job}  {}{reason}", entry.allocation, entry.state);
        Line::styled(fit::beginning(&text, width), theme.quiet())
    }));
    let present = model
        .workers
        .iter()
        .filter(|worker| worker.presence() != Presence::Gone);
    let (busy, slots) = present.fold((0, 0), |(busy, slots), worker| {
        (busy + worker.busy_slots, slots + worker.slots)
    });
    let mut right = vec![Span::raw(format!("{busy} of {slots} slots busy"))];
    let queue = model
        .cluster
        .as_ref()
        .and_then(|cluster| cluster.queue.as_ref());
    let mut heading = Vec::new();
    if let Some(queue) = queue {
        right.insert(
            0,
            Span::styled(
                format!("{}: {} wanted   ", queue.launcher, queue.wanted),
                theme.quiet(),
            ),
        );
        let trouble = queue.reason.as_ref().or(queue.error.as_ref());
        if let Some(reason) = trouble {
            let paused = if queue.paused.is_some() {
                "launching is paused"
            } else {
                "launching waits"
            };
            let text = fit::beginning(&format!("{paused}: {reason}"), width);
            heading.push(Line::styled(text, theme.warning()));
        }
    }
    Part {
        pane: Pane::Workers,
        title: "Workers".to_owned(),
        right,
        heading,
        rows,
    }
}

fn worker_row<'a>(
    worker: &WorkerStatus,
    (names, squares): (usize, usize),
    theme: Theme,
    width: usize,
) -> Line<'a> {
    let presence = worker.presence();
    let (style, state) = match presence {
        Presence::Present => (theme.plain(), String::new()),
        Presence::Draining => (theme.warning(), "draining".to_owned()),
        Presence::Unreachable => (
            theme.warning(),
            format!("silent for {}", follow::duration(worker.silent_ms)),
        ),
        Presence::Gone => (
            theme.quiet(),
            format!("gone {} ago", follow::duration(worker.silent_ms)),
        ),
    };
    let mut details = Vec::new();
    if !state.is_empty() {
        details.push(match worker.reason.as_str() {
            "" => state,
            reason => format!("{state}: {reason}"),
        });
    }
    if let Some(ms) = worker.leaves_in_ms {
        details.push(format!("leaves in {}", follow::duration(ms)));
    }
    let is_troubled = |text: &&String| text.contains("(broken: ") || text.contains("(pauses, ");
    let troubled = worker.slot_descriptions.iter().find(is_troubled);
    match (troubled, worker.slot_descriptions.first()) {
        _ if presence == Presence::Gone => {}
        (Some(slot), _) => details.push(slot.clone()),
        (None, Some(slot)) => {
            let device = slot
                .split_once(": ")
                .map_or(slot.as_str(), |(_, device)| device);
            details.push(format!("{} x {device}", worker.slots));
        }
        (None, None) => {}
    }
    let room = width.saturating_sub(names + 2 * GAP + squares);
    Line::from(vec![
        Span::styled(left(&fit::middle(&worker.worker, names), names), style),
        Span::raw(" ".repeat(GAP)),
        Span::styled(left(&slots(worker), squares), theme.accent()),
        Span::raw(" ".repeat(GAP)),
        Span::styled(
            fit::beginning(&details.join("   "), room),
            if troubled.is_some() {
                theme.warning()
            } else {
                style.patch(theme.quiet())
            },
        ),
    ])
}

/// Draws the slots of a worker, the busy ones filled.
fn slots(worker: &WorkerStatus) -> String {
    if worker.presence() == Presence::Gone {
        return String::new();
    }
    if worker.slots > MAX_SQUARES {
        return format!("{}/{}", worker.busy_slots, worker.slots);
    }
    let free = worker.slots.saturating_sub(worker.busy_slots);
    "■".repeat(worker.busy_slots as usize) + &"□".repeat(free as usize)
}

/// Returns the allocations whose worker has not joined yet.
pub fn waiting_allocations(model: &Model) -> Vec<&AllocationStatus> {
    let all = model
        .cluster
        .iter()
        .flat_map(|cluster| &cluster.allocations);
    all.filter(|entry| entry.state != "ended" && entry.worker.is_none())
        .collect()
}
