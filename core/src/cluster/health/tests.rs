//! One row for each state of a volume.

use super::{Health, Heard, LAG_RECORDS, judge};
use crate::cluster::message::CopyState;
use crate::cluster::set::{Durability, VolumeSet};
use crate::id::{NodeId, StoreId};
use crate::lsn::Lsn;

const A: StoreId = StoreId([1; 16]);
const B: StoreId = StoreId([2; 16]);
const C: StoreId = StoreId([3; 16]);
const SERVES: CopyState = CopyState::Primary { serving: true };
const WAITS: CopyState = CopyState::Primary { serving: false };
const FOLLOWS: CopyState = CopyState::Secondary {
    primary_silent: None,
};
const LACKS: CopyState = CopyState::Resyncing {
    left_bytes: 1,
    primary_silent: None,
};

fn volume(in_sync: &[StoreId], durability: Durability) -> VolumeSet {
    let stores = [A, B, C].map(|store| (store, NodeId(store.0)));
    let mut set = VolumeSet::first(&stores, durability, 3);
    set.set_in_sync(in_sync);
    set
}

fn up(state: CopyState) -> Heard {
    Heard {
        reachable: true,
        said: Some((state, Lsn(100))),
    }
}

const AWAY: Heard = Heard {
    reachable: false,
    said: Some((FOLLOWS, Lsn(90))),
};

#[test]
fn the_worst_thing_is_said() {
    use Durability::{SyncAll, SyncQuorum};
    let all: &[StoreId] = &[A, B, C];
    let rows = [
        (
            "all is well",
            all,
            SyncAll,
            [up(SERVES), up(FOLLOWS), up(FOLLOWS)],
            Health::Healthy,
        ),
        (
            "one away",
            &[A, B],
            SyncAll,
            [up(SERVES), up(FOLLOWS), AWAY],
            Health::Degraded,
        ),
        (
            "one away, still in the set",
            all,
            SyncAll,
            [up(SERVES), up(FOLLOWS), AWAY],
            Health::Degraded,
        ),
        (
            "one coming back",
            &[A, B],
            SyncAll,
            [up(SERVES), up(FOLLOWS), up(LACKS)],
            Health::Rebuilding,
        ),
        (
            "one failed",
            &[A, B],
            SyncAll,
            [up(SERVES), up(FOLLOWS), up(CopyState::Failed)],
            Health::Degraded,
        ),
        (
            "the last one",
            &[A],
            SyncAll,
            [up(SERVES), up(LACKS), up(LACKS)],
            Health::AtRisk,
        ),
        (
            "quorum: one more and it stops",
            &[A, B],
            SyncQuorum,
            [up(SERVES), up(FOLLOWS), AWAY],
            Health::AtRisk,
        ),
        (
            "no lease",
            all,
            SyncAll,
            [up(WAITS), up(FOLLOWS), up(FOLLOWS)],
            Health::Unavailable,
        ),
        (
            "no primary",
            all,
            SyncAll,
            [AWAY, up(FOLLOWS), up(FOLLOWS)],
            Health::Unavailable,
        ),
    ];
    for (name, in_sync, durability, heard, expected) in rows {
        let set = volume(in_sync, durability);
        let found = judge(&set, |store| heard[usize::from(store.0[0]) - 1]);
        assert_eq!(found.health, expected, "{name}");
        let full = found.score.total() == 100;
        assert_eq!(
            full,
            expected == Health::Healthy,
            "{name}: {:?}",
            found.score
        );
    }
}

#[test]
fn a_copy_is_scored_by_its_parts() {
    let set = volume(&[A, B], Durability::SyncAll);
    let late = Heard {
        reachable: true,
        said: Some((FOLLOWS, Lsn(1))),
    };
    let head = Heard {
        reachable: true,
        said: Some((SERVES, Lsn(LAG_RECORDS + 1))),
    };
    let never = Heard {
        reachable: false,
        said: None,
    };
    let found = judge(&set, |store| match store {
        A => head,
        B => late,
        _ => never,
    });
    let scores: alloc::vec::Vec<_> = found.copies.iter().map(|copy| copy.score).collect();
    assert_eq!(scores, [100, 90, 20]);
    assert_eq!(found.copies[1].lag_records, LAG_RECORDS);
    assert_eq!(
        (found.score.served, found.score.copies, found.score.quality),
        (40, 26, 14)
    );
}
