//! Compiles `proto/` without an installed `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = [
        "proto/holdfast.proto",
        "proto/agents.proto",
        "proto/members.proto",
        "proto/operations.proto",
        "proto/masters.proto",
    ];
    let files = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        // Messages that carry secrets have no `Debug`: nobody can log them by accident.
        .skip_debug([
            "holdfast.v1.Chap",
            "holdfast.v1.Access",
            "holdfast.v1.CreateVolumeRequest",
            "holdfast.v1.SetVolumeAccessRequest",
            "holdfast.v1.AgentMessage",
            "holdfast.v1.MasterMessage",
            "holdfast.masters.v1.Envelope",
        ])
        .compile_fds(files)?;
    Ok(())
}
