//! Lane `test`: formatting, lints of the whole workspace, every unit test.

use std::time::Duration;

use super::Context;
use crate::report::Report;
use crate::{tool, workspace};

/// Time for the lints, cold build included.
const LINT_BOUND: Duration = Duration::from_secs(1800);

/// Time for all tests, cold build included.
const TEST_BOUND: Duration = Duration::from_secs(1800);

/// Runs the lane.
pub(crate) fn run(_: &Context, report: &mut Report) {
    let mut format = workspace::cargo();
    format.args(["fmt", "--all", "--check"]);
    report.check(
        "cargo fmt",
        tool::run_ok(&mut format, LINT_BOUND).map(|_| String::new()),
    );
    let mut lint = workspace::cargo();
    lint.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]);
    report.check(
        "cargo clippy",
        tool::run_ok(&mut lint, LINT_BOUND).map(|_| String::new()),
    );
    // The crash lane examines many; here a few show that the test itself works.
    let images = [("HOLDFAST_CRASH_IMAGES", "2000".to_owned())];
    cargo_test(report, "unit tests", &["--workspace"], &images, &[]);
}

/// Runs `cargo test` with `arguments` and the environment, and counts the tests from its output.
pub(crate) fn cargo_test(
    report: &mut Report,
    name: &str,
    arguments: &[&str],
    environment: &[(&str, String)],
    harness: &[&str],
) {
    let mut test = workspace::cargo();
    test.args(["test", "--no-fail-fast", "--quiet"])
        .args(arguments)
        .arg("--")
        .args(harness);
    // The harness's own words are counted, so they must be the same everywhere.
    test.args(["--color", "never"]);
    test.envs(environment.iter().map(|(key, value)| (key, value)));
    let output = match tool::run(&mut test, TEST_BOUND) {
        Ok(output) => output,
        Err(why) => return report.check(name, Err(why)),
    };
    let counts = count(&output.stdout);
    for line in output.stdout.lines().filter(|line| is_finding(line)) {
        report.note(line);
    }
    let detail = format!("{} passed, {} failed", counts.passed, counts.failed);
    if output.success() && counts.failed == 0 && counts.passed > 0 {
        report.note(&format!("{name}: {detail}"));
        report.tally(counts.passed, 0);
    } else {
        report.tally(counts.passed, counts.failed.saturating_sub(1));
        let said = failures(&output.stdout);
        let built = tool::tail(&output.stderr, 12);
        report.check(name, Err(format!("{detail}; {said} {built}")));
    }
}

/// What `cargo test` counted, over all its binaries.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    passed: u64,
    failed: u64,
}

/// A line that a long test prints about itself.
fn is_finding(line: &str) -> bool {
    line.starts_with("seed ") || line.contains("crash images of")
}

fn count(output: &str) -> Counts {
    let mut counts = Counts::default();
    for line in output
        .lines()
        .filter(|line| line.starts_with("test result: "))
    {
        let number = |word: &str| {
            line.split([';', '.'])
                .find_map(|part| part.trim().strip_suffix(word))
                .and_then(|number| number.trim().parse::<u64>().ok())
                .unwrap_or(0)
        };
        counts.passed += number(" passed");
        counts.failed += number(" failed");
    }
    counts
}

/// Names of failed tests and the panics' lines.
fn failures(output: &str) -> String {
    let mut lines: Vec<&str> = output
        .lines()
        .filter(|line| line.contains("panicked at") || line.starts_with("    "))
        .map(str::trim)
        .collect();
    lines.truncate(20);
    lines.join(" | ")
}

#[cfg(test)]
mod tests;
