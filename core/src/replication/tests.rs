//! The commit rule, row by row.

use super::*;
use crate::id::StoreId;

const P: ReplicaId = StoreId([1; 16]);
const B: ReplicaId = StoreId([2; 16]);
const C: ReplicaId = StoreId([3; 16]);

/// Rows: name, mode, own durable, the sets, what the others have durable, what may commit.
type Row<'a> = (
    &'a str,
    Durability,
    u64,
    &'a [&'a [ReplicaId]],
    &'a [(ReplicaId, u64)],
    u64,
);

#[test]
fn what_may_commit_by_mode_and_sets() {
    use Durability::{BestEffort, SyncAll, SyncQuorum};
    let rows: [Row<'_>; 15] = [
        (
            "all: the slowest member",
            SyncAll,
            9,
            &[&[P, B, C]],
            &[(B, 7), (C, 8)],
            7,
        ),
        (
            "all: never beyond the own disk",
            SyncAll,
            5,
            &[&[P, B]],
            &[(B, 7)],
            5,
        ),
        (
            "all: outsiders do not count",
            SyncAll,
            9,
            &[&[P, B]],
            &[(B, 7), (C, 2)],
            7,
        ),
        (
            "all: old and new set",
            SyncAll,
            9,
            &[&[P, B], &[P, C]],
            &[(B, 7), (C, 2)],
            2,
        ),
        ("all: a member that is away", SyncAll, 9, &[&[P, B]], &[], 0),
        ("all: the primary alone", SyncAll, 9, &[&[P]], &[(B, 1)], 9),
        (
            "quorum: two of three",
            SyncQuorum,
            9,
            &[&[P, B, C]],
            &[(B, 7), (C, 2)],
            7,
        ),
        (
            "quorum: own disk is one of two",
            SyncQuorum,
            3,
            &[&[P, B, C]],
            &[(B, 7), (C, 8)],
            3,
        ),
        (
            "quorum: all of a set of two",
            SyncQuorum,
            9,
            &[&[P, B]],
            &[(B, 4), (C, 8)],
            4,
        ),
        (
            "quorum: alone in the set, another copy is needed",
            SyncQuorum,
            9,
            &[&[P]],
            &[(B, 4), (C, 0)],
            4,
        ),
        ("quorum: alone in the world", SyncQuorum, 9, &[&[P]], &[], 0),
        (
            "quorum: shrinking",
            SyncQuorum,
            9,
            &[&[P, B, C], &[P, B]],
            &[(B, 4), (C, 8)],
            4,
        ),
        (
            "quorum: growing",
            SyncQuorum,
            9,
            &[&[P, B], &[P, B, C]],
            &[(B, 8), (C, 1)],
            8,
        ),
        (
            "best effort: the own disk",
            BestEffort,
            9,
            &[&[P, B, C]],
            &[],
            9,
        ),
        (
            "best effort: only the own disk",
            BestEffort,
            3,
            &[&[P, B]],
            &[(B, 7)],
            3,
        ),
    ];
    for (name, mode, own, sets, others, expected) in rows {
        let others: Vec<(ReplicaId, Lsn)> =
            others.iter().map(|(id, lsn)| (*id, Lsn(*lsn))).collect();
        let found = committable(mode, (P, Lsn(own)), sets, &others);
        assert_eq!(found, Lsn(expected), "{name}");
    }
}

/// Cost of the bug: two copies whose logs were full of inherited records had no room for the record that
/// would have committed them, and the volume stood still for good.
#[test]
fn what_was_inherited_commits_with_its_reign_or_when_no_member_lacks_it() {
    use Durability::{SyncAll, SyncQuorum};
    let three: &[&[ReplicaId]] = &[&[P, B, C]];
    let two: &[&[ReplicaId]] = &[&[P, B]];
    let growing: &[&[ReplicaId]] = &[&[P, B], &[P, B, C]];
    let alone: &[&[ReplicaId]] = &[&[P]];
    let rows = [
        ("by count it is not", SyncQuorum, 8, three, [7, 2], 2),
        (
            "its reign's record is counted",
            SyncQuorum,
            7,
            three,
            [7, 2],
            7,
        ),
        ("all three have it", SyncQuorum, 9, three, [7, 6], 6),
        ("both of two have it", SyncQuorum, 9, two, [7, 0], 7),
        (
            "one that may be a member lacks it",
            SyncQuorum,
            9,
            growing,
            [7, 3],
            3,
        ),
        (
            "alone in the set, another copy is needed",
            SyncQuorum,
            9,
            alone,
            [4, 0],
            4,
        ),
        ("all: as ever", SyncAll, 9, three, [7, 2], 2),
    ];
    for (name, mode, begun, sets, [b, c], expected) in rows {
        let others = [(B, Lsn(b)), (C, Lsn(c))];
        let found = committable_in_reign(Lsn(begun), mode, (P, Lsn(9)), sets, &others);
        assert_eq!(found, Lsn(expected), "{name}");
    }
}
