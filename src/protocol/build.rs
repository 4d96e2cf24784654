//! Generates the gRPC code from `proto/`, with protox instead of protoc, which fresh machines lack.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let files = [
        "orchestrator/v1/fleet.proto",
        "orchestrator/v1/control.proto",
    ];
    let descriptors = protox::compile(files, [&root])?;
    // the client's generated constructor would be named `connect`, like the call of service Fleet
    tonic_prost_build::configure()
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
