//! Finds the binaries under test: those of the same build as this test.

use std::path::PathBuf;

/// Returns the path of one of the program's binaries. `ORCHESTRATOR_BINARIES` names another folder,
/// for a packed release.
pub fn binary(name: &str) -> PathBuf {
    let folder =
        std::env::var_os("ORCHESTRATOR_BINARIES").map_or_else(beside_this_test, PathBuf::from);
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is not built: run `make build` first",
        path.display()
    );
    path
}

/// The folder of this build's binaries: Cargo puts tests into `release/deps` and binaries into
/// `release`.
fn beside_this_test() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    test.ancestors()
        .nth(2)
        .expect("tests lie in release/deps")
        .to_owned()
}
