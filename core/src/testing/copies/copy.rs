//! One copy of the volume in the trial, and its link to the primary.

use super::{Message, VOLUME, VOLUME_BLOCKS};
use crate::block::Block;
use crate::id::StoreId;
use crate::lsn::{Epoch, Lsn};
use crate::store::append::Sharing;
use crate::store::{Config, Event, Tag};
use crate::testing::driver::{Driver, formatted};
use crate::testing::workload::shape;
use alloc::collections::VecDeque;
use fastrand::Rng;

/// One copy and its link to the primary.
pub(super) struct Copy {
    pub(super) driver: Driver,
    pub(super) config: Config,
    /// It adopted the present reign in this process.
    pub(super) connected: bool,
    pub(super) in_sync: bool,
    pub(super) queue: VecDeque<Message>,
    /// What it said is durable.
    pub(super) durable: Lsn,
    pub(super) promised: Epoch,
    /// Where its resync goes on; none without one.
    pub(super) fill: Option<(Lsn, Block)>,
    pub(super) filled: Option<Tag>,
    /// What it shows below this commit point may lack resync data that still waits.
    pub(super) whole_from: Lsn,
    /// What took effect before it last stopped: of blocks that records up to here change, a flush may have
    /// left out older versions.
    pub(super) in_effect: Lsn,
    /// A resync broke off: it may have been complete.
    pub(super) broken_off: bool,
}

impl Copy {
    pub(super) fn new(at: u8, rng: &mut Rng) -> Copy {
        let (mut layout, config) = shape(rng);
        // Many reigns without a commit between them must fit.
        layout.segments += 6;
        let image = formatted(StoreId([at + 1; 16]), layout);
        let mut driver = Driver::open(image, config, rng.u64(..)).expect("it is empty");
        driver.event(Event::CreateVolume {
            tag: Tag(0),
            id: VOLUME,
            size_blocks: VOLUME_BLOCKS,
            epoch: Epoch(1),
            sharing: Sharing::Shared,
        });
        driver.settle();
        driver.completed.clear();
        Copy {
            driver,
            config,
            connected: false,
            in_sync: true,
            queue: VecDeque::new(),
            durable: Lsn(0),
            promised: Epoch(1),
            fill: None,
            filled: None,
            whole_from: Lsn(0),
            in_effect: Lsn(0),
            broken_off: false,
        }
    }

    /// It is not waited for any more.
    pub(super) fn leave(&mut self) {
        self.in_sync = false;
        self.connected = false;
        self.queue.clear();
        self.break_off();
    }

    pub(super) fn break_off(&mut self) {
        self.broken_off |= self.fill.is_some();
        (self.fill, self.filled) = (None, None);
    }
}
