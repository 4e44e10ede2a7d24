//! What may be registered while answers are late, lost, or doubled.

use super::*;
use crate::id::StoreId;
use alloc::vec;

const A: ReplicaId = StoreId([1; 16]);
const B: ReplicaId = StoreId([2; 16]);
const C: ReplicaId = StoreId([3; 16]);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn old_and_proposed_members_are_required_until_the_answer() {
    let mut sets = Membership::registered(4, vec![A, B]);
    sets.propose(ms(0), vec![A]);
    assert!(sets.requires(B));
    assert!(!sets.may_ask(PROPOSAL_RETRY - ms(1)));
    assert!(sets.may_ask(PROPOSAL_RETRY));
    sets.propose(PROPOSAL_RETRY, vec![A, C]);
    assert!(sets.requires(B));
    assert!(sets.requires(C));
    assert!(!sets.learn(4, vec![A]), "an answer to an older proposal");
    assert!(sets.requires(C));
    assert!(sets.learn(5, vec![A]));
    assert!(!sets.requires(B));
    assert!(!sets.requires(C));
    assert_eq!(sets.open(), None);
}

#[test]
fn proposed_sets_are_bounded() {
    let mut sets = Membership::registered(1, vec![A]);
    for number in (0..).take(PROPOSED_SETS_MAX) {
        sets.propose(ms(0), vec![A, StoreId([10 + number; 16])]);
    }
    let last = sets.open().map(<[_]>::to_vec);
    assert_eq!(Some(sets.propose(ms(1), vec![A, B]).to_vec()), last);
    assert!(!sets.requires(B), "it was not asked for");
}
