//! Runs a test's future on a small executor of its own, with a watchdog.

use super::executor::{ExecutorOptions, start};
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
