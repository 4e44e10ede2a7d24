//! What a lane found: one line per check as it happens, and the totals at the end.

use std::time::Instant;

/// Counts the checks of one lane and prints each of them.
#[derive(Debug)]
pub(crate) struct Report {
    lane: &'static str,
    passed: u64,
    failures: Vec<String>,
    failed: u64,
    started: Instant,
}

impl Report {
    /// A lane begins.
    pub(crate) fn new(lane: &'static str, about: &str) -> Self {
        println!("== {lane}: {about}");
        Self {
            lane,
            passed: 0,
            failures: Vec::new(),
            failed: 0,
            started: Instant::now(),
        }
    }

    /// One check: `Ok` carries a detail worth reading (may be empty), `Err` why it failed.
    pub(crate) fn check(&mut self, name: &str, result: Result<String, String>) {
        match result {
            Ok(detail) if detail.is_empty() => println!("   ok    {name}"),
            Ok(detail) => println!("   ok    {name}: {detail}"),
            Err(why) => return self.fail(name, &why),
        }
        self.passed += 1;
    }

    /// Something that has no verdict: a number, a decision.
    pub(crate) fn note(&self, text: &str) {
        println!("   {text}");
    }

    /// Many checks that another program counted.
    pub(crate) fn tally(&mut self, passed: u64, failed: u64) {
        self.passed += passed;
        self.failed += failed;
    }

    /// Checks that passed so far.
    pub(crate) fn passed(&self) -> u64 {
        self.passed
    }

    /// Checks that failed so far.
    pub(crate) fn failed(&self) -> u64 {
        self.failed
    }

    /// Prints the lane's line and hands out the failures with the lane's name.
    pub(crate) fn finish(self) -> Vec<String> {
        let seconds = self.started.elapsed().as_secs_f64();
        println!(
            "-- {}: {} passed, {} failed, {seconds:.1} s",
            self.lane, self.passed, self.failed
        );
        self.failures
    }

    fn fail(&mut self, name: &str, why: &str) {
        println!("   FAIL  {name}: {why}");
        self.failures.push(format!("{}: {name}: {why}", self.lane));
        self.failed += 1;
    }
}
