//! A thin store smaller than its volume: the host gets a clean sense, reads go on, and freeing
//! space is enough to write again.

use std::time::{Duration, Instant};

use super::disk::Disk;
use super::fixture::{kill, new_disk, options};
use crate::initiator::scsi::{STATUS_GOOD, Sense};
use crate::lanes::Context;
use crate::server::Server;

const ARGUMENTS: [&str; 6] = [
    "--volume",
    "thin=512MiB",
    "--stores",
    "1",
    "--store-size",
    "128MiB",
];
const VOLUME_BLOCKS: usize = 131_072;
/// Blocks of one write: one chunk.
const CHUNK_BLOCKS: u64 = 16;
/// Space that was returned must be writable again within this.
const RECOVERY_MAX: Duration = Duration::from_secs(10);

pub(super) fn run(context: &Context) -> Result<String, String> {
    let home = context.scratch("exhausted")?;
    let server = Server::start(context, &home, &ARGUMENTS)?;
    let mut disk = new_disk(&server, "thin", 1, VOLUME_BLOCKS)?;
    disk.connect()?;
    let pid = server.pid("volume")?;

    let full = fill(&mut disk, 0)?;
    if full < 512 || full >= disk.block_count() {
        return Err(format!("a store of 128 MiB took {} MiB", full / 256));
    }
    readable(&mut disk)?;
    disk.write(0, 1)
        .map_err(|what| format!("overwriting on a full store: {what}"))?;

    let half = full / 2 / CHUNK_BLOCKS * CHUNK_BLOCKS;
    disk.unmap(0, half)?;
    let by_unmap = writable_again(&mut disk, full)?;
    let full_again = fill(&mut disk, full + CHUNK_BLOCKS)?;
    readable(&mut disk)?;
    disk.write_same_unmap(half, full - half)?;
    let by_write_same = writable_again(&mut disk, full_again)?;
    let refilled = fill(&mut disk, 0)?;
    readable(&mut disk)?;
    if server.pid("volume")? != pid {
        return Err("the volume server was restarted".into());
    }

    // A kill with the disk full: recovery itself must not need space.
    kill(server)?;
    let server = Server::start(context, &home, &ARGUMENTS)?;
    disk = disk.moved_to(options(&server, "thin")?);
    disk.connect()?;
    readable(&mut disk)?;
    server.stop()?;
    std::fs::remove_dir_all(&home).map_err(|error| error.to_string())?;
    Ok(format!(
        "07/27/07 after {} MiB, reads go on; writable {} ms after UNMAP, {} ms after WRITE SAME, \
         full again after {} MiB, and it survived kill -9 while full",
        full / 256,
        by_unmap.as_millis(),
        by_write_same.as_millis(),
        refilled / 256,
    ))
}

/// Writes chunks from `first` on until there is no space; the block that did not fit.
fn fill(disk: &mut Disk, first: u64) -> Result<u64, String> {
    for block in (first..disk.block_count()).step_by(16) {
        let completion = disk.try_write(block, CHUNK_BLOCKS)?;
        if completion.status == STATUS_GOOD {
            continue;
        }
        return match completion.sense {
            Some(Sense::SPACE_EXHAUSTED) => Ok(block),
            other => Err(format!("a full store answered with {other:?}")),
        };
    }
    Ok(disk.block_count())
}

fn readable(disk: &mut Disk) -> Result<(), String> {
    match &disk.sweep()?[..] {
        [] => Ok(()),
        [first, ..] => Err(format!("block {first} became unreadable")),
    }
}

/// How long it takes until a chunk can be written.
fn writable_again(disk: &mut Disk, block: u64) -> Result<Duration, String> {
    let started = Instant::now();
    loop {
        let completion = disk.try_write(block, CHUNK_BLOCKS)?;
        match completion.sense {
            None if completion.status == STATUS_GOOD => return Ok(started.elapsed()),
            Some(Sense::SPACE_EXHAUSTED) if started.elapsed() < RECOVERY_MAX => {}
            other => return Err(format!("after freeing space: {other:?}")),
        }
    }
}
