//! Knows, for every block, which values a read may give: I1, I2 for one node, I12.
//!
//! A value is a number; 0 is zeros. An operation on a block is possible as long as no operation that
//! began after its end has ended well. What a read gave becomes the only possibility: a later crash
//! must not take it back.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

/// Orders beginnings and ends.
type Time = u64;

/// One operation on one block.
#[derive(Clone, Copy, Debug)]
struct Change {
    value: u64,
    began: Time,
    /// Set when it was acknowledged.
    ended: Option<Time>,
}

/// The possible values of a set of places.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    places: BTreeMap<u64, Vec<Change>>,
    time: Time,
}

impl Oracle {
    /// An operation that sets `place` to `value` begins.
    pub fn begin(&mut self, place: u64, value: u64) {
        self.time += 1;
        let began = self.time;
        let changes = self.places.entry(place).or_insert_with(|| vec![settled(0)]);
        changes.push(Change {
            value,
            began,
            ended: None,
        });
    }

    /// That operation was acknowledged.
    pub fn end(&mut self, place: u64, value: u64) {
        self.time += 1;
        let now = self.time;
        let changes = self.places.get_mut(&place).expect("it began");
        let open = |change: &&mut Change| change.value == value && change.ended.is_none();
        let change = changes.iter_mut().find(open).expect("it began");
        change.ended = Some(now);
        let began = change.began;
        changes.retain(|other| other.ended.is_none_or(|ended| ended > began));
    }

    /// That operation was refused, before anything happened.
    pub fn refuse(&mut self, place: u64, value: u64) {
        let changes = self.places.get_mut(&place).expect("it began");
        let open = |change: &Change| change.value == value && change.ended.is_none();
        let at = changes.iter().position(open).expect("it began");
        changes.remove(at);
    }

    /// Whether `value` may be read at `place`.
    pub fn allows(&self, place: u64, value: u64) -> bool {
        match self.places.get(&place) {
            Some(changes) => changes.iter().any(|change| change.value == value),
            None => value == 0,
        }
    }

    /// What may be read at `place`; for messages.
    pub fn allowed(&self, place: u64) -> Vec<u64> {
        let changes = self.places.get(&place);
        changes.map_or_else(|| vec![0], |all| all.iter().map(|c| c.value).collect())
    }

    /// After a crash `value` was read at `place`: it stays, and what was under way is over.
    pub fn settle(&mut self, place: u64, value: u64) {
        self.places.insert(place, vec![settled(value)]);
    }

    /// Forgets everything: the volume is gone.
    pub fn clear(&mut self) {
        self.places.clear();
    }
}

fn settled(value: u64) -> Change {
    Change {
        value,
        began: 0,
        ended: Some(0),
    }
}
