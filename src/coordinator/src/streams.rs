//! The open streams of workers, one for each, and the messages sent on them. A peer that does not
//! read is cut off; it returns with its lists.

use std::collections::BTreeMap;

use protocol::{DiskUse, FromCoordinator};
use schedule::event::Input;
use schedule::state::WorkerId;
use tonic::Status;

use crate::requests::Stream;

#[derive(Default)]
pub struct Streams {
    open: BTreeMap<WorkerId, Open>,
    /// Streams that were cut here and not yet reported to the state machine.
    cut: Vec<(WorkerId, u64)>,
}

struct Open {
    connection: u64,
    stream: Stream,
    disk: DiskUse,
}

impl Streams {
    /// Adds a stream; an older one of the same worker ends.
    pub fn insert(&mut self, worker: WorkerId, connection: u64, stream: Stream) {
        self.open.insert(
            worker,
            Open {
                connection,
                stream,
                disk: DiskUse::default(),
            },
        );
    }

    /// Returns true if messages on this stream still count.
    pub fn is_current(&self, worker: &WorkerId, connection: u64) -> bool {
        self.open
            .get(worker)
            .is_some_and(|open| open.connection == connection)
    }

    pub fn remove(&mut self, worker: &WorkerId, connection: u64) {
        if self.is_current(worker, connection) {
            self.open.remove(worker);
        }
    }

    pub fn send(&mut self, worker: &WorkerId, message: FromCoordinator) {
        let Some(open) = self.open.get(worker) else {
            return;
        };
        if !open.stream.outgoing.send(message.into()) {
            self.disconnect(worker, "it does not read what it is sent");
        }
    }

    pub fn disconnect(&mut self, worker: &WorkerId, reason: &str) {
        if let Some(open) = self.open.remove(worker) {
            tracing::info!(%worker, reason, "closing a worker's stream");
            open.stream.outgoing.end(Status::aborted(reason));
            self.cut.push((worker.clone(), open.connection));
        }
    }

    /// Returns the cut streams, for the state machine.
    pub fn take_cut(&mut self) -> Vec<Input> {
        let cut = std::mem::take(&mut self.cut);
        cut.into_iter()
            .map(|(worker, connection)| Input::Disconnected { worker, connection })
            .collect()
    }

    pub fn has_cut(&self) -> bool {
        !self.cut.is_empty()
    }

    pub fn note_disk(&mut self, worker: &WorkerId, disk: DiskUse) {
        if let Some(open) = self.open.get_mut(worker) {
            open.disk = DiskUse {
                seen: Vec::new(),
                ..disk
            };
        }
    }

    pub fn checkpoint_bytes(&self) -> u64 {
        // Workers may send any number.
        self.open.values().fold(0, |sum, open| {
            sum.saturating_add(open.disk.checkpoint_bytes)
        })
    }

    /// Returns the bytes that the worker reported; 0: it is not connected, or has not reported.
    pub fn work_dir_bytes(&self, worker: &WorkerId) -> u64 {
        self.open
            .get(worker)
            .map_or(0, |open| open.disk.work_dir_bytes)
    }
}
