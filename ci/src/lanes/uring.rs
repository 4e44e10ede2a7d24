//! Lane `uring`: the tests of the data plane that drive io_uring on real files and sockets.

use super::Context;
use super::test::cargo_test;
use crate::report::Report;

/// Runs the lane.
pub(crate) fn run(_: &Context, report: &mut Report) {
    cargo_test(
        report,
        "shard on io_uring",
        &["-p", "holdfast-shard"],
        &[],
        &[],
    );
}
