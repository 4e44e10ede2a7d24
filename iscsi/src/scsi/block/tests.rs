//! UNMAP lists, requests of zero blocks, and every answer of storage.

use super::{Answer, answer, request};
use crate::request::{BlockRequest, BlockResponse, ByteRange, ProvisionedRun};
use crate::scsi::cdb::{ByteCheck, Command, PowerChange, SameSource};
use crate::scsi::geometry::{Geometry, LogicalBlock};
use crate::scsi::limits::UNMAP_DESCRIPTORS_MAX;
use crate::scsi::reply::{Reply, ReplyData, Status};
use std::vec;
use std::vec::Vec;

fn geometry() -> Geometry {
    Geometry::new(1 << 30, LogicalBlock::Bytes512)
}

fn blocks(lba: u64, count: u64) -> ByteRange {
    ByteRange {
        offset: lba * 512,
        bytes: count * 512,
    }
}

/// An UNMAP list whose lengths are right.
fn list(descriptors: &[(u64, u32)]) -> Vec<u8> {
    let bytes = u16::try_from(descriptors.len() * 16).expect("a small list");
    let mut list = (bytes + 6).to_be_bytes().to_vec();
    list.extend(bytes.to_be_bytes());
    list.extend([0; 4]);
    for (lba, count) in descriptors {
        list.extend(lba.to_be_bytes());
        list.extend(count.to_be_bytes());
        list.extend([0; 4]);
    }
    list
}

/// The ranges of a list, or code, qualifier and byte of the refusal.
fn unmap(list: &[u8]) -> Result<Vec<ByteRange>, (u8, u8, Option<u16>)> {
    match request(&Command::Unmap { bytes: 0 }, list, &geometry()) {
        Ok(None) => Ok(Vec::new()),
        Ok(Some(BlockRequest::Unmap(ranges))) => Ok(ranges),
        Ok(Some(other)) => panic!("{other:?}"),
        Err(sense) => Err((sense.code.0, sense.code.1, sense.field.map(|f| f.byte))),
    }
}

#[test]
fn unmap_lists_are_read_up_to_their_limits() {
    const LAST: u64 = (1 << 21) - 1;
    assert_eq!(unmap(&[]), Ok(vec![]));
    assert_eq!(unmap(&list(&[])), Ok(vec![]));
    assert_eq!(unmap(&[0; 7]), Err((0x1A, 0x00, None)));
    assert_eq!(
        unmap(&list(&[(1, 2), (9, 0), (LAST, 1)])),
        Ok(vec![blocks(1, 2), blocks(LAST, 1)])
    );
    assert_eq!(unmap(&list(&[(LAST, 2)])), Err((0x21, 0x00, None)));
    assert_eq!(unmap(&list(&[(LAST + 2, 0)])), Err((0x21, 0x00, None)));
    assert_eq!(unmap(&list(&[(u64::MAX, 1)])), Err((0x21, 0x00, None)));
    // 512 MiB in sum, and one block more.
    assert_eq!(unmap(&list(&[(0, 1 << 20)])), Ok(vec![blocks(0, 1 << 20)]));
    assert_eq!(
        unmap(&list(&[(0, 1 << 20), (1 << 20, 1)])),
        Err((0x26, 0x00, Some(32)))
    );
    let many = vec![(7, 1); UNMAP_DESCRIPTORS_MAX];
    assert_eq!(
        unmap(&list(&many)).map(|ranges| ranges.len()),
        Ok(UNMAP_DESCRIPTORS_MAX)
    );
    let too_many = vec![(7, 1); UNMAP_DESCRIPTORS_MAX + 1];
    assert_eq!(unmap(&list(&too_many)), Err((0x26, 0x00, Some(2))));
    // The last descriptor is cut short: it is ignored.
    let cut = list(&[(1, 1), (2, 1)]);
    assert_eq!(unmap(&cut[..39]), Ok(vec![blocks(1, 1)]));
}

#[test]
fn neighbours_of_an_unmap_list_are_one_range() {
    assert_eq!(
        unmap(&list(&[(8, 1), (9, 1), (11, 1), (10, 1), (11, 5)])),
        Ok(vec![blocks(8, 2), blocks(11, 1), blocks(10, 6)])
    );
}

#[test]
fn commands_of_no_blocks_ask_nothing_of_storage() {
    let none = blocks(5, 0);
    for command in [
        Command::Read(none),
        Command::Write(none),
        Command::WriteAndVerify(none),
        Command::CompareAndWrite(none),
        Command::Prefetch(none),
        Command::Verify {
            range: none,
            check: ByteCheck::Same,
        },
        Command::SynchronizeCache { immediate: true },
        Command::StartStopUnit(PowerChange::Start),
    ] {
        assert_eq!(request(&command, &[], &geometry()), Ok(None), "{command:?}");
    }
}

#[test]
fn commands_become_their_requests() {
    let range = blocks(3, 4);
    let verify = |check| Command::Verify { range, check };
    let same = |source| Command::WriteSame { range, source };
    let rows = [
        (Command::Read(range), BlockRequest::Read(range)),
        (Command::Write(range), BlockRequest::Write(range)),
        (
            Command::WriteAndVerify(range),
            BlockRequest::WriteAndVerify(range),
        ),
        (
            Command::CompareAndWrite(range),
            BlockRequest::CompareAndWrite(range),
        ),
        (Command::Prefetch(range), BlockRequest::Prefetch(range)),
        (verify(ByteCheck::Medium), BlockRequest::Verify(range)),
        (verify(ByteCheck::Each), BlockRequest::Compare(range)),
        (verify(ByteCheck::Same), BlockRequest::CompareSame(range)),
        (same(SameSource::Host), BlockRequest::WriteSame(range)),
        (same(SameSource::Zeros), BlockRequest::WriteZeros(range)),
        (
            Command::SynchronizeCache { immediate: false },
            BlockRequest::Flush,
        ),
        (
            Command::StartStopUnit(PowerChange::Stop),
            BlockRequest::Flush,
        ),
        (
            Command::GetLbaStatus {
                offset: 512,
                allocation: 40,
            },
            BlockRequest::Provisioning {
                offset: 512,
                descriptors_max: 2,
            },
        ),
    ];
    for (command, expected) in rows {
        assert_eq!(request(&command, &[], &geometry()), Ok(Some(expected)));
    }
}

/// Key, code, qualifier and INFORMATION of a refusal.
fn refusal(command: &Command, response: &BlockResponse) -> Option<(u8, u8, u8, Option<u64>)> {
    match answer(command, response, &geometry()) {
        Err(Answer::Check(sense)) => {
            assert_eq!(sense.field, None);
            Some((
                sense.key as u8,
                sense.code.0,
                sense.code.1,
                sense.information,
            ))
        }
        Err(Answer::Busy) => None,
        Ok(reply) => panic!("{reply:?}"),
    }
}

#[test]
fn storage_failures_have_their_sense() {
    let read = Command::Read(blocks(0, 8));
    let write = Command::Write(blocks(0, 8));
    let atomic = Command::CompareAndWrite(blocks(0, 8));
    let verify = Command::Verify {
        range: blocks(0, 8),
        check: ByteCheck::Each,
    };
    let miscompare = BlockResponse::Miscompare { offset: 700 };
    let medium = BlockResponse::MediumError { offset: 1500 };
    let rows = [
        (&read, medium.clone(), Some((3, 0x11, 0x00, Some(2)))),
        (&write, medium, Some((3, 0x11, 0x00, Some(2)))),
        (
            &atomic,
            miscompare.clone(),
            Some((0xE, 0x1D, 0x00, Some(700))),
        ),
        (&verify, miscompare, Some((0xE, 0x1D, 0x00, None))),
        (&write, BlockResponse::NoSpace, Some((7, 0x27, 0x07, None))),
        (&write, BlockResponse::Failed, Some((4, 0x0C, 0x00, None))),
        (&read, BlockResponse::Failed, Some((4, 0x44, 0x00, None))),
        (&read, BlockResponse::NotReady, Some((2, 0x04, 0x00, None))),
        (&read, BlockResponse::Busy, None),
    ];
    for (command, response, expected) in rows {
        assert_eq!(
            refusal(command, &response),
            expected,
            "{command:?} {response:?}"
        );
    }
}

#[test]
fn success_carries_the_data_there_is() {
    let done = |command: &Command| answer(command, &BlockResponse::Done, &geometry());
    let read = done(&Command::Read(blocks(0, 8))).expect("good");
    assert_eq!(read.data, ReplyData::Payload { bytes: 4096 });
    let write = done(&Command::Write(blocks(0, 8)));
    assert_eq!(write, Ok(Reply::status(Status::Good)));
    let ask = Command::GetLbaStatus {
        offset: 0,
        allocation: 20,
    };
    let runs = vec![ProvisionedRun {
        bytes: 512,
        mapped: true,
    }];
    let status = answer(&ask, &BlockResponse::Provisioning(runs), &geometry()).expect("good");
    assert_eq!(status.data.bytes(), 20); // Cut to the allocation length.
}
