//! A store on a real block device, a loop device over a file: formatting it as a person would, and reads
//! that the kernel answers with an error because the device has lost what it held.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::failing::Pair;
use crate::lanes::Context;
use crate::{sys, tool};

const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
const DEVICE_BYTES: u64 = 128 << 20;
/// What the device still has after the loss: superblocks, log, map and the first chunks.
const LEFT_BYTES: u64 = 40 << 20;

/// A loop device; detached when dropped.
#[derive(Debug)]
pub(super) struct LoopDevice {
    path: PathBuf,
}

impl LoopDevice {
    /// A device over `file`.
    pub(super) fn attach(file: &Path) -> Result<Self, String> {
        if !sys::is_root() {
            return Err("making a loop device needs root: run this lane as root".into());
        }
        let mut command = Command::new("losetup");
        command.args(["--find", "--show"]).arg(file);
        let path = tool::run_ok(&mut command, COMMAND_TIMEOUT)?;
        Ok(Self {
            path: path.trim().into(),
        })
    }

    /// Its node under /dev.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // Takes effect when the last process that has it open is gone.
        let mut command = Command::new("losetup");
        let _ = tool::run_ok(command.arg("--detach").arg(&self.path), COMMAND_TIMEOUT);
    }
}

/// Formats a device, serves from it, and loses most of it under the running server.
pub(super) fn run(context: &Context) -> Result<String, String> {
    let home = context.scratch("device")?;
    let backing = home.join("backing");
    File::create(&backing)
        .and_then(|file| file.set_len(DEVICE_BYTES))
        .map_err(|error| error.to_string())?;
    let device = LoopDevice::attach(&backing)?;
    format(context, device.path())?;
    let data = home.join("data");
    fs::create_dir_all(&data)
        .and_then(|()| symlink(device.path(), data.join("store-0")))
        .map_err(|error| error.to_string())?;
    let mut pair = Pair::start(context, home)?;
    let pid = pair.server.pid("volume")?;
    ends_with(
        context,
        device.path(),
        &["check"],
        4,
        "open in another process",
    )?;

    OpenOptions::new()
        .write(true)
        .open(&backing)
        .and_then(|file| file.set_len(LEFT_BYTES))
        .map_err(|error| error.to_string())?;
    // Everything but a right byte or MEDIUM ERROR is an error of the sweep.
    let lost = pair.victim.sweep()?.len();
    if lost == 0 {
        return Err("no read ever met the missing part of the device".into());
    }
    pair.other_serves()?;
    if pair.server.pid("volume")? != pid {
        return Err("the volume server died with the device".into());
    }
    let home = pair.home.clone();
    pair.server.stop()?;
    drop(device);
    fs::remove_dir_all(&home).map_err(|error| error.to_string())?;
    Ok(format!(
        "MEDIUM ERROR for {lost} blocks that the kernel could not read, the rest right, the other store serves"
    ))
}

/// Formatting destroys nothing without being told twice, whatever is asked.
fn format(context: &Context, device: &Path) -> Result<(), String> {
    ends_with(context, device, &["inspect"], 5, "not a Holdfast store")?;
    ends_with(
        context,
        device,
        &["format", "--size", "1TiB"],
        2,
        "has only",
    )?;
    ends_with(context, device, &["format"], 0, "capacity")?;
    ends_with(context, device, &["check"], 0, "")?;
    ends_with(context, device, &["format"], 4, "--overwrite and --yes")?;
    ends_with(context, device, &["format", "--overwrite"], 4, "--yes")?;
    ends_with(
        context,
        device,
        &["format", "--overwrite", "--yes"],
        0,
        "capacity",
    )
}

/// `holdfast store WORDS DEVICE` must end with `code` and say `part`.
fn ends_with(
    context: &Context,
    device: &Path,
    words: &[&str],
    code: i32,
    part: &str,
) -> Result<(), String> {
    let mut command = Command::new(context.binary("holdfast"));
    command.arg("store").args(words).arg(device);
    let output = tool::run(&mut command, COMMAND_TIMEOUT)?;
    let text = output.text();
    if output.code == Some(code) && text.contains(part) {
        return Ok(());
    }
    Err(format!(
        "store {} of a device: code {:?} instead of {code}, or no {part:?} in: {text}",
        words.join(" "),
        output.code
    ))
}
