//! The driver's tool, nvidia-smi, which comes with the driver.

use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The reason why the driver's tool, nvidia-smi, gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    #[error("{0}")]
    NoTool(String),
    /// The tool reports that there is no GPU, or no driver.
    #[error("{0}")]
    NoGpu(String),
    /// The driver does not work properly.
    #[error("{0}")]
    Silent(String),
}

/// Runs nvidia-smi with a query. Returns its answer, one line per item, or the reason why there is
/// none.
pub(crate) fn ask_nvidia_smi(query: &str) -> Result<String, DriverError> {
    let silent = |error: std::io::Error| DriverError::Silent(error.to_string());
    let mut child = Command::new("nvidia-smi")
        .args([query, "--format=csv,noheader,nounits"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| {
            DriverError::NoTool(match error.kind() {
                std::io::ErrorKind::NotFound => "nvidia-smi is not in PATH".to_owned(),
                _ => format!("nvidia-smi does not run: {error}"),
            })
        })?;
    let deadline = Instant::now() + Duration::from_secs(20);
    // the answer is far smaller than a pipe's buffer, so the process can exit before it is read
    while child.try_wait().map_err(silent)?.is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(DriverError::Silent(
                "nvidia-smi did not answer within 20 s".to_owned(),
            ));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().map_err(silent)?;
    if !output.status.success() {
        let loaded = Path::new("/proc/driver/nvidia/version").exists();
        return Err(refusal(output.status, loaded));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The reason for a failure of nvidia-smi. Its manual: 6 means that a query found nothing, 9 that
/// the driver is not loaded, 12 that a library of the driver is missing.
fn refusal(status: ExitStatus, driver_is_loaded: bool) -> DriverError {
    let reason = format!("nvidia-smi failed with {status}");
    match status.code() {
        Some(6 | 9 | 12) if !driver_is_loaded => DriverError::NoGpu(reason),
        _ => DriverError::Silent(reason),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn only_a_tool_that_finds_no_driver_reports_a_machine_without_gpus() {
        let failed = |code: i32, loaded| refusal(ExitStatus::from_raw(code << 8), loaded);
        for (code, loaded) in [(15, true), (9, true), (255, false)] {
            assert!(
                matches!(failed(code, loaded), DriverError::Silent(_)),
                "{code} {loaded}"
            );
        }
        assert!(matches!(failed(9, false), DriverError::NoGpu(_)));
        assert_eq!(
            failed(15, true).to_string(),
            "nvidia-smi failed with exit status: 15"
        );
    }
}
