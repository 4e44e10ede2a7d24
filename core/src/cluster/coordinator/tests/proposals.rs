//! Proposals of the primary.

use super::{A, B, C, Lab, node, volume};
use crate::cluster::message::{Effect, Event, Proposal, ProposalId, ProposalRefusal};
use crate::cluster::set::{Durability, Replica};
use crate::id::StoreId;
use crate::lsn::Epoch;
use alloc::vec::Vec;

fn proposal(from: StoreId, epoch: u64, set_version: u64, in_sync: &[StoreId]) -> Proposal {
    Proposal {
        id: ProposalId(7),
        from,
        epoch: Epoch(epoch),
        set_version,
        in_sync: in_sync.to_vec(),
        settled: None,
    }
}

/// Refusals answered since the last look.
fn answers(lab: &mut Lab) -> Vec<Option<ProposalRefusal>> {
    let effects = core::mem::take(&mut lab.effects);
    let answers = effects.into_iter().filter_map(|effect| match effect {
        Effect::Answer { refusal, .. } => Some(refusal),
        _ => None,
    });
    answers.collect()
}

#[test]
fn only_the_present_primary_may_change_the_present_set() {
    use ProposalRefusal::{Invalid, NotPrimary, StaleEpoch, StaleSet};
    const D: StoreId = StoreId([4; 16]);
    let rows = [
        ("lower epoch", proposal(A, 4, 1, &[A, B]), StaleEpoch),
        ("higher epoch", proposal(A, 6, 1, &[A, B]), StaleEpoch),
        ("another copy", proposal(B, 5, 1, &[A, B]), NotPrimary),
        ("another version", proposal(A, 5, 0, &[A, B]), StaleSet),
        ("a later version", proposal(A, 5, 2, &[A, B]), StaleSet),
        ("without itself", proposal(A, 5, 1, &[B, C]), Invalid),
        ("empty", proposal(A, 5, 1, &[]), Invalid),
        ("a stranger", proposal(A, 5, 1, &[A, D]), Invalid),
        ("twice the same", proposal(A, 5, 1, &[A, B, B]), Invalid),
    ];
    for (name, proposal, expected) in rows {
        let mut lab = Lab::well();
        lab.tell(Event::Proposal(proposal));
        assert_eq!(answers(&mut lab), [Some(expected)], "{name}");
        assert_eq!(lab.coordinator.set(), &volume(), "{name}");
    }
}

#[test]
fn a_set_that_is_counted_has_three_members_at_most() {
    const D: StoreId = StoreId([4; 16]);
    for (durability, expected) in [
        (Durability::SyncAll, None),
        (Durability::SyncQuorum, Some(ProposalRefusal::Invalid)),
    ] {
        let mut set = volume();
        set.durability = durability;
        set.replicas.push(Replica {
            store: D,
            node: node(D),
            in_sync: false,
            created: true,
            discard: false,
        });
        let mut lab = Lab::new(set);
        lab.hears_all();
        lab.tell(Event::Proposal(proposal(A, 5, 1, &[A, B, C, D])));
        match expected {
            None => assert_eq!(lab.committed().in_sync().count(), 4),
            Some(refusal) => assert_eq!(answers(&mut lab), [Some(refusal)]),
        }
    }
}

#[test]
fn a_proposal_is_answered_when_it_is_registered() {
    let mut lab = Lab::well();
    lab.tell(Event::Proposal(proposal(A, 5, 1, &[A])));
    let (id, set) = lab.commit().expect("a commit");
    assert_eq!(lab.coordinator.set().in_sync_stores(), [A, B, C]);
    lab.tell(Event::Committed(id));
    assert_eq!(answers(&mut lab), [None]);
    assert_eq!((set.in_sync_stores(), set.set_version), ([A].to_vec(), 2));
    // The answer was lost.
    lab.tell(Event::Proposal(proposal(A, 5, 1, &[A])));
    assert_eq!(answers(&mut lab), [None]);
    // A delayed one of the same version wants something else.
    lab.tell(Event::Proposal(proposal(A, 5, 1, &[A, B])));
    assert_eq!(answers(&mut lab), [Some(ProposalRefusal::StaleSet)]);
}

#[test]
fn a_proposal_that_changes_nothing_raises_the_version() {
    let mut lab = Lab::well();
    lab.tell(Event::Proposal(proposal(A, 5, 1, &[A, B, C])));
    assert_eq!(lab.committed().set_version, 2);
    lab.tell(Event::Proposal(proposal(A, 5, 1, &[A])));
    assert_eq!(answers(&mut lab), [None, Some(ProposalRefusal::StaleSet)]);
}

#[test]
fn the_set_stands_still_during_an_election() {
    let mut lab = Lab::well();
    lab.tell(Event::NodeSilent(node(A)));
    lab.tell(super::follows(B, 1600));
    lab.tell(Event::Proposal(proposal(A, 5, 1, &[A])));
    assert_eq!(answers(&mut lab), [Some(ProposalRefusal::ElectionRuns)]);
    lab.obeys(B, 6, 10, 0);
    lab.obeys(C, 6, 10, 0);
    lab.obeys(A, 6, 10, 0);
    // While the reign is being registered it waits, and then it is too late.
    lab.tell(Event::Proposal(proposal(A, 5, 1, &[A])));
    let mut lab_effects = core::mem::take(&mut lab.effects);
    lab_effects.retain(|effect| !matches!(effect, Effect::Answer { .. }));
    lab.effects = lab_effects;
    lab.committed();
    assert_eq!(answers(&mut lab), [Some(ProposalRefusal::StaleEpoch)]);
}

#[test]
fn one_proposal_waits_for_a_commit_and_the_older_one_is_sent_back() {
    let mut lab = Lab::well();
    lab.tell(Event::Proposal(proposal(A, 5, 1, &[A, B])));
    let (id, _) = lab.commit().expect("a commit");
    lab.tell(Event::Proposal(proposal(A, 5, 1, &[A, C])));
    lab.tell(Event::Proposal(proposal(A, 5, 2, &[A])));
    // The second is told at once; the third knows a version that is still to come.
    assert_eq!(answers(&mut lab), [Some(ProposalRefusal::StaleSet)]);
    lab.tell(Event::Committed(id));
    assert_eq!(answers(&mut lab).len(), 2);
}

#[test]
fn a_changed_mode_is_confirmed_in_so_many_words() {
    let mut set = volume();
    set.durability_was = Some(Durability::SyncQuorum);
    let mut lab = Lab::new(set);
    lab.hears_all();
    lab.tell(Event::Proposal(proposal(A, 5, 1, &[A, B, C])));
    assert_eq!(lab.committed().durability_was, Some(Durability::SyncQuorum));
    lab.tell(Event::Proposal(Proposal {
        settled: Some(Durability::SyncQuorum),
        ..proposal(A, 5, 2, &[A, B, C])
    }));
    assert_eq!(lab.committed().durability_was, Some(Durability::SyncQuorum));
    lab.tell(Event::Proposal(Proposal {
        settled: Some(Durability::SyncAll),
        ..proposal(A, 5, 3, &[A, B, C])
    }));
    assert_eq!(lab.committed().durability_was, None);
}
