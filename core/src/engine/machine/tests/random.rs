//! Random schedules over the laboratory, with and without planted defects.

use super::lab::{BLOCKS, Lab, NODES};
use crate::cluster::set::Durability;
use crate::replication::defect::Defect;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::{eprintln, vec::Vec};

const MODES: [Durability; 2] = [Durability::SyncAll, Durability::SyncQuorum];

fn run(seed: u64, defect: Option<Defect>) {
    let mode = MODES[usize::try_from(seed % 2).unwrap()];
    let mut lab = Lab::new(seed, mode);
    if let Some(defect) = defect {
        lab.plant(defect);
    }
    let calm = lab.rng.u32(5..60);
    for _ in 0..600 {
        step(&mut lab, calm);
    }
    // Faults stop: everything ends, everything is the same.
    lab.join();
    for at in 0..NODES {
        lab.release_disk(at);
        lab.start(at);
    }
    lab.pass(8_000);
    if lab.set_len() < NODES {
        lab.pass(40_000); // A copy that was slow waits out its penalty.
    }
    lab.check_ended();
    assert_eq!(lab.set_len(), NODES, "{}", lab.describe());
    lab.read_all();
    lab.check_copies();
}

fn step(lab: &mut Lab, calm: u32) {
    let block = lab.rng.u64(..BLOCKS);
    let node = lab.rng.usize(..NODES);
    match lab.rng.u32(..100 + calm) {
        0..20 => lab.write(block),
        20..24 => lab.unmap(block),
        24..27 => lab.change(block / 16 * 16, 16, true),
        27..40 => lab.read(node, block),
        40..42 => lab.kill(node),
        42..48 => lab.start(node),
        48 => lab.cut(node, (node + 1) % NODES),
        49 => lab.isolate(node),
        50..53 => lab.join(),
        53 => lab.hold_disk(node),
        54..57 => lab.release_disk(node),
        57 => lab.move_to(node),
        58..62 => lab.pass(200),
        62..72 => lab.tick(),
        72 => lab.settle(),
        73 => lab.pass(2_300),
        74 if lab.defect.is_none() => {
            lab.change_durability(MODES[usize::from(block.is_multiple_of(2))])
        }
        _ => {
            // A disk is slower than a network: what is durable comes late.
            for _ in 0..lab.rng.u32(1..27) {
                if lab.rng.u32(..3) > 0 {
                    lab.deliver_one();
                } else {
                    lab.disk_one();
                }
            }
        }
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn nothing_acknowledged_is_lost_under_random_faults() {
    let first = number("HOLDFAST_SEED", 1);
    let last = first + number("HOLDFAST_ROUNDS", 40);
    let mut failed = Vec::new();
    for seed in first..last {
        if catch_unwind(|| run(seed, None)).is_err() {
            eprintln!("seed {seed}");
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "seeds {failed:?}");
}

/// Defects and the seeds within which these schedules find them. Those that are not here need rarer
/// histories than these.
const FOUND: [(Defect, u64); 8] = [
    (Defect::CommitAlone, 60),
    (Defect::CountSentAsDurable, 10),
    (Defect::ServeBeforeReignCommitted, 200),
    (Defect::CutByLength, 10),
    (Defect::EndResyncEarly, 10),
    (Defect::KeepDivergedTail, 200),
    (Defect::TrustStaleCursor, 10),
    (Defect::AckBeforeDurable, 60),
];

#[test]
fn planted_defects_are_found() {
    let rounds = number("HOLDFAST_PLANTED_ROUNDS", 0);
    let all = Defect::ALL.iter().map(|defect| (*defect, rounds));
    let wanted: Vec<(Defect, u64)> = if rounds > 0 {
        all.collect()
    } else {
        FOUND.to_vec()
    };
    let mut missed = Vec::new();
    for (defect, rounds) in wanted {
        let found = (1..=rounds).find(|seed| {
            let run = AssertUnwindSafe(|| run(*seed, Some(defect)));
            catch_unwind(run).is_err()
        });
        eprintln!("{defect:?}: {found:?}");
        if found.is_none() {
            missed.push(defect);
        }
    }
    assert!(missed.is_empty(), "{missed:?}");
}
