//! Lane `crash`: the engine's crash-image test with many images. It lives in `core`, next to what it tests; this lane
//! gives it a size and counts what it says.

use super::Context;
use super::test::cargo_test;
use crate::report::Report;

/// Images in a run that names no number.
const IMAGES: u64 = 40_000;

/// Runs the lane. `--seed` repeats the one workload that a failure named.
pub(crate) fn run(context: &Context, report: &mut Report) {
    let images = context.options.images.unwrap_or(IMAGES);
    let mut environment = vec![("HOLDFAST_CRASH_IMAGES", images.to_string())];
    if let Some(seed) = context.options.seed {
        environment.push(("HOLDFAST_SEED", seed.to_string()));
    }
    cargo_test(
        report,
        "crash images",
        &["--release", "-p", "holdfast-core", "--test", "crash"],
        &environment,
        &["--nocapture"],
    );
}
