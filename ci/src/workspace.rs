//! Where things are: the workspace, the build's target directory, built binaries.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tool;

/// The workspace's root directory.
pub(crate) fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// The target directory this very program was built into (it may have been moved by `CARGO_TARGET_DIR`).
pub(crate) fn target() -> Result<PathBuf, String> {
    let program = env::current_exe().map_err(|error| format!("cannot find myself: {error}"))?;
    let mut directory = program.parent();
    while let Some(found) = directory {
        let profile = found
            .file_name()
            .is_some_and(|name| name == "debug" || name == "release");
        match found.parent() {
            Some(target) if profile => return Ok(target.to_path_buf()),
            parent => directory = parent,
        }
    }
    Err(format!(
        "{} does not lie in a cargo target directory",
        program.display()
    ))
}

/// Path of a release binary; [`build`] makes it.
pub(crate) fn binary(name: &str) -> Result<PathBuf, String> {
    Ok(target()?.join("release").join(name))
}

/// Builds the release binaries; cargo shows its own progress.
pub(crate) fn build() -> Result<(), String> {
    let mut cargo = cargo();
    cargo.args([
        "build",
        "--release",
        "-p",
        "holdfast-control",
        "-p",
        "holdfast-shard",
    ]);
    if tool::run_shown(&mut cargo)? {
        Ok(())
    } else {
        Err("the build failed; its messages are above".to_owned())
    }
}

/// A cargo command in the workspace, building into this program's target directory.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    if let Ok(target) = target() {
        cargo.env("CARGO_TARGET_DIR", target);
    }
    cargo
}
