//! Lane `fuzz`: seeded hostile bytes for every decoder. The bodies are tests beside the decoders, named `any_...` or in a
//! module `fuzz`; each takes its first seed from the environment, so what failed is repeated from the printed seed.

use std::time::{Duration, Instant};

use super::Context;
use super::test::cargo_test;
use crate::report::Report;

/// Filters that find the bodies.
const FILTERS: [&str; 2] = ["fuzz", "::any_"];

/// Runs the lane: one pass with a seed of its own, or passes with following seeds for `--seconds`.
pub(crate) fn run(context: &Context, report: &mut Report) {
    let time = Duration::from_secs(context.options.seconds.unwrap_or(0));
    let first = context.seed();
    let started = Instant::now();
    for seed in first.. {
        report.note(&format!("seed {seed}; again: cargo ci fuzz --seed {seed}"));
        let environment = [("HOLDFAST_FUZZ_SEED", seed.to_string())];
        for package in ["holdfast-core", "holdfast-iscsi"] {
            let arguments = ["--release", "-p", package, "--lib"];
            cargo_test(report, package, &arguments, &environment, &FILTERS);
        }
        if started.elapsed() >= time || report.failed() > 0 {
            break;
        }
    }
}
