//! LSNs are dense, commits follow durability in order, a stale epoch is refused.

use super::*;

#[test]
fn commits_follow_durability_in_order() {
    let mut primary = Primary::alone(Epoch(3), Lsn(7));
    for name in ["a", "b", "c"] {
        primary.append(Epoch(3), name).unwrap();
    }
    let mut seen = Vec::new();
    primary.on_durable(Member::LOCAL, Lsn(9), |lsn, name| seen.push((lsn, name)));
    assert_eq!(seen, [(Lsn(8), "a"), (Lsn(9), "b")]);
    assert_eq!(primary.committed(), Lsn(9));
    primary.on_durable(Member::LOCAL, Lsn(10), |lsn, name| seen.push((lsn, name)));
    assert_eq!(seen[2], (Lsn(10), "c"));
}

#[test]
fn stale_epoch_is_refused() {
    let mut primary = Primary::alone(Epoch(3), Lsn(0));
    primary.begin_epoch(Epoch(5));
    assert_eq!(primary.append(Epoch(4), ()), Err(StaleEpoch));
    assert_eq!(primary.append(Epoch(5), ()), Ok(Lsn(1)));
}

#[test]
fn two_of_three_members_commit() {
    let mut primary = Primary::alone(Epoch(1), Lsn(0));
    primary.durable = vec![Lsn(0); 3];
    primary.required = 2;
    primary.append(Epoch(1), "a").unwrap();
    let mut seen = Vec::new();
    primary.on_durable(Member::LOCAL, Lsn(1), |lsn, _| seen.push(lsn));
    assert!(seen.is_empty());
    primary.on_durable(Member(2), Lsn(1), |lsn, _| seen.push(lsn));
    assert_eq!(seen, [Lsn(1)]);
}
