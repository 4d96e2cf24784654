//! Checks that an ended trainer has released its GPUs (promise P5): the driver does not list its
//! process any more.
//!
//! A process can be gone from the kernel while the driver still cleans up after it; the next
//! attempt in that slot would then start with too little memory. If the driver numbers processes
//! differently from this machine (some containers), its list proves nothing. If the driver does not
//! answer, its devices must not be used. Next: trainer.rs.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::devices::{DriverError, ask_nvidia_smi};

/// The driver's view of GPUs and of the processes on them. Both methods block.
pub trait GpuDriver: Send + Sync {
    /// Processes that hold a context on some GPU, with the GPU's UUID.
    fn processes(&self) -> Result<Vec<(u32, String)>, DriverError>;
    /// UUIDs of the GPUs that are present.
    fn gpus(&self) -> Result<Vec<String>, DriverError>;
}

/// The reason why the devices of an ended trainer cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReleased {
    pub reason: String,
    /// The GPUs that the process still uses; empty if the driver did not report them.
    pub uuids: Vec<String>,
}

pub struct NvidiaSmi;

impl GpuDriver for NvidiaSmi {
    fn processes(&self) -> Result<Vec<(u32, String)>, DriverError> {
        Ok(parse_processes(&ask_nvidia_smi(
            "--query-compute-apps=pid,gpu_uuid",
        )?))
    }

    fn gpus(&self) -> Result<Vec<String>, DriverError> {
        Ok(ask_nvidia_smi("--query-gpu=uuid")?
            .lines()
            .map(|line| line.trim().to_owned())
            .collect())
    }
}

fn parse_processes(answer: &str) -> Vec<(u32, String)> {
    let parse = |line: &str| {
        let (pid, uuid) = line.split_once(',')?;
        Some((pid.trim().parse().ok()?, uuid.trim().to_owned()))
    };
    answer.lines().filter_map(parse).collect()
}

/// Returns those of a slot's GPUs that the driver does not list any more; none if it does not
/// answer.
pub async fn missing_gpus(driver: &Arc<dyn GpuDriver>, uuids: &[String]) -> Vec<String> {
    let asked = driver.clone();
    match tokio::task::spawn_blocking(move || asked.gpus()).await {
        Ok(Ok(there)) => uuids
            .iter()
            .filter(|uuid| !there.contains(uuid))
            .cloned()
            .collect(),
        Ok(Err(unknown)) => {
            tracing::warn!(%unknown, "cannot find out which GPU is missing");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

/// Waits until the driver does not list the ended process. Returns an error after `patience`, or if
/// there is no answer.
pub async fn wait_for(
    driver: &Arc<dyn GpuDriver>,
    pid: u32,
    patience: Duration,
) -> Result<(), NotReleased> {
    let unknown = |reason: String| NotReleased {
        reason,
        uuids: Vec::new(),
    };
    let until = Instant::now() + patience;
    let mut pause = Duration::from_millis(50);
    loop {
        let asked = driver.clone();
        match tokio::task::spawn_blocking(move || asked.processes()).await {
            Ok(Ok(listed)) if listed.iter().all(|(other, _)| *other != pid) => return Ok(()),
            Ok(Ok(listed)) if Instant::now() >= until => {
                let seconds = patience.as_secs_f64();
                let reason = format!(
                    "{seconds} s after process {pid} ended, the driver still lists it on a GPU"
                );
                let mine = listed.into_iter().filter(|(other, _)| *other == pid);
                return Err(NotReleased {
                    reason,
                    uuids: mine.map(|(_, uuid)| uuid).collect(),
                });
            }
            Ok(Ok(_)) => {}
            // the process had GPUs, so an answer without GPUs or without a driver proves nothing
            Ok(Err(DriverError::Silent(reason) | DriverError::NoGpu(reason))) => {
                return Err(unknown(reason));
            }
            Ok(Err(DriverError::NoTool(reason))) => {
                tracing::warn!(
                    reason,
                    "cannot find out if an ended trainer still holds memory of a GPU"
                );
                return Ok(());
            }
            Err(error) => return Err(unknown(error.to_string())),
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    type Answer = Result<Vec<(u32, &'static str)>, DriverError>;

    /// A driver that gives the listed answers in order and repeats the last one.
    struct Fake(Mutex<Vec<Answer>>);

    impl GpuDriver for Fake {
        fn processes(&self) -> Result<Vec<(u32, String)>, DriverError> {
            let mut answers = self.0.lock().unwrap();
            let answer = if answers.len() > 1 {
                answers.remove(0)
            } else {
                answers[0].clone()
            };
            Ok(answer?
                .into_iter()
                .map(|(pid, uuid)| (pid, uuid.to_owned()))
                .collect())
        }

        fn gpus(&self) -> Result<Vec<String>, DriverError> {
            self.processes()
                .map(|listed| listed.into_iter().map(|(_, uuid)| uuid).collect())
        }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(future)
    }

    fn ask(answers: Vec<Answer>) -> (Result<(), NotReleased>, usize) {
        let fake = Arc::new(Fake(Mutex::new(answers)));
        let driver: Arc<dyn GpuDriver> = fake.clone();
        let result = block_on(wait_for(&driver, 7, Duration::from_millis(120)));
        let left = fake.0.lock().unwrap().len();
        (result, left)
    }

    #[test]
    fn a_process_is_waited_for_until_the_driver_forgets_it() {
        assert_eq!(
            ask(vec![
                Ok(vec![(3, "a"), (7, "a")]),
                Ok(vec![(7, "a")]),
                Ok(vec![(3, "a")])
            ]),
            (Ok(()), 1)
        );
        let not_released = ask(vec![Ok(vec![(3, "a"), (7, "b"), (7, "c")])])
            .0
            .unwrap_err();
        assert_eq!(
            not_released.reason,
            "0.12 s after process 7 ended, the driver still lists it on a GPU"
        );
        assert_eq!(not_released.uuids, ["b", "c"]);
    }

    #[test]
    fn a_silent_driver_is_a_reason_and_a_missing_tool_is_none() {
        for trouble in [
            DriverError::Silent("no answer".to_owned()),
            DriverError::NoGpu("no answer".to_owned()),
        ] {
            let not_released = NotReleased {
                reason: "no answer".to_owned(),
                uuids: Vec::new(),
            };
            assert_eq!(ask(vec![Err(trouble)]).0, Err(not_released));
        }
        assert_eq!(
            ask(vec![Err(DriverError::NoTool("it does not run".to_owned()))]).0,
            Ok(())
        );
    }

    #[test]
    fn gpus_that_are_gone_are_named_where_the_driver_answers() {
        let absent = |answer: Answer| {
            let driver: Arc<dyn GpuDriver> = Arc::new(Fake(Mutex::new(vec![answer])));
            block_on(super::missing_gpus(
                &driver,
                &["a".to_owned(), "b".to_owned()],
            ))
        };
        assert_eq!(absent(Ok(vec![(1, "a"), (2, "c")])), ["b"]);
        assert!(absent(Err(DriverError::Silent("no answer".to_owned()))).is_empty());
    }

    #[test]
    fn processes_are_read_with_their_gpu() {
        let answer =
            "4711, GPU-aaaa\n 4712 , GPU-bbbb\nno running processes found\n[N/A], GPU-cccc\n";
        assert_eq!(
            parse_processes(answer),
            [(4711, "GPU-aaaa".to_owned()), (4712, "GPU-bbbb".to_owned())]
        );
    }
}
