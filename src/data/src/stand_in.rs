//! Generated stand-in images for rehearsals (`--smoke`): the real number of channels and classes, a few tiny images per
//! class, made from the class and a counter, without any file.

/// Side of the square the network sees in a rehearsal, at most.
pub const SIDE: usize = 32;
/// Images per batch in a rehearsal, at most.
pub const BATCH_SIZE: usize = 8;
/// Evaluation images in a rehearsal, at most.
pub const NUM_EVAL: usize = 64;
pub const STEPS_PER_EPOCH: u64 = 2;
