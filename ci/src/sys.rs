//! The system calls that the standard library does not offer, each behind a safe function. The only unsafe code of this crate.
#![expect(unsafe_code, reason = "system calls without a safe binding in std")]

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Makes the child die with this process (SIGKILL) and start with no signal blocked.
///
/// The death signal belongs to the thread that spawns: call it from a thread that lives as long as the child may.
pub(crate) fn tie_to_parent(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: between fork and exec the closure only calls async-signal-safe functions (prctl, getppid, sigemptyset,
    // pthread_sigmask, _exit) and touches no memory but its own stack.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the line above took effect.
            if u32::try_from(libc::getppid()).ok() != Some(parent) {
                libc::_exit(1);
            }
            let mut none = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            Ok(())
        });
    }
}

/// SIGINT, SIGTERM and SIGHUP, taken as events instead of as death.
#[derive(Debug)]
pub(crate) struct Signals(libc::sigset_t);

impl Signals {
    /// Blocks the signals in this thread and those it makes later; call it first.
    pub(crate) fn take() -> Self {
        // SAFETY: a zeroed sigset_t is valid storage for sigemptyset, which initialises it; both pointers live for the calls.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
                libc::sigaddset(&raw mut set, signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            Self(set)
        }
    }

    /// Sleeps up to `pause`; true as soon as one of the signals arrived.
    pub(crate) fn arrived_within(&self, pause: Duration) -> bool {
        let time = libc::timespec {
            tv_sec: i64::try_from(pause.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(pause.subsec_nanos()),
        };
        // SAFETY: the set was initialised by `take`, the timespec lives for the call, a null siginfo is allowed.
        let signal =
            unsafe { libc::sigtimedwait(&raw const self.0, std::ptr::null_mut(), &raw const time) };
        signal > 0
    }
}

/// Sends a signal to a process that this program started.
pub(crate) fn signal(pid: u32, signal: i32) -> Result<(), String> {
    let pid = i32::try_from(pid).map_err(|_| format!("{pid} is not a process id"))?;
    assert!(pid > 1); // 0 and negative ids mean groups, 1 is init.
    // SAFETY: kill has no memory operands.
    if unsafe { libc::kill(pid, signal) } == 0 {
        Ok(())
    } else {
        Err(format!(
            "cannot signal process {pid}: {}",
            io::Error::last_os_error()
        ))
    }
}

/// CPUs that this process may run on.
pub(crate) fn cpus() -> Result<Vec<usize>, String> {
    // SAFETY: cpu_set_t is plain bits, zero is valid; the size given is that of the set.
    let (result, set) = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let result =
            libc::sched_getaffinity(0, std::mem::size_of::<libc::cpu_set_t>(), &raw mut set);
        (result, set)
    };
    if result != 0 {
        return Err(format!(
            "sched_getaffinity failed: {}",
            io::Error::last_os_error()
        ));
    }
    let bits = 8 * std::mem::size_of::<libc::cpu_set_t>();
    // SAFETY: the index stays below the number of bits of the set.
    Ok((0..bits)
        .filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
        .collect())
}

/// Sets up an io_uring and closes it again.
pub(crate) fn io_uring_works() -> io::Result<()> {
    // The kernel's struct io_uring_params: 120 bytes, all zero asks for defaults.
    let mut parameters = [0_u64; 15];
    // SAFETY: io_uring_setup reads and writes 120 bytes behind the pointer, which the array has; the descriptor is closed once.
    let descriptor = unsafe { libc::syscall(libc::SYS_io_uring_setup, 8, parameters.as_mut_ptr()) };
    let descriptor = i32::try_from(descriptor).unwrap_or(-1);
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was opened above and nobody else knows it.
    unsafe { libc::close(descriptor) };
    Ok(())
}

/// Bytes that an unprivileged user may still write in the file system of `path`.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    // SAFETY: the path is a terminated string, the result struct is zeroed plain data that lives for the call.
    let (result, info) = unsafe {
        let mut info: libc::statvfs = std::mem::zeroed();
        let result = libc::statvfs(path.as_ptr(), &raw mut info);
        (result, info)
    };
    if result == 0 {
        Ok(info.f_bavail * info.f_frsize)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A limit of the process.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    /// Bytes that may be locked in memory.
    LockedBytes,
    /// Open file descriptors.
    OpenFiles,
}

/// Raises the soft limit to the hard one (children inherit it) and gives the result.
pub(crate) fn raise(limit: Limit) -> io::Result<u64> {
    let resource = match limit {
        Limit::LockedBytes => libc::RLIMIT_MEMLOCK,
        Limit::OpenFiles => libc::RLIMIT_NOFILE,
    };
    // SAFETY: both calls get a pointer to a live rlimit.
    unsafe {
        let mut value = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        if libc::getrlimit(resource, &raw mut value) != 0 {
            return Err(io::Error::last_os_error());
        }
        value.rlim_cur = value.rlim_max;
        if libc::setrlimit(resource, &raw const value) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(value.rlim_cur)
    }
}

/// This process runs as root.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid has no operands and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Ticks of the CPU times in `/proc`, per second.
pub(crate) fn clock_ticks_per_second() -> Result<u32, String> {
    // SAFETY: sysconf reads a constant of the system and touches no memory of ours.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u32::try_from(ticks).map_err(|_| "the system tells no clock tick".to_owned())
}
