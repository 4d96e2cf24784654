//! Tells the linker where libtorch is and builds the C++ shim against its headers.
//!
//! Downloads nothing: `make` puts libtorch in place. Read shim/shim.cpp next.

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=shim");
    let libtorch = std::env::var("LIBTORCH").expect("LIBTORCH is not set: build with `make`, or see README.md");
    // in the tarball of `make dist`: beside bin/, where deploy/bootstrap.sh puts it
    let packed = "$ORIGIN/../.libtorch/site/torch/lib".to_owned();
    for directory in [packed, format!("{libtorch}/site/torch/lib"), format!("{libtorch}/lib")] {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{directory}");
    }
    cc::Build::new()
        .cpp(true)
        .pic(true)
        .std("c++17")
        // libtorch's headers are not warning-free
        .warnings(false)
        .flag("-D_GLIBCXX_USE_CXX11_ABI=1")
        .include(format!("{libtorch}/include"))
        .include(format!("{libtorch}/include/torch/csrc/api/include"))
        // at::parallel_for, on libtorch's own threads, and products that are rounded before they are added to
        .flag("-fopenmp")
        .flag("-ffp-contract=off")
        .file("shim/shim.cpp")
        .file("shim/update.cpp")
        .compile("orchestrator_shim");
}
