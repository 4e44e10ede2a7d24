//! Any bytes at all from two hosts, and any answer of storage.

use super::two_hosts;
use crate::request::{BlockRequest, BlockResponse, ByteRange};
use crate::scsi::limits::PARAMETER_LIST_BYTES_MAX;
use crate::scsi::nexus::{Lun, NexusId};
use crate::scsi::opcode::ROWS;
use crate::scsi::reply::{Dispatch, Reply, Status, Transfer};
use crate::scsi::unit::{LogicalUnit, Reset, Started};
use holdfast_core::limits::TRANSFER_BYTES_MAX;
use std::vec::Vec;

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
        | BlockRequest::OrWrite(range)
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
