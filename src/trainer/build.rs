//! Points the linker at libtorch and builds both halves of the C++ shim against its headers.
//!
//! Downloads nothing: `make` puts libtorch in place. Read shim/shim.cpp next, then
//! shim/cuda_library.cpp.

use std::path::{Path, PathBuf};

const SHIM: [&str; 8] = [
    "shim",
    "gradients",
    "convolution",
    "kernel_gradient",
    "kernel_gradient_tiles",
    "norm",
    "norm_cpu",
    "profile",
];
const CUDA_LIBRARY: [&str; 2] = ["cuda_library", "norm_cuda"];

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=shim");
    let libtorch = std::env::var("LIBTORCH")
        .expect("LIBTORCH is not set: build with `make`, or see README.md");
    // in a bundle; scripts/package.py removes the others
    let packed = "$ORIGIN/../lib/orchestrator/torch/lib".to_owned();
    for directory in [
        packed,
        format!("{libtorch}/site/torch/lib"),
        format!("{libtorch}/lib"),
    ] {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{directory}");
    }
    compiler(&libtorch)
        // at::parallel_for, on libtorch's own threads, and products that are rounded before they
        // are added to
        .flag("-fopenmp")
        .flag("-ffp-contract=off")
        .flag("-Wno-psabi")
        .files(SHIM.map(|name| format!("shim/{name}.cpp")))
        .compile("orchestrator_shim");
    cuda_library(&libtorch);
}

fn compiler(libtorch: &str) -> cc::Build {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .pic(true)
        .std("c++17")
        // libtorch's headers are not warning-free
        .warnings(false)
        .flag("-D_GLIBCXX_USE_CXX11_ABI=1")
        .include(format!("{libtorch}/include"))
        .include(format!("{libtorch}/include/torch/csrc/api/include"));
    build
}

/// A shared object that src/device/cuda/cuda_library.rs carries as bytes. Linked against nothing,
/// because its libraries exist only where a GPU does. Empty where CUDA's headers are absent: such a
/// trainer uses GPUs without recording steps, and without kernels of its own.
fn cuda_library(libtorch: &str) {
    let output =
        PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets it")).join("cuda_library.so");
    let Some(headers) = cuda_headers(libtorch) else {
        let without = "built without CUDA graphs and without kernels of its own";
        println!("cargo:warning=no CUDA headers beside {libtorch} (nvidia-cuda-crt): {without}");
        return std::fs::write(&output, []).expect("OUT_DIR can be written to");
    };
    let compiler = compiler(libtorch).include(headers).get_compiler();
    let sources = CUDA_LIBRARY.map(|name| format!("shim/{name}.cpp"));
    let status = compiler
        .to_command()
        .args(["-shared", "-o"])
        .arg(&output)
        .args(sources)
        .status()
        .expect("g++ runs");
    assert!(
        status.success(),
        "the CUDA library of the shim does not compile (see above)"
    );
}

/// In an installation of scripts/libtorch.sh, or in a Python environment beside its `torch`.
fn cuda_headers(libtorch: &str) -> Option<PathBuf> {
    let folders = ["site/nvidia/cu13/include", "../nvidia/cu13/include"];
    let candidates = folders
        .iter()
        .map(|folder| Path::new(libtorch).join(folder));
    let is_complete = |folder: &PathBuf| {
        ["cuda_runtime_api.h", "crt/host_defines.h"]
            .iter()
            .all(|header| folder.join(header).exists())
    };
    candidates.into_iter().find(is_complete)
}
