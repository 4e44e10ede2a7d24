//! The table of operation codes against itself.

use super::{ROWS, find, report};
use crate::scsi::cdb::{OpcodeQuestion, decode};
use crate::scsi::geometry::{Geometry, LogicalBlock};
use crate::scsi::sense::AdditionalSense;
use std::vec;
use std::vec::Vec;

fn cdb_of(usage: &[u8], action: Option<u8>) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = usage[0];
    cdb[1] = action.unwrap_or(0);
    cdb
}

#[test]
fn rows_are_ascending_and_find_themselves() {
    let keys: Vec<(u8, Option<u8>)> = ROWS.iter().map(|r| (r.usage[0], r.action)).collect();
    assert!(keys.is_sorted() && keys.windows(2).all(|pair| pair[0] != pair[1]));
    for row in ROWS {
        assert!(matches!(row.usage.len(), 6 | 10 | 12 | 16));
        let found = find(&cdb_of(row.usage, row.action)).expect("the row is there");
        assert_eq!((found.usage[0], found.action), (row.usage[0], row.action));
        if let Some(action) = row.action {
            assert_eq!(row.usage[1] & 0x1F, action);
        }
    }
}

#[test]
fn what_has_no_row_is_refused() {
    let geometry = Geometry::new(1 << 20, LogicalBlock::Bytes512);
    for code in 0..=0xFF_u8 {
        for action in 0..0x20_u8 {
            let known_code = ROWS.iter().any(|r| r.usage[0] == code);
            let known = ROWS
                .iter()
                .any(|r| r.usage[0] == code && r.action.is_none_or(|known| known == action));
            let mut cdb = [0; 16];
            cdb[..2].copy_from_slice(&[code, action]);
            let refusal = decode(&cdb, &geometry).err().map(|sense| sense.code);
            if !known_code {
                assert_eq!(refusal, Some(AdditionalSense::INVALID_OPERATION_CODE));
            } else {
                assert_ne!(refusal, Some(AdditionalSense::INVALID_OPERATION_CODE));
                let unknown_action = refusal == Some(AdditionalSense::INVALID_FIELD_IN_CDB);
                assert!(known || unknown_action, "{code:#x}/{action:#x}");
            }
        }
    }
}

#[test]
fn all_commands_are_reported_with_their_length() {
    for (timeouts, bytes) in [(false, 8), (true, 20)] {
        let data = report(OpcodeQuestion::All, timeouts).expect("always");
        assert_eq!(data.len(), 4 + ROWS.len() * bytes);
        let length = u32::from_be_bytes([data[0], data[1], data[2], data[3]]);
        assert_eq!(usize::try_from(length).ok(), Some(data.len() - 4));
        for (descriptor, row) in data[4..].chunks(bytes).zip(ROWS) {
            assert_eq!(descriptor[0], row.usage[0]);
            assert_eq!(usize::from(descriptor[7]), row.usage.len());
            assert_eq!(descriptor[5] & 1 != 0, row.action.is_some());
        }
    }
}

#[test]
fn one_command_is_reported_with_its_usage() {
    let read = report(OpcodeQuestion::Code(0x28), false).expect("no service actions");
    assert_eq!(
        read,
        [
            0, 3, 0, 10, 0x28, 0xF8, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0xFF, 0xFF, 4
        ]
    );
    let with_timeouts = report(OpcodeQuestion::Code(0x28), true).expect("no service actions");
    assert_eq!(with_timeouts.len(), 14 + 12);
    assert_eq!(with_timeouts[1], 0x83);
    assert_eq!(with_timeouts[14..16], [0, 0x0A]);
    let capacity = report(OpcodeQuestion::CodeAndAction(0x9E, 0x10), false).expect("has one");
    assert_eq!(capacity[..6], [0, 3, 0, 16, 0x9E, 0x10]);
    let unknown = vec![0, 1, 0, 0];
    for question in [
        OpcodeQuestion::Code(0x9C),
        OpcodeQuestion::CodeAndAction(0x9E, 0x1F),
        OpcodeQuestion::CodeAndAction(0x9C, 0),
        OpcodeQuestion::Either(0x28, 1),
    ] {
        assert_eq!(report(question, false), Ok(unknown.clone()), "{question:?}");
    }
    assert!(report(OpcodeQuestion::Code(0x9E), false).is_err());
    assert!(report(OpcodeQuestion::CodeAndAction(0x28, 0), false).is_err());
    assert_eq!(report(OpcodeQuestion::Either(0x28, 0), false), Ok(read));
    assert_eq!(
        report(OpcodeQuestion::Either(0x9E, 0x10), false),
        Ok(capacity)
    );
}
