//! Hosts that share one volume: each keeps reads and writes of single blocks outstanding and records when they began and
//! ended, for the judge in `history`.
//!
//! A host tries the portals in turn until one serves it. An answer other than GOOD to a write counts as no answer: it may
//! have happened, or happen later. A read without GOOD tells nothing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::history::{self, Action, INITIAL, Moment, Operation};
use crate::initiator::Error;
use crate::initiator::login::Options;
use crate::initiator::scsi::{self, Sectors, Sense};
use crate::initiator::session::{Completion, Session, Tag};
use crate::oracle::{BLOCK_BYTES, BLOCK_SECTORS, Content, Identity, Stamp};

/// Commands outstanding per host.
const DEPTH: usize = 4;

/// Blocks that the hosts share.
pub(crate) const BLOCKS: u64 = 48;

/// Between two blocks in use, so that several chunks are touched.
const STRIDE: u64 = 7;

/// How long a host waits for an answer before it looks whether to stop.
const PATIENCE: Duration = Duration::from_millis(100);

/// Without any answer for so long a host gives its session up, as open-iscsi does after its NOP-Out timeout.
const SESSION_SILENCE: Duration = Duration::from_secs(5);

/// Between two tries to log in.
const LOGIN_PAUSE: Duration = Duration::from_millis(50);

/// Versions that one host may use: the host's number is above them.
const VERSIONS_PER_HOST: u64 = 1 << 40;

/// What all hosts of a volume share.
#[derive(Debug)]
pub(crate) struct Ledger {
    identity: Identity,
    target: String,
    portals: Vec<SocketAddr>,
    clock: AtomicU64,
    started: Instant,
    blocks: Vec<Mutex<Vec<Operation>>>,
    hosts: Vec<Mutex<Pulse>>,
    faults: Mutex<Vec<String>>,
    /// Hosts shall end.
    pub(crate) stop: AtomicBool,
}

/// How one host fares.
#[derive(Clone, Copy, Debug, Default)]
struct Pulse {
    /// Milliseconds since the ledger's start when a command last ended with GOOD.
    good_ms: u64,
    /// Longest time without one since it was last asked, in milliseconds.
    gap_ms: u64,
    reads: u64,
    writes: u64,
    unanswered: u64,
    logins: u64,
}

/// Sums over all hosts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) unanswered: u64,
    pub(crate) logins: u64,
}

impl Ledger {
    /// A fresh volume.
    pub(crate) fn new(
        identity: Identity,
        target: &str,
        portals: Vec<SocketAddr>,
        hosts: usize,
    ) -> Ledger {
        Ledger {
            identity,
            target: target.to_owned(),
            portals,
            clock: AtomicU64::new(1),
            started: Instant::now(),
            blocks: (0..BLOCKS).map(|_| Mutex::default()).collect(),
            hosts: (0..hosts).map(|_| Mutex::default()).collect(),
            faults: Mutex::default(),
            stop: AtomicBool::new(false),
        }
    }

    fn moment(&self) -> Moment {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn record(&self, block: u64, operation: Operation) {
        let index = usize::try_from(block).expect("BLOCKS is small");
        lock(&self.blocks[index]).push(operation);
    }

    /// A write that is recorded already has ended. It was recorded before it was sent: the judge looks while hosts
    /// work, and another host may have read what has no answer yet.
    fn written(&self, block: u64, version: u64, end: Moment) {
        let index = usize::try_from(block).expect("BLOCKS is small");
        let mut operations = lock(&self.blocks[index]);
        let this = |operation: &&mut Operation| operation.action == Action::Write(version);
        operations
            .iter_mut()
            .rev()
            .find(this)
            .expect("it was recorded when it was sent")
            .end = Some(end);
    }

    /// A host met something that must never happen.
    fn complain(&self, what: String) {
        lock(&self.faults).push(what);
    }

    fn good(&self, host: usize, count: impl Fn(&mut Pulse)) {
        let now = self.now_ms();
        let mut pulse = lock(&self.hosts[host]);
        pulse.gap_ms = pulse.gap_ms.max(now - pulse.good_ms);
        pulse.good_ms = now;
        count(&mut pulse);
    }

    /// Longest time that any host went without a good answer since this was last asked.
    pub(crate) fn take_longest_gap(&self) -> Duration {
        let now = self.now_ms();
        let mut longest = 0;
        for host in &self.hosts {
            let mut pulse = lock(host);
            longest = longest.max(pulse.gap_ms).max(now - pulse.good_ms);
            pulse.gap_ms = 0;
        }
        Duration::from_millis(longest)
    }

    /// Whether every host got a good answer within the last `period`.
    pub(crate) fn all_served_within(&self, period: Duration) -> bool {
        let now = u128::from(self.now_ms());
        self.hosts
            .iter()
            .all(|host| now - u128::from(lock(host).good_ms) <= period.as_millis())
    }

    /// What the hosts did.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for host in &self.hosts {
            let pulse = lock(host);
            totals.reads += pulse.reads;
            totals.writes += pulse.writes;
            totals.unanswered += pulse.unanswered;
            totals.logins += pulse.logins;
        }
        totals
    }

    /// Judges every block.
    pub(crate) fn judge(&self) -> Result<(), String> {
        if let Some(first) = lock(&self.faults).first() {
            return Err(first.clone());
        }
        for (block, operations) in self.blocks.iter().enumerate() {
            let operations = lock(operations);
            history::check(&operations).map_err(|violation| {
                format!("block {block}: {violation}; {}", tail(&operations))
            })?;
        }
        Ok(())
    }

    /// Logs in wherever it is served; `None` when told to stop before that.
    fn connect(&self, host: usize) -> Option<Session> {
        let mut attempt = host;
        while !self.stop.load(Ordering::Relaxed) {
            let portal = self.portals[attempt % self.portals.len()];
            attempt += 1;
            let mut options = Options::new(portal, &self.target);
            options.initiator = format!("iqn.2026-11.io.holdfast.lane:host-{host}");
            options.timeout = Duration::from_secs(1);
            let ready = Session::login(&options)
                .and_then(|mut session| ready(&mut session).map(|ready| (session, ready)));
            if let Ok((mut session, true)) = ready {
                session.set_timeout(SESSION_SILENCE);
                lock(&self.hosts[host]).logins += 1;
                return Some(session);
            }
            thread::sleep(LOGIN_PAUSE);
        }
        None
    }
}

/// Whether media commands are served here; unit attentions are taken.
fn ready(session: &mut Session) -> Result<bool, Error> {
    for _ in 0..4 {
        let completion = session.execute(scsi::test_unit_ready())?;
        match completion.sense {
            None => return Ok(completion.status == scsi::STATUS_GOOD),
            Some(sense) if sense.key == UNIT_ATTENTION => {}
            Some(_) => return Ok(false),
        }
    }
    Ok(false)
}

/// Sense key of a unit attention.
const UNIT_ATTENTION: u8 = 0x06;

/// One host: runs until the ledger says stop.
pub(crate) struct Host<'a> {
    ledger: &'a Ledger,
    index: usize,
    random: fastrand::Rng,
    version: u64,
    in_flight: HashMap<Tag, InFlight>,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    block: u64,
    action: Sent,
    begin: Moment,
}

#[derive(Clone, Copy, Debug)]
enum Sent {
    Write(u64),
    Read,
}

impl<'a> Host<'a> {
    /// Host number `index` of the ledger.
    pub(crate) fn new(ledger: &'a Ledger, index: usize, seed: u64) -> Self {
        let number = u64::try_from(index).expect("few hosts");
        Host {
            ledger,
            index,
            random: fastrand::Rng::with_seed(seed ^ number.rotate_left(20)),
            version: number * VERSIONS_PER_HOST,
            in_flight: HashMap::new(),
        }
    }

    /// Works until told to stop, then waits for its answers.
    pub(crate) fn run(mut self) {
        while let Some(mut session) = self.ledger.connect(self.index) {
            let ended = self.work(&mut session);
            self.forget();
            if ended.is_ok() {
                return;
            }
        }
    }

    /// `Ok` when told to stop and nothing is outstanding, an error when the session is of no use any more.
    fn work(&mut self, session: &mut Session) -> Result<(), Error> {
        let mut silent_since = Instant::now();
        loop {
            let stopping = self.ledger.stop.load(Ordering::Relaxed);
            if stopping && self.in_flight.is_empty() {
                return Ok(());
            }
            while !stopping && self.in_flight.len() < DEPTH {
                self.send(session)?;
            }
            match session.complete(PATIENCE)? {
                Some(completion) => {
                    silent_since = Instant::now();
                    self.on_completion(completion)?;
                }
                None if silent_since.elapsed() > SESSION_SILENCE => {
                    return Err(Error::TimedOut("waiting for any answer"));
                }
                None => {}
            }
        }
    }

    fn send(&mut self, session: &mut Session) -> Result<(), Error> {
        let block = self.random.u64(0..BLOCKS);
        let sectors = sectors_of(block);
        let begin = self.ledger.moment();
        let (action, command) = if self.random.bool() {
            (Sent::Read, scsi::read(sectors))
        } else {
            self.version += 1;
            let content = Content::written(self.version);
            let bytes = self.ledger.identity.bytes(content, sectors);
            let action = Action::Write(self.version);
            let end = None;
            self.ledger.record(block, Operation { action, begin, end });
            (Sent::Write(self.version), scsi::write(sectors, bytes))
        };
        let in_flight = InFlight {
            block,
            action,
            begin,
        };
        match session.submit(command) {
            Ok(tag) => {
                self.in_flight.insert(tag, in_flight);
                Ok(())
            }
            Err(error) => {
                self.unanswered(in_flight);
                Err(error)
            }
        }
    }

    fn on_completion(&mut self, completion: Completion) -> Result<(), Error> {
        let Some(done) = self.in_flight.remove(&completion.tag) else {
            return Err(Error::Protocol("an answer to nothing".to_owned()));
        };
        if completion.status != scsi::STATUS_GOOD {
            self.unanswered(done);
            return self.judge_refusal(completion.sense);
        }
        let end = self.ledger.moment();
        match done.action {
            Sent::Write(version) => self.ledger.written(done.block, version, end),
            Sent::Read => match self.value(done.block, &completion.data) {
                Ok(value) => {
                    let operation = Operation {
                        action: Action::Read(value),
                        begin: done.begin,
                        end: Some(end),
                    };
                    self.ledger.record(done.block, operation);
                }
                Err(what) => {
                    self.ledger.complain(what);
                    return Ok(());
                }
            },
        }
        self.ledger.good(self.index, |pulse| match done.action {
            Sent::Write(_) => pulse.writes += 1,
            Sent::Read => pulse.reads += 1,
        });
        Ok(())
    }

    /// BUSY, unit attentions and NOT READY are part of a failover; errors of the medium or the hardware are not.
    fn judge_refusal(&self, sense: Option<Sense>) -> Result<(), Error> {
        match sense {
            Some(sense) if matches!(sense.key, 0x03 | 0x04) => {
                self.ledger.complain(format!("a host got sense {sense}"));
                Ok(())
            }
            // The path leads nowhere now; another one may.
            Some(sense) if sense.key == 0x02 => Err(Error::Protocol(format!("not ready: {sense}"))),
            _ => Ok(()),
        }
    }

    /// The value that a block holds, or why it cannot be one of ours.
    fn value(&self, block: u64, data: &[u8]) -> Result<u64, String> {
        if data.len() != BLOCK_BYTES {
            return Err(format!("a read of block {block} gave {} bytes", data.len()));
        }
        if data.iter().all(|&byte| byte == 0) {
            return Ok(INITIAL);
        }
        let stamp = Stamp::of(data).ok_or_else(|| format!("block {block} holds garbage"))?;
        let expected = self.ledger.identity.bytes(stamp.content, sectors_of(block));
        if expected != data {
            return Err(format!("block {block} is torn, or another's: {stamp:?}"));
        }
        Ok(stamp.content.version())
    }

    /// The session is gone, and with it the answers.
    fn forget(&mut self) {
        for in_flight in std::mem::take(&mut self.in_flight).into_values() {
            self.unanswered(in_flight);
        }
    }

    /// A write without an answer stays in the record without an end.
    fn unanswered(&self, in_flight: InFlight) {
        if matches!(in_flight.action, Sent::Write(_)) {
            lock(&self.ledger.hosts[self.index]).unanswered += 1;
        }
    }
}

fn sectors_of(block: u64) -> Sectors {
    Sectors {
        first: block * STRIDE * BLOCK_SECTORS,
        count: u32::try_from(BLOCK_SECTORS).expect("small"),
    }
}

/// The last operations, for a message.
fn tail(operations: &[Operation]) -> String {
    let shown = operations.len().saturating_sub(12);
    format!("{:?}", &operations[shown..])
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics while holding it")
}
