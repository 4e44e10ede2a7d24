//! The coordinator against a small cluster: three nodes, a registry, leaders that come and go, and
//! everything that may happen to messages, processes and clocks in between.
//!
//! Goal: nothing acknowledged is ever missing where hosts are served (I1, I2), nobody serves under an
//! older reign once a newer one served, and a reign has one primary (I3), the same record is the same
//! everywhere (I4), and when the faults stop, writes are acknowledged by full sets again (I9).
//! Method: seeded random schedules, checked at each step; each planted bug is found.

mod copy;
mod planted;
mod world;

use self::world::World;
use alloc::format;
use alloc::string::String;

/// Milliseconds.
type Ms = u64;

const LEASE: Ms = 2000;
const LEASE_MARGIN: Ms = 200;
const HEARTBEAT: Ms = 200;
const PEER_SILENCE: Ms = 600;

/// A rule left out, in the coordinator, around it, or in the copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    NoLeaseWait,
    CandidateNotInSync,
    ProposalDuringElection,
    ShrunkByStalePrimary,
    QuorumMiscounted,
    ResyncingPromoted,
    ShorterStaysInSync,
    PromiseForgotten,
    NoLeaseCheck,
    LeaseOfOldSetOnly,
    ServeBeforeSettled,
    BeginTwice,
    JoinBehind,
    EqualVersionIsNews,
}

/// Runs one schedule, and says what was violated.
fn run(seed: u64, bug: Option<Bug>) -> Result<World, String> {
    let mut world = World::new(seed, bug);
    world.run().map_err(|what| format!("seed {seed}: {what}"))?;
    Ok(world)
}

#[test]
fn no_schedule_breaks_an_invariant() {
    // `HOLDFAST_MODEL_SEEDS=1000000 cargo test` runs as many.
    let seeds = std::env::var("HOLDFAST_MODEL_SEEDS").ok();
    let seeds: Option<u64> = seeds.and_then(|text| text.parse().ok());
    let (mut elections, mut acknowledged) = (0, 0);
    for seed in 0..seeds.unwrap_or(100) {
        let world = run(seed, None).unwrap_or_else(|what| panic!("{what}"));
        elections += world.elections;
        acknowledged += world.acknowledged.len();
    }
    // The schedules reach what they are about.
    assert!(elections > 100);
    assert!(acknowledged > 3000);
}
