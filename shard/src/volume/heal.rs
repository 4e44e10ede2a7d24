//! Damaged blocks of a volume with several copies: read from another copy, then written again here.
//!
//! What is healed is written again as a host would write it: under the range's lock, as a record that
//! every copy gets, and only if the block is still the damaged one. So it takes part in the order of
//! writes, and nothing about places on the disk has to be guarded.
//!
//! Not here: which copy is asked, and whether its answer is right (that is `core::replication::healing`).
//!
//! Invariant: what is given, to a host or to the disk, has the checksum that this copy knows of the
//! block (I8). Cost of a damaged range: one read of each of its blocks, one message and its answer for
//! each damaged one.

use super::read::Bad;
use super::rope::Rope;
use super::{Fault, Volume, add_one};
use crate::disk::Disk;
use crate::limits::HEALING_TIME_MAX;
use crate::runtime::task;
use crate::store::payload::Payload;
use holdfast_core::block::{Block, BlockRange};
use holdfast_core::checksum::{block_checksums, crc32c};
use holdfast_core::engine::NotHealed;
use holdfast_core::store::Location;
use tracing::{info, warn};

impl<D: Disk> Volume<D> {
    /// A range in which `bad` was found, block by block.
    pub(super) async fn read_damaged(&self, range: BlockRange, bad: Bad) -> Result<Rope, Fault> {
        if !self.gate.is_shared() {
            return Err(self.medium_error(bad));
        }
        let until = task::now() + HEALING_TIME_MAX;
        let mut rope = Rope::default();
        for block in range.first.0..range.end().0 {
            if task::now() > until {
                return Err(Fault::Busy);
            }
            match self.read_own(single(Block(block))).await? {
                Ok(good) => rope.append(good),
                Err(bad) => rope.append(self.heal(bad).await?),
            }
            task::yield_if_needed().await;
        }
        Ok(rope)
    }

    /// Blocks for a primary whose own are damaged, and their checksums; `None` when not all of them
    /// are good here. Writes are not kept away: it compares what it gets with what it should be.
    pub(crate) async fn read_for_primary(&self, range: BlockRange) -> Option<(Rope, Vec<u32>)> {
        match self.read_own(range).await {
            Ok(Ok(rope)) => {
                let mut checksums = Vec::with_capacity(range.count as usize);
                rope.for_each_slice(|slice| checksums.extend(block_checksums(slice)));
                Some((rope, checksums))
            }
            Ok(Err(bad)) => {
                self.warn_of(bad, "a block that the primary asks for is damaged here too");
                None
            }
            Err(_) => None,
        }
    }

    /// Writes a block again that was `bad`, unless it is another by now.
    pub(crate) async fn repair(&self, bad: Bad, healed: Payload) {
        let Ok(_held) = self.locks.exclusive(single(bad.block)).await else {
            return;
        };
        // No write is under way, but one that was inherited from another reign may not have taken effect
        // yet: hosts are served only when all of those have.
        if !self.serves_now() || !self.is_still(bad) {
            return;
        }
        let written = self
            .store
            .write(self.reference(), single(bad.block), healed);
        match written.receive().await {
            Ok(()) => {
                add_one(&self.counters.repaired);
                if self.damage_lines.admits(task::now()) {
                    info!(
                        store = %self.store.name(), volume = %self.id, block = %bad.block,
                        "a damaged block was written again"
                    );
                }
            }
            Err(error) => warn!(
                store = %self.store.name(), volume = %self.id, block = %bad.block,
                "a damaged block could not be written again: {error}"
            ),
        }
    }

    async fn heal(&self, bad: Bad) -> Result<Rope, Fault> {
        // Of what was lost with its map page nothing is known that an answer could be compared with.
        if bad.location == Location::Bad && bad.checksum == 0 {
            return Err(self.medium_error(bad));
        }
        let asked = self.store.ask_copies(self.id, bad.block, bad.checksum);
        match asked.receive().await {
            Ok(healed) if crc32c(healed.bytes()) == bad.checksum => {
                add_one(&self.counters.healed);
                self.warn_of(bad, "a damaged block was read from another copy");
                let rope = healed.rope();
                self.store.repair_later(self.id, bad, healed);
                Ok(rope)
            }
            Ok(_) | Err(NotHealed::NoCopy) => Err(self.medium_error(bad)),
            Err(NotHealed::Busy) => Err(Fault::Busy),
        }
    }

    /// Whether a block is still the one that was found bad.
    fn is_still(&self, bad: Bad) -> bool {
        let Ok(lookup) = self.store.lookup(self.id, single(bad.block)) else {
            return false;
        };
        let same =
            lookup.extents[0].location == bad.location && lookup.checksums[0] == bad.checksum;
        self.store.done_with(lookup);
        same
    }

    fn medium_error(&self, bad: Bad) -> Fault {
        self.warn_of(bad, "no good copy of a block: medium error");
        Fault::Medium(bad.block)
    }

    /// Tells, once, of how many damaged blocks nothing was said.
    pub(crate) fn tell_left_out(&self) {
        if let Some(lines) = self.damage_lines.take_left_out(task::now()) {
            warn!(
                store = %self.store.name(), volume = %self.id,
                "{lines} more lines about damaged blocks were left out"
            );
        }
    }

    fn warn_of(&self, bad: Bad, what: &str) {
        if !self.damage_lines.admits(task::now()) {
            return;
        }
        let place = match bad.location {
            Location::Stored(place) => place.to_string(),
            Location::Zero | Location::Bad => "lost before".to_owned(),
        };
        warn!(
            store = %self.store.name(), volume = %self.id, block = %bad.block, place, "{what}"
        );
    }
}

fn single(block: Block) -> BlockRange {
    BlockRange {
        first: block,
        count: 1,
    }
}
