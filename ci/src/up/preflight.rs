//! Can this machine run it? Each check is one question, each failure one sentence and its remedy.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

use super::options::{Membership, Plan};
use crate::{size, sys};

/// Locked memory that one io_uring executor needs at least.
const LOCKED_BYTES_MIN: u64 = 512 << 10;

/// Disk that must stay free beside the stores: registry and logs.
const SPARE_BYTES: u64 = 64 * size::MIB;

/// Alignment and length of the O_DIRECT probe.
const PROBE_BYTES: usize = 4096;

/// Checks everything; the file returned holds the lock of the data directory.
pub(crate) fn check(plan: &Plan) -> Result<File, String> {
    let data = &plan.data;
    own_directory(data)?;
    let lock = lock(data)?;
    cpus()?;
    io_uring()?;
    locked_memory()?;
    direct_writes(data)?;
    free_space(plan)?;
    for node in &plan.nodes {
        own_directory(&node.data)?;
        for portal in &node.portals {
            port(*portal, "--portal")?;
        }
        port(node.control, "--control")?;
        if let Membership::Member { peer, .. } = &node.membership {
            port(*peer, "--peer")?;
        }
    }
    Ok(lock)
}

/// Makes a directory that nobody else can look into. One that is there keeps its mode: it may be used for
/// more than this, and what is private in it is so by itself.
fn own_directory(data: &Path) -> Result<(), String> {
    if data.is_dir() {
        return Ok(());
    }
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data);
    made.map_err(|error| {
        format!(
            "cannot make {}: {error}; choose another directory with --data",
            data.display()
        )
    })
}

fn lock(data: &Path) -> Result<File, String> {
    let path = data.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| {
            format!(
                "cannot open {}: {error}; choose another directory with --data",
                path.display()
            )
        })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(format!(
            "another cargo up serves {}; stop it first, or choose another directory with --data",
            data.display()
        )),
        Err(TryLockError::Error(error)) => Err(format!("cannot lock {}: {error}", path.display())),
    }
}

fn cpus() -> Result<(), String> {
    if sys::cpus()?.is_empty() {
        return Err("this process may run on no CPU; check taskset or the cgroup".to_owned());
    }
    Ok(())
}

fn io_uring() -> Result<(), String> {
    sys::io_uring_works().map_err(|error| match error.raw_os_error() {
        Some(libc::ENOSYS) => {
            "this kernel has no io_uring; run Linux 5.8 or later".to_owned()
        }
        Some(libc::EPERM | libc::EACCES) => {
            "io_uring is forbidden here; set sysctl kernel.io_uring_disabled=0, or allow io_uring in the container's seccomp profile".to_owned()
        }
        _ => format!("io_uring cannot be set up: {error}; check `ulimit -l` and the kernel's log"),
    })
}

fn locked_memory() -> Result<(), String> {
    let limit = sys::raise(sys::Limit::LockedBytes)
        .map_err(|error| format!("cannot read the limit of locked memory: {error}"))?;
    if limit < LOCKED_BYTES_MIN {
        return Err(format!(
            "only {} of memory may be locked, io_uring needs {}; raise it with `ulimit -l 8192` or in /etc/security/limits.conf",
            size::exact(limit.max(1)),
            size::exact(LOCKED_BYTES_MIN)
        ));
    }
    Ok(())
}

/// Writes one aligned block past the page cache, as the stores will.
fn direct_writes(data: &Path) -> Result<(), String> {
    let path = data.join("direct-probe");
    let result = direct_write(&path);
    let _ = fs::remove_file(&path);
    result.map_err(|error| {
        format!(
            "{} does not take O_DIRECT writes ({error}); use a directory on ext4, xfs or another disk file system with --data",
            data.display()
        )
    })
}

fn direct_write(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)?;
    let room = vec![0_u8; 2 * PROBE_BYTES];
    let start = room.as_ptr().align_offset(PROBE_BYTES);
    file.write_all_at(&room[start..start + PROBE_BYTES], 0)?;
    file.sync_data()
}

fn free_space(plan: &Plan) -> Result<(), String> {
    let free = sys::free_bytes(&plan.data).map_err(|error| {
        format!(
            "cannot see the free space of {}: {error}",
            plan.data.display()
        )
    })?;
    let needed = plan.format_bytes().saturating_add(SPARE_BYTES);
    if free < needed {
        return Err(format!(
            "{} has {} MiB free, the stores need {} MiB; free space, or ask for less with --store-size, --stores or --volume",
            plan.data.display(),
            free / size::MIB,
            needed.div_ceil(size::MIB)
        ));
    }
    Ok(())
}

fn port(address: SocketAddr, flag: &str) -> Result<(), String> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(format!(
            "{address} is in use by another program; stop it (`ss -ltnp` shows it) or choose another address with {flag}"
        )),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Err(format!(
            "{address} is not an address of this machine; choose one with {flag}"
        )),
        Err(error) => Err(format!(
            "cannot listen on {address}: {error}; choose another with {flag}"
        )),
    }
}

/// Writes `bytes` to `path` so that it appears whole or not at all, and survives a power cut.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = Path::new(&name);
    let write = || -> io::Result<()> {
        let mut file = File::create(part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(part, path)?;
        match path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            Some(parent) => File::open(parent)?.sync_all(),
            None => File::open(".")?.sync_all(),
        }
    };
    write().map_err(|error| format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
