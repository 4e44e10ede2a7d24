//! Lane `crash`: the engine's crash-image harness with many images. It lives in `core`, next to what it tests; this lane
//! gives it a size and a seed and counts what it recovered from.

use super::Context;
use super::test::cargo_test;
use crate::report::Report;

/// Images in a run that names no number.
const IMAGES: u64 = 40_000;

/// Runs the lane.
pub(crate) fn run(context: &Context, report: &mut Report) {
    let images = context.options.images.unwrap_or(IMAGES);
    let seed = context.seed();
    report.note(&format!(
        "{images} images, seed {seed}; again: cargo ci crash --images {images} --seed {seed}"
    ));
    let environment = [
        ("HOLDFAST_CRASH_IMAGES", images.to_string()),
        ("HOLDFAST_SEED", seed.to_string()),
    ];
    cargo_test(
        report,
        "crash images",
        &["--release", "-p", "holdfast-core", "--lib"],
        &environment,
        &["crash", "--nocapture"],
    );
}
