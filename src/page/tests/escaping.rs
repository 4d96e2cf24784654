//! Names that users and peers chose, on pages: each is shown as it is written, and none is markup.

use page::{Place, Scene};
use protocol::v1::{FailedTrial, RunningTrial, StatusReply, SweepStatus, WorkerStatus};

const HOSTILE: &str = "<script>alert(1)</script>\"'&";

fn status() -> StatusReply {
    let hostile = || HOSTILE.to_owned();
    StatusReply {
        sweeps: vec![SweepStatus {
            name: hostile(),
            running: 2,
            failed: 1,
            cells: 4,
            waits_because: hostile(),
            running_trials: vec![RunningTrial {
                trial: hostile(),
                cell: hostile(),
                worker: hostile(),
                ..RunningTrial::default()
            }],
            failures: vec![FailedTrial {
                trial: hostile(),
                cell: hostile(),
                failure: hostile(),
                ..FailedTrial::default()
            }],
            ..SweepStatus::default()
        }],
        workers: vec![WorkerStatus {
            worker: hostile(),
            host: hostile(),
            reason: hostile(),
            slot_descriptions: vec![hostile()],
            ..WorkerStatus::default()
        }],
        storage_fault: hostile(),
        build: hostile(),
        ..StatusReply::default()
    }
}

#[test]
fn what_peers_named_cannot_become_markup() {
    let status = status();
    for place in [Place::Served { may_change: true }, Place::File] {
        let scene = Scene {
            status: &status,
            place,
        };
        let pages = [
            page::sweeps(scene, None),
            page::workers(scene),
            page::sweep(scene, &status.sweeps[0], &page::PreEscaped(String::new())),
            page::problem(HOSTILE, HOSTILE),
            page::login(Some(HOSTILE)),
        ];
        for page in pages {
            assert!(!page.contains("<script>alert"), "{page}");
            assert!(
                page.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;"),
                "{page}"
            );
        }
    }
}

/// The policy of the server allows neither, so a browser would ignore them.
#[test]
fn served_pages_have_no_script_or_style_inside() {
    let status = status();
    let scene = Scene {
        status: &status,
        place: Place::Served { may_change: true },
    };
    for page in [page::sweeps(scene, None), page::workers(scene)] {
        for inside in ["<style", " style=", " onclick=", "javascript:"] {
            assert!(!page.contains(inside), "{inside}: {page}");
        }
        assert!(
            page.contains("<script src=\"/assets/uPlot.js\" defer></script>"),
            "{page}"
        );
    }
}
