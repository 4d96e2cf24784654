//! Room on a disk.

use std::path::Path;

use nix::sys::statvfs::statvfs;

/// Returns the bytes that this user may still write where a file or folder lies.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let space = statvfs(path).ok()?;
    // Fields have other widths elsewhere.
    #[allow(clippy::useless_conversion)]
    let blocks = u64::from(space.blocks_available());
    Some(blocks.saturating_mul(space.fragment_size()))
}

/// Returns the files that can still be made there; absent where the file system does not count them.
pub fn free_files(path: &Path) -> Option<u64> {
    let space = statvfs(path).ok()?;
    // Fields have other widths elsewhere.
    #[allow(clippy::useless_conversion)]
    let files = u64::from(space.files_available());
    (space.files() > 0).then_some(files)
}
