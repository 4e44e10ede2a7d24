//! Order among the writers of one volume: plain writes run side by side, a read-modify-write or a
//! compare-and-write runs alone on its blocks, a flush waits for what came before it.
//!
//! First come, first served per overlapping range, so nobody starves and nothing deadlocks: a command
//! holds at most one range. Cost: O(ranges held or waiting) per lock and unlock; plain writes without
//! an exclusive range around never wait. Bounded by [`HOLDERS_MAX`].

use crate::limits::HOLDERS_MAX;
use holdfast_core::block::BlockRange;
use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// What a range is locked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Whole blocks are replaced; the store orders overlapping ones.
    Replace,
    /// What is there is read and then replaced.
    Exclusive,
    /// Waits for everything before it; holds up nothing.
    Barrier,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    range: BlockRange,
    mode: Mode,
    waker: Option<Waker>,
}

#[derive(Debug, Default)]
struct Table {
    next_id: u64,
    /// In order of arrival.
    entries: Vec<Entry>,
    /// How many of them are not `Replace`: while 0, nobody waits.
    ordered: usize,
}

/// The locks of one volume.
#[derive(Clone, Debug, Default)]
pub(crate) struct RangeLock(Rc<RefCell<Table>>);

/// A range, held until dropped.
#[derive(Debug)]
pub(crate) struct Held {
    table: Rc<RefCell<Table>>,
    id: u64,
}

/// Too many ranges are held or waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Busy;

impl RangeLock {
    /// For replacing whole blocks.
    pub(crate) async fn replace(&self, range: BlockRange) -> Result<Held, Busy> {
        self.lock(range, Mode::Replace).await
    }

    /// For reading and then replacing blocks.
    pub(crate) async fn exclusive(&self, range: BlockRange) -> Result<Held, Busy> {
        self.lock(range, Mode::Exclusive).await
    }

    /// Waits until every lock that was asked for before is given back.
    pub(crate) async fn barrier(&self) -> Result<(), Busy> {
        if self.0.borrow().entries.is_empty() {
            return Ok(());
        }
        let all = BlockRange {
            first: holdfast_core::block::Block(0),
            count: u32::MAX,
        };
        self.lock(all, Mode::Barrier).await.map(drop)
    }

    async fn lock(&self, range: BlockRange, mode: Mode) -> Result<Held, Busy> {
        let held = self.enqueue(range, mode)?;
        poll_fn(|context| {
            let mut table = self.0.borrow_mut();
            if table.may_run(held.id) {
                return Poll::Ready(());
            }
            let entry = table.entry(held.id);
            entry.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
        Ok(held)
    }

    fn enqueue(&self, range: BlockRange, mode: Mode) -> Result<Held, Busy> {
        let mut table = self.0.borrow_mut();
        if table.entries.len() >= HOLDERS_MAX {
            return Err(Busy);
        }
        let id = table.next_id;
        table.next_id += 1;
        table.ordered += usize::from(mode != Mode::Replace);
        table.entries.push(Entry {
            id,
            range,
            mode,
            waker: None,
        });
        Ok(Held {
            table: Rc::clone(&self.0),
            id,
        })
    }
}

impl Table {
    fn position(&self, id: u64) -> usize {
        self.entries
            .binary_search_by_key(&id, |entry| entry.id)
            .expect("an entry stays until it is dropped")
    }

    fn entry(&mut self, id: u64) -> &mut Entry {
        let position = self.position(id);
        &mut self.entries[position]
    }

    fn may_run(&self, id: u64) -> bool {
        if self.ordered == 0 {
            return true;
        }
        let position = self.position(id);
        let own = &self.entries[position];
        !self.entries[..position]
            .iter()
            .any(|earlier| conflicts(earlier, own))
    }
}

fn conflicts(earlier: &Entry, own: &Entry) -> bool {
    match (earlier.mode, own.mode) {
        (Mode::Barrier, _) | (Mode::Replace, Mode::Replace) => false,
        (_, Mode::Barrier) => true,
        _ => earlier.range.first < own.range.end() && own.range.first < earlier.range.end(),
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut wake = Vec::new();
        {
            let mut table = self.table.borrow_mut();
            let position = table.position(self.id);
            let gone = table.entries.remove(position);
            if table.ordered > 0 {
                wake.extend(
                    table.entries[position..]
                        .iter_mut()
                        .filter_map(|e| e.waker.take()),
                );
            }
            table.ordered -= usize::from(gone.mode != Mode::Replace);
        }
        for waker in wake {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests;
