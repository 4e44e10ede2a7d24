//! The memory of transfers in a shard: task buffers and data waiting to be sent.
//!
//! Reads wait in order until there is room; writes that find none are refused as TASK SET FULL. A
//! connection that has nothing under way is always let in, so nobody can keep the others out: beyond
//! the budget there is at most one command of each session.

use crate::runtime::local::{Sender, once};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// The budget. Clones share it.
#[derive(Clone)]
pub(crate) struct Budget(Rc<Inner>);

struct Inner {
    bytes_max: usize,
    used: Cell<usize>,
    peak: Cell<usize>,
    waiting: RefCell<VecDeque<(usize, Sender<Share>)>>,
}

/// A part of the budget, given back when dropped.
pub(crate) struct Share {
    inner: Rc<Inner>,
    bytes: usize,
}

impl Budget {
    /// A budget of `bytes_max` bytes.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Budget(Rc::new(Inner {
            bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
            used: Cell::new(0),
            peak: Cell::new(0),
            waiting: RefCell::default(),
        }))
    }

    /// Takes `bytes` even if the budget is overdrawn by it.
    pub(crate) fn take(&self, bytes: usize) -> Share {
        Inner::take(&self.0, bytes)
    }

    /// Takes `bytes` if there is room now and nobody waits.
    pub(crate) fn try_take(&self, bytes: usize) -> Option<Share> {
        let free = self.0.waiting.borrow().is_empty() && self.0.fits(bytes);
        free.then(|| self.take(bytes))
    }

    /// Takes `bytes`, waiting for room.
    pub(crate) async fn wait(&self, bytes: usize) -> Share {
        if let Some(share) = self.try_take(bytes) {
            return share;
        }
        let (sender, receiver) = once();
        self.0.waiting.borrow_mut().push_back((bytes, sender));
        receiver.receive().await
    }

    /// The most that was in use since the last call.
    pub(crate) fn take_peak(&self) -> usize {
        self.0.peak.replace(self.0.used.get())
    }

    /// Whether nothing of it is in use.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.used.get() == 0
    }

    /// What one of many may use in all: half of what is left, so that others always find some.
    pub(crate) fn fair_share(&self) -> usize {
        self.0.bytes_max.saturating_sub(self.0.used.get()) / 2
    }
}

impl Inner {
    fn take(this: &Rc<Inner>, bytes: usize) -> Share {
        this.used.set(this.used.get() + bytes);
        this.peak.set(this.peak.get().max(this.used.get()));
        Share {
            inner: Rc::clone(this),
            bytes,
        }
    }

    fn fits(&self, bytes: usize) -> bool {
        self.used.get() == 0 || self.used.get() + bytes <= self.bytes_max
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let inner = &self.inner;
        inner.used.set(inner.used.get() - self.bytes);
        loop {
            let next = inner.waiting.borrow().front().map(|(bytes, _)| *bytes);
            match next {
                Some(bytes) if inner.fits(bytes) => {
                    let first = inner.waiting.borrow_mut().pop_front();
                    let (bytes, sender) = first.expect("looked at just above");
                    sender.send(Inner::take(inner, bytes));
                }
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Budget;
    use futures_lite::future::{block_on, poll_once};

    #[test]
    fn a_waiter_gets_its_share_in_order() {
        let budget = Budget::new(100);
        let first = budget.try_take(60).expect("room");
        let other = budget.clone();
        let mut second = Box::pin(async move { other.wait(50).await });
        assert!(block_on(poll_once(&mut second)).is_none());
        assert!(budget.try_take(10).is_none(), "nobody overtakes");
        drop(first);
        let second = block_on(poll_once(&mut second)).expect("room now");
        assert!(budget.try_take(51).is_none());
        drop(second);
        assert!(budget.try_take(1000).is_some(), "alone, anything fits");
    }
}
