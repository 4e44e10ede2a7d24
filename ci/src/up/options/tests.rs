//! What people type becomes the right plan, or one sentence.

use std::net::SocketAddr;

use super::{cpus_of_node, masters, others, shifted, store_bytes};
use crate::size::{GIB, MIB};

#[test]
fn each_node_has_its_own_addresses() {
    let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    for (first, index, expected) in [
        ("127.0.0.1:3260", 0, "127.0.0.1:3260"),
        ("127.0.0.1:3260", 2, "127.0.0.3:3260"),
        ("[::1]:3260", 2, "[::1]:3280"),
        ("0.0.0.0:3260", 1, "0.0.0.0:3270"),
    ] {
        assert_eq!(
            shifted(address(first), index),
            Ok(address(expected)),
            "{first}"
        );
    }
    assert!(shifted(address("[::1]:65535"), 1).is_err());
}

#[test]
fn the_first_node_begins_the_cluster_and_the_others_join_its_masters() {
    let all = || ["a", "b", "c"].map(str::to_owned).to_vec();
    assert!(others(0, all()).is_empty());
    assert_eq!(others(1, all()), ["a", "c"]);
    assert_eq!(others(3, all()), ["a", "b", "c"]);
}

#[test]
fn an_even_number_of_masters_is_refused() {
    for (text, good) in [
        ("1", true),
        ("3", true),
        ("5", true),
        ("2", false),
        ("0", false),
    ] {
        assert_eq!(masters(text).is_ok(), good, "{text}");
    }
}

#[test]
fn nodes_share_the_cpus_evenly() {
    assert_eq!(cpus_of_node(&[0, 1], 0, 3), [0]);
    assert_eq!(cpus_of_node(&[0, 1], 1, 3), [1]);
    assert_eq!(cpus_of_node(&[0, 1], 2, 3), [0]);
    assert_eq!(cpus_of_node(&[0, 1, 2, 3], 1, 2), [1, 3]);
}

#[test]
fn a_store_holds_its_volumes_when_they_are_full() {
    // The store's own arithmetic, as its layout defines it: head 2 MiB, log, then 64 KiB chunks with 1 KiB of map each.
    let capacity = |store: u64| {
        let log = (store / 8).clamp(32 * MIB, GIB) / (4 * MIB) * (4 * MIB);
        (store - 2 * MIB - log - 64 * 1024) / (65 * 1024) * (64 * 1024)
    };
    for volumes in [
        vec![MIB],
        vec![GIB],
        vec![GIB; 5],
        vec![100 * GIB, GIB],
        vec![4 << 40],
    ] {
        for count in [1, 2, 4] {
            let store = store_bytes(&volumes, count);
            let total: u64 = volumes.iter().sum();
            let largest = volumes.iter().copied().max().unwrap_or(0);
            assert!(capacity(store) > largest, "{volumes:?} on {count}");
            assert!(
                capacity(store) * count as u64 > total,
                "{volumes:?} on {count}"
            );
        }
    }
}
