//! Memory that the allocator keeps after a peak, and giving it back to the system.
//!
//! The allocator of the C library keeps what was freed for the thread that freed it: after ten thousand
//! hosts have left, most of their memory would stay resident for ever.

/// Gives free memory of all threads back. Takes about 0.1 ms per MiB and holds the allocator's locks one
/// after the other meanwhile, so it is for rare moments and not for the thread of a shard.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes an integer, may be called by any thread at any time, and touches free memory only.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Decides when giving back pays: use has fallen far below its peak.
#[derive(Debug, Default)]
pub(crate) struct Ebb {
    peak_bytes: u64,
}

impl Ebb {
    /// Learns how much is in use now; true when at least `fall_bytes` and half of the peak have been
    /// freed since memory was last given back.
    pub(crate) fn observe(&mut self, used_bytes: u64, fall_bytes: u64) -> bool {
        self.peak_bytes = self.peak_bytes.max(used_bytes);
        let fallen = self.peak_bytes - used_bytes;
        if fallen < fall_bytes || fallen < self.peak_bytes / 2 {
            return false;
        }
        self.peak_bytes = used_bytes;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::Ebb;

    #[test]
    fn memory_is_given_back_once_after_each_peak() {
        let mut ebb = Ebb::default();
        for (used, expected) in [
            (0, false),
            (90, false),
            (30, false),
            (120, false),
            (21, false),
            (20, true),
            (20, false),
            (0, false),
            (300, false),
            (160, false),
            (150, true),
            (50, true),
            (0, false),
        ] {
            assert_eq!(ebb.observe(used, 100), expected, "{used}");
        }
    }
}
