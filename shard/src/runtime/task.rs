//! Tasks and time.

use super::executor::foreground;
use std::future::Future;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Time since a fixed moment of this process, the same for all shards.
pub(crate) fn now() -> Duration {
    START.elapsed()
}

/// Time since the machine started, also while it slept: what leases are measured by.
pub(crate) fn boot_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).expect("it counts up from 0");
    let nanoseconds = u32::try_from(time.tv_nsec).expect("below a second");
    Duration::new(seconds, nanoseconds)
}

/// Starts a detached task in the foreground queue. For tasks that live as long as a connection or a
/// shard: glommio leaks a little with each ended task, so nothing starts one per command.
pub(crate) fn spawn(future: impl Future<Output = ()> + 'static) {
    glommio::spawn_local_into(future, foreground())
        .expect("the foreground queue exists as long as the executor")
        .detach();
}

/// Sleeps. Late by at most the preemption period.
pub(crate) async fn sleep(duration: Duration) {
    glommio::timer::sleep(duration).await;
}

/// Lets others run when this task has had its share. For loops.
pub(crate) async fn yield_if_needed() {
    glommio::yield_if_needed().await;
}
