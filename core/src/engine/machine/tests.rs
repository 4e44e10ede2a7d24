//! Three engines, their disks, a network and a master in one test.
//!
//! Goal: what was acknowledged is read from then on, whatever happens to nodes and streams, and in the
//! end all copies are the same. Method: [`lab::Lab`], by hand in the small cases and by random schedules.

mod healing;
mod lab;
mod master;
mod planted;
mod random;

use self::lab::{BLOCKS, Lab, NODES, VOLUME};
use crate::cluster::set::Durability;
use crate::engine::status::CopyState;
use crate::engine::{Event, Role, Serve};
use crate::store;

#[test]
fn writes_are_on_every_copy_when_they_end() {
    let mut lab = Lab::new(1, Durability::SyncAll);
    lab.settle();
    for block in 0..BLOCKS {
        lab.write(block);
        lab.settle();
    }
    assert_eq!(lab.acknowledged(), usize::try_from(BLOCKS).unwrap());
    lab.read_all();
    lab.check_copies();
}

#[test]
fn a_write_waits_for_the_slowest_copy() {
    let mut lab = Lab::new(2, Durability::SyncAll);
    lab.settle();
    lab.hold_disk(2);
    lab.write(0);
    lab.settle();
    assert_eq!(lab.acknowledged(), 0);
    lab.release_disk(2);
    lab.settle();
    assert_eq!(lab.acknowledged(), 1);
}

#[test]
fn a_quorum_does_not_wait_for_the_slowest_copy() {
    let mut lab = Lab::new(3, Durability::SyncQuorum);
    lab.settle();
    lab.hold_disk(2);
    lab.write(0);
    lab.settle();
    assert_eq!(lab.acknowledged(), 1);
    lab.release_disk(2);
    lab.settle();
    lab.check_copies();
}

/// What a quorum committed may be on the primary and one more copy only. To forget that when the mode
/// changes would let a copy without it into a set of two that trusts each of its members: then the loss
/// of the primary loses an acknowledged write.
#[test]
fn a_copy_that_lacks_what_a_quorum_committed_is_not_left_alone_with_the_primary() {
    let mut lab = Lab::new(12, Durability::SyncQuorum);
    lab.settle();
    lab.hold_disk(1);
    lab.write(0);
    lab.settle();
    assert_eq!(lab.acknowledged(), 1, "on two of three");
    lab.change_durability(Durability::SyncAll);
    lab.kill(2);
    lab.pass(1000);
    assert_eq!(lab.set_len(), NODES, "the copy that is left lacks a write");
    lab.release_disk(1);
    lab.pass(1000);
    assert_eq!(lab.set_len(), 2);
    assert_eq!(lab.master.was, None, "the primary confirmed");
    lab.kill(0);
    lab.pass(4000);
    assert_eq!(lab.primary(), 1);
    lab.read_all();
}

#[test]
fn a_change_of_the_durability_is_confirmed_when_all_copies_are_level() {
    for (from, to) in [
        (Durability::SyncAll, Durability::SyncQuorum),
        (Durability::SyncQuorum, Durability::SyncAll),
        (Durability::BestEffort, Durability::SyncAll),
    ] {
        let mut lab = Lab::new(13, from);
        lab.settle();
        lab.write(0);
        lab.settle();
        lab.change_durability(to);
        lab.pass(1000);
        assert_eq!(lab.master.was, None);
        assert_eq!(lab.set_len(), NODES);
        lab.hold_disk(1);
        lab.write(1);
        lab.settle();
        let waits = to == Durability::SyncAll;
        assert_eq!(lab.acknowledged(), if waits { 1 } else { 2 });
        lab.release_disk(1);
        lab.settle();
        lab.check_copies();
    }
}

/// It would give hosts what it knew last, until its removal is durable: stale reads.
#[test]
fn a_copy_that_is_being_removed_serves_nobody() {
    let mut lab = Lab::new(14, Durability::SyncAll);
    lab.settle();
    lab.hold_disk(1);
    let tag = lab.tag();
    let remove = store::Event::RemoveVolume { tag, id: VOLUME };
    lab.give(1, Event::Store(remove));
    let engine = &lab.nodes[1].node.as_ref().expect("it is up").engine;
    assert!(engine.store().volume(VOLUME).is_some(), "not durable yet");
    assert!(matches!(engine.may_serve(VOLUME, lab.now), Serve::No(_)));
}

#[test]
fn a_killed_secondary_leaves_the_set_and_comes_back_by_resync() {
    let mut lab = Lab::new(4, Durability::SyncAll);
    lab.settle();
    lab.write(0);
    lab.settle();
    lab.kill(2);
    lab.write(1);
    lab.pass(1000);
    assert_eq!(lab.acknowledged(), 2, "the smaller set was registered");
    assert_eq!(lab.set_len(), 2);
    for block in 2..20 {
        lab.write(block);
        lab.unmap(block + 20);
        lab.settle();
    }
    lab.start(2);
    lab.pass(3000);
    assert_eq!(lab.set_len(), NODES);
    assert_eq!(lab.copy_states(0), [CopyState::InSync; 2]);
    lab.settle();
    lab.check_copies();
}

/// A copy that fell silent on an open stream had everything when it was heard last; that is no reason to
/// take it back.
#[test]
fn a_silent_copy_leaves_the_set_once_and_stays_outside() {
    let mut lab = Lab::new(11, Durability::SyncAll);
    lab.settle();
    lab.write(0);
    lab.settle();
    let before = lab.set_version();
    lab.muted.insert((2, 0));
    lab.write(2);
    lab.pass(1000);
    assert_eq!(lab.set_len(), 2);
    lab.write(1);
    lab.pass(3500); // Longer than a slow copy is borne: what it was silent says nothing of how fast it is.
    assert_eq!(lab.acknowledged(), 3);
    assert_eq!(lab.set_version(), before + 1);
    lab.muted.clear();
    lab.pass(3000);
    assert_eq!(lab.set_len(), NODES);
    assert_eq!(lab.set_version(), before + 2);
    lab.settle();
    lab.check_copies();
}

#[test]
fn a_short_cut_of_a_stream_costs_only_the_records_under_way() {
    let mut lab = Lab::new(5, Durability::SyncAll);
    lab.settle();
    lab.write(0);
    lab.cut(0, 2);
    lab.write(1);
    lab.settle();
    assert_eq!(lab.acknowledged(), 0, "the cut copy is still required");
    lab.join();
    lab.pass(300);
    assert_eq!(lab.acknowledged(), 2);
    assert_eq!(lab.set_len(), NODES);
    lab.check_copies();
}

#[test]
fn a_killed_primary_is_followed_by_another_and_cut_when_it_comes_back() {
    let mut lab = Lab::new(6, Durability::SyncAll);
    lab.settle();
    lab.write(0);
    lab.settle();
    lab.isolate(0);
    lab.write(0); // Durable on the old primary only, perhaps.
    lab.settle();
    lab.kill(0);
    lab.pass(4000);
    assert_ne!(lab.primary(), 0);
    lab.join();
    lab.read_all();
    lab.write(0);
    lab.pass(500);
    lab.start(0);
    lab.pass(3000);
    assert_eq!(lab.set_len(), NODES);
    lab.settle();
    lab.read_all();
    lab.check_copies();
}

#[test]
fn an_isolated_primary_stops_serving_with_its_lease() {
    let mut lab = Lab::new(7, Durability::SyncAll);
    lab.settle();
    assert!(lab.serves(0));
    lab.isolate(0);
    lab.pass(2100);
    assert!(!lab.serves(0));
    lab.fail_over();
    lab.pass(1500);
    assert_ne!(lab.primary(), 0);
    assert!(lab.serves(lab.primary()));
    lab.join();
    lab.pass(3000);
    assert_eq!(lab.role(0), Role::Secondary);
    lab.check_copies();
}

#[test]
fn a_planned_move_needs_no_lease_to_run_out() {
    let mut lab = Lab::new(8, Durability::SyncAll);
    lab.settle();
    lab.write(3);
    lab.settle();
    lab.move_to(1);
    lab.pass(400);
    assert_eq!(lab.primary(), 1);
    assert!(lab.serves(1));
    lab.read_all();
}
