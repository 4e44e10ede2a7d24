//! What people ask for.

use super::{A, B, C, Lab, node, volume};
use crate::cluster::limits::FENCE_ANSWERS;
use crate::cluster::message::{
    Closed, Effect, Event, Proposal, ProposalId, ProposalRefusal, Request, RequestId,
    RequestRefusal,
};
use crate::cluster::set::{Durability, Replica, VolumeSet};
use crate::id::{NodeId, StoreId};
use crate::lsn::Epoch;
use alloc::vec::Vec;

const D: StoreId = StoreId([4; 16]);

fn ask(lab: &mut Lab, request: Request) {
    lab.tell(Event::Request(RequestId(1), request));
}

/// Outcomes told since the last look.
fn outcomes(lab: &mut Lab) -> Vec<Option<RequestRefusal>> {
    let effects = core::mem::take(&mut lab.effects);
    let outcomes = effects.into_iter().filter_map(|effect| match effect {
        Effect::Done { refusal, .. } => Some(refusal),
        _ => None,
    });
    outcomes.collect()
}

fn copy(store: StoreId, node: NodeId) -> Replica {
    Replica {
        store,
        node,
        in_sync: true,
        created: true,
        discard: false,
    }
}

#[test]
fn a_move_ends_with_the_wanted_primary_without_waiting() {
    let mut lab = Lab::well();
    ask(&mut lab, Request::Move { to: C });
    assert_eq!(lab.fenced().len(), 3);
    lab.obeys(B, 6, 12, 1900);
    lab.obeys(C, 6, 10, 1900);
    lab.obeys(A, 6, 15, 0);
    let set = lab.committed();
    assert_eq!((set.primary, set.in_sync_stores()), (C, [A, B, C].to_vec()));
    assert_eq!(outcomes(&mut lab), [None]);
}

#[test]
fn a_move_may_end_with_another_primary_and_says_so() {
    let mut lab = Lab::well();
    ask(&mut lab, Request::Move { to: C });
    lab.obeys(B, 6, 12, 0);
    lab.obeys(A, 6, 15, 0);
    lab.wait(FENCE_ANSWERS);
    assert_eq!(lab.committed().primary, A);
    assert_eq!(outcomes(&mut lab), [Some(RequestRefusal::AnotherWon)]);
}

#[test]
fn requests_that_cannot_be_are_refused_at_once() {
    use RequestRefusal::{
        AnotherWon, Busy, LastCopy, NotInSync, TooMany, Unconfirmed, UnknownReplica,
        WrongDurability,
    };
    let mut changing = volume();
    changing.durability_was = Some(Durability::BestEffort);
    let mut alone = volume();
    alone.set_in_sync(&[A]);
    let mut counted = volume();
    counted.durability = Durability::SyncQuorum;
    let mut two = volume();
    two.copies_wanted = 2;
    let quorum = Request::SetDurability(Durability::SyncQuorum);
    let rows: [(&str, VolumeSet, Request, RequestRefusal); 10] = [
        (
            "a second change of durability",
            changing,
            Request::SetDurability(Durability::SyncAll),
            Unconfirmed,
        ),
        (
            "move to a stranger",
            volume(),
            Request::Move { to: D },
            UnknownReplica,
        ),
        (
            "move out of the set",
            alone.clone(),
            Request::Move { to: B },
            NotInSync,
        ),
        (
            "remove a stranger",
            volume(),
            Request::RemoveReplica(D),
            UnknownReplica,
        ),
        (
            "remove the last in-sync copy",
            alone,
            Request::RemoveReplica(A),
            LastCopy,
        ),
        (
            "a second copy on a node",
            volume(),
            Request::AddReplica(copy(D, node(A))),
            TooMany,
        ),
        (
            "a fifth copy",
            two.clone(),
            Request::AddReplica(copy(D, node(D))),
            TooMany,
        ),
        ("quorum of two", two, quorum, WrongDurability),
        (
            "two copies by quorum",
            counted,
            Request::SetCopiesWanted(2),
            WrongDurability,
        ),
        ("no copy", volume(), Request::SetCopiesWanted(0), TooMany),
    ];
    for (name, set, request, expected) in rows {
        let mut lab = Lab::new(set);
        lab.hears_all();
        ask(&mut lab, request);
        assert_eq!(outcomes(&mut lab), [Some(expected)], "{name}");
    }
    let mut lab = Lab::well();
    lab.tell(Event::ServerDown(node(C)));
    ask(&mut lab, Request::Move { to: C });
    assert_eq!(outcomes(&mut lab), [Some(AnotherWon)]); // Nobody was fenced for it.
    lab.tell(Event::ServerDown(node(A)));
    ask(&mut lab, Request::Move { to: B });
    assert_eq!(outcomes(&mut lab), [Some(Busy)]);
}

#[test]
fn a_forced_promotion_discards_what_the_others_hold() {
    let mut set = volume();
    set.set_in_sync(&[A]);
    let mut lab = Lab::new(set);
    lab.hears_all();
    lab.tell(Event::ServerDown(node(A)));
    lab.wait(FENCE_ANSWERS);
    lab.fenced();
    ask(&mut lab, Request::ForcePromote { to: B });
    assert_eq!(lab.fenced(), [(A, 7), (B, 7), (C, 7)]);
    lab.obeys(B, 7, 3, 0);
    lab.obeys(C, 7, 9, 0);
    let set = lab.committed();
    assert_eq!((set.primary, set.in_sync_stores()), (B, [B].to_vec()));
    let discarded = set.replicas.iter().filter(|replica| replica.discard);
    assert_eq!(discarded.map(|r| r.store).collect::<Vec<_>>(), [A, C]);
    assert_eq!(set.members().count(), 1);
    assert_eq!(outcomes(&mut lab), [None]);
    ask(&mut lab, Request::ReplicaCreated(C));
    assert_eq!(lab.committed().members().count(), 2);
}

#[test]
fn a_forced_promotion_of_an_absent_copy_is_let_go() {
    let mut lab = Lab::well();
    lab.tell(Event::ServerDown(node(A)));
    lab.tell(Event::ServerDown(node(B)));
    ask(&mut lab, Request::ForcePromote { to: B });
    lab.obeys(C, 7, 9, 0);
    lab.wait(FENCE_ANSWERS);
    let closed = RequestRefusal::Closed(Closed::ForcedIsAway);
    assert_eq!(outcomes(&mut lab), [Some(closed)]);
    // The election goes on without the wish.
    lab.wait(FENCE_ANSWERS);
    lab.wait(FENCE_ANSWERS);
    assert_eq!(lab.committed().primary, C);
}

#[test]
fn a_copy_leaves_by_a_new_reign_where_one_more_than_it_counts() {
    // Under SyncAll every other member has everything.
    let mut lab = Lab::well();
    ask(&mut lab, Request::RemoveReplica(C));
    let set = lab.committed();
    assert_eq!((set.epoch, set.replicas.len()), (Epoch(5), 2));
    // By quorum what is committed may be on the primary and the leaving copy only.
    let mut counted = volume();
    counted.durability = Durability::SyncQuorum;
    let mut lab = Lab::new(counted);
    lab.hears_all();
    ask(&mut lab, Request::RemoveReplica(C));
    lab.obeys(A, 6, 9, 0);
    lab.obeys(B, 6, 8, 0);
    lab.obeys(C, 6, 9, 0);
    let set = lab.committed();
    assert_eq!((set.primary, set.in_sync_stores()), (A, [A].to_vec()));
    assert_eq!(set.replica(C), None);
    // The primary itself: another one reigns.
    let mut lab = Lab::well();
    ask(&mut lab, Request::RemoveReplica(A));
    lab.obeys(A, 6, 9, 0);
    lab.obeys(B, 6, 8, 0);
    lab.obeys(C, 6, 8, 0);
    let set = lab.committed();
    assert_eq!((set.primary, set.replica(A)), (B, None));
}

#[test]
fn one_copy_becomes_two_and_one_again() {
    let mut set = VolumeSet::first(&[(A, node(A))], Durability::SyncAll, 1);
    set.replicas[0].created = true;
    let mut lab = Lab::new(set);
    ask(&mut lab, Request::SetCopiesWanted(2));
    let set = lab.committed();
    assert_eq!((set.epoch, set.is_alone()), (Epoch(2), false)); // Shared from here on.
    ask(&mut lab, Request::AddReplica(copy(B, node(B))));
    let added = lab.committed();
    assert_eq!(added.in_sync_stores(), [A]); // Only the primary adds to the in-sync set.
    assert_eq!(added.members().count(), 1);
    ask(&mut lab, Request::ReplicaCreated(B));
    assert_eq!(lab.committed().members().count(), 2);
    ask(&mut lab, Request::SetCopiesWanted(1));
    assert_eq!(lab.committed().epoch, Epoch(2)); // Two copies are there still.
    ask(&mut lab, Request::RemoveReplica(B));
    let set = lab.committed();
    assert_eq!((set.epoch, set.is_alone()), (Epoch(3), true));
}

/// A volume of one copy moves by having a second one for a while, though one is wanted.
#[test]
fn the_only_copy_moves_in_a_shared_reign() {
    let mut set = VolumeSet::first(&[(A, node(A))], Durability::SyncAll, 1);
    set.replicas[0].created = true;
    let mut lab = Lab::new(set);
    ask(&mut lab, Request::AddReplica(copy(B, node(B))));
    let set = lab.committed();
    assert_eq!((set.epoch, set.is_alone()), (Epoch(2), false));
    ask(&mut lab, Request::AddReplica(copy(C, node(C))));
    assert_eq!(outcomes(&mut lab), [None, Some(RequestRefusal::TooMany)]);
    ask(&mut lab, Request::RemoveReplica(B));
    let set = lab.committed();
    assert_eq!((set.epoch, set.is_alone()), (Epoch(3), true));
}

/// Nobody would confirm it: an only copy sends no proposals, and no further change would be possible.
#[test]
fn the_only_copy_changes_its_durability_without_a_confirmation() {
    let mut set = VolumeSet::first(&[(A, node(A))], Durability::BestEffort, 1);
    set.replicas[0].created = true;
    let mut lab = Lab::new(set);
    ask(&mut lab, Request::SetDurability(Durability::SyncAll));
    let set = lab.committed();
    assert_eq!(
        (set.durability, set.durability_was),
        (Durability::SyncAll, None)
    );
}

/// The same set again under an older version is an answer that was lost, except when it says that the mode
/// before is over: that was not registered with the first one.
#[test]
fn a_repeated_proposal_that_settles_a_mode_is_asked_for_again() {
    let mut lab = Lab::well();
    ask(&mut lab, Request::SetDurability(Durability::BestEffort));
    let set = lab.committed();
    assert_eq!(set.durability_was, Some(Durability::SyncAll));
    let mut propose = |set_version, settled| {
        let in_sync = set.in_sync_stores();
        lab.effects.clear();
        lab.tell(Event::Proposal(Proposal {
            id: ProposalId(7),
            from: A,
            epoch: set.epoch,
            set_version,
            in_sync,
            settled,
        }));
        let answers = lab.effects.iter().filter_map(|effect| match effect {
            Effect::Answer { refusal, .. } => Some(*refusal),
            _ => None,
        });
        answers.collect::<Vec<_>>()
    };
    let before = set.set_version - 1;
    assert_eq!(propose(before, None), [None]);
    let stale = Some(ProposalRefusal::StaleSet);
    assert_eq!(propose(before, Some(Durability::BestEffort)), [stale]);
    assert_eq!(
        propose(set.set_version, Some(Durability::BestEffort)),
        [] as [Option<ProposalRefusal>; 0]
    );
    assert_eq!(lab.committed().durability_was, None);
}
