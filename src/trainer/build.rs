//! Tells the linker where libtorch is.
fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let libtorch = std::env::var("LIBTORCH").expect("LIBTORCH is not set: build with `make`, or see README.md");
    for directory in [format!("{libtorch}/site/torch/lib"), format!("{libtorch}/lib")] {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{directory}");
    }
}
