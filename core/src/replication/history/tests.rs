//! Rows of two histories and what they have in common.

use super::*;
use alloc::vec::Vec;

/// Rows: name, ours (last; epoch@start ...), theirs, committed there, common.
type Row = (
    &'static str,
    (u64, &'static [(u64, u64)]),
    (u64, &'static [(u64, u64)]),
    u64,
    Option<u64>,
);

const ROWS: [Row; 13] = [
    ("both empty", (0, &[]), (0, &[]), 0, Some(0)),
    ("a new copy", (90, &[(1, 1)]), (0, &[]), 0, Some(0)),
    ("behind", (90, &[(1, 1)]), (70, &[(1, 1)]), 60, Some(70)),
    ("ahead", (70, &[(1, 1)]), (90, &[(1, 1)]), 60, Some(70)),
    (
        "old primary with a tail of its own",
        (200, &[(1, 1), (2, 101)]),
        (120, &[(1, 1)]),
        90,
        Some(100),
    ),
    (
        "a reign between that we never saw",
        (120, &[(1, 1), (3, 111)]),
        (105, &[(1, 1), (2, 101)]),
        90,
        Some(100),
    ),
    (
        "the same reign again",
        (300, &[(1, 1), (2, 101)]),
        (250, &[(1, 1), (2, 101)]),
        240,
        Some(250),
    ),
    (
        "our history does not reach, so what it committed",
        (300, &[(5, 290)]),
        (280, &[(2, 100)]),
        270,
        Some(270),
    ),
    (
        "its history is unknown",
        (300, &[(5, 290)]),
        (280, &[]),
        270,
        Some(270),
    ),
    (
        "two turns back",
        (100, &[(1, 1), (4, 60), (6, 90)]),
        (95, &[(1, 1), (3, 50), (5, 80)]),
        20,
        Some(49),
    ),
    (
        "committed more than we have",
        (50, &[(1, 1)]),
        (90, &[(1, 1)]),
        80,
        None,
    ),
    (
        "committed another record",
        (100, &[(1, 1), (3, 50)]),
        (100, &[(1, 1), (2, 50)]),
        60,
        None,
    ),
    (
        "differs right behind the commit point",
        (100, &[(1, 1), (3, 61)]),
        (100, &[(1, 1), (2, 61)]),
        60,
        Some(60),
    ),
];

#[test]
fn common_prefix_is_judged_by_reigns() {
    for (name, ours, theirs, committed, expected) in ROWS {
        let reigns = |rows: &[(u64, u64)]| -> Vec<Reign> {
            let reign = |&(epoch, start): &(u64, u64)| Reign {
                epoch: Epoch(epoch),
                start: Lsn(start),
            };
            rows.iter().map(reign).collect()
        };
        let (a, b) = (reigns(ours.1), reigns(theirs.1));
        let log = |last, reigns| Log {
            last: Lsn(last),
            reigns,
        };
        let found = common(log(ours.0, &a), log(theirs.0, &b), Lsn(committed));
        assert_eq!(found, expected.map(Lsn), "{name}");
    }
}
