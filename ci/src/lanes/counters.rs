//! Counters of the kernel: CPU time of processes, bytes and flushes of a disk. The steadiest figures of a shared machine.

use crate::sys;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// CPU time, user and system, of some processes together.
#[derive(Clone, Copy)]
pub(crate) struct Cpu(Duration);

impl Cpu {
    /// Reads `/proc/PID/stat` (proc_pid_stat(5), fields 14 and 15) of each process.
    pub(crate) fn of(pids: &[u32]) -> Result<Cpu, String> {
        let per_second = f64::from(sys::clock_ticks_per_second()?);
        let mut total = 0.0;
        for pid in pids {
            let path = format!("/proc/{pid}/stat");
            let text = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
            let behind_name = text.rsplit_once(") ").ok_or("no process name")?.1;
            let fields: Vec<&str> = behind_name.split(' ').collect();
            for index in [11, 12] {
                let value: f64 = fields
                    .get(index)
                    .and_then(|f| f.parse().ok())
                    .ok_or("short stat line")?;
                total += value / per_second;
            }
        }
        Ok(Cpu(Duration::from_secs_f64(total)))
    }

    /// Time used between `before` and this.
    pub(crate) fn since(self, before: Cpu) -> Duration {
        self.0.saturating_sub(before.0)
    }
}

/// The block device under a directory.
pub(crate) struct Disk {
    stat: PathBuf,
}

/// What `/sys/block/*/stat` said at one moment.
#[derive(Clone, Copy)]
pub(crate) struct DiskCounters {
    sectors_written: u64,
    flushes: u64,
}

impl Disk {
    /// Finds the device that holds `directory`.
    pub(crate) fn under(directory: &Path) -> Result<Disk, String> {
        let device = std::fs::metadata(directory)
            .map_err(|e| format!("{}: {e}", directory.display()))?
            .dev();
        let stat = PathBuf::from(format!(
            "/sys/dev/block/{}:{}/stat",
            libc::major(device),
            libc::minor(device)
        ));
        match stat.exists() {
            true => Ok(Disk { stat }),
            false => Err(format!(
                "{} is on no block device; its counters are needed",
                directory.display()
            )),
        }
    }

    /// Fields 7 (sectors written) and 16 (flushes) of the kernel's `Documentation/block/stat.rst`.
    pub(crate) fn counters(&self) -> Result<DiskCounters, String> {
        let text = std::fs::read_to_string(&self.stat)
            .map_err(|e| format!("{}: {e}", self.stat.display()))?;
        let fields: Vec<u64> = text
            .split_whitespace()
            .filter_map(|f| f.parse().ok())
            .collect();
        let field = |index: usize| {
            fields
                .get(index)
                .copied()
                .ok_or("short disk statistics".to_string())
        };
        Ok(DiskCounters {
            sectors_written: field(6)?,
            flushes: field(15)?,
        })
    }
}

impl DiskCounters {
    /// Bytes written to the device since `before`.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a figure for people; 2^53 sectors are never reached"
    )]
    pub(crate) fn bytes_written_since(self, before: DiskCounters) -> f64 {
        (self.sectors_written - before.sectors_written) as f64 * 512.0
    }

    /// Flush requests the device got since `before`.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a figure for people; 2^53 flushes are never reached"
    )]
    pub(crate) fn flushes_since(self, before: DiskCounters) -> f64 {
        (self.flushes - before.flushes) as f64
    }
}
