//! The well-behaved host: writes a block, reads it back, again and again, and notes how long each
//! command took and how much memory the server had.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::attacks::ready;
use crate::initiator::login::Options;
use crate::initiator::scsi::{self, Sectors};
use crate::initiator::session::Session;

/// Blocks of 4 KiB it uses, in turn.
const BLOCKS: u64 = 1024;
/// Commands between two looks at the server's memory.
const COMMANDS_PER_LOOK: u64 = 32;

/// What happened since the last [`Bystander::take`].
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) commands: usize,
    pub(super) wait_median: Duration,
    pub(super) wait_p99: Duration,
    pub(super) wait_max: Duration,
    pub(super) memory_mib_max: u64,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "good host: {} commands, {:.2} / {:.2} / {:.2} ms (p50 / p99 / max), server memory {} MiB",
            self.commands,
            self.wait_median.as_secs_f64() * 1e3,
            self.wait_p99.as_secs_f64() * 1e3,
            self.wait_max.as_secs_f64() * 1e3,
            self.memory_mib_max,
        )
    }
}

#[derive(Debug, Default)]
struct Notes {
    waits: Vec<Duration>,
    memory_mib_max: u64,
    /// Since when the current command waits: a wait that never ends counts too.
    waiting_since: Option<Instant>,
    failed: Option<String>,
}

/// A host in a thread of its own.
#[derive(Debug)]
pub(super) struct Bystander {
    notes: Arc<Mutex<Notes>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Bystander {
    /// Logs in and begins; `pid` is the server whose memory is watched.
    pub(super) fn start(options: Options, pid: u32) -> Result<Self, String> {
        let session = Session::login(&options).map_err(|error| error.to_string())?;
        let notes = Arc::new(Mutex::new(Notes::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut host = Host {
            session,
            notes: Arc::clone(&notes),
            pid,
        };
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let worked = host.work(&stopped);
            let notes = Arc::clone(&host.notes);
            let ended = worked.and_then(|()| {
                host.session
                    .logout()
                    .map_err(|error| format!("logout: {error}"))
            });
            lock(&notes).failed = ended.err();
        });
        Ok(Self {
            notes,
            stop,
            thread,
        })
    }

    /// What was seen since the last call; an error when the host met one.
    pub(super) fn take(&self) -> Result<Seen, String> {
        let mut notes = lock(&self.notes);
        if let Some(what) = &notes.failed {
            return Err(format!("the good host: {what}"));
        }
        let mut waits = std::mem::take(&mut notes.waits);
        waits.extend(notes.waiting_since.map(|since| since.elapsed()));
        waits.sort_unstable();
        let at = |part: usize| {
            waits
                .get(waits.len() * part / 100)
                .copied()
                .unwrap_or_default()
        };
        Ok(Seen {
            commands: waits.len(),
            wait_median: at(50),
            wait_p99: at(99),
            wait_max: waits.last().copied().unwrap_or_default(),
            memory_mib_max: std::mem::take(&mut notes.memory_mib_max),
        })
    }

    /// Ends the host; an error when it had met one.
    pub(super) fn stop(self) -> Result<(), String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the good host panicked")?;
        lock(&self.notes).failed.take().map_or(Ok(()), Err)
    }
}

struct Host {
    session: Session,
    notes: Arc<Mutex<Notes>>,
    pid: u32,
}

impl Host {
    fn work(&mut self, stop: &AtomicBool) -> Result<(), String> {
        ready(&mut self.session)?;
        let mut round = 0u64;
        while !stop.load(Ordering::Relaxed) {
            let sectors = Sectors {
                first: round % BLOCKS * 8,
                count: 8,
            };
            let stamp = round.to_le_bytes().repeat(512);
            self.timed(scsi::write(sectors, stamp.clone()))?;
            if self.timed(scsi::read(sectors))? != stamp {
                return Err(format!("wrong bytes at {}", sectors.first));
            }
            round += 1;
            if round % COMMANDS_PER_LOOK == 1 {
                let memory = memory_mib(self.pid)?;
                let mut notes = lock(&self.notes);
                notes.memory_mib_max = notes.memory_mib_max.max(memory);
            }
        }
        Ok(())
    }

    fn timed(&mut self, command: scsi::Command) -> Result<Vec<u8>, String> {
        let started = Instant::now();
        lock(&self.notes).waiting_since = Some(started);
        let completion = self
            .session
            .execute(command)
            .map_err(|error| error.to_string())?;
        let mut notes = lock(&self.notes);
        notes.waits.push(started.elapsed());
        notes.waiting_since = None;
        drop(notes);
        completion.good()
    }
}

fn lock(notes: &Mutex<Notes>) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Resident memory of a process.
pub(super) fn memory_mib(pid: u32) -> Result<u64, String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .map_err(|error| format!("the server is gone: {error}"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse::<u64>().ok())
        .map(|kib| kib / 1024)
        .ok_or_else(|| "no VmRSS in /proc".into())
}
