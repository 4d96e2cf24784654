//! What the owner needs of a journal, so that tests can put one in its place that fails.

use schedule::event::Recorded;

pub trait Storage: Send {
    /// All of it or nothing, and durable when it returns. May be called again with the same entries after a failure.
    fn append(&mut self, entries: &[Recorded]) -> Result<(), String>;

    /// On disk.
    fn bytes(&self) -> u64;
}

struct Memory;
impl Storage for Memory {
    fn append(&mut self, _entries: &[Recorded]) -> Result<(), String> {
        Ok(())
    }
    fn bytes(&self) -> u64 {
        0
    }
}

pub fn open(_path: &std::path::Path) -> Result<(schedule::state::State, schedule::state::Millis, Box<dyn Storage>), String> {
    Ok((Default::default(), 0, Box::new(Memory)))
}
