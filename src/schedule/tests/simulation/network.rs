//! Streams that delay, repeat, break, and reorder messages among one another; and the list of
//! future happenings.

use std::collections::BTreeMap;

use schedule::event::Input;
use schedule::state::{Millis, WorkerId};

use crate::random::Random;
use crate::worker::Message;
use crate::world::Happening;

pub type StreamNo = usize;

pub struct Network {
    /// Happenings by time, then in the order in which they were planned.
    happenings: BTreeMap<(Millis, u64), Happening>,
    planned: u64,
    streams: Vec<Stream>,
    /// Number of coordinators started so far: no message to one reaches the next.
    coordinators: u64,
    random: Random,
}

struct Stream {
    host: usize,
    worker: WorkerId,
    connection: u64,
    coordinator: u64,
    /// Time of the last message in this direction of the stream: order holds within it.
    last_to_coordinator: Millis,
    last_to_worker: Millis,
    /// Set by a cut: messages under way arrive up to this time.
    arrives_until: Option<Millis>,
}

impl Network {
    pub fn new(seed: u64) -> Self {
        let random = Random::new(seed, "network");
        Self {
            happenings: BTreeMap::new(),
            planned: 0,
            streams: Vec::new(),
            coordinators: 0,
            random,
        }
    }

    pub fn at(&mut self, time: Millis, happening: Happening) {
        self.planned += 1;
        self.happenings.insert((time, self.planned), happening);
    }

    pub fn next(&mut self) -> Option<(Millis, Happening)> {
        self.happenings
            .pop_first()
            .map(|((at, _), happening)| (at, happening))
    }

    /// Returns the next happening, if it is a message to the coordinator no later than `until`.
    pub fn also_arriving(&mut self, until: Millis) -> Option<(StreamNo, Input)> {
        let first = self.happenings.first_entry()?;
        if first.key().0 > until || !matches!(first.get(), Happening::ToCoordinator { .. }) {
            return None;
        }
        match first.remove() {
            Happening::ToCoordinator { stream, input } => Some((stream, input)),
            _ => None,
        }
    }

    pub fn new_coordinator(&mut self) {
        self.coordinators += 1;
    }

    /// Returns the number of the coordinator that runs, or ran last.
    pub fn coordinator(&self) -> u64 {
        self.coordinators
    }

    pub fn open(&mut self, host: usize, worker: WorkerId, connection: u64) -> StreamNo {
        let coordinator = self.coordinators;
        let (last_to_coordinator, last_to_worker) = (0, 0);
        self.streams.push(Stream {
            host,
            worker,
            connection,
            coordinator,
            last_to_coordinator,
            last_to_worker,
            arrives_until: None,
        });
        self.streams.len() - 1
    }

    pub fn send_to_coordinator(
        &mut self,
        stream: StreamNo,
        input: Input,
        now: Millis,
        not_before: Millis,
    ) {
        let at = (now + self.delay())
            .max(self.streams[stream].last_to_coordinator)
            .max(not_before);
        self.streams[stream].last_to_coordinator = at;
        if self.random.one_in(40) {
            let later = at + self.random.below(8_000);
            self.at(
                later,
                Happening::ToCoordinator {
                    stream,
                    input: input.clone(),
                },
            );
        }
        self.at(at, Happening::ToCoordinator { stream, input });
    }

    pub fn send_to_worker(&mut self, stream: StreamNo, message: Message, now: Millis) {
        let at = (now + self.delay()).max(self.streams[stream].last_to_worker);
        self.streams[stream].last_to_worker = at;
        self.at(at, Happening::ToWorker { stream, message });
    }

    fn delay(&mut self) -> Millis {
        match self.random.below(20) {
            0 => self.random.below(4_000),
            1..=3 => self.random.below(500),
            _ => 1 + self.random.below(10),
        }
    }

    /// Breaks a stream: some messages under way to the coordinator still arrive, perhaps after a
    /// newer stream was opened; the two ends notice at different times.
    pub fn cut(&mut self, stream: StreamNo, now: Millis) {
        if self.is_cut(stream) {
            return;
        }
        let (soon, late) = (self.random.below(2_000), self.random.below(15_000));
        let rest = if self.random.one_in(2) {
            self.random.below(5_000)
        } else {
            0
        };
        self.streams[stream].arrives_until = Some(now + rest);
        self.at(now + soon, Happening::WorkerNotices { stream });
        self.at(now + late, Happening::CoordinatorNotices { stream });
    }

    pub fn cut_all(&mut self, now: Millis) {
        (0..self.streams.len()).for_each(|stream| self.cut(stream, now));
    }

    pub fn is_cut(&self, stream: StreamNo) -> bool {
        self.streams[stream].arrives_until.is_some()
    }

    /// Returns true if a message on this stream still reaches the coordinator.
    pub fn arrives(&self, stream: StreamNo, now: Millis) -> bool {
        self.is_of_this_coordinator(stream)
            && self.streams[stream]
                .arrives_until
                .is_none_or(|until| now <= until)
    }

    pub fn is_of_this_coordinator(&self, stream: StreamNo) -> bool {
        self.streams[stream].coordinator == self.coordinators
    }

    pub fn host(&self, stream: StreamNo) -> usize {
        self.streams[stream].host
    }

    pub fn ends(&self, stream: StreamNo) -> (WorkerId, u64) {
        (
            self.streams[stream].worker.clone(),
            self.streams[stream].connection,
        )
    }

    pub fn find(&self, worker: &WorkerId, connection: u64) -> Option<StreamNo> {
        self.streams
            .iter()
            .rposition(|stream| stream.connection == connection && stream.worker == *worker)
    }

    pub fn newest(&self, worker: &WorkerId) -> Option<StreamNo> {
        self.streams
            .iter()
            .rposition(|stream| stream.worker == *worker)
    }
}
