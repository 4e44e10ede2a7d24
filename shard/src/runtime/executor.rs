//! Executors: one pinned thread per shard, and the process set-up they need.

use super::task;
use crate::limits::RING_ENTRIES;
use glommio::{Latency, LocalExecutorBuilder, Placement, PoolPlacement, Shares, TaskQueueHandle};
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::os::fd::FromRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::task::{Poll, Waker};
use std::time::Duration;

/// How long a shard runs tasks before it looks at its rings again, while it has any.
///
/// Tasks are short and their queue runs dry in each turn, so this rarely ends one; a shorter time
/// meets the flaw of [`keep_awake`] more often on a busy machine.
const PREEMPT: Duration = Duration::from_millis(5);

/// The longest sleep of an executor that has work.
const PULSE: Duration = Duration::from_millis(10);

/// The longest sleep of an idle one. What the pulse is there for happens on busy machines.
const IDLE_PULSE: Duration = Duration::from_millis(80);

/// Tasks between two pulses that still are idling: the pulse's own and those of a tick.
const IDLE_TASKS: u64 = 8;

/// How an executor runs.
#[derive(Clone, Debug)]
pub(crate) struct ExecutorOptions {
    /// Thread name.
    pub(crate) name: String,
    /// CPU to pin to; `None`: the kernel chooses.
    pub(crate) cpu: Option<usize>,
    /// Bytes of memory to register with the rings.
    pub(crate) registered_bytes: usize,
    /// How long to poll the rings before sleeping. Zero: sleep at once. Only when pinned.
    pub(crate) spin: Duration,
}

/// A running executor.
#[derive(Debug)]
pub(crate) struct Executor(glommio::ExecutorJoinHandle<()>);

thread_local! {
    static FOREGROUND: Cell<Option<TaskQueueHandle>> = const { Cell::new(None) };
}

/// Registers this process for the cheap memory barrier that glommio uses. Must be the first act of
/// `main`: with threads around, the kernel needs tens of milliseconds for it.
pub(crate) fn register_membarrier() {
    // SAFETY: the syscall takes three integers, touches no memory of ours, and an error is harmless
    // (glommio falls back to fences).
    unsafe {
        libc::syscall(
            libc::SYS_membarrier,
            libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED,
            0,
            0,
        )
    };
}

/// Starts an executor thread that runs `main` and ends with it.
pub(crate) fn start<G, F>(options: ExecutorOptions, main: G) -> io::Result<Executor>
where
    G: FnOnce() -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    let placement = options.cpu.map_or(Placement::Unbound, Placement::Fixed);
    let builder = LocalExecutorBuilder::new(placement)
        .name(&options.name)
        .ring_depth(RING_ENTRIES)
        .io_memory(options.registered_bytes)
        .preempt_timer(PREEMPT)
        .spin_before_park(options.spin)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1));
    let (give, pulse) = mpsc::channel();
    let state = Arc::new(Pulse::default());
    let seen = Arc::clone(&state);
    let handle = builder
        .spawn(move || async move {
            // Foreign wakes of a sleeping or busy shard are prompt only in a queue that matters.
            let queue = glommio::executor().create_task_queue(
                Shares::Static(1000),
                Latency::Matters(PREEMPT),
                "foreground",
            );
            FOREGROUND.with(|slot| slot.set(Some(queue)));
            task::spawn(pulsed(give, Arc::clone(&seen)));
            main().await;
            seen.ended.store(true, Ordering::Relaxed);
        })
        .map_err(io::Error::from)?;
    std::thread::Builder::new()
        .name("pulse".into())
        .spawn(move || keep_awake(&pulse, &state))?;
    Ok(Executor(handle))
}

/// What an executor and the thread that wakes it know of each other.
#[derive(Debug, Default)]
struct Pulse {
    ended: AtomicBool,
    /// Hardly anything ran between the last two pulses.
    idle: AtomicBool,
}

/// Never lets an executor sleep for long: a thread that wakes it again and again.
///
/// When the preemption timer fires before glommio 0.9.0 begins to run tasks, as it does on a machine
/// with more work than CPUs, glommio takes the executor for idle and lets it sleep with tasks that
/// could run, for ever if no event follows. A timer does not help: the task that would set it again
/// may be among those. A wake from outside always ends the sleep.
fn keep_awake(pulse: &Receiver<Waker>, state: &Pulse) {
    let Ok(waker) = pulse.recv() else {
        return;
    };
    let mut pause = PULSE;
    while !state.ended.load(Ordering::Relaxed) {
        std::thread::sleep(pause);
        waker.wake_by_ref();
        pause = if state.idle.load(Ordering::Relaxed) {
            (pause * 2).min(IDLE_PULSE)
        } else {
            PULSE
        };
    }
}

/// The task that the pulse wakes. It gives its waker away once and never ends.
async fn pulsed(give: Sender<Waker>, state: Arc<Pulse>) {
    let mut give = Some(give);
    std::future::poll_fn(|context| {
        if let Some(give) = give.take() {
            // The thread waits for it; when it is gone the process is ending.
            let _ = give.send(context.waker().clone());
        }
        // Reading the statistics begins them anew.
        let tasks = glommio::executor().executor_stats().tasks_executed();
        state.idle.store(tasks <= IDLE_TASKS, Ordering::Relaxed);
        Poll::Pending
    })
    .await
}

impl Executor {
    /// Waits for the end of the executor's main future.
    pub(crate) fn join(self) -> io::Result<()> {
        self.0.join().map_err(io::Error::from)
    }
}

/// The task queue of everything a host waits for.
pub(super) fn foreground() -> TaskQueueHandle {
    FOREGROUND
        .with(Cell::get)
        .expect("only tasks of an executor spawn tasks")
}

/// Reads that went through the polling ring since the last call; always 0 on a healthy start.
pub(crate) fn polled_reads() -> u64 {
    glommio::executor().io_stats().poll_ring.file_reads().0
}

/// Makes and drops a small ring, to learn whether the kernel lets us: glommio would panic instead.
pub(crate) fn try_ring() -> io::Result<()> {
    /// Bytes of `struct io_uring_params`, all zero for the defaults.
    const PARAMS_BYTES: usize = 120;
    let mut params = [0_u64; PARAMS_BYTES / 8];
    // SAFETY: the kernel reads and writes PARAMS_BYTES bytes at the pointer, which are ours, aligned
    // and live during the call.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    drop(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) });
    Ok(())
}
