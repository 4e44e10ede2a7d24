//! Looks at the machine before the first executor is made, and says clearly what is missing.

use crate::limits::{MEMLOCK_BYTES_MIN, REGISTERED_BYTES_MAX, REGISTERED_BYTES_MIN};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Each of glommio's three rings of an executor registers the memory again.
const RINGS: u64 = 3;

/// What is missing, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Missing {
    /// The kernel or a sandbox refuses rings.
    #[error(
        "io_uring is not available ({0}): it needs Linux 5.8 or newer, `sysctl kernel.io_uring_disabled=0`, and in a container a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register"
    )]
    IoUring(io::Error),
    /// Too little memory may be locked.
    #[error(
        "only {0} bytes of memory may be locked: raise it to at least 8 MiB (`ulimit -l`, or LimitMEMLOCK= in the unit file)"
    )]
    Memlock(u64),
    /// The file system has no direct I/O.
    #[error(
        "{path} cannot be opened for direct I/O ({source}): put stores on ext4, XFS or a block device"
    )]
    DirectIo { path: String, source: io::Error },
    /// No CPU is left.
    #[error("none of the CPUs asked for may be used by this process; it may use {0:?}")]
    Cpus(Vec<usize>),
}

/// Checks io_uring and locked memory; returns the bytes that each of `executors` may register.
pub(crate) fn check_machine(executors: usize) -> Result<usize, Missing> {
    check_io_uring().map_err(Missing::IoUring)?;
    let limit = getrlimit(Resource::Memlock);
    // Raising the soft limit up to the hard one needs no right; failing changes nothing.
    if limit.current != limit.maximum {
        let mut raised = limit;
        raised.current = raised.maximum;
        let _ = setrlimit(Resource::Memlock, raised);
    }
    let allowed = getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX);
    if allowed < MEMLOCK_BYTES_MIN {
        return Err(Missing::Memlock(allowed));
    }
    let share = allowed / RINGS / (executors.max(1) as u64);
    let bytes = share.clamp(REGISTERED_BYTES_MIN, REGISTERED_BYTES_MAX);
    Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
}

fn check_io_uring() -> io::Result<()> {
    crate::runtime::executor::try_ring()
}

/// Raises the limit of open files to what the system allows; returns it.
pub(crate) fn raise_open_files() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Checks that `path` takes direct I/O.
pub(crate) fn check_direct_io(path: &Path) -> Result<(), Missing> {
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .map(drop)
        .map_err(|source| Missing::DirectIo {
            path: path.display().to_string(),
            source,
        })
}

/// The CPUs to run on: those asked for, as far as this process may use them.
pub(crate) fn usable_cpus(wanted: &[usize]) -> Result<Vec<usize>, Missing> {
    let allowed = allowed_cpus();
    let usable: Vec<usize> = allowed
        .iter()
        .copied()
        .filter(|cpu| wanted.is_empty() || wanted.contains(cpu))
        .collect();
    if usable.is_empty() {
        return Err(Missing::Cpus(allowed));
    }
    Ok(usable)
}

fn allowed_cpus() -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else {
        return Vec::new();
    };
    (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|&cpu| set.is_set(cpu))
        .collect()
}
