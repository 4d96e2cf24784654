//! The wheels that libtorch is made of, with their checksums: the lists that `scripts/libtorch.sh`
//! gives to pip for a build from source.

use std::fmt;
use std::sync::LazyLock;

const CPU: &str = include_str!("../../../../scripts/libtorch-cpu.txt");
const CUDA: &str = include_str!("../../../../scripts/libtorch-cuda.txt");

/// With or without the half of libtorch that only GPUs use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Cpu,
    Cuda,
}

/// One wheel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    pub name: &'static str,
    pub version: &'static str,
    pub sha256: &'static str,
}

/// Bytes on disk.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// The wheels.
    pub fetched: u64,
    /// The files that are kept of them.
    pub unpacked: u64,
}

impl Kind {
    /// Returns the size of this kind, rounded up.
    pub fn size(self) -> Size {
        match self {
            Self::Cpu => Size {
                fetched: 550_000_000,
                unpacked: 470_000_000,
            },
            Self::Cuda => Size {
                fetched: 2_700_000_000,
                unpacked: 3_800_000_000,
            },
        }
    }

    /// Returns the wheels of this kind. The first is torch.
    pub fn pins(self) -> Vec<Pin> {
        let lists: &[&'static str] = match self {
            Self::Cpu => &[CPU],
            Self::Cuda => &[CPU, CUDA],
        };
        lists.iter().flat_map(|list| parse(list)).collect()
    }

    /// Returns true if the trainer needs this file of a wheel at run time: libraries, and the
    /// licences of what they are part of.
    pub fn needs(self, file: &str) -> bool {
        const WITHOUT_GPU: [&str; 5] = [
            "libtorch_cpu.so",
            "libc10.so",
            "libgomp.so.1",
            "libcudart.so.13",
            "libcupti.so.13",
        ];
        const FOR_PYTHON: [&str; 2] = ["libtorch_python.so", "libshm.so"];
        let Some((folder, name)) = file.rsplit_once('/') else {
            return false;
        };
        if folder.contains(".dist-info") {
            return name != "RECORD";
        }
        let is_library = name.ends_with(".so") || name.contains(".so.");
        let is_here = folder == "torch/lib" || folder.starts_with("nvidia/");
        is_library
            && is_here
            && match self {
                Self::Cpu => WITHOUT_GPU.contains(&name),
                Self::Cuda => !FOR_PYTHON.contains(&name),
            }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        })
    }
}

/// Returns the version of torch whose libtorch the trainer is linked against.
pub fn version() -> &'static str {
    parse(CPU).next().map_or("", |pin| pin.version)
}

/// Returns what `--version` shows: version, commit, and the libtorch.
pub fn build() -> &'static str {
    static SHOWN: LazyLock<String> =
        LazyLock::new(|| format!("{} (libtorch {})", sweep::build(), version()));
    &SHOWN
}

/// Reads pip's form, `NAME==VERSION --hash=sha256:HASH` on a line.
fn parse(list: &'static str) -> impl Iterator<Item = Pin> {
    list.lines().filter_map(|line| {
        let (name, rest) = line.split_once("==")?;
        let (version, sha256) = rest.split_once(" --hash=sha256:")?;
        Some(Pin {
            name,
            version,
            sha256: sha256.trim_end(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_lists_is_a_pin() {
        let lines = |list: &str| {
            list.lines()
                .filter(|line| !line.starts_with('#') && !line.is_empty())
                .count()
        };
        assert_eq!(Kind::Cpu.pins().len(), lines(CPU));
        assert_eq!(Kind::Cuda.pins().len(), lines(CPU) + lines(CUDA));
        assert_eq!(Kind::Cuda.pins()[0].name, "torch");
        assert!(
            Kind::Cuda
                .pins()
                .iter()
                .all(|pin| pin.sha256.len() == 64 && !pin.version.is_empty())
        );
        assert!(version().starts_with("2."));
    }

    #[test]
    fn headers_and_python_modules_are_left_out() {
        let kept = |file: &str| [Kind::Cpu.needs(file), Kind::Cuda.needs(file)];
        assert_eq!(kept("torch/lib/libtorch_cpu.so"), [true, true]);
        assert_eq!(kept("nvidia/cu13/lib/libcudart.so.13"), [true, true]);
        assert_eq!(
            kept("torch-2.11.0.dist-info/licenses/LICENSE"),
            [true, true]
        );
        assert_eq!(kept("torch/lib/libtorch_cuda.so"), [false, true]);
        assert_eq!(kept("nvidia/cudnn/lib/libcudnn.so.9"), [false, true]);
        for file in [
            "torch/lib/libtorch_python.so",
            "torch/_C.cpython-311-x86_64-linux-gnu.so",
            "torch/include/ATen/ATen.h",
            "nvidia/cu13/include/cuda.h",
            "torch-2.11.0.dist-info/RECORD",
        ] {
            assert_eq!(kept(file), [false, false], "{file}");
        }
    }
}
