//! What people type becomes a volume, or one sentence.

use super::{Wanted, read, wanted};
use crate::size::GIB;

#[test]
fn volumes_are_read() {
    let plain = Wanted::demo();
    let cases = [
        ("demo=1GiB", plain.clone()),
        (
            "demo=1GiB,rf=3,durability=sync_quorum",
            Wanted {
                copies: 3,
                durability: Some("sync_quorum".into()),
                ..plain.clone()
            },
        ),
        (
            "demo=1GiB,paths=multipath,rf=2",
            Wanted {
                copies: 2,
                paths: Some("multipath".into()),
                ..plain
            },
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(wanted(text).as_ref(), Ok(&expected), "{text}");
        assert_eq!(expected.size_bytes, GIB);
    }
}

#[test]
fn wrong_volumes_are_refused() {
    let long = format!("{}=1GiB", "a".repeat(64));
    for text in [
        "demo",
        "=1GiB",
        "demo=",
        "demo=1GB",
        "Demo=1GiB",
        "-a=1GiB",
        "a=4097KiB1",
        "a=1000001",
        "a=4KiB",
        "a=1GiB,rf=0",
        "a=1GiB,rf=4",
        "a=1GiB,rf",
        "a=1GiB,durability=sync",
        "a=1GiB,paths=any",
        "a=1GiB,",
        "a=1GiB,copies=3",
        &long,
    ] {
        assert!(wanted(text).is_err(), "{text}");
    }
}

#[test]
fn a_name_is_given_once() {
    assert!(read(&["a=1GiB".into(), "a=2GiB".into()]).is_err());
}

#[test]
fn only_what_was_asked_for_is_passed_on() {
    let words = |text: &str| {
        wanted(text)
            .expect("a good volume")
            .create_words()
            .join(" ")
    };
    assert_eq!(words("a=1GiB"), "volume create a --size 1GiB");
    assert_eq!(
        words("a=1GiB,rf=3,durability=best_effort,paths=redirect"),
        "volume create a --size 1GiB --rf 3 --durability best_effort --paths redirect"
    );
}
