//! A target, its disk in memory, and hosts that speak PDUs to it by hand.
//!
//! The lab is the driver: it checks what drivers rely on (buffers exist when they are used, every
//! request is answered once, nothing is sent for a task that has ended) and panics when it is not so.

use crate::access::Access;
use crate::connection::{Arrival, Binding, Connection, Portal};
use crate::effect::{CloseReason, Effect, Outgoing, PeerId, Segment, SendData, TaskTag};
use crate::framing::{self, Digests};
use crate::pdu::login::{LoginRequest, LoginResponse, Stage};
use crate::pdu::scsi::{Attribute, ScsiCommand};
use crate::pdu::{self, Header};
use crate::request::{BlockRequest, BlockResponse, ByteRange};
use crate::scsi::geometry::LogicalBlock;
use crate::scsi::unit::{Keeping, LogicalUnit, UnitConfig};
use crate::target::{Announcement, Target, TargetConfig};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;
use holdfast_core::id::VolumeId;

/// Name of the lab's target.
pub const TARGET_NAME: &str = "iqn.2026-11.io.holdfast:lab";
/// Name of the lab's hosts, unless a test says otherwise.
pub const INITIATOR_NAME: &str = "iqn.1994-05.com.example:host";
/// Size of the disk.
pub const DISK_BYTES: usize = 1 << 20;

/// When requests to the disk are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// At once.
    Prompt,
    /// When the test says so, by [`Lab::complete`].
    Held,
}

/// One PDU as a host received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Basic header segment.
    pub header: Header,
    /// Data segment.
    pub data: Vec<u8>,
}

/// One host with its connection.
#[derive(Debug)]
pub struct Host {
    machine: Connection,
    bound: bool,
    buffers: BTreeMap<TaskTag, Vec<u8>>,
    executing: Vec<(TaskTag, BlockRequest)>,
    received: VecDeque<Received>,
    /// Why the target closed the connection.
    pub closed: Option<CloseReason>,
    /// CmdSN of the next numbered request.
    pub cmd_sn: u32,
    next_tag: u32,
}

/// The lab.
#[derive(Debug)]
pub struct Lab {
    /// The target.
    pub target: Target,
    /// Time that the machines see.
    pub now: Duration,
    /// When the disk answers.
    pub disk: Disk,
    /// What discovery lists; the target itself when empty.
    pub announcements: Vec<Announcement>,
    bytes: Vec<u8>,
    hosts: Vec<Host>,
    discovery: Access,
}

impl Lab {
    /// A lab whose target admits by `access`.
    pub fn new(access: Access) -> Self {
        let config = UnitConfig {
            volume: VolumeId([7; 16]),
            target_name: TARGET_NAME.to_string(),
            capacity_bytes: DISK_BYTES as u64,
            block: LogicalBlock::Bytes512,
            keeping: Keeping::Wanted,
        };
        Lab {
            target: Target::new(TargetConfig {
                name: TARGET_NAME.to_string(),
                unit: LogicalUnit::new(config, &[]).expect("nothing stored is readable"),
                access,
                portals: Vec::new(),
            }),
            now: Duration::from_secs(1000),
            disk: Disk::Prompt,
            announcements: Vec::new(),
            bytes: vec![0; DISK_BYTES],
            hosts: Vec::new(),
            discovery: Access::default(),
        }
    }

    /// Who may discover, for connections made from now on.
    pub fn set_discovery(&mut self, access: Access) {
        self.discovery = access;
    }

    /// A new connection; gives its number.
    pub fn connect(&mut self) -> usize {
        let number = self.hosts.len();
        let portal = Portal {
            local_address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 3260),
            discovery: self.discovery.clone(),
        };
        let random =
            core::array::from_fn(|at| u8::try_from((at * 31 + number * 7) % 251).unwrap_or(0));
        self.hosts.push(Host {
            machine: Connection::new(portal, PeerId(number as u64), random, self.now),
            bound: false,
            buffers: BTreeMap::new(),
            executing: Vec::new(),
            received: VecDeque::new(),
            closed: None,
            cmd_sn: 1,
            next_tag: 1,
        });
        number
    }

    /// A host of this lab.
    pub fn host(&mut self, host: usize) -> &mut Host {
        &mut self.hosts[host]
    }

    /// Sends a PDU; its DataSegmentLength is set here.
    pub fn give(&mut self, host: usize, header: Header, data: &[u8]) {
        self.give_as(host, header, data, Arrival::Intact);
    }

    /// Sends a PDU whose data may arrive damaged.
    pub fn give_as(&mut self, host: usize, mut header: Header, data: &[u8], arrival: Arrival) {
        pdu::put_data_bytes(&mut header, data.len());
        self.give_raw(host, &header, data, arrival);
    }

    /// Sends headers as they are, and as much data as the machine wants of `data`.
    pub fn give_raw(&mut self, host: usize, header: &Header, data: &[u8], arrival: Arrival) {
        if self.hosts[host].closed.is_some() {
            return;
        }
        let mut headers = header.to_vec();
        headers.resize(framing::HEADER_BYTES + usize::from(header[4]) * 4, 0);
        if self.hosts[host].machine.digests().header {
            headers.extend_from_slice(&framing::digest(&headers.clone()));
        }
        let mut segment = Segment::None;
        self.run(host, |host, target, now, effects| {
            segment = host.machine.begin(target, now, &headers, effects);
        });
        let peer = &mut self.hosts[host];
        if peer.closed.is_some() || data.len() < segment.bytes() {
            return;
        }
        let mut inline: &[u8] = &[];
        match segment {
            Segment::Inline { bytes } => inline = &data[..bytes],
            Segment::Task {
                task,
                offset,
                bytes,
                ..
            } => {
                let buffer = peer
                    .buffers
                    .get_mut(&task)
                    .expect("the buffer was asked for");
                buffer[offset..offset + bytes].copy_from_slice(&data[..bytes]);
            }
            Segment::None | Segment::Discard { .. } => {}
        }
        self.run(host, |host, target, now, effects| {
            host.machine.finish(target, now, inline, arrival, effects);
        });
    }

    /// Takes what a host has received.
    pub fn take(&mut self, host: usize) -> Vec<Received> {
        self.hosts[host].received.drain(..).collect()
    }

    /// Takes the only PDU that a host has received.
    pub fn take_one(&mut self, host: usize) -> Received {
        let mut received = self.take(host);
        assert!(received.len() == 1, "one PDU was expected: {received:?}");
        received.remove(0)
    }

    /// Answers the oldest held request of a host.
    pub fn complete(&mut self, host: usize) {
        let (task, request) = self.hosts[host].executing.remove(0);
        self.answer(host, task, &request);
    }

    /// Requests that a host's commands wait for.
    pub fn held(&self, host: usize) -> usize {
        self.hosts[host].executing.len()
    }

    /// Lets time pass, second by second.
    pub fn wait(&mut self, time: Duration) {
        for _ in 0..time.as_secs() {
            self.now += Duration::from_secs(1);
            for host in 0..self.hosts.len() {
                self.run(host, |host, target, now, effects| {
                    host.machine.tick(target, now, effects);
                });
            }
        }
    }

    /// Asks a host to log out.
    pub fn shutdown(&mut self, host: usize) {
        self.run(host, |host, target, now, effects| {
            host.machine.shutdown(target, now, effects);
        });
    }

    /// The host's socket breaks.
    pub fn disconnect(&mut self, host: usize) {
        self.hosts[host].closed.get_or_insert(CloseReason::Shutdown);
        self.run(host, |host, target, now, effects| {
            host.machine.closed(target, now, effects);
        });
    }

    /// Whether a host's machine may be dropped.
    pub fn is_over(&self, host: usize) -> bool {
        self.hosts[host].machine.is_over()
    }

    /// Digests that a host's next PDU carries.
    pub fn digests(&self, host: usize) -> Digests {
        self.hosts[host].machine.digests()
    }

    /// Bytes of the disk.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Logs a host in without security, with these operational keys, and takes the response.
    pub fn log_in(&mut self, host: usize, keys: &str) -> LoginResponse {
        self.log_in_as(host, INITIATOR_NAME, keys)
    }

    /// The same under another initiator name.
    pub fn log_in_as(&mut self, host: usize, initiator: &str, keys: &str) -> LoginResponse {
        let text = alloc::format!(
            "InitiatorName={initiator}\0TargetName={TARGET_NAME}\0SessionType=Normal\0{keys}"
        );
        self.give(
            host,
            login_header(Stage::Operational, Stage::FullFeature),
            text.as_bytes(),
        );
        let received = self.take_one(host);
        LoginResponse::decode(&received.header).expect("a login response")
    }

    /// Logs in and takes the unit attention that follows.
    pub fn ready(&mut self, keys: &str) -> usize {
        let name = alloc::format!("{INITIATOR_NAME}-{}", self.hosts.len());
        let host = self.connect();
        let response = self.log_in_as(host, &name, keys);
        assert!(
            response.status == 0,
            "login refused: {:04x}",
            response.status
        );
        self.command(host, command([0; 16]), &[]);
        self.take(host);
        host
    }

    /// Sends a SCSI command with the next CmdSN and tag; gives the tag.
    pub fn command(&mut self, host: usize, mut command: ScsiCommand, data: &[u8]) -> u32 {
        let tag = self.hosts[host].next_tag();
        command.initiator_task_tag = tag;
        command.cmd_sn = self.hosts[host].next_cmd_sn();
        self.give(host, command.encode(), data);
        tag
    }

    fn run(
        &mut self,
        host: usize,
        call: impl FnOnce(&mut Host, Option<&mut Target>, Duration, &mut Vec<Effect>),
    ) {
        let mut effects = Vec::new();
        let peer = &mut self.hosts[host];
        let target = peer.bound.then_some(&mut self.target);
        call(peer, target, self.now, &mut effects);
        for effect in effects {
            self.perform(host, effect);
        }
    }

    fn perform(&mut self, host: usize, effect: Effect) {
        let peer = &mut self.hosts[host];
        match effect {
            Effect::Send(outgoing) => peer.receive(outgoing),
            Effect::StartTask { task, buffer_bytes } => {
                assert!(peer.buffers.insert(task, vec![0; buffer_bytes]).is_none());
            }
            Effect::Execute { task, request } => match self.disk {
                Disk::Held => peer.executing.push((task, request)),
                Disk::Prompt => self.answer(host, task, &request),
            },
            Effect::Abort { task } => {
                assert!(
                    peer.executing
                        .iter()
                        .any(|(executing, _)| *executing == task)
                );
            }
            Effect::EndTask { task } => {
                peer.buffers.remove(&task);
            }
            Effect::Bind { target_name } => {
                peer.bound = target_name == TARGET_NAME;
                let bound = peer.bound;
                self.run_bound(host, bound);
            }
            Effect::ListTargets => {
                let mut list = self.announcements.clone();
                if list.is_empty() {
                    list.push(self.target.announcement());
                }
                self.run(host, |host, _, now, effects| {
                    host.machine.listed(&list, now, effects);
                });
            }
            Effect::Wake { peer } => {
                let other = usize::try_from(peer.0).expect("the lab's own number");
                self.run(other, |host, target, now, effects| {
                    host.machine
                        .attend(target.expect("it is bound"), now, effects);
                });
            }
            Effect::Close { reason } => {
                assert!(peer.closed.is_none(), "closed twice");
                peer.closed = Some(reason);
                self.run(host, |host, target, now, effects| {
                    host.machine.closed(target, now, effects);
                });
            }
        }
    }

    fn run_bound(&mut self, host: usize, is_known: bool) {
        let mut effects = Vec::new();
        let binding = if is_known {
            Binding::Served(&mut self.target)
        } else {
            Binding::Unknown
        };
        self.hosts[host]
            .machine
            .bound(binding, self.now, &mut effects);
        for effect in effects {
            self.perform(host, effect);
        }
    }

    fn answer(&mut self, host: usize, task: TaskTag, request: &BlockRequest) {
        let buffer = self.hosts[host].buffers.entry(task).or_default();
        match request {
            BlockRequest::Read(range) => *buffer = self.bytes[place(*range)].to_vec(),
            BlockRequest::Write(range) => self.bytes[place(*range)].copy_from_slice(buffer),
            _ => {}
        }
        self.run(host, |host, target, now, effects| {
            let target = target.expect("it is bound");
            host.machine
                .completed(target, now, task, BlockResponse::Done, effects);
        });
    }
}

impl Host {
    /// A fresh initiator task tag.
    pub fn next_tag(&mut self) -> u32 {
        self.next_tag += 1;
        self.next_tag
    }

    /// Uses up a CmdSN.
    pub fn next_cmd_sn(&mut self) -> u32 {
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        self.cmd_sn.wrapping_sub(1)
    }

    fn receive(&mut self, outgoing: Outgoing) {
        let data = match outgoing.data {
            SendData::None => Vec::new(),
            SendData::Bytes(bytes) => bytes,
            SendData::Task {
                task,
                offset,
                bytes,
            } => self.buffers[&task][offset..offset + bytes].to_vec(),
        };
        assert!(framing::data_bytes(&outgoing.header) == data.len());
        self.received.push_back(Received {
            header: outgoing.header,
            data,
        });
    }
}

impl Received {
    /// The data segment as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.data).into_owned()
    }
}

/// A login request that wants to go from one stage to another (or stay, when they are equal).
pub fn login_header(current: Stage, next: Stage) -> Header {
    login_request(current, next).encode()
}

/// The same, to be changed.
pub fn login_request(current: Stage, next: Stage) -> LoginRequest {
    LoginRequest {
        transit: current != next,
        text_continues: false,
        current_stage: Some(current),
        next_stage: Some(next),
        version_max: 0,
        version_min: 0,
        isid: [0x80, 1, 2, 3, 0, 0],
        tsih: 0,
        initiator_task_tag: 7,
        cid: 0,
        cmd_sn: 1,
        exp_stat_sn: 0,
    }
}

/// A simple command without data.
pub fn command(cdb: [u8; 16]) -> ScsiCommand {
    ScsiCommand {
        immediate: false,
        is_final: true,
        read: false,
        write: false,
        attribute: Attribute::Simple,
        lun: [0; 8],
        initiator_task_tag: 0,
        expected_bytes: 0,
        cmd_sn: 0,
        exp_stat_sn: 0,
        cdb,
    }
}

/// READ (10) of these blocks, as a host expects it.
pub fn read(block: u32, block_count: u16) -> ScsiCommand {
    ScsiCommand {
        read: true,
        expected_bytes: u32::from(block_count) * 512,
        ..command(cdb10(0x28, block, block_count))
    }
}

/// WRITE (10) of these blocks, as a host offers it.
pub fn write(block: u32, block_count: u16) -> ScsiCommand {
    ScsiCommand {
        write: true,
        expected_bytes: u32::from(block_count) * 512,
        ..command(cdb10(0x2A, block, block_count))
    }
}

fn cdb10(opcode: u8, block: u32, block_count: u16) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[2..6].copy_from_slice(&block.to_be_bytes());
    cdb[7..9].copy_from_slice(&block_count.to_be_bytes());
    cdb
}

fn place(range: ByteRange) -> core::ops::Range<usize> {
    let index = |bytes: u64| usize::try_from(bytes).expect("the disk is small");
    index(range.offset)..index(range.offset + range.bytes)
}
