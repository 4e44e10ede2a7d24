//! A host with one command at a time, that knows what its volume must hold.

use std::thread;
use std::time::{Duration, Instant};

use crate::initiator::Error;
use crate::initiator::login::Options;
use crate::initiator::scsi::{self, Command, Sectors, Sense};
use crate::initiator::session::{Completion, Session};
use crate::oracle::{BLOCK_SECTORS, Content, Identity, Oracle};

/// Blocks of one read of a sweep.
const SWEEP_BLOCKS: u64 = 16;
/// Blocks of one WRITE SAME: 4 MiB, the length limit that targets report.
const WRITE_SAME_BLOCKS: usize = 1024;
/// How long a volume may take until it serves.
const SERVING_MAX: Duration = Duration::from_secs(20);

/// One volume and its host.
#[derive(Debug)]
pub(super) struct Disk {
    options: Options,
    identity: Identity,
    oracle: Oracle,
    version: u64,
    session: Option<Session>,
}

impl Clone for Disk {
    /// The same knowledge without the session.
    fn clone(&self) -> Self {
        Self {
            options: self.options.clone(),
            identity: self.identity,
            oracle: self.oracle.clone(),
            version: self.version,
            session: None,
        }
    }
}

impl Disk {
    /// A fresh volume of so many blocks.
    pub(super) fn new(options: Options, identity: Identity, block_count: usize) -> Self {
        let oracle = Oracle::new(identity, block_count);
        Self {
            options,
            identity,
            oracle,
            version: 0,
            session: None,
        }
    }

    /// The volume moved to another portal.
    pub(super) fn moved_to(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Who stamped the sectors.
    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// Blocks of the volume.
    pub(super) fn block_count(&self) -> u64 {
        u64::try_from(self.oracle.block_count()).expect("a usize fits")
    }

    /// Logs in; waits until the unit is ready.
    pub(super) fn connect(&mut self) -> Result<(), String> {
        self.session = None;
        let started = Instant::now();
        loop {
            let why = match self.try_connect() {
                Ok(None) => return Ok(()),
                Ok(Some(sense)) => format!("not ready: {sense}"),
                Err(error) => error.to_string(),
            };
            if started.elapsed() > SERVING_MAX {
                return Err(format!(
                    "not serving after {} s: {why}",
                    SERVING_MAX.as_secs()
                ));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Fails when the volume lets a host log in and read.
    pub(super) fn must_not_serve(&mut self) -> Result<(), String> {
        match self.try_connect() {
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => return Ok(()),
        }
        match self.command(scsi::read(run(0, 1)))?.good() {
            Ok(_) => Err("a volume of a refused store is served".into()),
            Err(_) => Ok(()),
        }
    }

    fn try_connect(&mut self) -> Result<Option<Sense>, Error> {
        let mut session = Session::login(&self.options)?;
        for _ in 0..8 {
            let completion = session.execute(scsi::test_unit_ready())?;
            match completion.sense {
                None => {
                    self.session = Some(session);
                    return Ok(None);
                }
                // Unit attentions of a fresh session.
                Some(sense) if sense.key == 6 => {}
                other => return Ok(other),
            }
        }
        Err(Error::Protocol("unit attentions without end".into()))
    }

    /// One command, whatever its status.
    fn command(&mut self, command: Command) -> Result<Completion, String> {
        let session = self.session.as_mut().ok_or("not logged in")?;
        session.execute(command).map_err(|error| error.to_string())
    }

    /// Writes blocks; the outcome is the target's, the oracle knows of it.
    pub(super) fn try_write(&mut self, first: u64, count: u64) -> Result<Completion, String> {
        let sectors = run(first, count);
        let content = self.next_content();
        self.change(
            sectors,
            content,
            scsi::write(sectors, self.identity.bytes(content, sectors)),
        )
    }

    /// Writes blocks, which must succeed.
    pub(super) fn write(&mut self, first: u64, count: u64) -> Result<(), String> {
        let completion = self.try_write(first, count)?;
        completion
            .good()
            .map(drop)
            .map_err(|what| format!("write of block {first}: {what}"))
    }

    /// Registers a key for persistent reservations, to be kept over restarts.
    pub(super) fn register(&mut self, key: [u8; 8]) -> Result<(), String> {
        let completion = self.command(scsi::register(key))?;
        completion
            .good()
            .map(drop)
            .map_err(|what| format!("registration: {what}"))
    }

    /// Returns the space of blocks with UNMAP.
    pub(super) fn unmap(&mut self, first: u64, count: u64) -> Result<(), String> {
        let sectors = run(first, count);
        self.next_content();
        let completion = self.change(sectors, Content::ZEROS, scsi::unmap(sectors))?;
        completion
            .good()
            .map(drop)
            .map_err(|what| format!("unmap of block {first}: {what}"))
    }

    /// Returns the space of blocks with WRITE SAME, in commands as large as the target takes.
    pub(super) fn write_same_unmap(&mut self, first: u64, count: u64) -> Result<(), String> {
        for start in (first..first + count).step_by(WRITE_SAME_BLOCKS) {
            let sectors = run(start, (first + count - start).min(WRITE_SAME_BLOCKS as u64));
            self.next_content();
            let completion =
                self.change(sectors, Content::ZEROS, scsi::write_same_unmap(sectors))?;
            completion
                .good()
                .map_err(|what| format!("write same at block {start}: {what}"))?;
        }
        Ok(())
    }

    fn next_content(&mut self) -> Content {
        self.version += 1;
        Content::written(self.version)
    }

    fn change(
        &mut self,
        sectors: Sectors,
        content: Content,
        command: Command,
    ) -> Result<Completion, String> {
        self.oracle.sent(self.version, sectors, content);
        let completion = self.command(command)?;
        if completion.status == scsi::STATUS_GOOD {
            self.oracle.acknowledged(self.version);
        }
        Ok(completion)
    }

    /// Another host with the same knowledge wrote this: here it may be there or not.
    pub(super) fn doubt_write(&mut self, first: u64, count: u64) {
        let content = self.next_content();
        self.oracle.sent(self.version, run(first, count), content);
    }

    /// Reads everything: the blocks that answered MEDIUM ERROR. A wrong byte is an error.
    pub(super) fn sweep(&mut self) -> Result<Vec<u64>, String> {
        let mut unreadable = Vec::new();
        for first in (0..self.block_count()).step_by(16) {
            if self.read(first, SWEEP_BLOCKS)? {
                continue;
            }
            for block in first..first + SWEEP_BLOCKS {
                if !self.read(block, 1)? {
                    unreadable.push(block);
                }
            }
        }
        Ok(unreadable)
    }

    /// Reads blocks and judges them: `false` for MEDIUM ERROR, an error for anything else wrong.
    pub(super) fn read(&mut self, first: u64, count: u64) -> Result<bool, String> {
        let completion = self.command(scsi::read(run(first, count)))?;
        if completion.sense == Some(Sense::MEDIUM_ERROR) {
            return Ok(false);
        }
        let data = completion
            .good()
            .map_err(|what| format!("read of block {first}: {what}"))?;
        if data.len() != run(first, count).byte_count() {
            return Err(format!("read of block {first}: {} bytes came", data.len()));
        }
        self.oracle
            .read(first, &data)
            .map_err(|violation| violation.to_string())?;
        Ok(true)
    }
}

fn run(first: u64, count: u64) -> Sectors {
    let sectors = u32::try_from(count * BLOCK_SECTORS).expect("a few MiB at most");
    Sectors {
        first: first * BLOCK_SECTORS,
        count: sectors,
    }
}
