//! Compiles `proto/holdfast.proto` without an installed `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/holdfast.proto");
    let files = protox::compile(["proto/holdfast.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // Messages that carry secrets have no `Debug`: nobody can log them by accident.
        .skip_debug([
            "holdfast.v1.Chap",
            "holdfast.v1.Access",
            "holdfast.v1.CreateVolumeRequest",
            "holdfast.v1.SetVolumeAccessRequest",
        ])
        .compile_fds(files)?;
    Ok(())
}
