//! Access rules at their edges.

use super::{Access, AccessError, Chap, Secret};

fn chap(user: &str, byte: u8) -> Chap {
    let secret = Secret::from_bytes(vec![byte; 12]).expect("legal length");
    Chap::from_parts(user.into(), secret).expect("legal user")
}

#[test]
fn secrets_have_12_to_255_bytes() {
    for (length, legal) in [
        (0, false),
        (11, false),
        (12, true),
        (255, true),
        (256, false),
    ] {
        assert_eq!(
            Secret::from_bytes(vec![1; length]).is_ok(),
            legal,
            "{length}"
        );
    }
}

#[test]
fn mutual_needs_one_way_and_another_secret() {
    let alone = Access::from_parts(vec![], None, Some(chap("t", 1)));
    assert_eq!(alone, Err(AccessError::MutualAlone));
    let same = Access::from_parts(vec![], Some(chap("h", 1)), Some(chap("t", 1)));
    assert_eq!(same, Err(AccessError::SameSecret));
    assert!(Access::from_parts(vec![], Some(chap("h", 1)), Some(chap("t", 2))).is_ok());
}

#[test]
fn initiators_are_iscsi_names_sorted_once_each() {
    let names = |list: &[&str]| list.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
    for bad in ["", "iqn.", "host", "iqn.A", "iqn.a b", "iqn.a,b"] {
        assert!(
            Access::from_parts(names(&[bad]), None, None).is_err(),
            "{bad}"
        );
    }
    let access = Access::from_parts(names(&["iqn.b:1", "eui.0a", "iqn.b:1"]), None, None);
    assert_eq!(
        access.expect("legal").initiators(),
        names(&["eui.0a", "iqn.b:1"])
    );
}

#[test]
fn a_secret_is_not_in_the_debug_text() {
    let text = format!(
        "{:?}",
        Access::from_parts(vec![], Some(chap("h", b'x')), None)
    );
    assert!(text.contains('h'));
    assert!(
        !text.contains("xxx") && !text.contains("120, 120"),
        "{text}"
    );
}
