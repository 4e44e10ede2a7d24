//! The unit as its sessions see it: unit attentions, fencing, LUNs, cut writes.

mod fuzz;
mod paths;

use super::{Accepted, Keeping, LogicalUnit, Reset, Started, UnitConfig};
use crate::request::{BlockRequest, BlockResponse, ByteRange};
use crate::scsi::cdb::Command;
use crate::scsi::geometry::LogicalBlock;
use crate::scsi::nexus::{InitiatorPort, Lun, Nexus, NexusId, TARGET_PORT};
use crate::scsi::reply::{Dispatch, Reply, ReplyData, Status};
use holdfast_core::id::VolumeId;
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
        keeping: Keeping::Wanted,
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
    unit.capacity_changed(2 << 30);
    assert_eq!(run(&mut unit, a, READY, &[]).status, Status::Good);
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
    let same = [0x41, 0, 0, 0, 0, 0, 0, 0, 8];
    for (announced, fits) in [(256, false), (512, true), (1024, false)] {
        let command = accepted(&mut unit, a, &same);
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
