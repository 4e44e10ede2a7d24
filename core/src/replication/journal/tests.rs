//! What the journal tells, and when it does not.

use super::*;

fn range(first: u64, count: u32) -> BlockRange {
    BlockRange {
        first: Block(first),
        count,
    }
}

#[test]
fn changes_behind_a_base_are_sorted_and_joined() {
    let mut journal = Journal::starting_behind(Lsn(10));
    journal.add(Lsn(11), Some(range(100, 4)));
    journal.add(Lsn(12), None);
    journal.add(Lsn(13), Some(range(4, 2)));
    journal.add(Lsn(14), Some(range(102, 8)));
    journal.add(Lsn(15), Some(range(6, 1)));
    assert_eq!(journal.since(Lsn(9)), None);
    let all = [range(4, 3), range(100, 10)];
    assert_eq!(journal.since(Lsn(10)), Some(all.to_vec()));
    let last = [range(6, 1), range(102, 8)];
    assert_eq!(journal.since(Lsn(13)), Some(last.to_vec()));
    assert_eq!(journal.since(Lsn(15)), Some(Vec::new()));
    assert_eq!(journal.since(Lsn(16)), None);
}

#[test]
fn a_gap_or_a_jump_begins_anew_and_a_cut_forgets() {
    let mut journal = Journal::starting_behind(Lsn(10));
    journal.add(Lsn(11), Some(range(1, 1)));
    journal.add(Lsn(12), Some(range(2, 1)));
    journal.cut(Lsn(11), Lsn(11));
    journal.add(Lsn(12), Some(range(9, 1)));
    let kept = [range(1, 1), range(9, 1)];
    assert_eq!(journal.since(Lsn(10)), Some(kept.to_vec()));
    journal.cut(Lsn(12), Lsn(20));
    assert_eq!(journal.since(Lsn(12)), None);
    assert_eq!(journal.since(Lsn(20)), Some(Vec::new()));
    journal.add(Lsn(30), Some(range(1, 1)));
    assert_eq!(journal.since(Lsn(20)), None);
    assert_eq!(journal.since(Lsn(29)), Some([range(1, 1)].to_vec()));
}

#[test]
fn the_oldest_record_leaves_at_the_limit() {
    let mut journal = Journal::default();
    for lsn in 1..=JOURNAL_RECORDS_MAX as u64 + 1 {
        journal.add(Lsn(lsn), Some(range(lsn, 1)));
    }
    assert_eq!(journal.since(Lsn(0)), None);
    let count = journal.since(Lsn(1)).map(|ranges| ranges[0].count as usize);
    assert_eq!(count, Some(JOURNAL_RECORDS_MAX));
}
