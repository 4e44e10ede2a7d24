//! Placement: the choice and each refusal.

use super::{StoreSpace, Wish};
use crate::registry::{Durability, Policy, Refusal, RefusalKind};
use holdfast_core::id::{NodeId, StoreId};

const GIB: u64 = 1 << 30;

fn store(byte: u8, capacity: u64, free: u64, promised: u64, failed: &str) -> StoreSpace {
    StoreSpace {
        id: StoreId([byte; 16]),
        node: NodeId([byte; 16]),
        node_name: format!("n{byte}"),
        zone: String::new(),
        path: format!("/stores/{byte}"),
        failed: failed.into(),
        has_peer_address: true,
        primaries: 0,
        capacity_bytes: capacity,
        free_bytes: free,
        promised_bytes: promised,
    }
}

/// Places one copy.
fn choose(stores: &[StoreSpace], bytes: u64, primary: Option<StoreId>) -> Result<StoreId, Refusal> {
    let wish = Wish {
        bytes,
        primary,
        policy: Policy::default(),
        allow_degraded: false,
    };
    super::choose(stores, &wish).map(|chosen| {
        assert_eq!(chosen.len(), 1);
        chosen[0]
    })
}

/// Places several; the bytes of their ids.
fn spread(stores: &[StoreSpace], rf: u8, allow_degraded: bool) -> Result<Vec<u8>, Refusal> {
    let wish = Wish {
        bytes: GIB,
        primary: None,
        policy: Policy {
            rf,
            ..Policy::default()
        },
        allow_degraded,
    };
    let chosen = super::choose(stores, &wish)?;
    Ok(chosen.iter().map(|store| store.0[0]).collect())
}

fn roomy(byte: u8, node: u8, zone: &str, primaries: usize) -> StoreSpace {
    StoreSpace {
        node: NodeId([node; 16]),
        zone: zone.into(),
        primaries,
        ..store(byte, u64::from(byte) * GIB, GIB, 0, "")
    }
}

#[test]
fn copies_go_to_different_nodes_and_zones_and_the_least_loaded_reigns() {
    // Stores with a higher number have more room.
    let cases = [
        (vec![roomy(1, 1, "", 0), roomy(2, 2, "", 0)], 2, vec![2, 1]),
        (
            vec![roomy(1, 1, "", 0), roomy(2, 2, "", 5), roomy(3, 2, "", 5)],
            2,
            vec![1, 3],
        ),
        (
            vec![
                roomy(1, 1, "a", 0),
                roomy(2, 2, "b", 0),
                roomy(3, 3, "b", 1),
            ],
            2,
            vec![1, 3],
        ),
        (
            vec![roomy(1, 1, "", 3), roomy(2, 2, "", 1), roomy(3, 3, "", 2)],
            3,
            vec![2, 3, 1],
        ),
    ];
    for (stores, rf, expected) in cases {
        assert_eq!(spread(&stores, rf, false), Ok(expected), "{stores:?}");
    }
}

#[test]
fn too_few_nodes_are_an_error_or_a_named_degraded_volume() {
    let mut deaf = roomy(3, 3, "", 0);
    deaf.has_peer_address = false;
    let cases = [
        (vec![roomy(1, 1, "", 0), roomy(2, 1, "", 0)], "1 can be had"),
        (vec![roomy(1, 1, "z", 0), roomy(2, 2, "z", 0)], "zones"),
        (vec![roomy(1, 1, "", 0), deaf], "--peer"),
    ];
    for (stores, part) in cases {
        let refusal = spread(&stores, 2, false).expect_err(part);
        assert_eq!(refusal.kind, RefusalKind::TooFew, "{refusal}");
        assert!(refusal.message.contains(part), "{refusal}");
        assert!(refusal.message.contains("--allow-degraded"), "{refusal}");
        assert_eq!(spread(&stores, 2, true).expect("degraded").len(), 1);
    }
    let quorum = Wish {
        bytes: GIB,
        primary: None,
        policy: Policy {
            rf: 3,
            durability: Durability::SyncQuorum,
            ..Policy::default()
        },
        allow_degraded: true,
    };
    let one = [roomy(1, 1, "", 0)];
    let two = [roomy(1, 1, "", 0), roomy(2, 2, "", 0)];
    assert!(super::choose(&one, &quorum).is_err()); // Never a majority.
    assert_eq!(super::choose(&two, &quorum).expect("degraded").len(), 2);
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
            "/stores/1 of n1: full",
        ),
        (
            vec![full, dead],
            wanted(2),
            RefusalKind::NoSpace,
            "/stores/2 of n2: write failed",
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
