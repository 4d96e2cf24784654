//! The launch of one slot's trainer, and the names of its devices.
//!
//! A trainer only sees the GPUs of its slot, by their UUIDs, and counts them from 0. With `cuda:1`,
//! another GPU would take the number of a lost one, and CUDA numbers GPUs differently from the
//! driver's tools. `cuda:0` in a trainer's messages is replaced by the machine's name here, before
//! anything else reads it. Next: trainer.rs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use schedule::state::Slot;
use sweep::handoff;

use crate::environment;
use crate::gpu_release::GpuDriver;

#[derive(Clone)]
pub struct Launch {
    pub program: PathBuf,
    /// Words between the program and the protocol's own arguments.
    pub arguments: Vec<OsString>,
    /// The program that `executable` is.
    pub trainer: sweep::Trainer,
    /// Where the trainer's libraries are, if it does not find them by itself.
    pub libraries: Option<PathBuf>,
    pub slot: Slot,
    pub threads: usize,
    /// The fraction of its GPUs' memory that the trainer may use.
    pub memory_share: f64,
    /// The working folder; absent: that of the worker.
    pub directory: Option<PathBuf>,
    /// Variables besides those that every trainer receives.
    pub variables: Vec<(OsString, OsString)>,
    /// `WORKER/SLOT`
    pub mark: String,
    pub driver: Arc<dyn GpuDriver>,
}

impl Launch {
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().envs(environment::for_trainers());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command
            .args(&self.arguments)
            .arg("serve")
            .arg("--threads")
            .arg(self.threads.to_string());
        command.arg("--devices").arg(self.device_list());
        if self.memory_share < 1.0 {
            command
                .arg("--memory-share")
                .arg(self.memory_share.to_string());
        }
        if !self.slot.uuids.is_empty() {
            command.env("CUDA_VISIBLE_DEVICES", self.slot.uuids.join(","));
        }
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", library_path(libraries));
        }
        command.env(handoff::PROTOCOL_VARIABLE, handoff::PROTOCOL.to_string());
        // if CUDA counts GPUs at all, it counts as nvidia-smi does
        command.env("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
        command
    }

    pub fn has_gpus(&self) -> bool {
        self.slot.devices.iter().any(|device| device != "cpu")
    }

    /// The value of the trainer's `--devices`: `cpu`, whatever the number of threads, or
    /// `cuda:0,1`, the GPUs that it sees.
    fn device_list(&self) -> String {
        let named = self
            .slot
            .devices
            .iter()
            .filter_map(|device| device.strip_prefix("cuda:").map(str::to_owned));
        let indices: Vec<String> = match self.slot.uuids.len() {
            0 => named.collect(),
            count => (0..count).map(|index| index.to_string()).collect(),
        };
        if indices.is_empty() {
            "cpu".to_owned()
        } else {
            format!("cuda:{}", indices.join(","))
        }
    }

    /// Replaces each `cuda:N` in a trainer's text by the machine's name of that GPU.
    pub fn with_machine_names(&self, text: &str) -> String {
        const GPU: &str = "cuda:";
        if self.slot.uuids.is_empty() {
            return text.to_owned();
        }
        let mut named = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(GPU) {
            let (before, after) = rest.split_at(at + GPU.len());
            let digits = after.len()
                - after
                    .trim_start_matches(|digit: char| digit.is_ascii_digit())
                    .len();
            let device = after[..digits]
                .parse()
                .ok()
                .and_then(|index: usize| self.slot.devices.get(index));
            match device {
                Some(device) => named.extend([&before[..at], device]),
                None => named.extend([before, &after[..digits]]),
            }
            rest = &after[digits..];
        }
        named + rest
    }

    /// Converts the driver's UUIDs to the slot's names of these GPUs.
    pub fn names_of(&self, uuids: &[String]) -> Vec<String> {
        let pairs = self.slot.uuids.iter().zip(&self.slot.devices);
        pairs
            .filter(|(uuid, _)| uuids.contains(uuid))
            .map(|(_, name)| name.clone())
            .collect()
    }
}

/// Returns the value of `LD_LIBRARY_PATH` that puts a folder before those that it has here.
pub fn library_path(first: &Path) -> OsString {
    let mut path = first.as_os_str().to_owned();
    if let Some(rest) = std::env::var_os("LD_LIBRARY_PATH").filter(|rest| !rest.is_empty()) {
        path.push(":");
        path.push(rest);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu_release::NvidiaSmi;

    fn launch(devices: &[&str], uuids: &[&str]) -> Launch {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Launch {
            program: "trainer".into(),
            arguments: Vec::new(),
            trainer: sweep::Trainer::BuiltIn,
            libraries: None,
            slot: Slot {
                devices: owned(devices),
                uuids: owned(uuids),
                description: String::new(),
            },
            threads: 1,
            memory_share: 1.0,
            directory: None,
            variables: Vec::new(),
            mark: "worker/0".into(),
            driver: Arc::new(NvidiaSmi),
        }
    }

    fn visible(launch: &Launch) -> Option<String> {
        let command = launch.command();
        let mut variables = command.get_envs();
        let (_, value) = variables.find(|(name, _)| *name == "CUDA_VISIBLE_DEVICES")?;
        value.map(|value| value.to_string_lossy().into_owned())
    }

    #[test]
    fn a_trainer_sees_the_gpus_of_its_slot_and_counts_them_from_0() {
        let pair = launch(&["cuda:2", "cuda:0"], &["GPU-c", "GPU-a"]);
        assert_eq!(
            (pair.device_list(), visible(&pair)),
            ("cuda:0,1".to_owned(), Some("GPU-c,GPU-a".to_owned()))
        );
        let nameless = launch(&["cuda:0", "cuda:2"], &[]);
        assert_eq!(
            (nameless.device_list(), visible(&nameless)),
            ("cuda:0,2".to_owned(), None)
        );
        let cpu = launch(&["cpu", "cpu"], &[]);
        assert_eq!(
            (cpu.device_list(), visible(&cpu), cpu.has_gpus()),
            ("cpu".to_owned(), None, false)
        );
    }

    #[test]
    fn gpus_in_its_messages_get_the_machines_names() {
        let pair = launch(&["cuda:5", "cuda:0"], &["GPU-f", "GPU-a"]);
        assert_eq!(
            pair.with_machine_names("cuda:0 (NVIDIA H200)"),
            "cuda:5 (NVIDIA H200)"
        );
        assert_eq!(
            pair.with_machine_names("é cuda:1, cuda:0, cuda:7 and cuda:x: cuda:"),
            "é cuda:0, cuda:5, cuda:7 and cuda:x: cuda:"
        );
        assert_eq!(
            pair.with_machine_names("cuda:10 CUDA error"),
            "cuda:10 CUDA error"
        );
        assert_eq!(
            launch(&["cuda:5"], &[]).with_machine_names("cuda:0"),
            "cuda:0"
        );
        assert_eq!(
            pair.names_of(&["GPU-a".to_owned(), "GPU-z".to_owned()]),
            ["cuda:0"]
        );
    }
}
