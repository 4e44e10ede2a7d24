//! The rule for names, at its edges.

use super::VolumeName;

fn accepted(text: &str) -> bool {
    text.parse::<VolumeName>().is_ok()
}

#[test]
fn names_follow_the_rule_and_nothing_else_does() {
    let longest = "a".repeat(63);
    for good in ["a", "0", "db01", "a.b-c", "a-", "a.", &longest] {
        assert!(accepted(good), "{good}");
    }
    let longer = "a".repeat(64);
    for bad in [
        "", "-a", ".a", "A", "a_b", "a b", "a/b", "ä", "a\n", "a\0", &longer,
    ] {
        assert!(!accepted(bad), "{bad:?}");
    }
}

#[test]
fn a_refusal_shows_control_characters_escaped() {
    let error = "a\u{1b}[2J".parse::<VolumeName>().expect_err("not a name");
    assert!(!error.to_string().contains('\u{1b}'));
}

#[test]
fn the_target_name_ends_in_the_volume_name() {
    let name: VolumeName = "db01".parse().expect("a name");
    assert_eq!(name.iqn(), "iqn.2026-11.io.holdfast:db01");
}
