//! Lane `fuzz`: seeded hostile bytes for every decoder. The bodies live beside the decoders and take their length from
//! the environment, so one that failed is repeated from its printed seed.

use super::Context;
use super::test::cargo_test;
use crate::report::Report;

/// Seconds for each body in a run that names no number.
const SECONDS: u64 = 3;

/// Runs the lane.
pub(crate) fn run(context: &Context, report: &mut Report) {
    let seconds = context.options.seconds.unwrap_or(SECONDS);
    let seed = context.seed();
    report.note(&format!(
        "{seconds} s each, seed {seed}; again: cargo ci fuzz --seconds {seconds} --seed {seed}"
    ));
    let environment = [
        ("HOLDFAST_FUZZ_SECONDS", seconds.to_string()),
        ("HOLDFAST_SEED", seed.to_string()),
    ];
    for package in ["holdfast-core", "holdfast-iscsi"] {
        cargo_test(
            report,
            package,
            &["--release", "-p", package, "--lib"],
            &environment,
            &["fuzz", "--nocapture"],
        );
    }
}
