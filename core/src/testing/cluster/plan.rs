//! What a seed draws before it begins: the shape of its cluster, and which disasters come how often.
//!
//! Swarm: each seed leaves out many faults, so that the others are met in purer form and more often.

use super::{Micros, SECOND};
use crate::cluster::set::Durability;
use crate::limits::CHUNK_BLOCKS;
use crate::store::Config;
use crate::store::layout::Layout;
use alloc::vec::Vec;
use core::time::Duration;
use fastrand::Rng;

/// Something bad, or a person's wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The process ends and starts again; all that it wrote stays.
    Kill,
    /// The node loses power; what was not synced is kept, lost or torn.
    PowerLoss,
    /// All nodes lose power at once.
    PowerLossOfAll,
    /// The process stands still.
    Pause,
    /// Two nodes do not hear each other, or one of them does not hear the other.
    Cut,
    /// A node hears nobody, or nobody hears it.
    Isolate,
    /// The masters and a node do not hear each other.
    CutFromMasters,
    /// The primary loses masters and, perhaps, copies while another is wanted in its place: two that may both
    /// believe that they reign.
    Usurp,
    /// A stream ends.
    Break,
    /// Messages of one node are late.
    Clog,
    /// A disk takes long.
    SlowDisk,
    /// Another volume takes the space.
    FullDisk,
    /// A clock runs faster or slower from here on. It never steps: what it stands for is monotonic.
    Drift,
    /// Another master leads, from what is registered alone.
    MasterRestart,
    /// A copy is assigned once more what was registered long ago.
    StaleAssignment,
    /// A planned move.
    Move,
    /// A store is lost and a person replaces it by an empty one.
    Replace,
    /// All cuts end.
    Heal,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 18] = [
        Fault::Kill,
        Fault::PowerLoss,
        Fault::PowerLossOfAll,
        Fault::Pause,
        Fault::Cut,
        Fault::Isolate,
        Fault::CutFromMasters,
        Fault::Usurp,
        Fault::Break,
        Fault::Clog,
        Fault::SlowDisk,
        Fault::FullDisk,
        Fault::Drift,
        Fault::MasterRestart,
        Fault::StaleAssignment,
        Fault::Move,
        Fault::Replace,
        Fault::Heal,
    ];

    /// Whether it ends when all cuts do.
    pub(super) fn is_cut(self) -> bool {
        matches!(
            self,
            Fault::Cut | Fault::Isolate | Fault::CutFromMasters | Fault::Usurp
        )
    }
}

/// A seed's shape.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Copies of the volume.
    pub copies: usize,
    /// Nodes.
    pub nodes: usize,
    /// When a write is acknowledged.
    pub durability: Durability,
    /// Blocks of the volume.
    pub blocks: u64,
    /// Of each store.
    pub layout: Layout,
    /// Of each store.
    pub config: Config,
    /// Hosts' commands under way.
    pub depth: usize,
    /// Pause of a host between two commands at most.
    pub think: Micros,
    /// Time with faults.
    pub storm: Micros,
    /// Between two faults at most.
    pub gap: Micros,
    /// Faults, as often as they are drawn.
    pub faults: Vec<Fault>,
    /// Of 1000 messages on the control link, those that are lost.
    pub lost: u32,
    /// Of a message between nodes at most, when nothing is clogged.
    pub delay: Micros,
}

impl Plan {
    /// Draws one.
    pub fn draw(rng: &mut Rng) -> Plan {
        let copies = if rng.u8(..3) == 0 { 2 } else { 3 };
        let nodes = rng.usize(copies..=4);
        let durability = if copies == 3 && rng.bool() {
            Durability::SyncQuorum
        } else {
            Durability::SyncAll
        };
        let chunks = rng.u64(2..12);
        let layout = Layout {
            segment_bytes: 128 << 10,
            segments: rng.u32(4..24),
            page_slots: 256,
            chunks: 96,
        };
        let config = Config {
            write_through: rng.u8(..4) == 0,
            direct_chunks_min: if rng.u8(..4) == 0 { 1000 } else { 1 },
            copies_in_flight_max: rng.usize(1..8),
            round_bytes_max: if rng.bool() { 1 << 30 } else { 96 << 10 },
            idle: Duration::from_millis(rng.u64(50..1500)),
            ..Config::default()
        };
        // Rare faults let elections and resyncs end before the next comes; dense ones do not.
        let gap_max = if rng.bool() { 3 * SECOND } else { 12 * SECOND };
        Plan {
            copies,
            nodes,
            durability,
            blocks: chunks * CHUNK_BLOCKS as u64 + rng.u64(..16),
            layout,
            config,
            depth: rng.usize(1..10),
            think: rng.u64(5_000..150_000),
            storm: rng.u64(5..50) * SECOND,
            gap: rng.u64(100_000..gap_max),
            faults: faults(rng),
            lost: if rng.bool() { 0 } else { rng.u32(..50) },
            delay: rng.u64(100..5_000),
        }
    }

    /// A calm world: nothing bad happens.
    pub fn without_faults(mut self) -> Plan {
        self.faults.clear();
        self.lost = 0;
        self
    }
}

fn faults(rng: &mut Rng) -> Vec<Fault> {
    let mut faults = Vec::new();
    for fault in Fault::ALL {
        if rng.u8(..5) < 2 {
            let often = rng.usize(1..6);
            faults.extend(core::iter::repeat_n(fault, often));
        }
    }
    faults
}
