//! Messages under way to one peer, bounded by their bytes: a peer that does not read must not fill
//! the memory.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use prost::Message;
use tokio::sync::mpsc::{
    UnboundedReceiver, UnboundedSender, WeakUnboundedSender, unbounded_channel,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::Stream;
use tonic::Status;

/// Bytes that a queued message occupies beside its own.
const OVERHEAD: usize = 64;

/// The sending half; dropping it ends the stream.
pub struct Outbox<T> {
    queue: UnboundedSender<Queued<T>>,
    room: Arc<Semaphore>,
    limit: u32,
}

struct Queued<T> {
    message: Result<T, Status>,
    /// Permit for its bytes, returned when the message is taken.
    _room: Option<OwnedSemaphorePermit>,
}

/// The receiving half, from which the transport takes messages.
pub struct OutboxStream<T>(UnboundedReceiver<Queued<T>>);

/// A handle that can end a stream, and does not keep it open.
pub struct Closer<T>(WeakUnboundedSender<Queued<T>>);

pub fn outbox<T>(limit: u32) -> (Outbox<T>, OutboxStream<T>) {
    let (queue, taken) = unbounded_channel();
    (
        Outbox {
            queue,
            room: Arc::new(Semaphore::new(limit as usize)),
            limit,
        },
        OutboxStream(taken),
    )
}

impl<T: Message> Outbox<T> {
    /// Queues a message. False: the peer does not read, or not fast enough. A single message may
    /// exceed the limit.
    pub fn send(&self, message: T) -> bool {
        let bytes = u32::try_from(message.encoded_len().saturating_add(OVERHEAD))
            .unwrap_or(u32::MAX)
            .min(self.limit);
        match self.room.clone().try_acquire_many_owned(bytes) {
            Ok(room) => self
                .queue
                .send(Queued {
                    message: Ok(message),
                    _room: Some(room),
                })
                .is_ok(),
            Err(_) => false,
        }
    }
}

impl<T> Outbox<T> {
    /// Ends the stream with this status, whether there is room or not.
    pub fn end(&self, status: Status) {
        let _ = self.queue.send(Queued {
            message: Err(status),
            _room: None,
        });
    }

    pub fn closer(&self) -> Closer<T> {
        Closer(self.queue.downgrade())
    }

    /// Returns true if everything that was sent has been taken.
    pub fn is_empty(&self) -> bool {
        self.room.available_permits() == self.limit as usize
    }

    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }
}

impl<T> Closer<T> {
    pub fn end(&self, status: Status) {
        if let Some(queue) = self.0.upgrade() {
            let _ = queue.send(Queued {
                message: Err(status),
                _room: None,
            });
        }
    }
}

impl<T> Stream for OutboxStream<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0
            .poll_recv(context)
            .map(|queued| queued.map(|queued| queued.message))
    }
}

#[cfg(test)]
mod tests {
    use protocol::v1::TailMessage;
    use protocol::v1::tail_message::Message::Note;
    use tokio_stream::StreamExt;

    use super::*;

    fn note(bytes: usize) -> TailMessage {
        TailMessage {
            message: Some(Note("x".repeat(bytes))),
        }
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_costs_no_more_than_the_limit() {
        let (outbox, mut taken) = outbox::<TailMessage>(1 << 20);
        let accepted = (0..10_000)
            .take_while(|_| outbox.send(note(10_000)))
            .count();
        assert!(
            (90..=104).contains(&accepted),
            "{accepted} messages of 10 kB under a limit of 1 MiB"
        );
        assert!(!outbox.is_empty());
        for _ in 0..accepted {
            taken.next().await.unwrap().unwrap();
        }
        assert!(
            outbox.is_empty() && outbox.send(note(10_000)),
            "what was taken makes room"
        );
    }

    #[tokio::test]
    async fn the_end_passes_a_full_queue_and_large_messages_an_empty_one() {
        let (outbox, mut taken) = outbox::<TailMessage>(1_000);
        assert!(outbox.send(note(5_000)) && !outbox.send(note(1)));
        outbox.closer().end(Status::aborted("cut"));
        assert!(taken.next().await.unwrap().is_ok());
        assert_eq!(taken.next().await.unwrap().unwrap_err().message(), "cut");
        drop(outbox);
        assert!(taken.next().await.is_none());
    }
}
