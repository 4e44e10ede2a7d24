//! Waiting inside one shard: a value that arrives once, and a bell that rings.
//!
//! Both store one waker and take it when they wake, so polling again and again costs nothing.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Makes the two ends of a value that arrives once.
pub(crate) fn once<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Rc::new(Shared {
        value: Cell::new(None),
        waker: Cell::new(None),
    });
    (Sender(Rc::clone(&shared)), Receiver(shared))
}

struct Shared<T> {
    value: Cell<Option<T>>,
    waker: Cell<Option<Waker>>,
}

/// Gives the value.
pub(crate) struct Sender<T>(Rc<Shared<T>>);

/// Waits for the value.
pub(crate) struct Receiver<T>(Rc<Shared<T>>);

impl<T> Sender<T> {
    /// Gives the value and wakes the receiver, if it still waits.
    pub(crate) fn send(self, value: T) {
        self.0.value.set(Some(value));
        if let Some(waker) = self.0.waker.take() {
            waker.wake();
        }
    }
}

impl<T> Receiver<T> {
    /// Waits for the value. The sender must not be dropped without sending.
    pub(crate) async fn receive(self) -> T {
        poll_fn(|context| match self.0.value.take() {
            Some(value) => Poll::Ready(value),
            None => {
                self.0.waker.set(Some(context.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }
}

/// Wakes one waiting task; rings before it waits are remembered as one.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Bell {
    /// Rings.
    pub(crate) fn ring(&self) {
        self.rung.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Waits for a ring since the last wait. At most one task waits.
    pub(crate) async fn rung(&self) {
        poll_fn(|context| {
            if self.rung.replace(false) {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Counts what is under way and lets one task wait for the end of all of it.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    inside: Cell<usize>,
    empty: Bell,
}

/// One thing under way; its end is told by dropping it.
#[derive(Debug)]
pub(crate) struct Pass(Rc<Gate>);

impl Gate {
    /// One more is under way.
    pub(crate) fn enter(self: &Rc<Self>) -> Pass {
        self.inside.set(self.inside.get() + 1);
        Pass(Rc::clone(self))
    }

    /// How many are under way.
    pub(crate) fn count(&self) -> usize {
        self.inside.get()
    }

    /// Waits until nothing is under way.
    pub(crate) async fn emptied(&self) {
        while self.inside.get() > 0 {
            self.empty.rung().await;
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.inside.set(self.0.inside.get() - 1);
        if self.0.inside.get() == 0 {
            self.0.empty.ring();
        }
    }
}
