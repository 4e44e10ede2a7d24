//! Goal: no bytes in the metadata area make the map panic, loop or grow without bound, not even behind right
//! checksums; and a page has one encoding only. Method: seeded changes to the pages of a sound map.
//! `HOLDFAST_FUZZ_ROUNDS` and `HOLDFAST_FUZZ_SEED` make it long.

use super::super::body;
use super::super::page::{HEADER_BYTES, PAGE_BYTES, PageKind, identify, seal};
use super::super::volumes::Reaped;
use super::damage::{forge, sample};
use super::{Disk, checkpoint, run_loader};
use crate::block::ChunkIndex;
use crate::lsn::{FrameSeq, Lsn};
use crate::map::Map;
use crate::map::check::Finding;
use crate::map::entry::Entry;
use crate::testing::fuzz::{Seeds, mutate};
use std::vec;
use std::vec::Vec;

const KINDS: [PageKind; 7] = [
    PageKind::Leaf,
    PageKind::Interior,
    PageKind::Counts,
    PageKind::CountsInterior,
    PageKind::Volumes,
    PageKind::VolumesInterior,
    PageKind::Attributes,
];

/// Decodes `bytes` as a page's body; what decodes encodes to the same bytes.
fn page_body(kind: PageKind, bytes: &[u8]) {
    let mut again = vec![0; bytes.len()];
    let decoded = match kind {
        PageKind::Leaf => body::decode_leaf(bytes)
            .map(|entries| body::encode_leaf(&entries, &mut again))
            .is_ok(),
        PageKind::Interior | PageKind::CountsInterior | PageKind::VolumesInterior => {
            body::decode_children(bytes)
                .map(|children| body::encode_children(children.iter().copied(), &mut again))
                .is_ok()
        }
        PageKind::Counts => {
            let mut counts = vec![0; 500];
            body::decode_counts(bytes, &mut counts)
                .map(|()| body::encode_counts(&counts, &mut again))
                .is_ok()
        }
        PageKind::Volumes => body::decode_table(bytes)
            .map(|entries| body::encode_table(entries.iter().map(Option::as_ref), &mut again))
            .is_ok(),
        PageKind::Attributes => body::decode_attributes(bytes, 1000)
            .map(|blob| again[..1000].copy_from_slice(blob))
            .is_ok(),
    };
    assert!(!decoded || again == bytes, "{kind:?}");
}

/// Uses a map that was made of damaged pages: everything is read, something written, all removed.
fn use_up(mut map: Map, disk: &mut Disk, random: &mut fastrand::Rng) {
    // A lost page leaves chunks counted that nothing names; nothing else may be inconsistent.
    let leak =
        |f: &Finding| matches!(f, Finding::CountWrong { counted, found, .. } if counted > found);
    let self_check = map.check();
    assert!(self_check.iter().all(leak), "{self_check:?}");
    let volumes: Vec<_> = map
        .volumes()
        .map(|(slot, record)| (slot, record.id))
        .collect();
    for (slot, id) in &volumes {
        let end = ChunkIndex(1 << 30);
        let first = map.next_mapped(*slot, ChunkIndex(0), end);
        map.next_unmapped(*slot, first.unwrap_or(ChunkIndex(7)), end);
        for index in [random.u64(..1 << 30), random.u64(..1000), 25_003].map(ChunkIndex) {
            if map.reserve_path(*id, index).is_err() {
                continue;
            }
            if map.reserve_chunk().is_ok() {
                let chunk = map.allocate_chunk();
                let entry = Entry::stored(chunk, 1, 0, Lsn(1 << 40), [5; 16]);
                map.put(*slot, index, entry, FrameSeq(2));
                assert_eq!(*map.get(*slot, index), entry);
            }
            map.unreserve_path(*id, index);
        }
    }
    let self_check = map.check();
    assert!(self_check.iter().all(leak), "{self_check:?}");
    for (slot, _) in volumes {
        map.remove_volume(slot);
    }
    while map.reap(FrameSeq(2), 1000) == Reaped::More {}
    checkpoint(&mut map, disk, FrameSeq(2));
    let (map, _) = run_loader(map.geometry(), disk);
    assert_eq!(map.unwrap().volumes().count(), 0);
}

#[test]
fn any_page_bodies_decode_to_themselves_or_not_at_all() {
    let sample = sample();
    let pages: Vec<&Vec<u8>> = sample.disk.pages.values().collect();
    for (_, mut random) in Seeds::from_environment(20_000) {
        let page = random.choice(&pages).unwrap();
        let (id, _) = identify(page, sample.geometry.store).unwrap();
        let mut body = page[HEADER_BYTES..].to_vec();
        page_body(id.kind, &body);
        mutate(&mut body, &mut random);
        page_body(*random.choice(&KINDS).unwrap(), &body);
    }
}

#[test]
fn any_headers_are_identified_or_refused() {
    let sample = sample();
    for (_, mut random) in Seeds::from_environment(20_000) {
        let mut page = sample.disk.pages[&0].clone();
        mutate(&mut page[..HEADER_BYTES], &mut random);
        if let Ok((id, frame)) = identify(&page, sample.geometry.store) {
            let mut again = page.clone();
            seal(&mut again, sample.geometry.store, id, frame);
            assert_eq!(again, page);
        }
        page.truncate(random.usize(..=PAGE_BYTES));
        let _ = identify(&page, sample.geometry.store);
    }
}

#[test]
fn any_forged_map_loads_or_is_refused_and_can_be_used() {
    let sample = sample();
    let slots: Vec<u32> = sample.disk.pages.keys().copied().collect();
    let (mut loaded, mut refused) = (0u32, 0u32);
    for (_, mut random) in Seeds::from_environment(400) {
        let mut disk = sample.disk.clone();
        for _ in 0..random.u32(1..4) {
            let slot = *random.choice(&slots).unwrap();
            let mut body = disk.pages[&slot][HEADER_BYTES..].to_vec();
            mutate(&mut body, &mut random);
            forge(&mut disk, slot, &|to| to.copy_from_slice(&body));
        }
        match run_loader(sample.geometry, &disk) {
            (Some(map), _) => {
                loaded += 1;
                use_up(*map, &mut disk, &mut random);
            }
            (None, findings) => {
                refused += 1;
                assert!(!findings.is_empty());
            }
        }
    }
    std::println!("{loaded} loaded, {refused} refused");
}
