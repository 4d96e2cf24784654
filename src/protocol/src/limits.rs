//! How large a message, and each thing in it, may be. A peer that exceeds one is cut off with an error that names it.

/// Of one gRPC message, both ways. A sweep of 100,000 cells and a `Hello` of a worker with many results stay below.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// Of one JSON document within a message, except a sweep: a trial's settings, result or failure.
pub const MAX_DOCUMENT_BYTES: usize = 16 << 20;
/// Results in one `Hello` together; a worker that has more sends the rest afterwards.
pub const MAX_HELLO_RESULT_BYTES: usize = 32 << 20;
pub const MAX_SLOTS: usize = 1024;
/// CPU threads count as devices here.
pub const MAX_DEVICES_PER_SLOT: usize = 1024;
/// Trials with files in a work directory, in one heartbeat; the next one that asks begins after them.
pub const MAX_SEEN: usize = 4_096;
/// Unacknowledged outcomes in one `Hello`.
pub const MAX_ENDED: usize = 65_536;
/// Devices of all slots of one worker together.
pub const MAX_DEVICES: usize = 4_096;
/// Streams of one worker process: more than it opens in ten years, one every tenth of a second.
pub const MAX_CONNECTIONS: u64 = u32::MAX as u64;
/// Names of workers, hosts, builds, devices. Reasons and descriptions are bounded by `sweep::text`.
pub const MAX_NAME_BYTES: usize = 256;
