//! Crash images of the storage engine, see `holdfast_core::testing::crash`.
//!
//! `HOLDFAST_CRASH_IMAGES=1000000` examines that many images; `HOLDFAST_SEED=N` the workload of one
//! seed, as a failure prints it.

use holdfast_core::testing::copies;
use holdfast_core::testing::crash::examine;
use std::env;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Images by default: what fits the time of the test lane.
const IMAGES: u64 = 20_000;

/// Images of one workload.
const IMAGES_PER_SEED: u64 = 200;

/// Workloads that run at the same time.
const THREADS: usize = 2;

/// The first seed; the others follow it.
const SEED: u64 = 1;

fn number(variable: &str) -> Option<u64> {
    env::var(variable)
        .ok()
        .map(|text| text.parse().expect("a number"))
}

#[test]
fn every_crash_image_recovers_to_what_was_acknowledged() {
    if let Some(seed) = number("HOLDFAST_SEED") {
        println!("seed {seed}: {} images", examine(seed, IMAGES_PER_SEED));
        return;
    }
    let images_max = number("HOLDFAST_CRASH_IMAGES").unwrap_or(IMAGES);
    let (images, next) = (AtomicU64::new(0), AtomicU64::new(SEED));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while images.load(Ordering::Relaxed) < images_max {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    match catch_unwind(|| examine(seed, IMAGES_PER_SEED)) {
                        Ok(count) => images.fetch_add(count, Ordering::Relaxed),
                        Err(_) => panic!("HOLDFAST_SEED={seed} reproduces this"),
                    };
                }
            });
        }
    });
    let (images, seeds) = (images.into_inner(), next.into_inner() - SEED);
    println!("{images} crash images of {seeds} workloads, seeds from {SEED}");
}

/// Seeds of the copies' runs by default.
const GROUPS: u64 = 150;

#[test]
fn copies_of_a_volume_agree_after_any_crash() {
    if let Some(seed) = number("HOLDFAST_SEED") {
        println!("seed {seed}: {} crashes", copies::run(seed));
        return;
    }
    let images_max = number("HOLDFAST_CRASH_IMAGES").unwrap_or(IMAGES);
    let groups = (images_max / IMAGES * GROUPS).max(GROUPS);
    let (crashes, next) = (AtomicU64::new(0), AtomicU64::new(SEED));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEED + groups {
                        return;
                    }
                    match catch_unwind(|| copies::run(seed)) {
                        Ok(count) => crashes.fetch_add(count, Ordering::Relaxed),
                        Err(_) => panic!("HOLDFAST_SEED={seed} reproduces this"),
                    };
                }
            });
        }
    });
    println!(
        "{} crashes in {groups} groups of copies, seeds from {SEED}",
        crashes.into_inner()
    );
}
