//! Size limits of messages and their parts. A peer that exceeds a limit is disconnected with an
//! error that names it.

/// Limit for one gRPC message in either direction. A sweep of 100,000 cells and a `Hello` with many
/// results fit.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// Limit for one JSON document within a message, except a sweep: a trial's settings, result or
/// failure.
pub const MAX_DOCUMENT_BYTES: usize = 16 << 20;
/// Limit for all results in one `Hello` together; a worker that has more sends the rest later.
pub const MAX_HELLO_RESULT_BYTES: usize = 32 << 20;
pub const MAX_SLOTS: usize = 1024;
/// Limit for the devices of one slot. CPU threads count as devices.
pub const MAX_DEVICES_PER_SLOT: usize = 1024;
/// Trials with files in a work directory that one heartbeat lists; the next heartbeat continues
/// after them.
pub const MAX_SEEN: usize = 4_096;
/// Unacknowledged outcomes in one `Hello`.
pub const MAX_ENDED: usize = 65_536;
/// Devices of all slots of one worker together.
pub const MAX_DEVICES: usize = 4_096;
/// Streams of one worker process: more than it opens in ten years at one per tenth of a second.
pub const MAX_CONNECTIONS: u64 = u32::MAX as u64;
/// Limit for names of workers, hosts, builds and devices. `sweep::text` limits reasons and
/// descriptions.
pub const MAX_NAME_BYTES: usize = 256;
/// Limit for the words of `Start.keep`.
pub const MAX_KEEP: usize = 16;
/// Limit for a file that a sweep keeps of a trial.
pub const MAX_KEPT_BYTES: u64 = 4 << 30;
/// Content of one piece of such a file, or of the archive of a program.
pub const KEPT_PIECE_BYTES: usize = 256 << 10;
