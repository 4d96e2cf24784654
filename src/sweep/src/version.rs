//! The name of this build, which coordinator, workers, trainers and commands compare: processes of
//! different builds refuse to work together, and the error names both.

/// Returns `0.1.0+1a2b3c4`: the version, and the commit if it was set for the build
/// (`ORCHESTRATOR_COMMIT`, set by `make`).
pub fn build() -> String {
    let version = env!("CARGO_PKG_VERSION");
    match option_env!("ORCHESTRATOR_COMMIT") {
        Some(commit) if !commit.is_empty() => format!("{version}+{commit}"),
        _ => version.to_owned(),
    }
}
