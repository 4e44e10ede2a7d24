//! The smallest driver of the machines: threads, blocking sockets and a disk in memory. It shows what a
//! driver owes them and lets initiators be tried against the protocol alone. Nothing is durable.
//!
//! `cargo run -p holdfast-iscsi --example memory_target -- 127.0.0.1:3261 [ADDR:PORT ...]`
#![allow(clippy::cast_possible_truncation)] // A disk in memory is smaller than the address space.

use holdfast_core::id::VolumeId;
use holdfast_iscsi::access::{Access, Credentials};
use holdfast_iscsi::connection::{Arrival, Binding, Connection, Portal};
use holdfast_iscsi::effect::{Effect, Outgoing, PeerId, Segment, SendData, TaskTag};
use holdfast_iscsi::framing::{self, DataDigest, HEADER_BYTES};
use holdfast_iscsi::request::{BlockRequest, BlockResponse, ByteRange, ProvisionedRun};
use holdfast_iscsi::scsi::geometry::LogicalBlock;
use holdfast_iscsi::scsi::unit::{Keeping, LogicalUnit, UnitConfig};
use holdfast_iscsi::target::{Target, TargetConfig};
use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

const NAME: &str = "iqn.2026-11.io.holdfast:memory";
const BYTES: u64 = 256 << 20;

struct Peer {
    machine: Connection,
    stream: TcpStream,
    bound: bool,
    closing: bool,
    buffers: HashMap<TaskTag, Vec<u8>>,
}

struct World {
    target: Target,
    disk: Vec<u8>,
    peers: HashMap<PeerId, Peer>,
    started: Instant,
}

impl World {
    /// Calls a machine and carries out what it and those it wakes ask for.
    fn run(
        &mut self,
        id: PeerId,
        call: impl FnOnce(&mut Peer, &mut Target, Duration, &mut Vec<Effect>),
    ) {
        let now = self.started.elapsed();
        let mut effects = Vec::new();
        if let Some(peer) = self.peers.get_mut(&id) {
            call(peer, &mut self.target, now, &mut effects);
        }
        let mut queue: VecDeque<(PeerId, Effect)> = effects.into_iter().map(|e| (id, e)).collect();
        while let Some((id, effect)) = queue.pop_front() {
            let mut more = Vec::new();
            self.perform(id, effect, now, &mut more);
            // What follows from an effect comes before the effects behind it only for its own peer.
            for effect in more.into_iter().rev() {
                queue.push_front((id, effect));
            }
        }
    }

    fn perform(&mut self, id: PeerId, effect: Effect, now: Duration, more: &mut Vec<Effect>) {
        let World {
            target,
            disk,
            peers,
            ..
        } = self;
        let Some(peer) = peers.get_mut(&id) else {
            return;
        };
        match effect {
            Effect::Send(pdu) => {
                if !peer.closing && send(peer, &pdu).is_err() {
                    peer.closing = true;
                }
            }
            Effect::StartTask { task, buffer_bytes } => {
                peer.buffers.insert(task, vec![0; buffer_bytes]);
            }
            Effect::Execute { task, request } => {
                let buffer = peer.buffers.entry(task).or_default();
                let response = execute(disk, buffer, &request);
                peer.machine.completed(target, now, task, response, more);
            }
            Effect::Abort { .. } => {}
            Effect::EndTask { task } => {
                peer.buffers.remove(&task);
            }
            Effect::Bind { target_name } => {
                let binding = if target_name == NAME {
                    peer.bound = true;
                    Binding::Served(target)
                } else {
                    Binding::Unknown
                };
                peer.machine.bound(binding, now, more);
            }
            Effect::ListTargets => peer.machine.listed(&[target.announcement()], now, more),
            Effect::Wake { peer: other } => self.run(other, |peer, target, now, effects| {
                peer.machine.attend(target, now, effects);
            }),
            Effect::Close { reason } => {
                eprintln!("{id:?}: {reason}");
                peer.closing = true;
                let _ = peer.stream.shutdown(Shutdown::Both);
            }
        }
    }
}

fn execute(disk: &mut [u8], buffer: &mut Vec<u8>, request: &BlockRequest) -> BlockResponse {
    let place = |range: &ByteRange| range.offset as usize..(range.offset + range.bytes) as usize;
    let differs = |left: &[u8], right: &[u8]| left.iter().zip(right).position(|(a, b)| a != b);
    let compared = match request {
        BlockRequest::Read(range) => {
            *buffer = disk[place(range)].to_vec();
            None
        }
        BlockRequest::Write(range) | BlockRequest::WriteAndVerify(range) => {
            disk[place(range)].copy_from_slice(buffer);
            None
        }
        BlockRequest::WriteSame(range) => {
            for block in disk[place(range)].chunks_mut(buffer.len()) {
                block.copy_from_slice(buffer);
            }
            None
        }
        BlockRequest::WriteZeros(range) => {
            disk[place(range)].fill(0);
            None
        }
        BlockRequest::Unmap(ranges) => {
            for range in ranges {
                disk[place(range)].fill(0);
            }
            None
        }
        BlockRequest::CompareAndWrite(range) => {
            let (old, new) = buffer.split_at(buffer.len() / 2);
            let found = differs(&disk[place(range)], old);
            if found.is_none() {
                disk[place(range)].copy_from_slice(new);
            }
            found
        }
        BlockRequest::OrWrite(range) => {
            for (byte, given) in disk[place(range)].iter_mut().zip(buffer.iter()) {
                *byte |= given;
            }
            None
        }
        BlockRequest::Compare(range) => differs(&disk[place(range)], buffer),
        BlockRequest::CompareSame(range) => disk[place(range)]
            .chunks(buffer.len())
            .enumerate()
            .find_map(|(at, block)| differs(block, buffer).map(|byte| at * buffer.len() + byte)),
        BlockRequest::Provisioning { offset, .. } => {
            let bytes = BYTES - offset;
            return BlockResponse::Provisioning(vec![ProvisionedRun {
                bytes,
                mapped: true,
            }]);
        }
        BlockRequest::Flush
        | BlockRequest::Verify(_)
        | BlockRequest::Prefetch(_)
        | BlockRequest::SaveAttributes(_) => None,
    };
    match compared {
        Some(offset) => BlockResponse::Miscompare {
            offset: offset as u64,
        },
        None => BlockResponse::Done,
    }
}

fn send(peer: &mut Peer, pdu: &Outgoing) -> io::Result<()> {
    let data: &[u8] = match &pdu.data {
        SendData::None => &[],
        SendData::Bytes(bytes) => bytes,
        SendData::Task {
            task,
            offset,
            bytes,
        } => &peer.buffers[task][*offset..offset + bytes],
    };
    let mut wire = pdu.header.to_vec();
    if pdu.digests.header {
        wire.extend_from_slice(&framing::digest(&pdu.header));
    }
    wire.extend_from_slice(data);
    wire.extend_from_slice(&[0; 3][..framing::padding_bytes(data.len())]);
    if pdu.digests.data && !data.is_empty() {
        let mut digest = DataDigest::default();
        digest.update(data);
        wire.extend_from_slice(&digest.finish());
    }
    peer.stream.write_all(&wire)
}

fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world
        .lock()
        .expect("no thread panics while it holds the lock")
}

/// Receives one PDU; the lock is not held while waiting for bytes.
fn receive(world: &Mutex<World>, id: PeerId, stream: &mut TcpStream) -> io::Result<bool> {
    let gone = || io::Error::from(io::ErrorKind::ConnectionAborted);
    let mut headers = vec![0; HEADER_BYTES];
    stream.read_exact(&mut headers)?;
    let (digests, bytes) = {
        let world = lock(world);
        let machine = &world.peers.get(&id).ok_or_else(gone)?.machine;
        let header = headers.first_chunk().expect("48 bytes were read");
        (machine.digests(), machine.headers_bytes(header))
    };
    headers.resize(bytes, 0);
    stream.read_exact(&mut headers[HEADER_BYTES..])?;
    let mut segment = Segment::None;
    let mut closing = false;
    lock(world).run(id, |peer, target, now, effects| {
        let target = peer.bound.then_some(target);
        segment = peer.machine.begin(target, now, &headers, effects);
        closing = effects
            .iter()
            .any(|effect| matches!(effect, Effect::Close { .. }));
    });
    if closing {
        return Ok(false);
    }
    let mut data = vec![0; segment.bytes()];
    stream.read_exact(&mut data)?;
    let mut trailer = vec![0; digests.trailer_bytes(data.len())];
    stream.read_exact(&mut trailer)?;
    let mut digest = DataDigest::default();
    digest.update(&data);
    let intact = !digests.data || data.is_empty() || digest.matches(&trailer);
    let arrival = if intact {
        Arrival::Intact
    } else {
        Arrival::DigestError
    };
    let mut open = true;
    lock(world).run(id, |peer, target, now, effects| {
        let mut inline: &[u8] = &[];
        match segment {
            Segment::Inline { .. } => inline = &data,
            Segment::Task {
                task,
                offset,
                bytes,
                ..
            } => {
                if let Some(buffer) = peer.buffers.get_mut(&task) {
                    buffer[offset..offset + bytes].copy_from_slice(&data[..bytes]);
                }
            }
            Segment::None | Segment::Discard { .. } => {}
        }
        let target = peer.bound.then_some(target);
        peer.machine.finish(target, now, inline, arrival, effects);
        open = !peer.closing;
    });
    Ok(open)
}

fn serve(world: &Mutex<World>, id: PeerId, mut stream: TcpStream) {
    while matches!(receive(world, id, &mut stream), Ok(true)) {}
    let mut world = lock(world);
    world.run(id, |peer, target, now, effects| {
        peer.closing = true;
        let target = peer.bound.then_some(target);
        peer.machine.closed(target, now, effects);
    });
    world.peers.retain(|_, peer| !peer.machine.is_over());
}

fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn access() -> Access {
    let credentials = |prefix: &str| {
        let user = std::env::var(format!("{prefix}_USER")).ok()?;
        let secret = std::env::var(format!("{prefix}_SECRET")).ok()?;
        Some(Credentials::new(&user, secret.as_bytes()).expect("usable credentials"))
    };
    Access::new(Vec::new(), credentials("CHAP"), credentials("MUTUAL")).expect("usable access")
}

fn accept(world: &Arc<Mutex<World>>, listener: &TcpListener, portal_index: u64) -> io::Result<()> {
    let mut next = portal_index << 32;
    loop {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        next += 1;
        let id = PeerId(next);
        let portal = Portal {
            local_address: stream.local_addr()?,
            discovery: Access::default(),
        };
        let mut held = lock(world);
        let machine = Connection::new(portal, id, random()?, held.started.elapsed());
        let peer = Peer {
            machine,
            stream: stream.try_clone()?,
            bound: false,
            closing: false,
            buffers: HashMap::new(),
        };
        held.peers.insert(id, peer);
        drop(held);
        let world = world.clone();
        std::thread::spawn(move || serve(&world, id, stream));
    }
}

fn main() -> io::Result<()> {
    let config = UnitConfig {
        volume: VolumeId([7; 16]),
        target_name: NAME.into(),
        capacity_bytes: BYTES,
        block: LogicalBlock::Bytes512,
        keeping: Keeping::Wanted,
    };
    let unit = LogicalUnit::new(config, &[]).map_err(io::Error::other)?;
    let target = Target::new(TargetConfig {
        name: NAME.into(),
        unit,
        access: access(),
        portals: Vec::new(),
    });
    let world = Arc::new(Mutex::new(World {
        target,
        disk: vec![0; BYTES as usize],
        peers: HashMap::new(),
        started: Instant::now(),
    }));
    for (index, address) in (1..).zip(std::env::args().skip(1)) {
        let listener = TcpListener::bind(&address)?;
        eprintln!("iscsi://{address}/{NAME}/0");
        let world = world.clone();
        std::thread::spawn(move || accept(&world, &listener, index));
    }
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let mut world = lock(&world);
        let ids: Vec<PeerId> = world.peers.keys().copied().collect();
        for id in ids {
            world.run(id, |peer, target, now, effects| {
                let target = peer.bound.then_some(target);
                peer.machine.tick(target, now, effects);
            });
        }
    }
}
