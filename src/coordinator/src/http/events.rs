//! Events for browsers: one whenever a page may have changed, at most one a second. The browser then
//! fetches the page again, so that an event needs no content.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;

use super::{Owner, Shared};
use crate::requests::{self, OwnerRequest, Question, Version};

const INTERVAL: Duration = Duration::from_secs(1);
/// Number of intervals between events while trials run and nothing else changes.
const PROGRESS_EVERY: u32 = 2;

/// Sends an event whenever the state changes. A browser that reconnects names the last event that it
/// received, and gets one at once if it missed any.
pub async fn events(State(shared): State<Shared>, headers: HeaderMap) -> impl IntoResponse {
    let seen = headers.get("last-event-id");
    let seen = seen.and_then(|value| value.to_str().ok()?.parse().ok());
    // A browser that does not read has one event under way and gets no more.
    let (events, taken) = mpsc::channel(1);
    tokio::spawn(follow(shared.sources.owner, seen, events));
    Sse::new(ReceiverStream::new(taken)).keep_alive(KeepAlive::default())
}

async fn follow(owner: Owner, seen: Option<u64>, events: mpsc::Sender<Result<Event, Infallible>>) {
    let mut seen = seen;
    let mut quiet = 0;
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = events.closed() => return,
        }
        let question = |reply| OwnerRequest::Question(Question::Version { reply });
        let Ok(Version { event, is_running }) = requests::ask(&owner, question).await else {
            return;
        };
        quiet += 1;
        let is_due = is_running && quiet >= PROGRESS_EVERY;
        // The page was drawn just before, so the first version is the one that it shows.
        if seen.is_none_or(|seen| seen == event) && !is_due {
            seen = Some(event);
            continue;
        }
        (seen, quiet) = (Some(event), 0);
        let changed = Event::default().event("changed").id(event.to_string());
        if events.send(Ok(changed.data("1"))).await.is_err() {
            return;
        }
    }
}
