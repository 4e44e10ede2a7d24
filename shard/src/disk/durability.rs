//! How a device makes writes durable, learned from sysfs and a probe.

use std::fmt;
use std::fs;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Flushes cheaper than this run on the shard's own thread: a hand-over to a kernel worker and back
/// costs about as much.
const FLUSH_INLINE_MAX: Duration = Duration::from_micros(30);

/// What sysfs says of the device under a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cache {
    /// No volatile write cache: a completed write is durable once the file system is told to care.
    WriteThrough,
    /// A volatile cache, and single writes can pass through it.
    WriteBackWithFua,
    /// A volatile cache that only a flush empties.
    WriteBack,
    /// sysfs does not tell; treated as [`Cache::WriteBack`].
    Unknown,
}

/// The durability primitive chosen for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Every write through an `O_DSYNC` descriptor.
    DurableWrites,
    /// Batches of writes, then one `fdatasync` on a kernel worker.
    FlushOnRing,
    /// Batches of writes, then one `fdatasync` on the shard's thread.
    FlushInline,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::DurableWrites => "O_DSYNC writes",
            Durability::FlushOnRing => "writes, then fdatasync through the ring",
            Durability::FlushInline => "writes, then fdatasync on the shard's thread",
        })
    }
}

/// Chooses the primitive. `flush` is the measured time of one write and flush, when it was measured.
pub(crate) fn choose(cache: Cache, flush: Option<Duration>) -> Durability {
    match (cache, flush) {
        (Cache::WriteThrough | Cache::WriteBackWithFua, _) => Durability::DurableWrites,
        (_, Some(flush)) if flush < FLUSH_INLINE_MAX => Durability::FlushInline,
        _ => Durability::FlushOnRing,
    }
}

/// Looks up the cache of the device that holds `path`.
pub(crate) fn cache_of(path: &Path) -> Cache {
    let Ok(metadata) = fs::metadata(path) else {
        return Cache::Unknown;
    };
    let is_device = metadata.st_mode() & libc::S_IFMT == libc::S_IFBLK;
    let device = if is_device {
        metadata.st_rdev()
    } else {
        metadata.st_dev()
    };
    let (major, minor) = (libc::major(device), libc::minor(device));
    queue_of(&PathBuf::from(format!("/sys/dev/block/{major}:{minor}")))
        .map_or(Cache::Unknown, |queue| read_queue(&queue))
}

/// A partition has no queue of its own; its parent directory is the disk.
fn queue_of(device: &Path) -> Option<PathBuf> {
    let device = fs::canonicalize(device).ok()?;
    let own = device.join("queue");
    let parent = device.parent()?.join("queue");
    [own, parent].into_iter().find(|queue| queue.is_dir())
}

fn read_queue(queue: &Path) -> Cache {
    let read = |name: &str| fs::read_to_string(queue.join(name)).unwrap_or_default();
    match (read("write_cache").trim(), read("fua").trim()) {
        ("write through", _) => Cache::WriteThrough,
        ("write back", "1") => Cache::WriteBackWithFua,
        ("write back", _) => Cache::WriteBack,
        _ => Cache::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::{Cache, Durability, choose};
    use std::time::Duration;

    #[test]
    fn the_primitive_follows_from_cache_and_flush_time() {
        let slow = Some(Duration::from_micros(200));
        let fast = Some(Duration::from_micros(8));
        for (cache, flush, expected) in [
            (Cache::WriteThrough, slow, Durability::DurableWrites),
            (Cache::WriteBackWithFua, slow, Durability::DurableWrites),
            (Cache::WriteBack, slow, Durability::FlushOnRing),
            (Cache::WriteBack, None, Durability::FlushOnRing),
            (Cache::WriteBack, fast, Durability::FlushInline),
            (Cache::Unknown, slow, Durability::FlushOnRing),
            (Cache::Unknown, fast, Durability::FlushInline),
        ] {
            assert_eq!(choose(cache, flush), expected);
        }
    }
}
