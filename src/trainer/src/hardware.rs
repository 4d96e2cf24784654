//! What a device multiplies natively: what number formats and kernels are chosen by. Next: precision.rs.

use std::sync::OnceLock;

use tch::Device;

use crate::process;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hardware {
    /// No bf16 instructions.
    Plain,
    /// Vector instructions: `avx512_bf16`.
    VectorBf16,
    /// Matrix tiles: `amx_bf16`.
    TileBf16,
    Gpu,
}

impl Hardware {
    pub fn of(device: Device) -> Self {
        if device.is_cuda() { Self::Gpu } else { Self::of_cpu() }
    }

    /// Asked at every convolution, so found out once.
    pub fn of_cpu() -> Self {
        static FOUND: OnceLock<Hardware> = OnceLock::new();
        *FOUND.get_or_init(|| {
            let flags = process::cpu_flags();
            let has = |name: &str| flags.iter().any(|flag| flag == name);
            match (has("amx_bf16"), has("avx512_bf16")) {
                (true, _) => Self::TileBf16,
                (false, true) => Self::VectorBf16,
                (false, false) => Self::Plain,
            }
        })
    }
}
