//! The states, row by row, and what scores are made of.

use super::{CopyFacts, Filling, Health, Service, Silence, VolumeFacts, judge};
use std::time::Duration;

const SHORT: Duration = Duration::from_secs(4);
const LONG: Duration = Duration::from_secs(23);

fn copy(node: &str) -> CopyFacts {
    CopyFacts {
        node: node.into(),
        in_sync: true,
        ..CopyFacts::default()
    }
}

fn outside(node: &str, change: impl FnOnce(&mut CopyFacts)) -> CopyFacts {
    let mut copy = CopyFacts {
        in_sync: false,
        ..copy(node)
    };
    change(&mut copy);
    copy
}

fn but(node: &str, change: impl FnOnce(&mut CopyFacts)) -> CopyFacts {
    let mut copy = copy(node);
    change(&mut copy);
    copy
}

fn filled(node: &str) -> CopyFacts {
    outside(node, |copy| {
        copy.filling = Filling::Blocks {
            done_bytes: 1 << 30,
            total_bytes: 3 << 30,
        }
    })
}

fn unheard(age: Duration, witness: Option<&str>) -> Service {
    Service::Unheard(Silence {
        node: "a".into(),
        age,
        reported: true,
        witness: witness.map(Into::into),
    })
}

/// What is expected of a volume, and words that its reason must have.
fn check(
    what: &str,
    service: Service,
    wanted: usize,
    copies: &[CopyFacts],
    expected: (Health, &[&str]),
) {
    let facts = VolumeFacts {
        service,
        wanted,
        copies: copies.iter().collect(),
        obstacle: "",
    };
    let verdict = judge(&facts);
    assert_eq!(verdict.health, expected.0, "{what}: {verdict:?}");
    let healthy = verdict.health == Health::Healthy;
    assert_eq!(verdict.reason.is_empty(), healthy, "{what}: {verdict:?}");
    for word in expected.1 {
        assert!(verdict.reason.contains(word), "{what}: {verdict:?}");
    }
}

#[test]
fn a_served_volume_is_as_its_copies_are() {
    use Health::{AtRisk, Degraded, Healthy, Rebuilding};
    let (a, b, c) = (copy("a"), copy("b"), copy("c"));
    let gone = |node| outside(node, |copy| copy.fault = "its disk died".into());
    let slow = outside("c", |copy| {
        copy.filling = Filling::Whole;
        copy.slow_left = Duration::from_millis(11_500);
    });
    let joining = outside("c", |copy| copy.filling = Filling::Whole);
    let catching = outside("c", |copy| copy.filling = Filling::Records);
    let cut_off = but("c", |copy| copy.cut_off = true);
    let silent = but("c", |copy| copy.unheard = Some(SHORT));
    let vouched = but("c", |copy| {
        (copy.unheard, copy.vouched) = (Some(SHORT), true);
    });
    let diverged = outside("b", |copy| copy.refusal = "another history".into());
    let healing = but("b", |copy| copy.blocks_healed = 3);
    type Row<'a> = (&'a str, usize, Vec<CopyFacts>, Health, &'a [&'a str]);
    let rows: Vec<Row<'_>> = vec![
        ("one of one", 1, vec![a.clone()], Healthy, &[]),
        (
            "three of three",
            3,
            vec![a.clone(), b.clone(), c.clone()],
            Healthy,
            &[],
        ),
        (
            "two of three, one dead",
            3,
            vec![a.clone(), b.clone(), gone("c")],
            Degraded,
            &["2 of 3", "c: ", "its disk died"],
        ),
        (
            "two of three, one filled",
            3,
            vec![a.clone(), b.clone(), filled("c")],
            Rebuilding,
            &["2 of 3", "1GiB of 3GiB"],
        ),
        (
            "two of three, one gets records",
            3,
            vec![a.clone(), b.clone(), catching],
            Rebuilding,
            &["records"],
        ),
        (
            "two of three, one about to join",
            3,
            vec![a.clone(), b.clone(), joining],
            Rebuilding,
            &["registered"],
        ),
        (
            "two of three, one was slow",
            3,
            vec![a.clone(), b.clone(), slow],
            Degraded,
            &["was slow", "12 s"],
        ),
        (
            "two of three, one not there",
            3,
            vec![a.clone(), b.clone()],
            Degraded,
            &["about to be made"],
        ),
        (
            "a member that the primary lost",
            3,
            vec![a.clone(), b.clone(), cut_off],
            Degraded,
            &["does not reach"],
        ),
        (
            "a member that nobody hears",
            3,
            vec![a.clone(), b.clone(), silent],
            Degraded,
            &["not heard for 4 s"],
        ),
        (
            "a member whose agent alone is away",
            3,
            vec![a.clone(), b.clone(), vouched],
            Degraded,
            &["not heard for 4 s", "hears it"],
        ),
        (
            "one of two, the other dead",
            2,
            vec![a.clone(), gone("b")],
            AtRisk,
            &["1 of 2"],
        ),
        (
            "one of two, the other filled",
            2,
            vec![a.clone(), filled("b")],
            AtRisk,
            &["1 of 2", "being filled"],
        ),
        (
            "one of two, the other with another history",
            2,
            vec![a.clone(), diverged],
            AtRisk,
            &["another history"],
        ),
        (
            "one of three, both dead",
            3,
            vec![a.clone(), gone("b"), gone("c")],
            AtRisk,
            &["1 of 3"],
        ),
        (
            "a third one beside two of two",
            2,
            vec![a.clone(), b.clone(), filled("c")],
            Rebuilding,
            &["another copy"],
        ),
        (
            "the only one moves",
            1,
            vec![a.clone(), filled("b")],
            Rebuilding,
            &["another copy"],
        ),
        (
            "more than wanted",
            1,
            vec![a.clone(), b.clone()],
            Healthy,
            &[],
        ),
        (
            "blocks were healed",
            2,
            vec![a.clone(), healing],
            Healthy,
            &[],
        ),
    ];
    for (what, wanted, copies, health, words) in rows {
        check(what, Service::Served, wanted, &copies, (health, words));
    }
}

#[test]
fn a_volume_that_hosts_cannot_use_is_unavailable_whatever_its_copies_are() {
    let copies = [copy("a"), copy("b")];
    let service = Service::NotServed("the store failed".into());
    let expected = (Health::Unavailable, &["the store failed"][..]);
    check("not served", service, 2, &copies, expected);
}

#[test]
fn a_primary_that_is_not_heard_is_believed_for_a_while_or_on_a_witness_word() {
    let silent = |age, vouched| {
        but("a", |copy| {
            copy.unheard = Some(age);
            copy.vouched = vouched;
        })
    };
    let both = |age, vouched| [silent(age, vouched), copy("b")];
    check(
        "its agent alone is away",
        unheard(LONG, Some("b")),
        2,
        &both(LONG, true),
        (Health::Degraded, &["23 s old", "b hears it"]),
    );
    check(
        "the only copy, not for long",
        unheard(SHORT, None),
        1,
        &[silent(SHORT, false)],
        (Health::Degraded, &["4 s old"]),
    );
    check(
        "the only copy, for long",
        unheard(LONG, None),
        1,
        &[silent(LONG, false)],
        (Health::Unavailable, &["not known", "23 s old"]),
    );
    check(
        "no witness",
        unheard(SHORT, None),
        2,
        &both(SHORT, false),
        (Health::AtRisk, &["4 s old", "1 of 2"]),
    );
    let never = Service::Unheard(Silence {
        node: "a".into(),
        age: SHORT,
        reported: false,
        witness: None,
    });
    let expected = (Health::Unavailable, &["not known", "was not heard yet"][..]);
    check("never heard", never, 2, &both(SHORT, false), expected);
}

#[test]
fn a_score_is_a_hundred_less_what_its_parts_cost() {
    let rows: [(&str, CopyFacts, u32); 8] = [
        ("well", copy("a"), 100),
        ("outside", outside("a", |_| {}), 60),
        ("filled", filled("a"), 50),
        ("healed", but("a", |copy| copy.blocks_healed = 1), 90),
        ("behind", but("a", |copy| copy.lag = 1 << 20), 90),
        ("a little behind", but("a", |copy| copy.lag = 3), 100),
        ("silent", but("a", |copy| copy.unheard = Some(SHORT)), 70),
        ("broken", but("a", |copy| copy.fault = "broken".into()), 0),
    ];
    for (what, facts, score) in rows {
        assert_eq!(facts.score(), score, "{what}");
        let names: Vec<_> = facts.parts().iter().map(|part| part.name).collect();
        let all = [
            "store", "silence", "sync", "resync", "slow", "lag", "healed",
        ];
        assert_eq!(names, all, "{what}");
        let lost: u32 = facts.parts().iter().map(|part| part.lost).sum();
        assert_eq!(100_u32.saturating_sub(lost), score, "{what}");
    }
}

#[test]
fn a_volume_scores_what_its_wanted_copies_score() {
    let score = |wanted, copies: &[CopyFacts]| {
        let facts = VolumeFacts {
            service: Service::Served,
            wanted,
            copies: copies.iter().collect(),
            obstacle: "",
        };
        judge(&facts).score
    };
    assert_eq!(score(2, &[copy("a"), copy("b")]), 100);
    assert_eq!(score(2, &[copy("a"), filled("b")]), 75);
    assert_eq!(score(2, &[copy("a")]), 50);
    assert_eq!(score(1, &[filled("b"), copy("a")]), 100);
}
