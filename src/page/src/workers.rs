//! The page of workers, slots and allocations, and of the reasons why sweeps wait.

use maud::{Markup, html};
use protocol::v1::{Presence, SweepStatus, WorkerStatus};
use schedule::allocation::{AllocationStatus, ClusterStatus, QueueStatus};

use crate::frame::{action, page, scrolled};
use crate::words::{duration, mib, timestamp};
use crate::{Place, Scene};

/// Allocations on this page at most; `orchestrator cluster status` has all.
const MAX_ALLOCATIONS: usize = 200;

/// Draws the workers and the allocations of a cluster.
pub fn workers(scene: Scene<'_>) -> String {
    let status = scene.status;
    let cluster: ClusterStatus = serde_json::from_slice(&status.cluster_json).unwrap_or_default();
    let (gone, here): (Vec<_>, Vec<_>) = status
        .workers
        .iter()
        .partition(|worker| worker.presence() == Presence::Gone);
    let main = html! {
        h1 { "Workers" }
        section #waits data-live { (waits(&status.sweeps)) }
        section #workers data-live {
            @if here.is_empty() { p { "No worker is connected." } }
            @for worker in here { (worker_card(scene.place, worker)) }
        }
        section #cluster data-live {
            @if let Some(queue) = &cluster.queue { (queue_facts(queue)) }
            @if !cluster.allocations.is_empty() { (allocations(&cluster.allocations)) }
        }
        section #gone data-live {
            @if !gone.is_empty() {
                h2 { "Gone" }
                ul.because {
                    @for worker in gone {
                        li { (worker.worker) ", " (duration(worker.silent_ms)) " ago: " (worker.reason) }
                    }
                }
            }
        }
        section #disk data-live {
            p.note {
                "Journal " (mib(status.journal_bytes)) ", checkpoints of running trials " (mib(status.checkpoint_bytes)) "."
            }
        }
    };
    page(scene, "Workers", None, &main)
}

/// Lists the sweeps that make no progress, and why.
fn waits(sweeps: &[SweepStatus]) -> Markup {
    html! {
        @for sweep in sweeps.iter().filter(|sweep| !sweep.waits_because.is_empty()) {
            p.alert { strong { (sweep.name) " waits: " } (sweep.waits_because) }
        }
    }
}

fn worker_card(place: Place, worker: &WorkerStatus) -> Markup {
    let presence = worker.presence();
    let name = &worker.worker;
    html! {
        article.card {
            h2 { (name) }
            dl.facts {
                div { dt { "Presence" } dd class=(format!("status {presence}")) { (presence) } }
                div { dt { "Slots busy" } dd { (worker.busy_slots) " of " (worker.slots) } }
                div { dt { "Host" } dd { (worker.host) } }
                @if !worker.reason.is_empty() { div { dt { "Reason" } dd { (worker.reason) } } }
                @if presence == Presence::Unreachable { div { dt { "Silent for" } dd { (duration(worker.silent_ms)) } } }
                @if let Some(ms) = worker.leaves_in_ms { div { dt { "Leaves in" } dd { (duration(ms)) } } }
                @if !worker.allocation.is_empty() { div { dt { "Allocation" } dd { (worker.allocation) } } }
                @if worker.work_dir_bytes > 0 { div { dt { "Work directory" } dd { (mib(worker.work_dir_bytes)) } } }
            }
            ol.slots start="0" { @for slot in &worker.slot_descriptions { li { (slot) } } }
            div.actions {
                @if presence == Presence::Draining {
                    (action(place, &format!("undrain-{name}"), "Undrain", "It gets new work again.", "/workers/undrain", &[("name", name)]))
                } @else {
                    (action(place, &format!("drain-{name}"), "Drain", "It gets no new work, and leaves when what runs there has finished.",
                        "/workers/drain", &[("name", name)]))
                }
            }
        }
    }
}

fn queue_facts(queue: &QueueStatus) -> Markup {
    html! {
        h2 { "Launched workers" }
        dl.facts {
            div { dt { "Queue" } dd { (queue.name) " (" (queue.launcher) ")" } }
            div { dt { "Each asks for" } dd { (queue.request) } }
            div { dt { "Work for" } dd { (queue.wanted) " of at most " (queue.max_allocations) } }
            @if !queue.avoided.is_empty() { div { dt { "Avoided nodes" } dd { (queue.avoided.join(", ")) } } }
        }
        @if let Some(reason) = &queue.reason {
            p.alert { strong { @if queue.paused.is_some() { "Paused: " } @else { "Waits: " } } (reason) }
        }
        @if let Some(error) = &queue.error { p.alert { strong { "The cluster's commands fail: " } (error) } }
    }
}

fn allocations(allocations: &[AllocationStatus]) -> Markup {
    let list = html! {
        table {
            thead { tr {
                th scope="col" { "Allocation" } th scope="col" { "Job" } th scope="col" { "State" }
                th scope="col" { "Since" } th scope="col" { "Node" } th.number scope="col" { "Time left" }
                th scope="col" { "Reason" }
            } }
            tbody {
                @for entry in allocations.iter().take(MAX_ALLOCATIONS) {
                    tr {
                        th scope="row" { (entry.allocation) }
                        td { (entry.job.as_deref().unwrap_or_default()) }
                        td { (entry.state) }
                        td { (timestamp(entry.since_ms)) }
                        td { (entry.node.as_deref().unwrap_or_default()) }
                        td.number { @if let Some(ms) = entry.time_left_ms { (duration(ms)) } }
                        td { (entry.reason.as_deref().unwrap_or_default()) }
                    }
                }
            }
        }
    };
    html! {
        h2 { "Allocations" }
        (scrolled("Allocations", &list))
    }
}
