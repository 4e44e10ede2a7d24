//! CDB bytes and what they mean: limits, one past them, and every refused field.

use super::{
    BlockDescriptor, ByteCheck, Command, ModeForm, ModeSense, PageControl, PowerChange, SameSource,
    decode,
};
use crate::request::ByteRange;
use crate::scsi::geometry::{Geometry, LogicalBlock};
use crate::scsi::reply::Transfer;
use crate::scsi::sense::{AdditionalSense, FieldSource, Sense, SenseFormat};

const MIB: u64 = 1 << 20;

fn geometry() -> Geometry {
    Geometry::new(1024 * MIB, LogicalBlock::Bytes512)
}

const LAST: u32 = 2 * 1024 * 1024 - 1;

fn cdb(bytes: &[u8]) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[..bytes.len()].copy_from_slice(bytes);
    cdb
}

fn ten(code: u8, flags: u8, lba: u32, count: u16) -> [u8; 16] {
    let mut bytes = cdb(&[code, flags]);
    bytes[2..6].copy_from_slice(&lba.to_be_bytes());
    bytes[7..9].copy_from_slice(&count.to_be_bytes());
    bytes
}

fn twelve(code: u8, flags: u8, lba: u32, count: u32) -> [u8; 16] {
    let mut bytes = cdb(&[code, flags]);
    bytes[2..6].copy_from_slice(&lba.to_be_bytes());
    bytes[6..10].copy_from_slice(&count.to_be_bytes());
    bytes
}

fn sixteen(code: u8, flags: u8, lba: u64, count: u32) -> [u8; 16] {
    let mut bytes = cdb(&[code, flags]);
    bytes[2..10].copy_from_slice(&lba.to_be_bytes());
    bytes[10..14].copy_from_slice(&count.to_be_bytes());
    bytes
}

fn blocks(lba: u64, count: u64) -> ByteRange {
    ByteRange {
        offset: lba * 512,
        bytes: count * 512,
    }
}

/// What a row expects: a command, or code, qualifier and field of a refusal.
type Expected = Result<Command, (u8, u8, Option<(u16, Option<u8>)>)>;

fn check(rows: &[(&str, [u8; 16], Expected)]) {
    for (name, bytes, expected) in rows {
        let found = decode(bytes, &geometry()).map_err(|sense: Sense| {
            let field = sense.field.map(|field| {
                assert_eq!(field.source, FieldSource::Cdb, "{name}");
                (field.byte, field.bit)
            });
            (sense.code.0, sense.code.1, field)
        });
        assert_eq!(found, *expected, "{name}");
    }
}

const OUT_OF_RANGE: Expected = Err((0x21, 0x00, None));

fn field(byte: u16, bit: Option<u8>) -> Expected {
    Err((0x24, 0x00, Some((byte, bit))))
}

#[test]
fn reads_and_writes_name_their_ranges() {
    let last = u64::from(LAST);
    check(&[
        (
            "read6",
            cdb(&[0x08, 0, 0, 5, 3]),
            Ok(Command::Read(blocks(5, 3))),
        ),
        (
            "read6 of 256",
            cdb(&[0x08, 0, 0, 0, 0]),
            Ok(Command::Read(blocks(0, 256))),
        ),
        (
            "read6 takes 21 bits",
            cdb(&[0x08, 0xFF, 0xFF, 0xFF, 1]),
            Ok(Command::Read(blocks(last, 1))),
        ),
        (
            "read6 past the end",
            cdb(&[0x08, 0x1F, 0xFF, 0xFF, 2]),
            OUT_OF_RANGE,
        ),
        (
            "read10",
            ten(0x28, 0x18, 7, 9),
            Ok(Command::Read(blocks(7, 9))),
        ),
        (
            "read10 of none",
            ten(0x28, 0, 7, 0),
            Ok(Command::Read(blocks(7, 0))),
        ),
        (
            "none behind the last",
            ten(0x28, 0, LAST + 1, 0),
            Ok(Command::Read(blocks(last + 1, 0))),
        ),
        ("none further on", ten(0x28, 0, LAST + 2, 0), OUT_OF_RANGE),
        (
            "the last",
            ten(0x28, 0, LAST, 1),
            Ok(Command::Read(blocks(last, 1))),
        ),
        ("one past", ten(0x28, 0, LAST, 2), OUT_OF_RANGE),
        ("rdprotect", ten(0x28, 0x20, 0, 1), field(1, Some(7))),
        (
            "4 MiB",
            ten(0x28, 0, 0, 8192),
            Ok(Command::Read(blocks(0, 8192))),
        ),
        ("4 MiB and a block", ten(0x28, 0, 0, 8193), field(7, None)),
        (
            "read12",
            twelve(0xA8, 0, 1, 2),
            Ok(Command::Read(blocks(1, 2))),
        ),
        ("read12 too long", twelve(0xA8, 0, 0, 8193), field(6, None)),
        (
            "read16",
            sixteen(0x88, 0, 1, 2),
            Ok(Command::Read(blocks(1, 2))),
        ),
        (
            "read16 too long",
            sixteen(0x88, 0, 0, 8193),
            field(10, None),
        ),
        ("read16 wraps", sixteen(0x88, 0, u64::MAX, 2), OUT_OF_RANGE),
        ("read16 at 2^63", sixteen(0x88, 0, 1 << 63, 0), OUT_OF_RANGE),
        (
            "write6",
            cdb(&[0x0A, 0, 0, 1, 1]),
            Ok(Command::Write(blocks(1, 1))),
        ),
        (
            "write10",
            ten(0x2A, 0x08, 1, 1),
            Ok(Command::Write(blocks(1, 1))),
        ),
        ("wrprotect", ten(0x2A, 0x80, 1, 1), field(1, Some(7))),
        (
            "write12",
            twelve(0xAA, 0, 1, 1),
            Ok(Command::Write(blocks(1, 1))),
        ),
        (
            "write16",
            sixteen(0x8A, 0, 1, 1),
            Ok(Command::Write(blocks(1, 1))),
        ),
        (
            "naca",
            cdb(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0x04]),
            field(9, Some(2)),
        ),
    ]);
}

#[test]
fn verifies_tell_what_is_compared() {
    let verify = |lba, count, check| {
        Ok(Command::Verify {
            range: blocks(lba, count),
            check,
        })
    };
    check(&[
        (
            "medium",
            ten(0x2F, 0, 1, 2),
            verify(1, 2, ByteCheck::Medium),
        ),
        ("each", ten(0x2F, 2, 1, 2), verify(1, 2, ByteCheck::Each)),
        ("same", twelve(0xAF, 6, 1, 2), verify(1, 2, ByteCheck::Same)),
        ("10b", sixteen(0x8F, 4, 1, 2), field(1, Some(2))),
        ("vrprotect", ten(0x2F, 0x20, 1, 2), field(1, Some(7))),
        (
            "all of it",
            sixteen(0x8F, 0, 0, LAST + 1),
            verify(0, u64::from(LAST) + 1, ByteCheck::Medium),
        ),
        ("each, too long", sixteen(0x8F, 2, 0, 8193), field(10, None)),
        ("past the end", ten(0x2F, 0, LAST, 2), OUT_OF_RANGE),
        (
            "write and verify",
            ten(0x2E, 0, 1, 1),
            Ok(Command::WriteAndVerify(blocks(1, 1))),
        ),
        (
            "with bytchk",
            twelve(0xAE, 2, 1, 1),
            Ok(Command::WriteAndVerify(blocks(1, 1))),
        ),
        ("with 10b", sixteen(0x8E, 4, 1, 1), field(1, Some(2))),
    ]);
}

#[test]
fn provisioning_commands_keep_their_limits() {
    let same = |lba, count, source| {
        Ok(Command::WriteSame {
            range: blocks(lba, count),
            source,
        })
    };
    let mut atomic = sixteen(0x89, 0, 3, 0);
    atomic[13] = 128;
    let mut atomic_long = atomic;
    atomic_long[13] = 129;
    check(&[
        (
            "write same",
            ten(0x41, 0, 1, 2),
            same(1, 2, SameSource::Host),
        ),
        (
            "unmapping",
            ten(0x41, 8, 1, 2),
            same(1, 2, SameSource::Host),
        ),
        (
            "orwrite",
            sixteen(0x8B, 0x18, 1, 2),
            Ok(Command::OrWrite(blocks(1, 2))),
        ),
        ("orprotect", sixteen(0x8B, 0x20, 1, 2), field(1, Some(7))),
        ("anchor", ten(0x41, 0x18, 1, 2), field(1, Some(4))),
        ("anchor alone", ten(0x41, 0x10, 1, 2), field(1, Some(4))),
        ("no number", ten(0x41, 0, 1, 0), field(7, None)),
        ("no number, 16", sixteen(0x93, 0, 1, 0), field(10, None)),
        (
            "ndob",
            sixteen(0x93, 1, 1, 2),
            same(1, 2, SameSource::Zeros),
        ),
        (
            "16 MiB",
            sixteen(0x93, 0, 0, 32768),
            same(0, 32768, SameSource::Host),
        ),
        (
            "16 MiB and a block",
            sixteen(0x93, 0, 0, 32769),
            field(10, None),
        ),
        ("wrprotect", sixteen(0x93, 0x20, 0, 1), field(1, Some(7))),
        (
            "write same past the end",
            ten(0x41, 0, LAST, 2),
            OUT_OF_RANGE,
        ),
        (
            "unmap",
            ten(0x42, 0, 0, 24),
            Ok(Command::Unmap { bytes: 24 }),
        ),
        ("unmap anchored", ten(0x42, 1, 0, 24), field(1, Some(0))),
        (
            "unmap, long list",
            ten(0x42, 0, 0, 8193),
            Err((0x1A, 0x00, None)),
        ),
        (
            "compare and write",
            atomic,
            Ok(Command::CompareAndWrite(blocks(3, 128))),
        ),
        ("compare and write, long", atomic_long, field(13, None)),
        (
            "lba status",
            sixteen(0x9E, 0x12, u64::from(LAST), 24),
            Ok(Command::GetLbaStatus {
                offset: u64::from(LAST) * 512,
                allocation: 24,
            }),
        ),
        (
            "lba status inside a physical block",
            sixteen(0x9E, 0x12, 9, 24),
            Ok(Command::GetLbaStatus {
                offset: 16 * 512,
                allocation: 24,
            }),
        ),
        (
            "lba status behind",
            sixteen(0x9E, 0x12, u64::from(LAST) + 1, 24),
            OUT_OF_RANGE,
        ),
        (
            "unknown service action",
            sixteen(0x9E, 0x1F, 0, 24),
            field(1, Some(4)),
        ),
        (
            "synchronize to the end",
            ten(0x35, 2, 5, 0),
            Ok(Command::SynchronizeCache { immediate: true }),
        ),
        ("synchronize behind", ten(0x35, 0, LAST, 2), OUT_OF_RANGE),
        (
            "prefetch to the end",
            sixteen(0x90, 0, u64::from(LAST), 0),
            Ok(Command::Prefetch(blocks(u64::from(LAST), 1))),
        ),
        (
            "prefetch of all",
            ten(0x34, 0, 0, 0),
            Ok(Command::Prefetch(blocks(0, 32768))),
        ),
        (
            "stop",
            cdb(&[0x1B, 1, 0, 0, 0]),
            Ok(Command::StartStopUnit(PowerChange::Stop)),
        ),
        (
            "start",
            cdb(&[0x1B, 0, 0, 0, 1]),
            Ok(Command::StartStopUnit(PowerChange::Start)),
        ),
        ("eject", cdb(&[0x1B, 0, 0, 0, 2]), field(4, Some(1))),
        (
            "power condition",
            cdb(&[0x1B, 0, 0, 0, 0x10]),
            field(4, Some(7)),
        ),
    ]);
}

#[test]
fn primary_commands_read_their_fields() {
    let mode = |form, descriptor, control, allocation| {
        Ok(Command::ModeSense(ModeSense {
            form,
            descriptor,
            control,
            page: 0x3F,
            subpage: 0xFF,
            allocation,
        }))
    };
    check(&[
        (
            "page without evpd",
            cdb(&[0x12, 0, 0x83, 0, 255]),
            field(2, None),
        ),
        ("cmddt", cdb(&[0x12, 2, 0, 0, 255]), field(1, Some(1))),
        (
            "inquiry",
            cdb(&[0x12, 1, 0x83, 2, 0]),
            Ok(Command::Inquiry {
                page: Some(0x83),
                allocation: 512,
            }),
        ),
        (
            "sense with descriptors",
            cdb(&[0x03, 1, 0, 0, 252]),
            Ok(Command::RequestSense {
                format: SenseFormat::Descriptor,
                allocation: 252,
            }),
        ),
        (
            "mode sense",
            cdb(&[0x1A, 8, 0x7F, 0xFF, 255]),
            mode(
                ModeForm::Six,
                BlockDescriptor::Absent,
                PageControl::Changeable,
                255,
            ),
        ),
        (
            "mode sense, long descriptor",
            cdb(&[0x5A, 0x10, 0xBF, 0xFF, 0, 0, 0, 1, 0]),
            mode(
                ModeForm::Ten,
                BlockDescriptor::Long,
                PageControl::Default,
                256,
            ),
        ),
        (
            "saved values",
            cdb(&[0x1A, 8, 0xFF, 0, 255]),
            Err((0x39, 0x00, None)),
        ),
        ("no pf", cdb(&[0x15, 0, 0, 0, 24]), field(1, Some(4))),
        (
            "save pages",
            cdb(&[0x15, 0x11, 0, 0, 24]),
            field(1, Some(0)),
        ),
        (
            "luns, unknown select",
            cdb(&[0xA0, 0, 3, 0, 0, 0, 0, 0, 0, 16]),
            field(2, None),
        ),
        ("reserve for another", cdb(&[0x16, 0x10]), field(1, Some(4))),
        (
            "unknown in action",
            cdb(&[0x5E, 4, 0, 0, 0, 0, 0, 1, 0]),
            field(1, Some(4)),
        ),
        (
            "unknown out action",
            cdb(&[0x5F, 8, 0, 0, 0, 0, 0, 0, 24]),
            field(1, Some(4)),
        ),
        (
            "reserve without type",
            cdb(&[0x5F, 1, 0, 0, 0, 0, 0, 0, 24]),
            field(2, Some(3)),
        ),
        (
            "reserve with a scope",
            cdb(&[0x5F, 1, 0x11, 0, 0, 0, 0, 0, 24]),
            field(2, Some(7)),
        ),
        (
            "opcodes, unknown option",
            cdb(&[0xA3, 0x0C, 4]),
            field(2, Some(2)),
        ),
        ("write atomic", cdb(&[0x9C]), Err((0x20, 0x00, None))),
        ("extended copy", cdb(&[0x83]), Err((0x20, 0x00, None))),
        ("sanitize", cdb(&[0x48]), Err((0x20, 0x00, None))),
        ("prevent removal", cdb(&[0x1E]), Err((0x20, 0x00, None))),
        ("variable length", cdb(&[0x7F]), Err((0x20, 0x00, None))),
    ]);
}

#[test]
fn an_address_out_of_range_is_told_with_the_address() {
    let sense = decode(&sixteen(0x88, 0, 1 << 40, 1), &geometry()).expect_err("out of range");
    assert_eq!(sense.code, AdditionalSense::LBA_OUT_OF_RANGE);
    assert_eq!(sense.information, Some(1 << 40));
}

#[test]
fn transfers_have_direction_and_length() {
    let geometry = geometry();
    let transfer = |bytes: [u8; 16]| {
        let command = decode(&bytes, &geometry).expect("a good CDB");
        command.transfer(&geometry)
    };
    let from = |bytes| Transfer::PayloadFromHost { bytes };
    assert_eq!(
        transfer(ten(0x28, 0, 0, 2)),
        Transfer::PayloadToHost { bytes: 1024 }
    );
    assert_eq!(transfer(ten(0x28, 0, 0, 0)), Transfer::None);
    assert_eq!(transfer(ten(0x2A, 0, 0, 2)), from(1024));
    assert_eq!(transfer(ten(0x2A, 0, 0, 0)), Transfer::None);
    assert_eq!(transfer(ten(0x2F, 0, 0, 2)), Transfer::None);
    assert_eq!(transfer(ten(0x2F, 2, 0, 2)), from(1024));
    assert_eq!(transfer(ten(0x2F, 6, 0, 2)), from(512));
    assert_eq!(transfer(ten(0x2F, 6, 0, 0)), Transfer::None);
    assert_eq!(transfer(ten(0x41, 0, 0, 2)), from(512));
    assert_eq!(transfer(sixteen(0x93, 1, 0, 2)), Transfer::None);
    let mut atomic = sixteen(0x89, 0, 0, 0);
    atomic[13] = 2;
    assert_eq!(transfer(atomic), from(2048));
    assert_eq!(
        transfer(ten(0x42, 0, 0, 24)),
        Transfer::ParametersFromHost { bytes: 24 }
    );
    assert_eq!(
        transfer(cdb(&[0x12, 0, 0, 1, 0])),
        Transfer::ParametersToHost { bytes_max: 256 }
    );
    assert_eq!(
        transfer(cdb(&[0x25])),
        Transfer::ParametersToHost { bytes_max: 8 }
    );
}
