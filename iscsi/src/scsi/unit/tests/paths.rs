//! A unit with several paths: what a standby path does, and what a host notices of a change.

use super::{READY, WRITE, accepted, cdb, nexus, run, start, unit_with};
use crate::request::{BlockRequest, BlockResponse};
use crate::scsi::alua::{AccessState, Paths, PortGroup};
use crate::scsi::nexus::{Lun, TargetPort};
use crate::scsi::reply::{Dispatch, Reply, ReplyData, Status};
use crate::scsi::unit::{Keeping, LogicalUnit, Started};
use std::vec;
use std::vec::Vec;

/// Three paths, ours of number 20.
fn paths(active: u16) -> Paths {
    let group = |port| PortGroup {
        port: TargetPort(port),
        state: if port == active {
            AccessState::ActiveOptimized
        } else {
            AccessState::Standby
        },
    };
    Paths::new(TargetPort(20), [30, 10, 20].map(group).to_vec()).expect("three ports")
}

fn standby() -> LogicalUnit {
    let mut unit = unit_with(&[]);
    unit.set_paths(paths(10));
    unit
}

fn sense(reply: &Reply) -> (u8, u8, u8) {
    assert_eq!(reply.status, Status::CheckCondition);
    (reply.sense[2], reply.sense[12], reply.sense[13])
}

fn refused(unit: &mut LogicalUnit, bytes: &[u8]) -> Option<(u8, u8, u8)> {
    let id = unit.nexus_added(nexus("host"));
    let _ = start(unit, id, READY); // The power on attention.
    let outcome = match start(unit, id, bytes) {
        Started::Accepted(_) => None,
        Started::Complete(reply) => Some(sense(&reply)),
    };
    unit.nexus_lost(id);
    outcome
}

const STANDBY: (u8, u8, u8) = (0x2, 0x04, 0x0B);

#[test]
fn a_standby_path_tells_and_does_nothing() {
    let mut unit = standby();
    let tells: [&[u8]; 9] = [
        &[0x12, 0, 0, 0, 96, 0],
        &[0x12, 1, 0x83, 0, 255, 0],
        &[0x03, 0, 0, 0, 18, 0],
        &[0x1A, 0, 0x3F, 0, 255, 0],
        &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0],
        &[0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0],
        &[0xA3, 0x0A, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0],
        &[0xA3, 0x0C, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0],
    ];
    for bytes in tells {
        assert_eq!(refused(&mut unit, bytes), None, "{bytes:02x?}");
    }
    let does: [&[u8]; 10] = [
        READY,
        WRITE,
        &[0x28, 0, 0, 0, 0, 8, 0, 0, 8, 0],
        &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0],
        &[0x93, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0],
        &[0x9E, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0],
        &[0x2F, 0, 0, 0, 0, 0, 0, 0, 8, 0],
        &[0x5E, 0, 0, 0, 0, 0, 0, 0, 64, 0],
        &[0x16, 0, 0, 0, 0, 0],
    ];
    for bytes in does {
        assert_eq!(refused(&mut unit, bytes), Some(STANDBY), "{bytes:02x?}");
    }
    unit.set_paths(paths(20));
    for bytes in does {
        assert_eq!(refused(&mut unit, bytes), None, "{bytes:02x?}");
    }
}

#[test]
fn every_path_tells_of_all_and_of_itself() {
    let mut unit = standby();
    let id = unit.nexus_added(nexus("host"));
    let _ = start(&mut unit, id, READY);
    let report = run(
        &mut unit,
        id,
        &[0xA3, 0x0A, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0],
        &[],
    );
    let ReplyData::Parameters(data) = report.data else {
        panic!("a report")
    };
    let group = |state, port| [state, 9, 0, port, 0, 2, 0, 1, 0, 0, 0, port];
    let expected = [
        vec![0, 0, 0, 36],
        group(0, 10).into(),
        group(2, 20).into(),
        group(2, 30).into(),
    ];
    assert_eq!(data, expected.concat());
    // VPD 83: relative target port and target port group are ours.
    let page = run(&mut unit, id, &[0x12, 1, 0x83, 0, 255, 0], &[]);
    let ReplyData::Parameters(page) = page.data else {
        panic!("a page")
    };
    for kind in [0x94, 0x95] {
        let own = [0x51, kind, 0, 4, 0, 0, 0, 20];
        assert!(page.windows(8).any(|window| window == own), "{kind:02x}");
    }
}

#[test]
fn a_host_is_told_once_that_the_active_path_is_another() {
    let mut unit = standby();
    let id = unit.nexus_added(nexus("host"));
    let _ = start(&mut unit, id, READY);
    unit.set_paths(paths(10)); // The same.
    unit.set_paths(paths(20));
    let Started::Complete(reply) = start(&mut unit, id, READY) else {
        panic!("a unit attention")
    };
    assert_eq!(sense(&reply), (0x6, 0x2A, 0x06));
    let _ = accepted(&mut unit, id, READY);
}

#[test]
fn a_command_on_its_way_when_the_path_becomes_standby_is_sent_to_the_other() {
    let mut unit = unit_with(&[]);
    unit.set_paths(paths(20));
    let id = unit.nexus_added(nexus("host"));
    let _ = start(&mut unit, id, READY);
    let write = accepted(&mut unit, id, WRITE);
    let read = accepted(&mut unit, id, &[0x28, 0, 0, 0, 0, 8, 0, 0, 8, 0]);
    let executed = unit.execute(id, &read.command, &[]);
    assert!(matches!(
        executed.dispatch,
        Dispatch::Block(BlockRequest::Read(_))
    ));
    unit.set_paths(paths(30));
    // Its data arrives now.
    let Dispatch::Complete(reply) = unit.execute(id, &write.command, &[]).dispatch else {
        panic!("nothing is written")
    };
    assert_eq!(sense(&reply), STANDBY);
    // Storage stopped serving.
    let reply = unit.finish(id, &read.command, BlockResponse::NotReady);
    assert_eq!(sense(&reply), STANDBY);
    // What was done is done.
    let reply = unit.finish(id, &read.command, BlockResponse::Done);
    assert_eq!(reply.status, Status::Good);
}

/// PERSISTENT RESERVE OUT with a key, without APTPL; gives what is saved.
fn reserve_out(unit: &mut LogicalUnit, action: u8, key: u8, list_key: u8) -> Option<Vec<u8>> {
    let id = unit.nexus_added(nexus("host"));
    let _ = start(unit, id, READY);
    let mut list = [0; 24];
    list[7] = key;
    list[15] = list_key;
    let command = accepted(unit, id, &[0x5F, action, 3, 0, 0, 0, 0, 0, 24, 0]).command;
    let dispatch = unit.execute(id, &command, &list).dispatch;
    unit.nexus_lost(id);
    match dispatch {
        Dispatch::Block(BlockRequest::SaveAttributes(blob)) => Some(blob),
        Dispatch::Block(other) => panic!("{other:?}"),
        Dispatch::Complete(reply) => {
            assert_eq!(reply.status, Status::Good);
            None
        }
    }
}

#[test]
fn reservations_go_with_the_unit_to_the_next_node() {
    let mut here = unit_with(&[]);
    assert_eq!(reserve_out(&mut here, 0, 0, 9), None); // One node only, no APTPL.
    here.set_keeping(Keeping::All);
    let registered = reserve_out(&mut here, 0, 9, 9).expect("saved");
    let reserved = reserve_out(&mut here, 1, 9, 0).expect("saved");
    assert_ne!(registered, reserved);
    // There, another host is kept out and the holder is not.
    let mut there = unit_with(&[]);
    there.take_over(&reserved).expect("readable");
    let other = there.nexus_added(nexus("other"));
    let _ = start(&mut there, other, READY);
    let Started::Complete(reply) = there.start(other, Lun::ZERO, &cdb(WRITE)) else {
        panic!("a conflict")
    };
    assert_eq!(reply.status, Status::ReservationConflict);
    assert_eq!(refused(&mut there, WRITE), None);
    assert!(there.take_over(b"nonsense").is_err());
}
