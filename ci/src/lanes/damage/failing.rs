//! A disk that dies under a running server: its volumes answer a clear sense, the other store of
//! the process serves on, and one message says what happened.
//!
//! The first disk dies for real: its store is a sparse file on a file system without room for it,
//! so the kernel refuses a write. The second is cut short while it is in use.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::device::LoopDevice;
use super::disk::Disk;
use super::fixture::{create, find_store, new_disk, options, stores, write_most};
use crate::initiator::scsi::{STATUS_GOOD, Sense};
use crate::lanes::Context;
use crate::server::Server;
use crate::{sys, tool};

const ARGUMENTS: [&str; 6] = [
    "--volume",
    "spare=1MiB",
    "--stores",
    "2",
    "--store-size",
    "128MiB",
];
const VICTIM_BLOCKS: usize = 8192;
const OTHER_BLOCKS: usize = 2048;
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// Writes until the small file system must have run out of room.
const WRITES_MAX: u64 = 100_000;

/// A store on a disk of its own, and one beside it.
pub(super) struct Pair {
    pub(super) home: PathBuf,
    pub(super) server: Server,
    pub(super) victim: Disk,
    other: Disk,
    victim_store: String,
}

impl Pair {
    /// Both, freshly written; stores that `home` holds already are used.
    pub(super) fn start(context: &Context, home: PathBuf) -> Result<Self, String> {
        let server = Server::start(context, &home, &ARGUMENTS)?;
        let stores = stores(&server)?;
        let [victim_store, other_store] = &stores[..] else {
            return Err(format!(
                "two stores were asked for, {} are there",
                stores.len()
            ));
        };
        create(&server, "victim", "32MiB", &victim_store.0)?;
        create(&server, "other", "8MiB", &other_store.0)?;
        let mut victim = new_disk(&server, "victim", 1, VICTIM_BLOCKS)?;
        let mut other = new_disk(&server, "other", 2, OTHER_BLOCKS)?;
        for disk in [&mut victim, &mut other] {
            disk.connect()?;
            write_most(disk)?;
        }
        let victim_store = victim_store.1.clone();
        Ok(Self {
            home,
            server,
            victim,
            other,
            victim_store,
        })
    }

    fn store_path(&self) -> PathBuf {
        self.home.join("data").join(&self.victim_store)
    }

    /// The other store must serve everything and take writes.
    pub(super) fn other_serves(&mut self) -> Result<(), String> {
        self.other.connect()?;
        self.other.write(0, 16)?;
        match &self.other.sweep()?[..] {
            [] => Ok(()),
            [first, ..] => Err(format!("the other store cannot read block {first}")),
        }
    }
}

/// What the store of the dying disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Medium {
    /// A file; the kernel says that there is no room.
    File,
    /// A block device; the kernel says that a write failed.
    Device,
}

/// A write that the kernel refuses.
pub(super) fn run(context: &Context, medium: Medium) -> Result<String, String> {
    if !sys::is_root() {
        return Err("mounting a small file system needs root: run this lane as root".into());
    }
    let pair = Pair::start(context, context.scratch("failing")?)?;
    let (path, home) = (pair.store_path(), pair.home.clone());
    let Pair {
        server,
        victim,
        other,
        victim_store,
        ..
    } = pair;
    server.stop()?;
    let small = SmallFileSystem::with_copy(&home.join("small"), &path)?;
    let device = match medium {
        Medium::File => None,
        Medium::Device => Some(small.behind_device(&path)?),
    };

    let server = Server::start(context, &home, &ARGUMENTS)?;
    let victim = victim.moved_to(options(&server, "victim")?);
    let other = other.moved_to(options(&server, "other")?);
    let mut pair = Pair {
        home,
        server,
        victim,
        other,
        victim_store,
    };
    pair.victim.connect()?;
    let pid = pair.server.pid("volume")?;
    let sense = write_until_dead(&mut pair.victim)?;
    pair.other_serves()?;
    let reason = wait_reason(&pair)?;
    let lines = error_lines(&pair.home)?;
    if pair.server.pid("volume")? != pid {
        return Err("the volume server died with the disk".into());
    }
    let again = pair.victim.try_write(0, 1)?;
    if again.status == STATUS_GOOD {
        return Err("a dead store took a write".into());
    }
    pair.server.stop()?;
    drop(device);
    drop(small);
    if lines.len() != 1 {
        return Err(format!(
            "{} ERROR lines instead of one: {lines:?}",
            lines.len()
        ));
    }
    Ok(format!(
        "sense {sense}, the other store serves, reason {reason:?}, one ERROR line"
    ))
}

/// The store file loses its chunks while the server runs: no wrong byte, the other store serves.
pub(super) fn run_cut(context: &Context) -> Result<String, String> {
    let mut pair = Pair::start(context, context.scratch("cut")?)?;
    let path = pair.store_path();
    let file = OpenOptions::new()
        .write(true)
        .open(&path)
        .map_err(|error| error.to_string())?;
    file.set_len(40 << 20).map_err(|error| error.to_string())?;
    let mut refused = 0;
    for block in 0..pair.victim.block_count() {
        // An error of another kind than MEDIUM ERROR is an answer too; a wrong byte is not.
        match pair.victim.read(block, 1) {
            Ok(true) => {}
            Ok(false) => refused += 1,
            Err(what) if what.contains("status") => refused += 1,
            Err(what) => return Err(what),
        }
    }
    pair.other_serves()?;
    let stopped = pair.server.stop();
    fs::remove_dir_all(&pair.home).map_err(|error| error.to_string())?;
    stopped.map_err(|what| format!("after a cut store: {what}"))?;
    Ok(format!(
        "{refused} of {VICTIM_BLOCKS} blocks answered an error, none a wrong byte"
    ))
}

fn write_until_dead(disk: &mut Disk) -> Result<Sense, String> {
    for number in 0..WRITES_MAX {
        let completion = disk.try_write(number % disk.block_count(), 1)?;
        if completion.status != STATUS_GOOD {
            return completion
                .sense
                .ok_or_else(|| "an error without sense".into());
        }
    }
    Err(format!("{WRITES_MAX} writes went to a disk without room"))
}

fn wait_reason(pair: &Pair) -> Result<String, String> {
    let started = Instant::now();
    loop {
        let nodes = pair.server.holdfast(&["node", "list"])?;
        let reason = find_store(&nodes, &pair.victim_store)?["reason"]
            .as_str()
            .map(str::to_owned);
        match reason {
            Some(reason) if !reason.is_empty() => return Ok(reason),
            _ if started.elapsed() > Duration::from_secs(5) => {
                return Err("node list does not say that the store died".into());
            }
            _ => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// ERROR lines of the volume server.
fn error_lines(home: &Path) -> Result<Vec<String>, String> {
    let path = home.join("data").join("volume.log");
    let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
    Ok(text
        .lines()
        .filter(|line| line.contains("ERROR"))
        .map(str::to_owned)
        .collect())
}

/// A tmpfs that holds the written part of one file and little more; unmounted when dropped.
struct SmallFileSystem {
    mount: PathBuf,
}

impl SmallFileSystem {
    /// Moves `file` to a small file system at `mount`, and leaves a link in its place.
    fn with_copy(mount: &Path, file: &Path) -> Result<Self, String> {
        fs::create_dir_all(mount).map_err(|error| error.to_string())?;
        let sparse = mount.with_extension("sparse");
        let mut copy = Command::new("cp");
        copy.arg("--sparse=always").arg(file).arg(&sparse);
        tool::run_ok(&mut copy, COMMAND_TIMEOUT)?;
        let written = std::os::unix::fs::MetadataExt::blocks(
            &fs::metadata(&sparse).map_err(|error| error.to_string())?,
        ) * 512;
        let mut command = Command::new("mount");
        command.args([
            "-t",
            "tmpfs",
            "-o",
            &format!("size={}", written + (6 << 20)),
            "tmpfs",
        ]);
        tool::run_ok(command.arg(mount), COMMAND_TIMEOUT)?;
        let small = Self {
            mount: mount.into(),
        };
        let target = mount.join("store");
        let mut copy = Command::new("cp");
        copy.arg("--sparse=always").arg(&sparse).arg(&target);
        tool::run_ok(&mut copy, COMMAND_TIMEOUT)?;
        fs::remove_file(&sparse).map_err(|error| error.to_string())?;
        fs::remove_file(file).map_err(|error| error.to_string())?;
        symlink(&target, file).map_err(|error| error.to_string())?;
        Ok(small)
    }

    /// Puts a block device between the link at `file` and the small file system.
    fn behind_device(&self, file: &Path) -> Result<LoopDevice, String> {
        let device = LoopDevice::attach(&self.mount.join("store"))?;
        fs::remove_file(file)
            .and_then(|()| symlink(device.path(), file))
            .map_err(|error| error.to_string())?;
        Ok(device)
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        // Lazily, because a server that was just killed may hold it for a moment.
        let mut command = Command::new("umount");
        let _ = tool::run_ok(command.arg("-l").arg(&self.mount), COMMAND_TIMEOUT);
    }
}
