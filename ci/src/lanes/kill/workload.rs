//! A stream of commands from a seed, and the driver that keeps 32 of them outstanding and tells
//! the oracle what was sent, acknowledged and read.
//!
//! The stream depends on the seed alone: a command that may not overlap what is in flight waits
//! for it, it is not replaced. Only where the kill falls in the stream depends on the machine.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::initiator::Error;
use crate::initiator::login::Options;
use crate::initiator::pdu::Digests;
use crate::initiator::scsi::{self, Command, STATUS_GOOD, Sectors};
use crate::initiator::session::{Completion, Session, Tag};
use crate::oracle::{BLOCK_BYTES, BLOCK_SECTORS, Content, Identity, Oracle, blocks_of};

/// Commands outstanding at a time.
const OUTSTANDING_MAX: usize = 32;
/// BUSY and TASK SET FULL: the host is told to try again, nothing was done.
const STATUS_AGAIN: [u8; 2] = [0x08, 0x28];
/// Sectors of one read when the whole volume is checked.
const SWEEP_SECTORS: u32 = 512;
/// How long one command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);

/// What a command of the stream does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Write,
    WriteSame,
    WriteSameUnmap,
    Unmap,
    Read,
}

/// One command of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) action: Action,
    pub(crate) sectors: Sectors,
}

impl Planned {
    /// Whether it may overlap others of its kind: all its blocks are written whole.
    fn is_shareable(self) -> bool {
        self.action != Action::Read
            && self.sectors.first.is_multiple_of(BLOCK_SECTORS)
            && u64::from(self.sectors.count).is_multiple_of(BLOCK_SECTORS)
    }
}

/// What a stream is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mix {
    /// Every action; seven of ten commands go to the first sixteenth of the volume.
    Everything,
    /// Writes of 32 KiB anywhere: the largest load the log can get, as whole chunks bypass it.
    LogFilling,
}

/// The stream of one seed.
#[derive(Debug)]
pub(crate) struct Commands {
    mix: Mix,
    random: fastrand::Rng,
    block_count: u64,
}

impl Commands {
    /// A stream over a volume of `block_count` blocks, at least 8 MiB.
    pub(crate) fn new(mix: Mix, seed: u64, block_count: u64) -> Self {
        assert!(block_count >= 2048);
        Self {
            mix,
            random: fastrand::Rng::with_seed(seed),
            block_count,
        }
    }

    /// The next command of the stream.
    pub(crate) fn next_command(&mut self) -> Planned {
        if self.mix == Mix::LogFilling {
            let first = self.random.u64(0..self.block_count / 8) * 8;
            let sectors = sectors(first * BLOCK_SECTORS, 8 * BLOCK_SECTORS);
            return Planned {
                action: Action::Write,
                sectors,
            };
        }
        let (action, sectors) = match self.random.u32(0..100) {
            0..40 => (Action::Write, self.blocks(1, 32, 1)),
            40..56 => (Action::Write, self.ragged()),
            56..66 => (Action::Write, self.blocks(16, 64, 16)),
            66..68 => (Action::Write, self.blocks(256, 1024, 16)),
            68..75 => (Action::Unmap, self.blocks(1, 512, 1)),
            75..79 => (Action::WriteSame, self.blocks(1, 64, 1)),
            79..81 => (Action::WriteSame, self.ragged()),
            81..84 => (Action::WriteSameUnmap, self.blocks(1, 256, 1)),
            84..85 => (Action::WriteSameUnmap, self.ragged()),
            _ => (Action::Read, self.blocks(1, 32, 1)),
        };
        Planned { action, sectors }
    }

    /// A run of `min..=max` blocks whose start and length are multiples of `align` blocks.
    fn blocks(&mut self, min: u64, max: u64, align: u64) -> Sectors {
        let count = self.random.u64(min / align..=max / align).max(1) * align;
        let first = self.place(count) / align * align;
        sectors(first * BLOCK_SECTORS, count * BLOCK_SECTORS)
    }

    /// Up to 72 KiB that begin and end anywhere.
    fn ragged(&mut self) -> Sectors {
        let count = match self.random.bool() {
            true => self.random.u64(1..=15),
            false => self.random.u64(16..=144),
        };
        let block = self.place(count.div_ceil(BLOCK_SECTORS) + 1);
        sectors(
            block * BLOCK_SECTORS + self.random.u64(0..BLOCK_SECTORS),
            count,
        )
    }

    /// Where a run of so many blocks begins.
    fn place(&mut self, block_count: u64) -> u64 {
        let hot = self.random.u32(0..10) < 7;
        let end = if hot {
            self.block_count / 16
        } else {
            self.block_count
        };
        let end = end.max(block_count);
        self.random.u64(0..=end - block_count)
    }
}

fn sectors(first: u64, count: u64) -> Sectors {
    Sectors {
        first,
        count: u32::try_from(count).expect("commands are a few MiB"),
    }
}

/// What one driver did, for the report.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) acknowledged: u64,
    pub(crate) acknowledged_bytes: u64,
    pub(crate) unanswered: u64,
    pub(crate) reads_checked: u64,
    pub(crate) blocks_checked: u64,
    pub(crate) busy: u64,
    /// Commands answered with a unit attention instead of being executed.
    pub(crate) attentions: u64,
}

/// What came of an attempt to log in and read.
#[derive(Debug)]
pub(crate) enum Connected {
    Serving,
    /// The server is away or not ready, and said so like this.
    NotYet(Error),
}

#[derive(Debug)]
struct InFlight {
    planned: Planned,
    /// Version sent; 0 for a read.
    version: u64,
}

/// One host with one volume.
#[derive(Debug)]
pub(crate) struct Driver {
    options: Options,
    identity: Identity,
    session: Option<Session>,
    oracle: Oracle,
    commands: Commands,
    waiting: Option<Planned>,
    in_flight: HashMap<Tag, InFlight>,
    version: u64,
    logins: u32,
    pub(crate) counts: Counts,
}

impl Driver {
    /// A host for a fresh volume of `bytes` bytes.
    pub(crate) fn new(options: Options, identity: Identity, mix: Mix, bytes: usize) -> Self {
        let block_count = bytes / BLOCK_BYTES;
        let blocks = u64::try_from(block_count).expect("a usize fits");
        let seed = identity.seed ^ identity.volume.rotate_left(32);
        Self {
            options,
            identity,
            session: None,
            oracle: Oracle::new(identity, block_count),
            commands: Commands::new(mix, seed, blocks),
            waiting: None,
            in_flight: HashMap::new(),
            version: 0,
            logins: 0,
            counts: Counts::default(),
        }
    }

    /// Logs in and reads one block: what "serving" means. An error is a violation.
    pub(crate) fn connect(&mut self) -> Result<Connected, String> {
        self.session = None;
        self.oracle.crashed();
        self.counts.unanswered += u64::try_from(self.in_flight.len()).expect("a usize fits");
        self.in_flight.clear();
        self.vary_options();
        let first = Session::login(&self.options).and_then(|mut session| {
            let first = read_ready(&mut session, sectors(0, BLOCK_SECTORS))?;
            let capacity = session.execute(scsi::read_capacity())?;
            Ok((session, first, capacity))
        });
        match first {
            Err(error) => Ok(Connected::NotYet(error)),
            Ok((session, data, capacity)) => {
                let capacity = capacity.good()?;
                let last = end(self.oracle.block_count()) - 1;
                if !capacity.starts_with(&last.to_be_bytes()) {
                    return Err(format!("the volume has another size: {capacity:?}"));
                }
                self.oracle
                    .read(0, &data)
                    .map_err(|violation| violation.to_string())?;
                self.session = Some(session);
                Ok(Connected::Serving)
            }
        }
    }

    /// The volume moved to another portal.
    pub(crate) fn move_to(&mut self, options: Options) {
        self.options = options;
    }

    /// Each login asks for something else: digests, immediate and unsolicited data.
    fn vary_options(&mut self) {
        self.logins += 1;
        let bit = |number: u32| self.logins & (1 << number) != 0;
        self.options.digests = Digests {
            header: bit(0),
            data: bit(1),
        };
        self.options.immediate_data = !bit(2);
        self.options.initial_r2t = !bit(3);
    }

    /// Reads the whole volume and judges every block.
    pub(crate) fn sweep(&mut self) -> Result<(), String> {
        let session = self.session.as_mut().expect("connected before");
        let end = end(self.oracle.block_count());
        let mut next = 0;
        let mut reads: HashMap<Tag, u64> = HashMap::new();
        loop {
            while next < end && reads.len() < 16 {
                let count = u64::from(SWEEP_SECTORS).min(end - next);
                let tag = session.submit(scsi::read(sectors(next, count)));
                reads.insert(tag.map_err(|error| format!("sweep: {error}"))?, next);
                next += count;
            }
            if reads.is_empty() {
                return Ok(());
            }
            let completion = session.complete(COMMAND_TIMEOUT);
            let completion = completion
                .map_err(|error| format!("sweep: {error}"))?
                .ok_or("sweep: a read did not end")?;
            let first = reads
                .remove(&completion.tag)
                .ok_or("sweep: an unknown completion")?;
            if is_unit_attention(&completion) {
                // Nothing was read; a host asks again.
                self.counts.attentions += 1;
                let count = u64::from(SWEEP_SECTORS).min(end - first);
                let tag = session.submit(scsi::read(sectors(first, count)));
                reads.insert(tag.map_err(|error| format!("sweep: {error}"))?, first);
                continue;
            }
            let data = completion
                .good()
                .map_err(|what| format!("read at {first}: {what}"))?;
            self.oracle
                .read(first / BLOCK_SECTORS, &data)
                .map_err(|violation| violation.to_string())?;
            self.counts.blocks_checked += u64::try_from(data.len() / BLOCK_BYTES).unwrap_or(0);
        }
    }

    /// Runs the stream until the session breaks, or `stop` is set and nothing is outstanding.
    ///
    /// `Ok(true)`: the session broke. An error is a violation or a command that failed.
    pub(crate) fn run(&mut self, stop: &AtomicBool) -> Result<bool, String> {
        loop {
            let stopping = stop.load(Ordering::Relaxed);
            if !stopping && self.submit_some().is_err() {
                return self.drain();
            }
            if stopping && self.in_flight.is_empty() {
                return Ok(false);
            }
            let session = self.session.as_mut().expect("connected before");
            match session.complete(COMMAND_TIMEOUT) {
                Ok(Some(completion)) => self.on_completion(completion)?,
                Ok(None) => return Err(self.stuck()),
                Err(error) if is_gone(&error) => return Ok(true),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// After a failed send: what was answered before counts.
    fn drain(&mut self) -> Result<bool, String> {
        loop {
            let session = self.session.as_mut().expect("connected before");
            match session.complete(Duration::from_millis(100)) {
                Ok(Some(completion)) => self.on_completion(completion)?,
                Ok(None) | Err(_) => return Ok(true),
            }
        }
    }

    fn submit_some(&mut self) -> Result<(), Error> {
        while self.in_flight.len() < OUTSTANDING_MAX {
            let planned = self
                .waiting
                .take()
                .unwrap_or_else(|| self.commands.next_command());
            if self.must_wait(planned) {
                self.waiting = Some(planned);
                return Ok(());
            }
            let (version, command) = self.prepare(planned);
            let session = self.session.as_mut().expect("connected before");
            let tag = session.submit(command)?;
            self.in_flight.insert(tag, InFlight { planned, version });
        }
        Ok(())
    }

    fn must_wait(&self, planned: Planned) -> bool {
        let wanted = blocks_of(planned.sectors);
        self.in_flight.values().any(|other| {
            let taken = blocks_of(other.planned.sectors);
            let overlap = wanted.start < taken.end && taken.start < wanted.end;
            overlap && !(planned.is_shareable() && other.planned.is_shareable())
        })
    }

    /// Tells the oracle and makes the command.
    fn prepare(&mut self, planned: Planned) -> (u64, Command) {
        let range = planned.sectors;
        if planned.action == Action::Read {
            return (0, scsi::read(range));
        }
        self.version += 1;
        let version = self.version;
        let (content, command) = match planned.action {
            Action::Write => {
                let content = Content::written(version);
                (
                    content,
                    scsi::write(range, self.identity.bytes(content, range)),
                )
            }
            Action::WriteSame => {
                let content = Content::same(version);
                let one = Sectors {
                    first: range.first,
                    count: 1,
                };
                (
                    content,
                    scsi::write_same(range, self.identity.bytes(content, one)),
                )
            }
            Action::WriteSameUnmap => (Content::ZEROS, scsi::write_same_unmap(range)),
            Action::Unmap | Action::Read => (Content::ZEROS, scsi::unmap(range)),
        };
        self.oracle.sent(version, range, content);
        (version, command)
    }

    fn on_completion(&mut self, completion: Completion) -> Result<(), String> {
        let Some(done) = self.in_flight.remove(&completion.tag) else {
            return Err("a completion for nothing in flight".into());
        };
        if STATUS_AGAIN.contains(&completion.status) {
            self.counts.busy += 1;
            return Ok(());
        }
        if is_unit_attention(&completion) {
            self.counts.attentions += 1;
            return Ok(());
        }
        let planned = done.planned;
        let data = completion
            .good()
            .map_err(|what| format!("{planned:?}: {what}"))?;
        if planned.action == Action::Read {
            if data.len() != planned.sectors.byte_count() {
                return Err(format!("{planned:?}: {} bytes came", data.len()));
            }
            self.counts.reads_checked += 1;
            let first = planned.sectors.first / BLOCK_SECTORS;
            return self
                .oracle
                .read(first, &data)
                .map_err(|violation| violation.to_string());
        }
        self.counts.acknowledged += 1;
        let bytes = u64::from(planned.sectors.count) * 512;
        self.counts.acknowledged_bytes += bytes;
        self.oracle.acknowledged(done.version);
        Ok(())
    }

    fn stuck(&self) -> String {
        let planned: Vec<&Planned> = self.in_flight.values().map(|one| &one.planned).collect();
        format!(
            "no completion for {} s, waiting for {planned:?}",
            COMMAND_TIMEOUT.as_secs()
        )
    }
}

/// The first sector behind a volume.
fn end(block_count: usize) -> u64 {
    u64::try_from(block_count).expect("a usize fits") * BLOCK_SECTORS
}

/// The read after a login; unit attentions are taken and forgotten.
fn read_ready(session: &mut Session, range: Sectors) -> Result<Vec<u8>, Error> {
    let started = Instant::now();
    loop {
        let completion = session.execute(scsi::read(range))?;
        if completion.status == STATUS_GOOD {
            return Ok(completion.data);
        }
        if !is_unit_attention(&completion) || started.elapsed() > Duration::from_secs(2) {
            let what = completion.good().err().unwrap_or_default();
            return Err(Error::Protocol(format!("first read: {what}")));
        }
    }
}

fn is_unit_attention(completion: &Completion) -> bool {
    completion.sense.is_some_and(|sense| sense.key == 6)
}

/// Whether the server went away, as it does when it is killed.
fn is_gone(error: &Error) -> bool {
    matches!(error, Error::Closed | Error::Socket(_))
}
