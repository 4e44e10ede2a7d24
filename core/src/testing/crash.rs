//! Crash images: stops a store under work at any moment, keeps any part of what was not synced, and
//! checks what a recovery finds; then works on and crashes again.
//!
//! Goal: I1, I10, I12 after any power cut, also one during or shortly after recovery. Method: a seeded
//! workload; at a crash point all subsets of the pending writes when they are few (or a sample of
//! them), else prefixes, all but one, only one, random ones; the last kept write whole, torn at
//! 512 bytes or 4 KiB, or with garbage at its end. A workload ends with a count of its space and on a
//! disk whose write or sync fails.

use super::disk::{Image, Torn};
use super::workload::{Knowledge, World, shape};
use crate::store::Config;
use alloc::vec::Vec;
use fastrand::Rng;

/// Things that happen in one workload.
const STEPS: usize = 500;

/// Pending writes up to which all subsets are made at a crash point that is examined fully.
const SUBSETS_OF_MAX: usize = 10;

/// Recoveries in a row.
const DEPTH_MAX: u32 = 4;

/// Runs the workload of `seed` and examines about `images_max` images. Gives their number. Panics
/// when an image is not recovered from.
pub fn examine(seed: u64, images_max: u64) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let (layout, config) = shape(&mut rng);
    let mut world = World::fresh(layout, config, &mut rng);
    let mut examiner = Examiner {
        config,
        images: 0,
        rng,
    };
    for _ in 0..STEPS {
        world.step();
        if examiner.images < images_max && examiner.rng.u8(..3) == 0 {
            let full = examiner.rng.u8(..100) == 0;
            examiner.crash_point(&world, full);
        }
    }
    world.finish();
    world.verify();
    world.check_space();
    world.fail();
    examiner.crash_point(&world, true);
    examiner.images
}

struct Examiner {
    config: Config,
    images: u64,
    rng: Rng,
}

impl Examiner {
    fn crash_point(&mut self, world: &World, full: bool) {
        for keep in self.keeps(world.driver.disk.pending(), full) {
            let torn = self.torn();
            self.crash(world, &keep, torn, 0);
        }
    }

    fn torn(&mut self) -> Torn {
        match self.rng.u8(..6) {
            0 => Torn::Sectors,
            1 => Torn::Blocks,
            2 => Torn::Garbage,
            _ => Torn::Whole,
        }
    }

    /// Which pending writes are kept, for each image of a crash point.
    fn keeps(&mut self, pending: usize, full: bool) -> Vec<Vec<bool>> {
        let prefix = |length: usize| (0..pending).map(|at| at < length).collect::<Vec<_>>();
        if full && pending <= SUBSETS_OF_MAX {
            let subset = |set: usize| (0..pending).map(|at| set >> at & 1 == 1).collect();
            return (0..1 << pending).map(subset).collect();
        }
        if full {
            let one = |odd: usize, value: bool| {
                let kept = |at: usize| (at == odd) == value;
                (0..pending).map(kept).collect::<Vec<_>>()
            };
            let prefixes = (0..=pending).map(prefix);
            let only_one = (0..pending).map(|odd| one(odd, true));
            let all_but_one = (0..pending).map(|odd| one(odd, false));
            let mut keeps: Vec<_> = prefixes.chain(only_one).chain(all_but_one).collect();
            for _ in 0..pending {
                keeps.push(self.random(pending));
            }
            return keeps;
        }
        let length = self.rng.usize(..=pending);
        alloc::vec![prefix(length), self.random(pending)]
    }

    fn random(&mut self, pending: usize) -> Vec<bool> {
        (0..pending).map(|_| self.rng.bool()).collect()
    }

    fn crash(&mut self, world: &World, keep: &[bool], torn: Torn, depth: u32) {
        let disk = &world.driver.disk;
        let image = disk.crash(|at| keep[at], torn, &mut self.rng);
        self.images += 1;
        self.recover(image, world.known.clone(), depth);
    }

    fn recover(&mut self, image: Image, known: Knowledge, depth: u32) {
        let mut world = World::open(image, self.config, known, self.rng.fork());
        let deeper = depth + 1 < DEPTH_MAX;
        if deeper && self.rng.u8(..5) == 0 {
            // Nobody read anything yet; the store only starts.
            for _ in 0..self.rng.usize(..6) {
                world.driver.end_one();
            }
            self.crash_again(&world, depth);
        }
        world.verify();
        if deeper && self.rng.u8(..3) == 0 {
            for _ in 0..self.rng.usize(..40) {
                world.step();
            }
            world.check();
            self.crash_again(&world, depth);
        }
    }

    fn crash_again(&mut self, world: &World, depth: u32) {
        let pending = world.driver.disk.pending();
        let keep = self.random(pending);
        let torn = self.torn();
        self.crash(world, &keep, torn, depth + 1);
    }
}
