//! A corpus of good and bad histories, and every small history against a judge that tries all orders.

use super::{Action, INITIAL, Moment, Operation, Violation, check};

fn write(value: u64, begin: Moment, end: Moment) -> Operation {
    Operation {
        action: Action::Write(value),
        begin,
        end: Some(end),
    }
}

fn lost(value: u64, begin: Moment) -> Operation {
    Operation {
        action: Action::Write(value),
        begin,
        end: None,
    }
}

fn read(value: u64, begin: Moment, end: Moment) -> Operation {
    Operation {
        action: Action::Read(value),
        begin,
        end: Some(end),
    }
}

#[test]
fn good_histories_are_accepted() {
    let cases: &[(&str, Vec<Operation>)] = &[
        ("nothing", vec![]),
        ("zeros at first", vec![read(INITIAL, 1, 2)]),
        ("read what was written", vec![write(1, 1, 2), read(1, 3, 4)]),
        (
            "old or new while a write runs",
            vec![write(1, 1, 9), read(INITIAL, 2, 3), read(1, 4, 5)],
        ),
        (
            "an unanswered write happens late",
            vec![lost(1, 1), read(INITIAL, 2, 3), read(1, 50, 51)],
        ),
        (
            "an unanswered write never happens",
            vec![lost(1, 1), read(INITIAL, 90, 91)],
        ),
        (
            "overlapping writes in either order",
            vec![write(1, 1, 5), write(2, 2, 6), read(1, 7, 8)],
        ),
        (
            "a read that began before the write ended",
            vec![write(1, 1, 4), read(1, 2, 3), read(1, 5, 6)],
        ),
    ];
    for (name, operations) in cases {
        assert_eq!(check(operations), Ok(()), "{name}");
    }
}

#[test]
fn bad_histories_are_refused() {
    let cases: &[(&str, Vec<Operation>)] = &[
        ("a lost write", vec![write(1, 1, 2), read(INITIAL, 3, 4)]),
        (
            "a lost overwrite",
            vec![write(1, 1, 2), write(2, 3, 4), read(1, 5, 6)],
        ),
        (
            "a stale read after a newer one",
            vec![write(1, 1, 9), read(1, 2, 3), read(INITIAL, 4, 5)],
        ),
        (
            "an unanswered write that comes and goes",
            vec![lost(1, 1), read(1, 2, 3), read(INITIAL, 4, 5)],
        ),
        (
            "an old value comes back",
            vec![write(1, 1, 2), write(2, 3, 4), read(2, 5, 6), read(1, 7, 8)],
        ),
        (
            "two readers disagree about the order of two writes",
            vec![
                write(1, 1, 4),
                write(2, 1, 4),
                read(1, 5, 6),
                read(2, 7, 8),
                read(1, 9, 10),
            ],
        ),
        ("a value from nowhere", vec![read(7, 1, 2)]),
        (
            "a value before its write",
            vec![read(1, 1, 2), write(1, 3, 4)],
        ),
    ];
    for (name, operations) in cases {
        assert!(check(operations).is_err(), "{name}");
    }
    assert_eq!(
        check(&[read(1, 1, 2), write(1, 3, 4)]),
        Err(Violation::FromTheFuture { value: 1 })
    );
}

/// Whether some order of the operations, each within its time, explains every read. Tries them all.
fn explained(rest: &[Operation], value: u64) -> bool {
    let answered = |operation: &Operation| operation.end.is_some();
    if !rest.iter().any(answered) {
        return true;
    }
    let deadline = rest.iter().filter_map(|operation| operation.end).min();
    (0..rest.len()).any(|index| {
        let first = rest[index];
        // An operation goes first only when none had ended before it began.
        if deadline.is_some_and(|deadline| deadline < first.begin) {
            return false;
        }
        let after = match first.action {
            Action::Read(found) if found == value => value,
            Action::Read(_) => return false,
            Action::Write(written) => written,
        };
        let mut others = rest.to_vec();
        others.remove(index);
        explained(&others, after)
    })
}

/// Goal: the fast judge and the slow one agree. Method: random small histories of unique moments.
#[test]
fn the_fast_judge_agrees_with_trying_all_orders() {
    let mut random = fastrand::Rng::with_seed(7);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..20_000 {
        let writes = random.u64(0..4);
        let reads = random.u64(1..5);
        let mut moments: Vec<Moment> = (1..=2 * (writes + reads)).collect();
        random.shuffle(&mut moments);
        let mut operations = Vec::new();
        for index in 0..writes + reads {
            let at = usize::try_from(2 * index).expect("small");
            let (begin, end) = (
                moments[at].min(moments[at + 1]),
                moments[at].max(moments[at + 1]),
            );
            operations.push(if index < writes && random.u32(0..4) == 0 {
                lost(index + 1, begin)
            } else if index < writes {
                write(index + 1, begin, end)
            } else {
                read(random.u64(0..=writes), begin, end)
            });
        }
        let slow = explained(&operations, INITIAL);
        assert_eq!(check(&operations).is_ok(), slow, "{operations:?}");
        if slow {
            good += 1;
        } else {
            bad += 1;
        }
    }
    assert!(good > 1_000 && bad > 1_000, "{good} good, {bad} bad");
}
