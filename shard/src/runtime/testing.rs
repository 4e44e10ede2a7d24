//! Runs a test's future on a small executor of its own, with a watchdog.

use super::executor::{ExecutorOptions, start};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::Future;
use std::sync::mpsc;
use std::time::Duration;

/// The longest any test may take.
const WATCHDOG: Duration = Duration::from_secs(60);

/// Runs the future that `main` makes; panics when it does or when it takes too long.
pub(crate) fn run<G, F>(main: G)
where
    G: FnOnce() -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    let options = ExecutorOptions {
        name: "test".into(),
        cpu: None,
        registered_bytes: 64 << 10,
        spin: Duration::ZERO,
    };
    let (done, ended) = mpsc::channel();
    let executor = start(options, move || async move {
        main().await;
        // The receiver waits until the watchdog's time is over; then the test has failed anyway.
        let _ = done.send(());
    })
    .expect("io_uring and locked memory are available to tests");
    let result = ended.recv_timeout(WATCHDOG);
    assert_ne!(
        result,
        Err(mpsc::RecvTimeoutError::Timeout),
        "the test hangs"
    );
    executor.join().expect("the test's executor ends in order");
    result.expect("the test's future did not panic");
}

/// The system's allocator, with a count for each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed on to the system's allocator as it is; counting touches no memory that
// is allocated here, and a thread that ends is not counted any more.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Allocations of this thread so far.
pub(crate) fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}
