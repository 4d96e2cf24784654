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
    let mut build = tonic_prost_build::configure().build_transport(false);
    // the status is also a JSON document
    for message in [
        "StatusReply",
        "SweepStatus",
        "RunningTrial",
        "FailedTrial",
        "WorkerStatus",
    ] {
        build = build.type_attribute(message, "#[derive(serde::Serialize)]");
    }
    for (field, name) in [
        ("SweepStatus.waits", "WaitReason"),
        ("RunningTrial.condition", "Condition"),
        ("WorkerStatus.presence", "Presence"),
    ] {
        let word = format!("crate::status::word::<{name}, _>");
        build = build.field_attribute(field, format!("#[serde(serialize_with = \"{word}\")]"));
    }
    // a document already: the coordinator puts it into the other one as it is
    build = build.field_attribute("StatusReply.cluster_json", "#[serde(skip)]");
    build.compile_fds(descriptors)?;
    Ok(())
}
