//! The words of `iscsi-test-cu` are judged as a careful reader would.

use super::{Verdict, allowed, judge};
use crate::tool::Output;

fn said(code: i32, line: &str, tests_failed: u32, asserts: u32) -> Verdict {
    let stdout = format!(
        "     CUnit - A unit testing framework\n{line}\nRun Summary:    Type  Total    Ran Passed Failed Inactive\n\
         \x20             suites      1      1    n/a      0        0\n\
         \x20              tests      1      1      1      {tests_failed}        0\n\
         \x20            asserts     {asserts}     {asserts}     {asserts}      0      n/a\n"
    );
    judge(&Output {
        code: Some(code),
        stdout,
        stderr: String::new(),
    })
}

#[test]
fn a_pass_is_a_pass() {
    assert_eq!(said(0, "", 0, 4), Verdict::Passed);
    assert_eq!(said(0, "[FAILED] PRIN command", 0, 4), Verdict::Passed);
    assert_eq!(said(0, "", 0, 0), Verdict::Passed);
}

#[test]
fn a_skip_is_not_a_pass() {
    let line = "[SKIPPED] Multipath unavailable. Skipping test";
    assert_eq!(said(0, line, 0, 1), Verdict::Skipped(line.to_owned()));
}

#[test]
fn each_kind_of_failure_is_one() {
    let failed = |verdict| matches!(verdict, Verdict::Failed(_));
    assert!(failed(said(
        0,
        "    [FAILED] WRITESAME10 command failed",
        0,
        0
    )));
    assert!(failed(said(0, "", 1, 4)));
    assert!(failed(said(1, "", 0, 4)));
    assert!(failed(said(1, "[SKIPPED] something", 0, 1)));
    let nothing = Output {
        code: Some(0),
        stdout: String::new(),
        stderr: "cannot log in".to_owned(),
    };
    assert!(failed(judge(&nothing)));
}

#[test]
fn a_skip_needs_a_reason() {
    assert_eq!(
        allowed("# head\nA.B.C: not offered\n").map(|list| list.len()),
        Ok(1)
    );
    assert!(allowed("A.B.C\n").is_err());
    assert!(allowed("A.B.C:  \n").is_err());
}
