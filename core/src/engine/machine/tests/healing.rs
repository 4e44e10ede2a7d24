//! Damaged blocks of a primary come from another copy, or do not come at all.
//!
//! Goal: what is given for a damaged block is what was written last, whatever the other copies have, and
//! every request ends. Method: bits are flipped on the disks of the laboratory.

use super::lab::{Lab, VOLUME};
use crate::block::Block;
use crate::checksum::crc32c;
use crate::cluster::set::Durability;
use crate::engine::{Event, HealId, NotHealed};
use crate::limits::{HEAL_WAIT_MAX, HEALS_MAX};
use crate::lsn::{Epoch, Lsn};
use crate::store;
use crate::testing::disk::BlockBytes;
use alloc::rc::Rc;
use alloc::vec::Vec;

type Answer = Result<Rc<BlockBytes>, NotHealed>;

fn lab_with_blocks(seed: u64, durability: Durability) -> Lab {
    let mut lab = Lab::new(seed, durability);
    lab.settle();
    for block in 0..20 {
        lab.write(block);
        lab.settle();
    }
    lab.pass(500);
    lab
}

impl Lab {
    fn damage(&mut self, at: usize, block: u64) {
        let node = self.nodes[at].node.as_mut().expect("it is up");
        let (place, _) = node.place_of(VOLUME, Block(block)).expect("it is stored");
        node.disk.current_mut().flip(place, 77);
    }

    fn ask(&mut self, id: u64, block: u64) {
        let at = self.primary();
        let now = self.now;
        let node = self.nodes[at].node.as_mut().expect("it is up");
        assert!(node.heal(now, HealId(id), VOLUME, Block(block)));
        self.give(at, Event::Store(store::Event::Tick));
    }

    fn answers(&mut self) -> Vec<(HealId, Answer)> {
        let at = self.primary();
        let node = self.nodes[at].node.as_mut().expect("it is up");
        core::mem::take(&mut node.healed)
    }

    /// Asks for a block and gives the answer, which is there without waiting.
    fn heal(&mut self, block: u64) -> Answer {
        self.ask(1, block);
        self.settle();
        let answers = self.answers();
        let [(HealId(1), answer)] = &answers[..] else {
            panic!("{answers:?}");
        };
        if let Ok(bytes) = answer {
            let node = self.nodes[self.primary()].node.as_ref().expect("it is up");
            let (_, checksum) = node.place_of(VOLUME, Block(block)).expect("it is stored");
            assert_eq!(crc32c(bytes.as_slice()), checksum);
        }
        answer.clone()
    }

    /// Writes an answer back. Gives whether that took a record.
    fn repair(&mut self, block: u64, bytes: Rc<BlockBytes>) -> bool {
        let (at, now, tag) = (self.primary(), self.now, self.tag());
        let before = self.appended(at);
        let node = self.nodes[at].node.as_mut().expect("it is up");
        node.repair(now, tag, VOLUME, (Block(block), bytes));
        self.give(at, Event::Store(store::Event::Tick));
        self.settle();
        self.appended(at) > before
    }

    fn appended(&self, at: usize) -> Lsn {
        let node = self.nodes[at].node.as_ref().expect("it is up");
        let info = node.engine.store().volume(VOLUME).expect("it is there");
        info.appended
    }

    fn check_released(&self) {
        for node in self.nodes.iter().flat_map(|place| &place.node) {
            assert_eq!(node.payloads(), 0);
        }
    }
}

#[test]
fn a_damaged_block_comes_from_another_copy_and_needs_none_once_it_is_repaired() {
    let mut lab = lab_with_blocks(20, Durability::SyncAll);
    for block in [3, 17] {
        lab.damage(0, block);
        let bytes = lab.heal(block).expect("two good copies");
        assert!(lab.repair(block, bytes));
    }
    lab.read_all(); // From its own disk alone.
    lab.check_copies();
    lab.check_released();
}

#[test]
fn a_copy_that_is_damaged_too_is_passed_over() {
    let mut lab = lab_with_blocks(21, Durability::SyncAll);
    lab.damage(0, 3);
    lab.damage(1, 3);
    assert!(lab.heal(3).is_ok());
    lab.damage(2, 3);
    assert_eq!(lab.heal(3).err(), Some(NotHealed::NoCopy));
    assert!(lab.heal(4).is_ok(), "the others are good");
    lab.check_released();
}

#[test]
fn an_older_block_is_refused() {
    let mut lab = lab_with_blocks(22, Durability::SyncQuorum);
    lab.hold_disk(2);
    lab.write(3);
    lab.pass(40); // Until the second copy knows it to be committed.
    assert_eq!(lab.acknowledged(), 21);
    lab.damage(0, 3);
    lab.damage(1, 3);
    assert_eq!(lab.heal(3).err(), Some(NotHealed::NoCopy));
    lab.release_disk(2);
    lab.settle();
    assert!(lab.heal(3).is_ok(), "it has that write by now");
}

#[test]
fn what_was_committed_just_now_is_healed() {
    let mut lab = lab_with_blocks(23, Durability::SyncAll);
    lab.write(3);
    lab.settle();
    lab.damage(0, 3);
    lab.muted.insert((2, 0)); // So the first one that is asked has to know that it is committed.
    let bytes = lab.heal(3).expect("it has that durable");
    lab.muted.clear();
    assert!(lab.repair(3, bytes));
    lab.read_all();
}

#[test]
fn a_block_that_was_written_since_is_not_repaired() {
    let mut lab = lab_with_blocks(24, Durability::SyncAll);
    lab.damage(0, 3);
    let bytes = lab.heal(3).expect("two good copies");
    lab.write(3);
    lab.settle();
    assert!(!lab.repair(3, Rc::clone(&bytes)));
    lab.damage(0, 4);
    let bytes = lab.heal(4).expect("two good copies");
    lab.unmap(4);
    lab.settle();
    assert!(!lab.repair(4, bytes));
    lab.read_all();
    lab.check_copies();
}

#[test]
fn a_silent_copy_costs_a_bounded_time() {
    let mut lab = lab_with_blocks(25, Durability::SyncAll);
    lab.damage(0, 3);
    lab.muted.insert((1, 0));
    lab.ask(7, 3);
    lab.settle();
    assert!(lab.answers().is_empty());
    lab.pass(u64::try_from(HEAL_WAIT_MAX.as_millis()).unwrap() + 100);
    assert!(matches!(lab.answers()[..], [(HealId(7), Ok(_))]));
    // What it says afterwards answers nothing.
    lab.muted.clear();
    lab.pass(3_000);
    assert!(lab.answers().is_empty());
    lab.check_released();
}

#[test]
fn every_request_ends_when_streams_end_and_more_than_the_bound_are_refused() {
    let mut lab = lab_with_blocks(26, Durability::SyncAll);
    lab.damage(0, 3);
    lab.muted.extend([(1, 0), (2, 0)]);
    for id in 0..=u64::try_from(HEALS_MAX).unwrap() {
        lab.ask(id, 3);
    }
    lab.settle();
    let answers = lab.answers();
    assert!(matches!(answers[..], [(_, Err(NotHealed::Busy))]));
    lab.cut(0, 1);
    lab.settle();
    assert!(lab.answers().is_empty(), "the other copy may still answer");
    lab.cut(0, 2);
    let answers = lab.answers();
    assert_eq!(answers.len(), HEALS_MAX);
    let refused = |(_, answer): &(HealId, Answer)| *answer == Err(NotHealed::NoCopy);
    assert!(answers.iter().all(refused));
}

#[test]
fn a_request_ends_with_the_reign() {
    let mut lab = lab_with_blocks(27, Durability::SyncAll);
    lab.damage(0, 3);
    lab.muted.extend([(1, 0), (2, 0)]);
    lab.ask(7, 3);
    assert!(lab.answers().is_empty());
    let (tag, volume, epoch) = (lab.tag(), VOLUME, Epoch(9));
    lab.give(0, Event::Fence { tag, volume, epoch });
    let answers = lab.answers();
    assert!(matches!(answers[..], [(HealId(7), Err(NotHealed::NoCopy))]));
    lab.ask(8, 3);
    let answers = lab.answers();
    assert!(matches!(answers[..], [(HealId(8), Err(NotHealed::NoCopy))]));
}
