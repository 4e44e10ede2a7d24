//! How many lines are written, and how many are told to be left out.

use super::LineRate;
use crate::limits::{DAMAGE_LINES_MAX, DAMAGE_LINES_PERIOD};
use std::time::Duration;

#[test]
fn a_flood_is_a_few_lines_each_period_and_one_count() {
    let rate = LineRate::default();
    let start = Duration::from_secs(100);
    let flood = |at: Duration| (0..1000).filter(|_| rate.admits(at)).count();
    let lines = usize::try_from(DAMAGE_LINES_MAX).expect("small");
    assert_eq!(flood(start), lines);
    assert_eq!(flood(start), 0);
    assert_eq!(rate.take_left_out(start), None, "the period is not over");
    let next = start + DAMAGE_LINES_PERIOD;
    let left_out = 2000 - u64::from(DAMAGE_LINES_MAX);
    assert_eq!(rate.take_left_out(next), Some(left_out));
    assert_eq!(rate.take_left_out(next), None, "told once");
    assert_eq!(flood(next), lines);
}

#[test]
fn a_few_lines_are_all_written() {
    let rate = LineRate::default();
    for second in 0..20 {
        assert!(rate.admits(Duration::from_secs(second)));
    }
    assert_eq!(rate.take_left_out(Duration::from_secs(60)), None);
}
