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

/// One task of the pool. A task can be polled without having been chosen, and then takes a job all
/// the same: what the list says of it is checked when it is chosen, or a job would wait behind it.
#[derive(Default)]
struct Worker {
    waker: RefCell<Option<Waker>>,
    idle: Cell<bool>,
    listed: Cell<bool>,
}

struct Shared {
    waiting: RefCell<VecDeque<(Job, Pass)>>,
    /// Each worker at most once.
    idle: RefCell<Vec<Rc<Worker>>>,
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
        if let Some(waker) = shared.choose() {
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

impl Shared {
    /// An idle worker, which is no longer.
    fn choose(&self) -> Option<Waker> {
        loop {
            let worker = self.idle.borrow_mut().pop()?;
            worker.listed.set(false);
            if worker.idle.replace(false) {
                return worker.waker.take();
            }
        }
    }

    fn rest(&self, worker: &Rc<Worker>, waker: &Waker) {
        worker.waker.replace(Some(waker.clone()));
        worker.idle.set(true);
        if !worker.listed.replace(true) {
            self.idle.borrow_mut().push(Rc::clone(worker));
        }
    }
}

async fn work(shared: Rc<Shared>) {
    let own: Rc<Worker> = Rc::default();
    loop {
        let (job, _pass) = poll_fn(|context| match shared.waiting.borrow_mut().pop_front() {
            Some(entry) => {
                own.idle.set(false);
                Poll::Ready(entry)
            }
            None => {
                shared.rest(&own, context.waker());
                Poll::Pending
            }
        })
        .await;
        job.await;
    }
}
