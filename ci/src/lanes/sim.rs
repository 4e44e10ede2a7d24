//! Lane `sim`: simulated clusters under disasters, one for each seed. They live in `core`, next to what they test; this
//! lane gives them a number and counts what they say.

use super::Context;
use super::test::cargo_test;
use crate::report::Report;

/// Seeds in a run that names no number: about two minutes on two cores.
const SEEDS: u64 = 2000;

/// Runs the lane. `--seeds` says how many, `--seed` with which one they begin.
pub(crate) fn run(context: &Context, report: &mut Report) {
    let seeds = context.options.seeds.unwrap_or(SEEDS);
    let first = context.options.seed.unwrap_or(1);
    let environment = [
        ("HOLDFAST_CLUSTER_SEEDS", seeds.to_string()),
        ("HOLDFAST_CLUSTER_FIRST", first.to_string()),
    ];
    cargo_test(
        report,
        "simulated clusters",
        &["--release", "-p", "holdfast-core", "--test", "cluster"],
        &environment,
        &["--nocapture"],
    );
}
