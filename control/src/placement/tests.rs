//! Placement: the choice and each refusal.

use super::{StoreSpace, choose};
use crate::registry::RefusalKind;
use holdfast_core::id::StoreId;

const GIB: u64 = 1 << 30;

fn store(byte: u8, capacity: u64, free: u64, promised: u64, failed: &str) -> StoreSpace {
    StoreSpace {
        id: StoreId([byte; 16]),
        path: format!("/stores/{byte}"),
        failed: failed.into(),
        capacity_bytes: capacity,
        free_bytes: free,
        promised_bytes: promised,
    }
}

#[test]
fn the_store_with_most_unpromised_room_is_chosen() {
    let cases = [
        (
            vec![store(1, GIB, GIB, 0, ""), store(2, 2 * GIB, GIB, 0, "")],
            2,
        ),
        (
            vec![
                store(1, GIB, GIB, 0, ""),
                store(2, 2 * GIB, GIB, 2 * GIB, ""),
            ],
            1,
        ),
        (
            vec![store(2, GIB, GIB, 0, ""), store(1, GIB, GIB, 0, "")],
            1,
        ),
        (
            vec![store(1, 9 * GIB, GIB, 0, "dead"), store(2, GIB, GIB, 0, "")],
            2,
        ),
        (
            vec![store(1, 9 * GIB, 0, 0, ""), store(2, GIB, 1, 5 * GIB, "")],
            2,
        ),
    ];
    for (stores, expected) in cases {
        assert_eq!(
            choose(&stores, GIB, None),
            Ok(StoreId([expected; 16])),
            "{stores:?}"
        );
    }
}

#[test]
fn each_refusal_has_its_kind_and_names_the_stores() {
    let full = store(1, GIB, 0, 0, "");
    let dead = store(2, GIB, GIB, 0, "write failed");
    let promised = store(3, GIB, GIB, 9 * GIB + 4096, "");
    let wanted = |byte| Some(StoreId([byte; 16]));
    let cases = [
        (vec![], None, RefusalKind::Unavailable, "holdfast-volume"),
        (
            vec![full.clone()],
            wanted(9),
            RefusalKind::NotFound,
            "not connected",
        ),
        (
            vec![full.clone()],
            None,
            RefusalKind::NoSpace,
            "/stores/1: full",
        ),
        (
            vec![full, dead],
            wanted(2),
            RefusalKind::NoSpace,
            "/stores/2: write failed",
        ),
        (vec![promised], None, RefusalKind::NoSpace, "10 times"),
    ];
    for (stores, wanted, kind, part) in cases {
        let refusal = choose(&stores, GIB, wanted).expect_err(part);
        assert_eq!(refusal.kind, kind, "{refusal}");
        assert!(refusal.message.contains(part), "{refusal}");
    }
}

#[test]
fn a_promise_at_the_limit_is_allowed() {
    let stores = [store(1, GIB, GIB, 9 * GIB, "")];
    assert!(choose(&stores, GIB, None).is_ok());
    assert!(choose(&stores, GIB + 4096, None).is_err());
}
