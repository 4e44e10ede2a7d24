//! Signals that end the process, received by a thread that waits for them.

use std::io;
use std::mem::MaybeUninit;

/// The blocked signals.
#[derive(Clone, Copy)]
pub(crate) struct EndSignals(libc::sigset_t);

/// Blocks SIGTERM, SIGINT and SIGHUP for this thread and all it starts. Call before any thread exists.
pub(crate) fn block() -> EndSignals {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set it is given; the others read an initialised set that
    // lives during the calls. A null old-set pointer is allowed.
    let set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        let mut set = set.assume_init();
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        set
    };
    EndSignals(set)
}

impl EndSignals {
    /// Waits for one of them; returns its number.
    pub(crate) fn wait(&self) -> io::Result<i32> {
        let mut signal = 0;
        // SAFETY: both pointers are to live values of the right type.
        match unsafe { libc::sigwait(&raw const self.0, &raw mut signal) } {
            0 => Ok(signal),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }
}
