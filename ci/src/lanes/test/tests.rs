//! Test counts are taken from the harness's words.

use super::{Counts, count};

#[test]
fn results_of_all_binaries_are_added() {
    let output = "running 3 tests\n...\n\
        test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
        test result: FAILED. 40 passed; 2 failed; 0 ignored; 0 measured; 1 filtered out; finished in 1.00s\n";
    assert_eq!(
        count(output),
        Counts {
            passed: 43,
            failed: 2
        }
    );
}

#[test]
fn other_lines_count_nothing() {
    assert_eq!(count("error: 3 passed; 4 failed\n"), Counts::default());
}
