//! Each row is an election that would lose a write, or would hang, under a slightly different rule.

use super::{Candidate, Elected, Position, Wanted, elect};
use crate::cluster::message::Closed;
use crate::cluster::set::{Durability, VolumeSet};
use crate::id::{NodeId, StoreId};
use crate::lsn::{Epoch, Lsn};
use alloc::vec::Vec;

const A: StoreId = StoreId([1; 16]);
const B: StoreId = StoreId([2; 16]);
const C: StoreId = StoreId([3; 16]);

fn set(in_sync: &[StoreId], durability: Durability) -> VolumeSet {
    let stores = [
        (A, NodeId([1; 16])),
        (B, NodeId([2; 16])),
        (C, NodeId([3; 16])),
    ];
    let mut set = VolumeSet::first(&stores, durability, 3);
    for replica in &mut set.replicas {
        replica.created = true;
    }
    set.set_in_sync(in_sync);
    set.check();
    set
}

fn at(store: StoreId, last_epoch: u64, last: u64) -> Candidate {
    Candidate {
        store,
        position: Position {
            last_epoch: Epoch(last_epoch),
            last: Lsn(last),
        },
        resyncing: false,
    }
}

fn lacking(store: StoreId, last: u64) -> Candidate {
    Candidate {
        resyncing: true,
        ..at(store, 1, last)
    }
}

fn won(primary: StoreId, in_sync: &[StoreId]) -> Result<Elected, Closed> {
    Ok(Elected {
        primary,
        in_sync: in_sync.to_vec(),
    })
}

struct Row {
    name: &'static str,
    in_sync: &'static [StoreId],
    durability: Durability,
    answers: Vec<Candidate>,
    wanted: Wanted,
    expected: Result<Elected, Closed>,
}

fn row(
    name: &'static str,
    in_sync: &'static [StoreId],
    durability: Durability,
    answers: &[Candidate],
    expected: Result<Elected, Closed>,
) -> Row {
    Row {
        name,
        in_sync,
        durability,
        answers: answers.to_vec(),
        wanted: Wanted::default(),
        expected,
    }
}

#[test]
fn the_winner_has_every_committed_record() {
    use Durability::{BestEffort, SyncAll, SyncQuorum};
    let few = |answered, needed| Err(Closed::TooFewAnswers { answered, needed });
    let all: &[StoreId] = &[A, B, C];
    let rows = [
        row("nobody", all, SyncAll, &[], Err(Closed::NobodyAnswered)),
        row("one of all", all, SyncAll, &[at(C, 1, 5)], won(C, &[C])),
        row(
            "longest",
            all,
            SyncAll,
            &[at(B, 1, 5), at(C, 1, 6)],
            won(C, &[B, C]),
        ),
        row(
            "later reign before longer log",
            all,
            SyncAll,
            &[at(B, 1, 9), at(C, 2, 6)],
            won(C, &[B, C]),
        ),
        row(
            "tie: the old primary",
            all,
            SyncAll,
            &[at(C, 1, 5), at(A, 1, 5)],
            won(A, &[C, A]),
        ),
        row(
            "longer than the old primary",
            all,
            SyncAll,
            &[at(A, 1, 4), at(B, 1, 5)],
            won(B, &[A, B]),
        ),
        row(
            "outside the set, though longer",
            &[A, B],
            SyncAll,
            &[at(C, 1, 9), at(B, 1, 5)],
            won(B, &[B]),
        ),
        row(
            "only outside the set",
            &[A, B],
            SyncAll,
            &[at(C, 1, 9)],
            Err(Closed::NobodyAnswered),
        ),
        row(
            "resyncing, though longer",
            all,
            SyncAll,
            &[lacking(B, 9), at(C, 1, 5)],
            won(C, &[C]),
        ),
        row(
            "only resyncing",
            all,
            SyncAll,
            &[lacking(B, 9)],
            Err(Closed::OnlyResyncing),
        ),
        row(
            "quorum: one of three",
            all,
            SyncQuorum,
            &[at(B, 1, 5)],
            few(1, 2),
        ),
        row(
            "quorum: a resyncing one does not count",
            all,
            SyncQuorum,
            &[at(B, 1, 5), lacking(C, 9)],
            few(1, 2),
        ),
        row(
            "quorum: two of three, the shorter one may lack what is committed",
            all,
            SyncQuorum,
            &[at(B, 1, 5), at(C, 1, 6)],
            won(C, &[C]),
        ),
        row(
            "quorum: two equal ones",
            all,
            SyncQuorum,
            &[at(B, 1, 6), at(C, 1, 6)],
            won(B, &[B, C]),
        ),
        row(
            "quorum: all three stay",
            all,
            SyncQuorum,
            &[at(A, 1, 4), at(B, 1, 5), at(C, 1, 6)],
            won(C, &[A, B, C]),
        ),
        row(
            "quorum: one of two has everything",
            &[A, B],
            SyncQuorum,
            &[at(B, 1, 5)],
            won(B, &[B]),
        ),
        row(
            "quorum: the third is no voter when it is not in the set",
            &[A, B],
            SyncQuorum,
            &[at(C, 1, 9)],
            Err(Closed::NobodyAnswered),
        ),
        row(
            "best effort: any",
            all,
            BestEffort,
            &[at(B, 1, 5)],
            won(B, &[B]),
        ),
    ];
    for row in rows {
        let result = elect(&set(row.in_sync, row.durability), &row.answers, row.wanted);
        assert_eq!(result, row.expected, "{}", row.name);
    }
}

#[test]
fn a_tie_is_the_old_primarys() {
    for primary in [A, B, C] {
        let mut set = set(&[A, B, C], Durability::SyncAll);
        set.primary = primary;
        let answers = [at(A, 1, 5), at(B, 1, 5), at(C, 1, 5)];
        let elected = elect(&set, &answers, Wanted::default());
        assert_eq!(elected, won(primary, &[A, B, C]));
    }
}

#[test]
fn wishes_are_followed_only_as_far_as_safe() {
    use Durability::{SyncAll, SyncQuorum};
    let prefer = |store| Wanted {
        prefer: Some(store),
        exclude: None,
    };
    let exclude = |store| Wanted {
        prefer: None,
        exclude: Some(store),
    };
    let all: &[StoreId] = &[A, B, C];
    let answers = [at(A, 1, 6), at(B, 1, 5), at(C, 1, 4)];
    let check = |name, durability, answers: &[Candidate], wanted, expected| {
        let result = elect(&set(all, durability), answers, wanted);
        assert_eq!(result, expected, "{name}");
    };
    let few = |answered, needed| Err(Closed::TooFewAnswers { answered, needed });
    check(
        "all: the shortest has everything",
        SyncAll,
        &answers,
        prefer(C),
        won(C, all),
    );
    check(
        "quorum: at least as long as another",
        SyncQuorum,
        &answers,
        prefer(B),
        won(B, all),
    );
    check(
        "quorum: the shortest may lack",
        SyncQuorum,
        &answers,
        prefer(C),
        won(A, all),
    );
    check(
        "the wanted one did not answer",
        SyncAll,
        &answers[..2],
        prefer(C),
        won(A, &[A, B]),
    );
    check(
        "leaving: not even as a member",
        SyncAll,
        &answers,
        exclude(A),
        won(B, &[B, C]),
    );
    check(
        "quorum, leaving: only who has everything stays",
        SyncQuorum,
        &answers,
        exclude(C),
        won(A, &[A]),
    );
    check(
        "quorum: leaving copy has what the other lacks",
        SyncQuorum,
        &answers[..2],
        exclude(A),
        few(2, 3),
    );
}

#[test]
fn a_changed_mode_is_obeyed_with_the_one_before() {
    use Durability::{SyncAll, SyncQuorum};
    let mut set = set(&[A, B, C], SyncAll);
    set.durability_was = Some(SyncQuorum);
    let one = [at(B, 1, 5)];
    let few = Closed::TooFewAnswers {
        answered: 1,
        needed: 2,
    };
    assert_eq!(elect(&set, &one, Wanted::default()), Err(few));
    // All three answered, but the next reign trusts each of its members alone.
    let three = [at(A, 1, 4), at(B, 1, 5), at(C, 1, 6)];
    assert_eq!(elect(&set, &three, Wanted::default()), won(C, &[C]));
}
