//! Who waits for whom.

use super::{Busy, Held, RangeLock};
use crate::limits::HOLDERS_MAX;
use futures_lite::future::{block_on, poll_once};
use holdfast_core::block::{Block, BlockRange};
use std::future::Future;
use std::pin::Pin;

type Waiting = Pin<Box<dyn Future<Output = Result<Held, Busy>>>>;

fn range(first: u64, count: u32) -> BlockRange {
    BlockRange {
        first: Block(first),
        count,
    }
}

fn replace(lock: &RangeLock, first: u64, count: u32) -> Waiting {
    let lock = lock.clone();
    Box::pin(async move { lock.replace(range(first, count)).await })
}

fn exclusive(lock: &RangeLock, first: u64, count: u32) -> Waiting {
    let lock = lock.clone();
    Box::pin(async move { lock.exclusive(range(first, count)).await })
}

fn now(waiting: &mut Waiting) -> Option<Held> {
    block_on(poll_once(waiting)).map(|held| held.expect("within the bound"))
}

#[test]
fn plain_writes_overlap_freely() {
    let lock = RangeLock::default();
    let _first = now(&mut replace(&lock, 0, 10)).expect("free");
    let _second = now(&mut replace(&lock, 5, 10)).expect("free");
}

#[test]
fn an_exclusive_range_waits_for_and_holds_up_what_overlaps() {
    let lock = RangeLock::default();
    let write = now(&mut replace(&lock, 0, 10)).expect("free");
    let mut middle = exclusive(&lock, 9, 1);
    assert!(now(&mut middle).is_none());
    let mut behind = replace(&lock, 9, 1);
    assert!(now(&mut behind).is_none());
    let _beside = now(&mut replace(&lock, 10, 5)).expect("another range");
    drop(write);
    let held = now(&mut middle).expect("its turn");
    assert!(now(&mut behind).is_none());
    drop(held);
    assert!(now(&mut behind).is_some());
}

#[test]
fn a_barrier_waits_for_earlier_ones_and_holds_up_nobody() {
    let lock = RangeLock::default();
    let write = now(&mut replace(&lock, 0, 1)).expect("free");
    let barrier_lock = lock.clone();
    let mut barrier = Box::pin(async move { barrier_lock.barrier().await });
    assert!(block_on(poll_once(&mut barrier)).is_none());
    let later = now(&mut replace(&lock, 0, 1)).expect("not held up");
    drop(write);
    assert_eq!(block_on(poll_once(&mut barrier)), Some(Ok(())));
    drop(later);
}

#[test]
fn a_dropped_waiter_leaves_no_trace() {
    let lock = RangeLock::default();
    let held = now(&mut exclusive(&lock, 0, 1)).expect("free");
    let mut waiter = exclusive(&lock, 0, 1);
    assert!(now(&mut waiter).is_none());
    drop(waiter);
    drop(held);
    assert!(now(&mut exclusive(&lock, 0, 1)).is_some());
    assert!(lock.0.borrow().entries.is_empty());
    assert_eq!(lock.0.borrow().ordered, 0);
}

#[test]
fn more_than_the_bound_is_refused() {
    let lock = RangeLock::default();
    let held: Vec<_> = (0..HOLDERS_MAX)
        .map(|_| now(&mut replace(&lock, 0, 1)).expect("free"))
        .collect();
    let refused = block_on(lock.replace(range(0, 1)));
    assert_eq!(refused.err(), Some(Busy));
    drop(held);
    assert!(block_on(lock.replace(range(0, 1))).is_ok());
}
