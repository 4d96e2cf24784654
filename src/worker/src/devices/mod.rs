//! The devices of this machine, and slots made of them: `--devices auto|cpu|cuda|cuda:0-3`,
//! `--slots`, `--devices-per-slot`. Nothing here loads CUDA.
//!
//! `choice.rs` reads what the user chose, `driver.rs` asks `nvidia-smi`, `inventory.rs` lists what is
//! there, `granted.rs` reads what Slurm and the environment grant, and `slots.rs` divides the devices.

mod choice;
mod driver;
mod granted;
mod inventory;
mod slots;

pub use choice::DeviceChoice;
pub use driver::DriverError;
pub(crate) use driver::ask_nvidia_smi;
pub use granted::Promise;
pub use inventory::{Gpu, Inventory};
pub use slots::{memory_share, slots, threads};

/// The reason why there are no slots.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    #[error(
        "`{0}` names no devices: `auto`, `cpu`, `cuda`, `cuda:0`, `cuda:0-3` or `cuda:0,2` were expected"
    )]
    BadChoice(String),
    #[error("`cuda:{0}` is named twice")]
    Repeated(u32),
    #[error("there is no `cuda:{index}`: this machine has {present}")]
    NoSuchGpu { index: u32, present: String },
    #[error("no GPU was found: {0}")]
    NoGpus(DriverError),
    #[error(
        "`auto` cannot find out if there are GPUs: {0}; fix the driver, or pass `--devices cpu`"
    )]
    SilentDriver(DriverError),
    #[error("{promise}, and {found}: check that nvidia-smi works here, or choose `--devices cpu`")]
    Promised { promise: Promise, found: String },
    #[error("{devices} devices cannot be divided into {what}")]
    Indivisible { devices: usize, what: String },
    #[error("`{option}` must be at least 1")]
    Zero { option: &'static str },
}
