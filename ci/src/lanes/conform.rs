//! Lane `conform`: libiscsi's `iscsi-test-cu`, families SCSI and iSCSI, each test alone, through two portals: against one
//! copy, and against three, right after a failover and while a secondary dies and is filled again all the time.
//!
//! A test counts as run when none of its assertions fails, it does not say `[SKIPPED]` and the program ends with 0: by
//! itself the program calls a skipped test passed, and one that says `[FAILED]` before its first assertion too.
//! `[FAILED]` beside assertions that hold is a message: some tests want a command to fail, and the clean-up after a reset
//! reports the unit attention it meets. What may skip is listed with its reason in `ci/conformance/skips.txt`; a listed
//! test that runs must leave the list.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::Context;
use crate::report::Report;
use crate::server::{self, Server};
use crate::sys;
use crate::tool::{self, Output};

/// Time for one test.
const TEST_BOUND: Duration = Duration::from_secs(60);

/// Tests that must really run.
const RUN_MIN: u64 = 187;

/// Tests in the two families of version 1.19.
const TESTS: usize = 230;

const SKIPS: &str = "ci/conformance/skips.txt";

/// What the tests run against: the volume's URL through each portal.
struct Bench {
    server: Server,
    urls: Vec<String>,
}

/// Bytes in the volume with three copies, so that there is something to fill again.
const FILLED: &str = "128M";

/// Between two deaths of a secondary.
const DEATHS_EVERY: Duration = Duration::from_secs(2);

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
    one_copy(context, report);
    three_copies(context, report);
}

fn one_copy(context: &Context, report: &mut Report) {
    match prepare(context) {
        Ok(bench) => {
            run_tests(context, report, "one copy", &bench.urls);
            let stopped = bench.server.stop().map(|()| String::new());
            report.check("the server stops cleanly afterwards", stopped);
        }
        Err(why) => report.check("a server to test", Err(why)),
    }
}

fn three_copies(context: &Context, report: &mut Report) {
    let (bench, victim) = match prepare_three(context) {
        Ok(prepared) => prepared,
        Err(why) => return report.check("a cluster to test", Err(why)),
    };
    let done = AtomicBool::new(false);
    let deaths = thread::scope(|scope| {
        let killing = scope.spawn(|| kill_on_and_on(&bench.server, &victim, &done));
        run_tests(context, report, "three copies", &bench.urls);
        done.store(true, Ordering::Relaxed);
        killing.join().expect("it does not panic")
    });
    let deaths = deaths.map(|count| format!("{count} deaths of a secondary meanwhile"));
    report.check("a secondary died and came back all the time", deaths);
    let stopped = bench.server.stop().map(|()| String::new());
    report.check("the cluster stops cleanly afterwards", stopped);
}

/// A fresh server with two portals.
fn prepare(context: &Context) -> Result<Bench, String> {
    context.packages(&["libiscsi-bin"])?;
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
    Ok(Bench { server, urls })
}

/// A fresh cluster whose first primary has just died; the tests log in at the present one and at another node, which sends
/// them on. Gives also the third node.
fn prepare_three(context: &Context) -> Result<(Bench, String), String> {
    context.packages(&["libiscsi-bin", "qemu-utils", "qemu-block-extra"])?;
    let ports = server::free_ports(3)?;
    let at = |index: usize| format!("127.0.20.1:{}", ports[index]);
    let (portal, control, peer) = (at(0), at(1), at(2));
    let args = [
        "--nodes",
        "3",
        "--portal",
        &portal,
        "--control",
        &control,
        "--peer",
        &peer,
        "--volume",
        "conform=1GiB,rf=3",
    ];
    let server = Server::start(context, &context.scratch("conform-three")?, &args)?;
    in_sync(&server)?;
    let iqn = server.iqn("conform")?;
    let (first, epoch) = primary(&server)?;
    let url = |portal: &str| format!("iscsi://{portal}/{iqn}/0");
    let mut fill = Command::new("qemu-io");
    let write = format!("write -P 0x5a 0 {FILLED}");
    fill.args(["-f", "raw", "-c", &write, "-c", "flush", &url(&portal)]);
    tool::run_ok(&mut fill, TEST_BOUND)?;
    sys::signal(server.pid_of(&first, "volume")?, libc::SIGKILL)?;
    let reigns = || primary(&server).is_ok_and(|(_, now)| now > epoch);
    wait("the next reign", reigns)?;
    in_sync(&server)?;
    let (primary, _) = primary(&server)?;
    let mut others = ["node-1", "node-2", "node-3"].map(str::to_owned).to_vec();
    others.retain(|node| *node != primary);
    let [other, victim] = others.try_into().map_err(|_| "there are not three nodes")?;
    let port = ports[0];
    let at = |node: &str| Ok(url(&format!("{}:{port}", server.address_of(node)?)));
    let urls = [&primary, &other].map(|node| at(node));
    let urls = urls.into_iter().collect::<Result<_, String>>()?;
    Ok((Bench { server, urls }, victim))
}

/// Kills a node's volume server, waits until all copies are in sync again, and so on until `done`. Gives how often.
fn kill_on_and_on(server: &Server, node: &str, done: &AtomicBool) -> Result<u32, String> {
    let mut count = 0;
    while !done.load(Ordering::Relaxed) {
        sys::signal(server.pid_of(node, "volume")?, libc::SIGKILL)?;
        count += 1;
        thread::sleep(DEATHS_EVERY);
        in_sync(server)?;
    }
    Ok(count)
}

fn in_sync(server: &Server) -> Result<(), String> {
    wait("all copies to be in sync", || {
        let status = server.holdfast(&["volume", "status", "conform"]);
        let copies = status.map(|status| status["replicas"].as_array().cloned());
        let copies = copies.ok().flatten().unwrap_or_default();
        copies.len() == 3 && copies.iter().all(|copy| copy["in_sync"] == true)
    })
}

/// The primary's node, and its epoch.
fn primary(server: &Server) -> Result<(String, u64), String> {
    let status = server.holdfast(&["volume", "status", "conform"])?;
    let reign = status["primary_node"]
        .as_str()
        .zip(status["epoch"].as_u64());
    reign
        .map(|(node, epoch)| (node.to_owned(), epoch))
        .ok_or_else(|| "there is no primary".to_owned())
}

fn wait(what: &str, done: impl Fn() -> bool) -> Result<(), String> {
    let began = Instant::now();
    while !done() {
        if began.elapsed() > TEST_BOUND {
            return Err(format!("waited {} s for {what}", TEST_BOUND.as_secs()));
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn run_tests(context: &Context, report: &mut Report, against: &str, urls: &[String]) {
    let lists = names().and_then(|tests| Ok((tests, skips(context)?)));
    let (tests, mut allowed) = match lists {
        Ok(lists) => lists,
        Err(why) => return report.check("the lists of tests", Err(why)),
    };
    let log = format!("conform-{}.log", against.replace(' ', "-"));
    let log = context.target.join("ci").join(log);
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
            (Verdict::Failed(why), _) => report.check(&format!("{against}: {test}"), Err(why)),
        }
    }
    let _ = fs::write(&log, words);
    let total = tests.len();
    report.note(&format!(
        "{against}: {run} run and pass, {skipped} skip with a reason; what they said: {}",
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
    report.check(&format!("{against}: enough tests really run"), enough);
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

/// Tests that may skip, each with its reason.
fn skips(context: &Context) -> Result<BTreeMap<String, String>, String> {
    let text = fs::read_to_string(context.root.join(SKIPS))
        .map_err(|error| format!("cannot read {SKIPS}: {error}"))?;
    allowed(&text)
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
