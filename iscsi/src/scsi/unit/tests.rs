//! The unit as its sessions see it: unit attentions, fencing, LUNs, and any bytes at all.

use super::{Accepted, LogicalUnit, Reset, Started, UnitConfig};
use crate::request::{BlockRequest, BlockResponse, ByteRange};
use crate::scsi::cdb::Command;
use crate::scsi::geometry::LogicalBlock;
use crate::scsi::limits::PARAMETER_LIST_BYTES_MAX;
use crate::scsi::nexus::{InitiatorPort, Lun, Nexus, NexusId, TARGET_PORT};
use crate::scsi::opcode::ROWS;
use crate::scsi::reply::{Dispatch, Reply, ReplyData, Status, Transfer};
use holdfast_core::id::VolumeId;
use holdfast_core::limits::TRANSFER_BYTES_MAX;
use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

fn unit_with(attributes: &[u8]) -> LogicalUnit {
    let config = UnitConfig {
        volume: VolumeId([7; 16]),
        target_name: String::from("iqn.2026-11.io.holdfast:demo"),
        capacity_bytes: 1 << 30,
        block: LogicalBlock::Bytes512,
    };
    LogicalUnit::new(config, attributes).expect("readable attributes")
}

fn nexus(name: &str) -> Nexus {
    Nexus {
        initiator: InitiatorPort {
            name: format!("iqn.2026-11.test:{name}"),
            isid: [0x40, 0, 0, 1, 2, 3],
        },
        target: TARGET_PORT,
    }
}

fn cdb(bytes: &[u8]) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[..bytes.len()].copy_from_slice(bytes);
    cdb
}

const READY: &[u8] = &[0x00];
const WRITE: &[u8] = &[0x2A, 0, 0, 0, 0, 8, 0, 0, 8, 0];

fn start(unit: &mut LogicalUnit, id: NexusId, bytes: &[u8]) -> Started {
    unit.start(id, Lun::ZERO, &cdb(bytes))
}

fn accepted(unit: &mut LogicalUnit, id: NexusId, bytes: &[u8]) -> Accepted {
    match start(unit, id, bytes) {
        Started::Accepted(accepted) => accepted,
        Started::Complete(reply) => panic!("{reply:?}"),
    }
}

/// Runs a command to its end against storage that answers `Done`.
fn run(unit: &mut LogicalUnit, id: NexusId, bytes: &[u8], list: &[u8]) -> Reply {
    let accepted = match start(unit, id, bytes) {
        Started::Complete(reply) => return reply,
        Started::Accepted(accepted) => accepted,
    };
    match unit.execute(id, &accepted.command, list).dispatch {
        Dispatch::Complete(reply) => reply,
        Dispatch::Block(_) => unit.finish(id, &accepted.command, BlockResponse::Done),
    }
}

/// Additional sense code and qualifier of fixed sense data.
fn code(reply: &Reply) -> (u8, u8) {
    assert_eq!(reply.status, Status::CheckCondition, "{reply:?}");
    assert_eq!(reply.sense[0] & 0x7F, 0x70);
    (reply.sense[12], reply.sense[13])
}

/// A unit with two nexuses whose first unit attention was taken.
fn two_hosts() -> (LogicalUnit, NexusId, NexusId) {
    let mut unit = unit_with(&[]);
    let a = unit.nexus_added(nexus("a"));
    let b = unit.nexus_added(nexus("b"));
    for id in [a, b] {
        assert_eq!(code(&run(&mut unit, id, READY, &[])), (0x29, 0x00));
        assert_eq!(run(&mut unit, id, READY, &[]).status, Status::Good);
    }
    (unit, a, b)
}

/// A PERSISTENT RESERVE OUT with its list.
fn reserve_out(action: u8, kind: u8, key: u64, action_key: u64, flags: u8) -> ([u8; 16], Vec<u8>) {
    let mut list = vec![0; 24];
    list[..8].copy_from_slice(&key.to_be_bytes());
    list[8..16].copy_from_slice(&action_key.to_be_bytes());
    list[20] = flags;
    (cdb(&[0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0]), list)
}

fn persist(unit: &mut LogicalUnit, id: NexusId, ask: ([u8; 16], Vec<u8>)) -> Status {
    run(unit, id, &ask.0, &ask.1).status
}

#[test]
fn a_new_nexus_hears_of_power_on_once_and_inquiry_goes_first() {
    let mut unit = unit_with(&[]);
    let id = unit.nexus_added(nexus("a"));
    let inquiry = run(&mut unit, id, &[0x12, 0, 0, 0, 96], &[]);
    assert_eq!((inquiry.status, inquiry.data.bytes()), (Status::Good, 96));
    let luns = run(&mut unit, id, &[0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 16], &[]);
    assert_eq!(luns.status, Status::Good);
    assert_eq!(code(&run(&mut unit, id, READY, &[])), (0x29, 0x00));
    assert_eq!(run(&mut unit, id, READY, &[]).status, Status::Good);
}

#[test]
fn request_sense_tells_and_takes_the_attention() {
    let mut unit = unit_with(&[]);
    let id = unit.nexus_added(nexus("a"));
    let ask = [0x03, 0, 0, 0, 18];
    let ReplyData::Parameters(sense) = run(&mut unit, id, &ask, &[]).data else {
        panic!("sense data");
    };
    assert_eq!((sense.len(), sense[2], sense[12]), (18, 6, 0x29));
    let ReplyData::Parameters(sense) = run(&mut unit, id, &ask, &[]).data else {
        panic!("sense data");
    };
    assert_eq!((sense[2], sense[12]), (0, 0));
}

#[test]
fn resets_are_told_to_everyone_and_end_reserve() {
    let rows = [
        (Reset::Unit, (0x29, 0x03)),
        (Reset::TargetWarm, (0x29, 0x02)),
        (Reset::TargetCold, (0x29, 0x00)),
    ];
    for (kind, expected) in rows {
        let (mut unit, a, b) = two_hosts();
        assert_eq!(run(&mut unit, a, &[0x16], &[]).status, Status::Good);
        assert_eq!(
            run(&mut unit, b, READY, &[]).status,
            Status::ReservationConflict
        );
        unit.reset(kind);
        for id in [a, b] {
            assert_eq!(code(&run(&mut unit, id, READY, &[])), expected);
            assert_eq!(run(&mut unit, id, READY, &[]).status, Status::Good);
        }
    }
}

#[test]
fn reserve_ends_with_its_nexus() {
    let (mut unit, a, b) = two_hosts();
    assert_eq!(run(&mut unit, a, &[0x16], &[]).status, Status::Good);
    assert_eq!(
        run(&mut unit, b, &[0x16], &[]).status,
        Status::ReservationConflict
    );
    assert_eq!(run(&mut unit, b, &[0x17], &[]).status, Status::Good);
    assert_eq!(
        run(&mut unit, b, WRITE, &[]).status,
        Status::ReservationConflict
    );
    unit.nexus_lost(a);
    assert_eq!(run(&mut unit, b, &[0x16], &[]).status, Status::Good);
}

#[test]
fn changes_are_told_to_the_others() {
    let (mut unit, a, b) = two_hosts();
    let list = [0, 0, 0, 0, 0x0A, 10, 2, 0x10, 8, 0, 0, 0, 0, 0, 0, 0];
    let select = [0x15, 0x10, 0, 0, 16];
    assert_eq!(run(&mut unit, a, &select, &list).status, Status::Good);
    assert_eq!(run(&mut unit, a, READY, &[]).status, Status::Good);
    assert_eq!(code(&run(&mut unit, b, READY, &[])), (0x2A, 0x01));
    // SWP holds for everyone.
    assert_eq!(code(&run(&mut unit, b, WRITE, &[])), (0x27, 0x02));
    unit.commands_cleared(b);
    assert_eq!(code(&run(&mut unit, b, READY, &[])), (0x2F, 0x00));
    unit.capacity_changed(2 << 30);
    for id in [a, b] {
        assert_eq!(code(&run(&mut unit, id, READY, &[])), (0x2A, 0x09));
    }
    assert_eq!(unit.geometry().blocks(), 4 << 20);
}

#[test]
fn sense_follows_the_control_page() {
    let (mut unit, a, _) = two_hosts();
    let list = [0, 0, 0, 0, 0x0A, 10, 6, 0x10, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(
        run(&mut unit, a, &[0x15, 0x10, 0, 0, 16], &list).status,
        Status::Good
    );
    let reply = run(&mut unit, a, &[0x28, 0xE0], &[]);
    assert_eq!(reply.sense[..4], [0x72, 5, 0x24, 0x00]);
    assert_eq!(reply.sense[8..], [2, 6, 0, 0, 0xCF, 0, 1, 0]);
}

#[test]
fn a_fenced_host_does_not_write_what_was_on_its_way() {
    let (mut unit, a, b) = two_hosts();
    assert_eq!(
        persist(&mut unit, a, reserve_out(0, 0, 0, 1, 0)),
        Status::Good
    );
    assert_eq!(
        persist(&mut unit, b, reserve_out(0, 0, 0, 2, 0)),
        Status::Good
    );
    assert_eq!(
        persist(&mut unit, b, reserve_out(1, 5, 2, 0, 0)),
        Status::Good
    );
    let write = accepted(&mut unit, a, WRITE);
    let (bytes, list) = reserve_out(5, 5, 2, 1, 0);
    let preempt = accepted(&mut unit, b, &bytes);
    let executed = unit.execute(b, &preempt.command, &list);
    assert_eq!(
        executed.dispatch,
        Dispatch::Complete(Reply::status(Status::Good))
    );
    assert_eq!(executed.aborted, [a]);
    let late = unit.execute(a, &write.command, &[]);
    assert_eq!(
        late.dispatch,
        Dispatch::Complete(Reply::status(Status::ReservationConflict))
    );
    assert_eq!(code(&run(&mut unit, a, READY, &[])), (0x2A, 0x05));
    assert_eq!(
        run(&mut unit, a, WRITE, &[]).status,
        Status::ReservationConflict
    );
    assert_eq!(run(&mut unit, b, WRITE, &[]).status, Status::Good);
}

#[test]
fn registrations_survive_power_loss_when_asked_and_are_good_only_when_kept() {
    let (mut unit, a, _) = two_hosts();
    let (bytes, list) = reserve_out(0, 0, 0, 1, 0x01);
    let register = accepted(&mut unit, a, &bytes);
    let Dispatch::Block(BlockRequest::SaveAttributes(_)) =
        unit.execute(a, &register.command, &list).dispatch
    else {
        panic!("GOOD before it is durable");
    };
    let reply = unit.finish(a, &register.command, BlockResponse::Done);
    assert_eq!(reply.status, Status::Good);
    let (bytes, list) = reserve_out(1, 1, 1, 0, 0);
    let reserve = accepted(&mut unit, a, &bytes);
    let Dispatch::Block(BlockRequest::SaveAttributes(blob)) =
        unit.execute(a, &reserve.command, &list).dispatch
    else {
        panic!("a reservation of persistent registrants is kept too");
    };
    let failed = unit.finish(a, &reserve.command, BlockResponse::Failed);
    assert_eq!(failed.status, Status::CheckCondition);

    let mut restarted = unit_with(&blob);
    let a = restarted.nexus_added(nexus("a"));
    let b = restarted.nexus_added(nexus("b"));
    for id in [a, b] {
        assert_eq!(code(&run(&mut restarted, id, READY, &[])), (0x29, 0x00));
    }
    assert_eq!(run(&mut restarted, a, WRITE, &[]).status, Status::Good);
    assert_eq!(
        run(&mut restarted, b, WRITE, &[]).status,
        Status::ReservationConflict
    );
}

#[test]
fn other_luns_have_no_unit() {
    let (mut unit, a, _) = two_hosts();
    let one = Lun([0, 1, 0, 0, 0, 0, 0, 0]);
    let mut reply = |bytes: &[u8]| match unit.start(a, one, &cdb(bytes)) {
        Started::Complete(reply) => reply,
        Started::Accepted(accepted) => panic!("{accepted:?}"),
    };
    assert_eq!(code(&reply(READY)), (0x25, 0x00));
    assert_eq!(code(&reply(&[0x28])), (0x25, 0x00));
    let ReplyData::Parameters(data) = reply(&[0x12, 0, 0, 0, 36]).data else {
        panic!("inquiry data");
    };
    assert_eq!((data.len(), data[0]), (36, 0x7F));
    let ReplyData::Parameters(data) = reply(&[0x03, 0, 0, 0, 18]).data else {
        panic!("sense data");
    };
    assert_eq!((data[2], data[12]), (5, 0x25));
    assert!(Lun([0x40, 0, 0, 0, 0, 0, 0, 0]).is_zero());
    assert!(!Lun([0x40, 1, 0, 0, 0, 0, 0, 0]).is_zero());
    assert!(!Lun([0xC1, 1, 0, 0, 0, 0, 0, 0]).is_zero());
}

#[test]
fn writes_are_cut_at_what_the_host_announced() {
    let (mut unit, a, _) = two_hosts();
    let range = |bytes| ByteRange {
        offset: 4096,
        bytes,
    };
    let rows = [
        (8192, Ok(range(4096))),
        (4096, Ok(range(4096))),
        (512, Ok(range(512))),
        (0, Ok(range(0))),
        (200, Err((0x0E, 0x03))),
        (4095, Err((0x0E, 0x03))),
    ];
    for (announced, expected) in rows {
        let write = accepted(&mut unit, a, WRITE);
        let found = unit.announced(write, announced);
        let found = found.map(|accepted| accepted.command);
        let found = found.map_err(|sense| (sense.code.0, sense.code.1));
        assert_eq!(found, expected.map(Command::Write), "{announced}");
    }
    let atomic = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    for (announced, fits) in [(512, false), (1024, true), (2048, false), (0, false)] {
        let command = accepted(&mut unit, a, &atomic);
        assert_eq!(unit.announced(command, announced).is_ok(), fits);
    }
    let read = accepted(&mut unit, a, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(unit.announced(read.clone(), 0), Ok(read));
}

#[test]
fn readiness_is_asked_again_after_storage_refused() {
    let (mut unit, a, _) = two_hosts();
    let write = accepted(&mut unit, a, WRITE);
    let reply = unit.finish(a, &write.command, BlockResponse::NotReady);
    assert_eq!(code(&reply), (0x04, 0x00));
    let ready = accepted(&mut unit, a, READY);
    let probe = Dispatch::Block(BlockRequest::Flush);
    assert_eq!(unit.execute(a, &ready.command, &[]).dispatch, probe);
    let reply = unit.finish(a, &ready.command, BlockResponse::Failed);
    assert_eq!(code(&reply), (0x44, 0x00));
    assert_eq!(unit.execute(a, &ready.command, &[]).dispatch, probe);
    let reply = unit.finish(a, &ready.command, BlockResponse::Done);
    assert_eq!(reply.status, Status::Good);
    assert_ne!(unit.execute(a, &ready.command, &[]).dispatch, probe);
}

/// A small generator (SplitMix64): the same seed gives the same bytes for ever.
struct Seed(u64);

impl Seed {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }

    fn byte(&mut self) -> u8 {
        // Small values reach deeper than uniform ones.
        let value = self.next().to_le_bytes();
        match value[1] % 4 {
            0 => 0,
            1 => value[0] % 8,
            2 => value[0] % 64,
            _ => value[0],
        }
    }
}

fn any_response(seed: &mut Seed) -> BlockResponse {
    match seed.below(8) {
        0 => BlockResponse::Miscompare {
            offset: seed.next(),
        },
        1 => BlockResponse::MediumError {
            offset: seed.next(),
        },
        2 => BlockResponse::NoSpace,
        3 => BlockResponse::Failed,
        4 => BlockResponse::NotReady,
        5 => BlockResponse::Busy,
        6 => BlockResponse::Provisioning(Vec::new()),
        _ => BlockResponse::Done,
    }
}

fn check_reply(reply: &Reply, transfer: Transfer) {
    assert_eq!(
        reply.sense.is_empty(),
        reply.status != Status::CheckCondition
    );
    assert!(reply.sense.len() <= 252);
    let most = match transfer {
        Transfer::PayloadToHost { bytes } | Transfer::ParametersToHost { bytes_max: bytes } => {
            bytes
        }
        _ => 0,
    };
    assert!(reply.data.bytes() <= usize::try_from(most).expect("64 bits"));
}

/// Goal: no bytes from a host make the unit panic, give more than was asked for, or ask storage for
/// something outside the disk. Method: random CDBs of known operation codes with random lists, two
/// nexuses, random answers of storage. `HOLDFAST_FUZZ_ROUNDS` and `HOLDFAST_FUZZ_SEED` make it long.
#[test]
fn any_cdb_and_any_list_are_answered_within_bounds() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let rounds: u64 = number("HOLDFAST_FUZZ_ROUNDS").unwrap_or(100_000);
    let first: u64 = number("HOLDFAST_FUZZ_SEED").unwrap_or(1);
    std::println!("seed {first}, {rounds} rounds");
    let mut seed = Seed(first);
    let (mut unit, a, b) = two_hosts();
    for _ in 0..rounds {
        let id = if seed.below(2) == 0 { a } else { b };
        let mut bytes: [u8; 16] = core::array::from_fn(|_| seed.byte());
        if seed.below(16) > 0 {
            let row = &ROWS[seed.below(ROWS.len())];
            bytes[0] = row.usage[0];
            if let Some(action) = row.action {
                bytes[1] = (bytes[1] & 0xE0) | action;
            }
        }
        any_command(&mut unit, id, &bytes, &mut seed);
        if seed.below(1000) == 0 {
            unit.reset(Reset::Unit);
        }
    }
}

fn any_command(unit: &mut LogicalUnit, id: NexusId, bytes: &[u8; 16], seed: &mut Seed) {
    let accepted = match unit.start(id, Lun::ZERO, bytes) {
        Started::Complete(reply) => return check_reply(&reply, Transfer::None),
        Started::Accepted(accepted) => accepted,
    };
    let list_bytes = match accepted.transfer {
        Transfer::ParametersFromHost { bytes } => usize::try_from(bytes).expect("64 bits"),
        Transfer::PayloadFromHost { bytes } | Transfer::PayloadToHost { bytes } => {
            assert!(usize::try_from(bytes).expect("64 bits") <= TRANSFER_BYTES_MAX);
            0
        }
        _ => 0,
    };
    assert!(list_bytes <= PARAMETER_LIST_BYTES_MAX);
    let list: Vec<u8> = (0..list_bytes).map(|_| seed.byte()).collect();
    let reply = match unit.execute(id, &accepted.command, &list).dispatch {
        Dispatch::Complete(reply) => reply,
        Dispatch::Block(request) => {
            check_request(&request);
            unit.finish(id, &accepted.command, any_response(seed))
        }
    };
    check_reply(&reply, accepted.transfer);
}

fn check_request(request: &BlockRequest) {
    let inside = |range: &ByteRange| {
        assert!(range.bytes > 0);
        assert!(range.offset + range.bytes <= 1 << 30);
        assert!(range.offset.is_multiple_of(512) && range.bytes.is_multiple_of(512));
    };
    match request {
        BlockRequest::Read(range)
        | BlockRequest::Write(range)
        | BlockRequest::WriteSame(range)
        | BlockRequest::WriteZeros(range)
        | BlockRequest::CompareAndWrite(range)
        | BlockRequest::Verify(range)
        | BlockRequest::Compare(range)
        | BlockRequest::CompareSame(range)
        | BlockRequest::WriteAndVerify(range)
        | BlockRequest::Prefetch(range) => inside(range),
        BlockRequest::Unmap(ranges) => ranges.iter().for_each(inside),
        BlockRequest::Provisioning { offset, .. } => assert!(*offset < 1 << 30),
        BlockRequest::Flush => {}
        BlockRequest::SaveAttributes(blob) => {
            assert!(blob.len() <= holdfast_core::limits::ATTRIBUTES_BYTES_MAX);
        }
    }
}
