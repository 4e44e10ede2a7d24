//! What people type becomes the right plan, or one sentence.

use super::{store_bytes, wanted};
use crate::size::{GIB, MIB};

#[test]
fn volumes_are_read() {
    let volume = wanted("demo=1GiB").expect("a good volume");
    assert_eq!((volume.name.as_str(), volume.size_bytes), ("demo", GIB));
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
        &long,
    ] {
        assert!(wanted(text).is_err(), "{text}");
    }
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
