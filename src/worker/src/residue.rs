//! The proof that an ended trainer holds nothing of a GPU (promise P5): the driver does not list its process any more.
//!
//! A process can be gone from the kernel while the driver still cleans up after it; a slot given out then starts with
//! too little memory. Where the driver counts processes otherwise than this machine does (some containers), its list
//! says nothing and proves nothing; where it does not answer, its devices are not to be used. Next: trainer.rs.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::devices::ask_nvidia_smi;

/// Ids of the processes that hold a context on some GPU.
pub trait GpuProcesses: Send + Sync {
    /// Blocks. `Silent` where the driver is asked in vain.
    fn list(&self) -> Result<Vec<u32>, Unknown>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// There is nobody to ask.
    NoTool(String),
    /// The driver is in trouble.
    Silent(String),
}

pub struct NvidiaSmi;

impl GpuProcesses for NvidiaSmi {
    fn list(&self) -> Result<Vec<u32>, Unknown> {
        let answer = ask_nvidia_smi("--query-compute-apps=pid")?;
        Ok(answer.lines().filter_map(|line| line.trim().parse().ok()).collect())
    }
}

/// Waits until the driver does not list the ended process; after `patience`, or without an answer, the reason why its
/// devices cannot be trusted.
pub async fn gone(processes: &Arc<dyn GpuProcesses>, pid: u32, patience: Duration) -> Result<(), String> {
    let until = Instant::now() + patience;
    let mut pause = Duration::from_millis(50);
    loop {
        let asked = processes.clone();
        match tokio::task::spawn_blocking(move || asked.list()).await {
            Ok(Ok(listed)) if !listed.contains(&pid) => return Ok(()),
            Ok(Ok(_)) if Instant::now() >= until => {
                let seconds = patience.as_secs_f64();
                return Err(format!("{seconds} s after process {pid} ended, the driver still lists it on a GPU"));
            }
            Ok(Ok(_)) => {}
            Ok(Err(Unknown::Silent(reason))) => return Err(reason),
            Ok(Err(Unknown::NoTool(reason))) => {
                tracing::warn!(reason, "nobody tells whether an ended trainer still holds memory of a GPU");
                return Ok(());
            }
            Err(error) => return Err(error.to_string()),
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Gives one answer after the other, the last one again and again.
    struct Fake(Mutex<Vec<Result<Vec<u32>, Unknown>>>);

    impl GpuProcesses for Fake {
        fn list(&self) -> Result<Vec<u32>, Unknown> {
            let mut answers = self.0.lock().unwrap();
            if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() }
        }
    }

    fn ask(answers: Vec<Result<Vec<u32>, Unknown>>) -> (Result<(), String>, usize) {
        let fake = Arc::new(Fake(Mutex::new(answers)));
        let list: Arc<dyn GpuProcesses> = fake.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let result = runtime.block_on(gone(&list, 7, Duration::from_millis(120)));
        let left = fake.0.lock().unwrap().len();
        (result, left)
    }

    #[test]
    fn a_process_is_waited_for_until_the_driver_forgets_it() {
        assert_eq!(ask(vec![Ok(vec![3, 7]), Ok(vec![7]), Ok(vec![3])]), (Ok(()), 1));
        let (result, _) = ask(vec![Ok(vec![3, 7])]);
        assert_eq!(result, Err("0.12 s after process 7 ended, the driver still lists it on a GPU".to_owned()));
    }

    #[test]
    fn a_silent_driver_is_a_reason_and_a_missing_tool_is_none() {
        let silent = Unknown::Silent("nvidia-smi did not answer within 20 s".to_owned());
        assert_eq!(ask(vec![Err(silent)]).0, Err("nvidia-smi did not answer within 20 s".to_owned()));
        assert_eq!(ask(vec![Err(Unknown::NoTool("it does not run".to_owned()))]).0, Ok(()));
    }
}
