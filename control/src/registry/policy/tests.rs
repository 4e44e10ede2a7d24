//! Policies that are taken and refused.

use super::{Durability, Paths, Policy, PolicyError};

#[test]
fn policies_are_checked_as_a_whole() {
    use Durability::{BestEffort, SyncAll, SyncQuorum};
    let cases = [
        (1, SyncAll, Ok(())),
        (2, SyncAll, Ok(())),
        (3, SyncQuorum, Ok(())),
        (3, BestEffort, Ok(())),
        (0, SyncAll, Err(PolicyError::Copies(0))),
        (4, SyncAll, Err(PolicyError::Copies(4))),
        (2, SyncQuorum, Err(PolicyError::Quorum(2))),
        (1, BestEffort, Err(PolicyError::Alone)),
    ];
    for (rf, durability, expected) in cases {
        let paths = Paths::Redirect;
        let policy = Policy {
            rf,
            durability,
            paths,
        };
        assert_eq!(policy.check(), expected, "{policy}");
    }
}

#[test]
fn names_are_read_as_they_are_written() {
    for name in ["sync_all", "sync_quorum", "best_effort"] {
        assert_eq!(name.parse::<Durability>().expect(name).to_string(), name);
    }
    for name in ["redirect", "multipath"] {
        assert_eq!(name.parse::<Paths>().expect(name).to_string(), name);
    }
    let refused = "async".parse::<Durability>().expect_err("unknown");
    assert!(refused.to_string().contains("best_effort"));
}
