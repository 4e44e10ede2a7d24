//! A bounded pool of long-lived tasks that run short jobs. Hot path.
//!
//! A job costs one allocation (its future) and a wake; a task per job would cost more and glommio
//! leaks a little with every task that ends. The number of tasks bounds what runs at once; further
//! jobs wait in order. Workers are started as they are needed and then stay.

use super::local::{Gate, Pass};
use super::task;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

type Job = Pin<Box<dyn Future<Output = ()>>>;

/// The pool. Clones are the same pool.
#[derive(Clone)]
pub(crate) struct Slots(Rc<Shared>);

struct Shared {
    waiting: RefCell<VecDeque<(Job, Pass)>>,
    idle: RefCell<Vec<Waker>>,
    workers: Cell<usize>,
    workers_max: usize,
    gate: Rc<Gate>,
}

impl Slots {
    /// A pool that runs at most `workers_max` jobs at once.
    pub(crate) fn new(workers_max: usize) -> Self {
        assert!(workers_max > 0);
        Slots(Rc::new(Shared {
            waiting: RefCell::default(),
            idle: RefCell::default(),
            workers: Cell::new(0),
            workers_max,
            gate: Rc::default(),
        }))
    }

    /// Runs `job` as soon as a worker is free. It is never cancelled.
    pub(crate) fn run(&self, job: impl Future<Output = ()> + 'static) {
        let shared = &self.0;
        let entry: (Job, Pass) = (Box::pin(job), shared.gate.enter());
        shared.waiting.borrow_mut().push_back(entry);
        let idle = shared.idle.borrow_mut().pop();
        if let Some(waker) = idle {
            waker.wake();
        } else if shared.workers.get() < shared.workers_max {
            shared.workers.set(shared.workers.get() + 1);
            task::spawn(work(Rc::clone(shared)));
        }
    }

    /// Waits until no job is waiting or running.
    pub(crate) async fn drained(&self) {
        self.0.gate.emptied().await;
    }
}

async fn work(shared: Rc<Shared>) {
    loop {
        let (job, _pass) = poll_fn(|context| match shared.waiting.borrow_mut().pop_front() {
            Some(entry) => Poll::Ready(entry),
            None => {
                shared.idle.borrow_mut().push(context.waker().clone());
                Poll::Pending
            }
        })
        .await;
        job.await;
    }
}
