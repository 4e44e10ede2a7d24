//! How a device makes writes durable, learned from sysfs.

use std::fmt;
use std::fs;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};

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

/// How a store on a device makes its writes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Every write is durable when it is done.
    Writes,
    /// Log frames are (the kernel sends a flush behind each); the rest waits for the next `fdatasync`.
    FramesAndSyncs,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::Writes => "O_DSYNC writes",
            Durability::FramesAndSyncs => "O_DSYNC log frames, fdatasync for the rest",
        })
    }
}

/// Chooses how.
pub(crate) fn choose(cache: Cache) -> Durability {
    match cache {
        Cache::WriteThrough | Cache::WriteBackWithFua => Durability::Writes,
        Cache::WriteBack | Cache::Unknown => Durability::FramesAndSyncs,
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

    #[test]
    fn only_devices_that_need_no_flush_get_durable_writes_throughout() {
        for (cache, expected) in [
            (Cache::WriteThrough, Durability::Writes),
            (Cache::WriteBackWithFua, Durability::Writes),
            (Cache::WriteBack, Durability::FramesAndSyncs),
            (Cache::Unknown, Durability::FramesAndSyncs),
        ] {
            assert_eq!(choose(cache), expected);
        }
    }
}
