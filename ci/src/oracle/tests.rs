//! The oracle must find what it is there for: each planted fault is a row.

use super::{BLOCK_BYTES, Content, Identity, Kind, Oracle};
use crate::initiator::scsi::Sectors;

const OURS: Identity = Identity {
    volume: 7,
    seed: 99,
};
/// Block 2, whole.
const WHOLE: Sectors = Sectors {
    first: 16,
    count: 8,
};
/// Three sectors inside block 2.
const PART: Sectors = Sectors {
    first: 18,
    count: 3,
};

fn oracle() -> Oracle {
    Oracle::new(OURS, 8)
}

fn block(content: Content) -> Vec<u8> {
    OURS.bytes(content, WHOLE)
}

fn kind_of(oracle: &mut Oracle, found: &[u8]) -> Option<Kind> {
    oracle.read(2, found).err().map(|violation| violation.kind)
}

fn acknowledged(versions: &[u64]) -> Oracle {
    let mut oracle = oracle();
    for version in versions {
        oracle.sent(*version, WHOLE, Content::written(*version));
        oracle.acknowledged(*version);
    }
    oracle
}

#[test]
fn acknowledged_write_must_be_there() {
    let newest = block(Content::written(2));
    assert_eq!(kind_of(&mut acknowledged(&[1, 2]), &newest), None);
    let lost = block(Content::written(1));
    assert_eq!(kind_of(&mut acknowledged(&[1, 2]), &lost), Some(Kind::Lost));
    assert_eq!(
        kind_of(&mut acknowledged(&[1, 2]), &[0; BLOCK_BYTES]),
        Some(Kind::Lost)
    );
}

#[test]
fn unacknowledged_write_may_be_there_or_not_but_whole() {
    let mut mixed = block(Content::written(1));
    mixed[512..1024].copy_from_slice(&block(Content::written(2))[512..1024]);
    let cases = [
        (block(Content::written(1)), None),
        (block(Content::written(2)), None),
        (mixed, Some(Kind::Mixed)),
    ];
    for (found, expected) in cases {
        let mut oracle = acknowledged(&[1]);
        oracle.sent(2, WHOLE, Content::written(2));
        oracle.crashed();
        assert_eq!(kind_of(&mut oracle, &found), expected);
    }
}

#[test]
fn what_was_read_once_may_not_go_away() {
    let mut oracle = acknowledged(&[1]);
    oracle.sent(2, WHOLE, Content::written(2));
    oracle.crashed();
    assert_eq!(kind_of(&mut oracle, &block(Content::written(2))), None);
    assert_eq!(
        kind_of(&mut oracle, &block(Content::written(1))),
        Some(Kind::Lost)
    );
    // And what was seen to be absent may not come back.
    let mut oracle = acknowledged(&[1]);
    oracle.sent(2, WHOLE, Content::written(2));
    oracle.crashed();
    assert_eq!(kind_of(&mut oracle, &block(Content::written(1))), None);
    assert_eq!(
        kind_of(&mut oracle, &block(Content::written(2))),
        Some(Kind::Impossible)
    );
}

#[test]
fn part_of_a_block_is_old_or_new_as_one() {
    let part = OURS.bytes(Content::written(2), PART);
    let mut new = block(Content::written(1));
    new[1024..2560].copy_from_slice(&part);
    let mut torn = block(Content::written(1));
    torn[1024..1536].copy_from_slice(&part[..512]);
    let old = block(Content::written(1));
    for (found, expected) in [(&new, None), (&old, None), (&torn, Some(Kind::Mixed))] {
        let mut oracle = acknowledged(&[1]);
        oracle.sent(2, PART, Content::written(2));
        assert_eq!(kind_of(&mut oracle, found), expected);
    }
    let mut oracle = acknowledged(&[1]);
    oracle.sent(2, PART, Content::written(2));
    oracle.acknowledged(2);
    assert_eq!(kind_of(&mut oracle, &old), Some(Kind::Lost));
}

#[test]
fn overlapping_writes_may_end_in_either_order_but_not_before_an_older_one() {
    let ended = |versions_acknowledged: &[u64]| {
        let mut oracle = acknowledged(&[1]);
        oracle.sent(2, WHOLE, Content::written(2));
        oracle.sent(3, WHOLE, Content::written(3));
        for version in versions_acknowledged {
            oracle.acknowledged(*version);
        }
        oracle
    };
    let found = |version| block(Content::written(version));
    for order in [[2, 3], [3, 2]] {
        assert_eq!(kind_of(&mut ended(&order), &found(2)), None);
        assert_eq!(kind_of(&mut ended(&order), &found(3)), None);
        assert_eq!(kind_of(&mut ended(&order), &found(1)), Some(Kind::Lost));
    }
    assert_eq!(kind_of(&mut ended(&[3]), &found(1)), Some(Kind::Lost));
    assert_eq!(kind_of(&mut ended(&[3]), &found(2)), None);
    assert_eq!(kind_of(&mut ended(&[]), &found(1)), None);
}

#[test]
fn unmapped_block_is_zeros_and_a_same_write_is_the_same_everywhere() {
    let mut oracle = acknowledged(&[1]);
    oracle.sent(2, WHOLE, Content::ZEROS);
    oracle.acknowledged(2);
    assert_eq!(
        kind_of(&mut oracle, &block(Content::written(1))),
        Some(Kind::Impossible)
    );
    assert_eq!(kind_of(&mut oracle, &[0; BLOCK_BYTES]), None);
    oracle.sent(3, WHOLE, Content::same(3));
    oracle.acknowledged(3);
    let same = block(Content::same(3));
    assert_eq!(same[..512], same[512..1024]);
    assert_eq!(kind_of(&mut oracle, &same), None);
}

#[test]
fn misdirected_foreign_and_damaged_blocks_are_told_apart() {
    let elsewhere = OURS.bytes(
        Content::written(1),
        Sectors {
            first: 24,
            count: 8,
        },
    );
    let stranger = Identity {
        volume: 8,
        seed: 99,
    }
    .bytes(Content::written(1), WHOLE);
    let earlier_run = Identity {
        volume: 7,
        seed: 98,
    }
    .bytes(Content::written(1), WHOLE);
    let mut flipped = block(Content::written(1));
    flipped[700] ^= 4;
    let cases = [
        (elsewhere, Kind::Foreign),
        (stranger, Kind::Foreign),
        (earlier_run, Kind::Foreign),
        (flipped, Kind::Garbage),
    ];
    for (found, expected) in cases {
        assert_eq!(kind_of(&mut acknowledged(&[1]), &found), Some(expected));
    }
}
