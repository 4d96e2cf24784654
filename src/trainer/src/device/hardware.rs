//! The native multiplications of a device, which decide number formats and kernels. Next:
//! precision.rs.

use std::sync::OnceLock;

use tch::Device;

use crate::device::process;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hardware {
    /// A CPU without bf16 instructions.
    Plain,
    /// Vector instructions: `avx512_bf16`.
    VectorBf16,
    /// Matrix tiles: `amx_bf16`.
    TileBf16,
    Gpu,
}

impl Hardware {
    pub fn of(device: Device) -> Self {
        if device.is_cuda() {
            Self::Gpu
        } else {
            Self::of_cpu()
        }
    }

    /// Returns the CPU's kind; cached, because every convolution asks.
    pub fn of_cpu() -> Self {
        static FOUND: OnceLock<Hardware> = OnceLock::new();
        *FOUND.get_or_init(|| {
            let limit = std::env::var("ONEDNN_MAX_CPU_ISA").unwrap_or_default();
            of_flags(&process::cpu_flags(), &limit)
        })
    }
}

/// Returns the kind for CPU flags. `limit` is the variable that makes oneDNN treat a processor as
/// an older one, which oneDNN's bf16 is not made for.
fn of_flags(flags: &[String], limit: &str) -> Hardware {
    const WITHOUT_BF16: [&str; 7] = [
        "SSE41",
        "AVX",
        "AVX2",
        "AVX2_VNNI",
        "AVX2_VNNI_2",
        "AVX512_CORE",
        "AVX512_CORE_VNNI",
    ];
    let has = |name: &str| flags.iter().any(|flag| flag == name);
    if WITHOUT_BF16.contains(&limit.to_ascii_uppercase().as_str()) {
        return Hardware::Plain;
    }
    match (has("amx_bf16"), has("avx512_bf16")) {
        (true, _) => Hardware::TileBf16,
        (false, true) => Hardware::VectorBf16,
        (false, false) => Hardware::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_onednns_limit_decide_what_there_is() {
        let found = |flags: &str, limit| {
            of_flags(
                &flags.split(' ').map(str::to_owned).collect::<Vec<_>>(),
                limit,
            )
        };
        assert_eq!(found("fma avx2", ""), Hardware::Plain);
        assert_eq!(found("avx2 avx512_bf16", ""), Hardware::VectorBf16);
        assert_eq!(found("avx512_bf16 amx_bf16", "default"), Hardware::TileBf16);
        assert_eq!(
            found("avx512_bf16 amx_bf16", "AVX512_CORE_AMX"),
            Hardware::TileBf16
        );
        assert_eq!(found("avx512_bf16 amx_bf16", "avx2"), Hardware::Plain);
    }
}
