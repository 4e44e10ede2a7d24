//! Lane `conform`: libiscsi's `iscsi-test-cu`, families SCSI and iSCSI, each test alone, through two portals.
//!
//! A test counts as run when none of its assertions fails, it does not say `[SKIPPED]` and the program ends with 0: by
//! itself the program calls a skipped test passed, and one that says `[FAILED]` before its first assertion too.
//! `[FAILED]` beside assertions that hold is a message: some tests want a command to fail, and the clean-up after a reset
//! reports the unit attention it meets. What may skip is listed with its reason in `ci/conformance/skips.txt`; a listed
//! test that runs must leave the list.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use super::Context;
use crate::report::Report;
use crate::server::{self, Server};
use crate::tool::{self, Output};

/// Time for one test.
const TEST_BOUND: Duration = Duration::from_secs(60);

/// Tests that must really run.
const RUN_MIN: u64 = 187;

/// Tests in the two families of version 1.19.
const TESTS: usize = 230;

const SKIPS: &str = "ci/conformance/skips.txt";

/// What the tests run against: the volume's URL through each portal, and which tests may skip for which reason.
struct Bench {
    server: Server,
    urls: Vec<String>,
    allowed: BTreeMap<String, String>,
}

/// A test that no target can pass alone: it asserts what its own asynchronous answer has not set yet, and holds only when
/// the test before it in its suite has set it (libiscsi mended it after 1.19). It runs with its suite.
const WITH_ITS_SUITE: [(&str, &str); 1] =
    [("iSCSI.iSCSITMF.LUNResetSimpleAsync", "iSCSI.iSCSITMF.*")];

/// How one test ended.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Skipped(String),
    Failed(String),
}

/// Runs the lane.
pub(crate) fn run(context: &Context, report: &mut Report) {
    match prepare(context) {
        Ok(bench) => {
            run_tests(context, report, &bench.urls, bench.allowed);
            let stopped = bench.server.stop().map(|()| String::new());
            report.check("the server stops cleanly afterwards", stopped);
        }
        Err(why) => report.check("a server to test", Err(why)),
    }
}

/// A fresh server with two portals.
fn prepare(context: &Context) -> Result<Bench, String> {
    context.packages(&["libiscsi-bin"])?;
    let skips = fs::read_to_string(context.root.join(SKIPS))
        .map_err(|error| format!("cannot read {SKIPS}: {error}"))?;
    let ports = server::free_ports(2)?;
    let portals = [
        format!("127.0.0.1:{}", ports[0]),
        format!("127.0.0.2:{}", ports[1]),
    ];
    let args = [
        "--portal",
        &portals[0],
        "--portal",
        &portals[1],
        "--volume",
        "conform=1GiB",
    ];
    let server = Server::start(context, &context.scratch("conform")?, &args)?;
    let iqn = server.iqn("conform")?;
    let urls = portals
        .iter()
        .map(|portal| format!("iscsi://{portal}/{iqn}/0"))
        .collect();
    Ok(Bench {
        server,
        urls,
        allowed: allowed(&skips)?,
    })
}

fn run_tests(
    context: &Context,
    report: &mut Report,
    urls: &[String],
    mut allowed: BTreeMap<String, String>,
) {
    let tests = match names() {
        Ok(tests) => tests,
        Err(why) => return report.check("the list of tests", Err(why)),
    };
    let log = context.target.join("ci").join("conform").join("tests.log");
    let (mut run, mut skipped, mut words) = (0_u64, 0_u64, String::new());
    for test in &tests {
        let mut command = Command::new("iscsi-test-cu");
        command.args(["-d", "-n", "-t", pattern(test)]).args(urls);
        let (text, verdict) = match tool::run(&mut command, TEST_BOUND) {
            Ok(output) => (output.text(), judge(&output)),
            Err(why) => (why.clone(), Verdict::Failed(why)),
        };
        words.push_str(&format!("##### {test}\n{text}\n"));
        let listed = allowed.remove(test);
        match (verdict, listed) {
            (Verdict::Passed, None) => {
                run += 1;
                report.tally(1, 0);
            }
            (Verdict::Passed, Some(_)) => {
                run += 1;
                report.check(test, Err(format!("it runs now; take it out of {SKIPS}")));
            }
            (Verdict::Skipped(_), Some(_)) => skipped += 1,
            (Verdict::Skipped(why), None) => {
                skipped += 1;
                report.check(test, Err(format!("skipped, and not in {SKIPS}: {why}")));
            }
            (Verdict::Failed(why), _) => report.check(test, Err(why)),
        }
    }
    let _ = fs::write(&log, words);
    let total = tests.len();
    report.note(&format!(
        "{run} run and pass, {skipped} skip with a reason; what they said: {}",
        log.display()
    ));
    for (test, suite) in WITH_ITS_SUITE {
        report.note(&format!(
            "{test} ran as a part of {suite}: alone it fails with any target"
        ));
    }
    let enough = if run >= RUN_MIN && total == TESTS {
        Ok(format!("{run} of {total}"))
    } else {
        Err(format!(
            "{run} of {total} ran and passed, at least {RUN_MIN} of {TESTS} must"
        ))
    };
    report.check("enough tests really run", enough);
    for name in allowed.keys() {
        report.check(
            name,
            Err(format!("{SKIPS} names a test that does not exist")),
        );
    }
}

/// What to run for a test: itself, or its suite.
fn pattern(test: &str) -> &str {
    WITH_ITS_SUITE
        .iter()
        .find(|(name, _)| *name == test)
        .map_or(test, |(_, suite)| suite)
}

/// Names of all tests of the two families.
fn names() -> Result<Vec<String>, String> {
    let mut list = Command::new("iscsi-test-cu");
    list.arg("-l");
    let text = tool::run(&mut list, TEST_BOUND)?.stdout;
    let family = |name: &&str| name.starts_with("SCSI.") || name.starts_with("iSCSI.");
    Ok(text
        .lines()
        .map(str::trim)
        .filter(family)
        .filter(|name| name.split('.').filter(|part| !part.is_empty()).count() == 3)
        .map(str::to_owned)
        .collect())
}

fn allowed(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut allowed = BTreeMap::new();
    for line in text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        match line.split_once(": ") {
            Some((name, reason)) if !reason.trim().is_empty() => {
                allowed.insert(name.to_owned(), reason.to_owned());
            }
            _ => return Err(format!("{SKIPS}: '{line}' gives no reason")),
        }
    }
    Ok(allowed)
}

fn judge(output: &Output) -> Verdict {
    let text = output.text();
    let marked = |mark: &str| text.lines().find(|line| line.contains(mark)).map(str::trim);
    let (tests, asserts) = (summary(&text, "tests"), summary(&text, "asserts"));
    match (tests, asserts, marked("[SKIPPED]"), marked("[FAILED]")) {
        (Some((_, 0)), Some((_, 0)), Some(line), _) if output.success() => {
            Verdict::Skipped(line.to_owned())
        }
        (Some((_, 0)), Some((1.., 0)), None, _) if output.success() => Verdict::Passed,
        (Some((_, 0)), Some((0, 0)), None, None) if output.success() => Verdict::Passed,
        _ => {
            let telling = ["CU_", "rror", "ail"];
            let lines: Vec<&str> = text
                .lines()
                .map(str::trim)
                .filter(|line| telling.iter().any(|word| line.contains(word)))
                .take(4)
                .collect();
            Verdict::Failed(format!("code {:?}: {}", output.code, lines.join(" | ")))
        }
    }
}

/// How many of a kind ran and how many failed, from the program's last table.
fn summary(text: &str, kind: &str) -> Option<(u64, u64)> {
    let line = text
        .lines()
        .rfind(|line| line.split_whitespace().next() == Some(kind))?;
    let numbers: Vec<&str> = line.split_whitespace().collect();
    Some((numbers.get(2)?.parse().ok()?, numbers.get(4)?.parse().ok()?))
}

#[cfg(test)]
mod tests;
