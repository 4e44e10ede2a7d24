//! Damaged blocks of shared volumes, performed: asked of other copies, lent to them, written again.

use super::driver::StoreDriver;
use super::payload::{Held, Payload};
use crate::disk::Disk;
use crate::limits::{LENDS_IN_FLIGHT_MAX, REPAIRS_IN_FLIGHT_MAX, REPAIRS_WAITING_MAX};
use crate::runtime::local::{Gate, Receiver, Sender, once};
use crate::runtime::slots::Slots;
use crate::volume::read::Bad;
use holdfast_core::block::{Block, BlockRange};
use holdfast_core::engine::{Event, FillId, HealId, NotHealed, Verified};
use holdfast_core::id::VolumeId;
use holdfast_core::store::PayloadId;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// A block from another copy.
pub(crate) type Healed = Result<Payload, NotHealed>;

/// What is under way.
pub(super) struct Healing {
    asked: RefCell<HashMap<HealId, Sender<Healed>>>,
    next: Cell<u64>,
    lends: Slots,
    repairs: Slots,
    repairs_waiting: Rc<Gate>,
}

impl Default for Healing {
    fn default() -> Self {
        Healing {
            asked: RefCell::default(),
            next: Cell::new(0),
            lends: Slots::new(LENDS_IN_FLIGHT_MAX),
            repairs: Slots::new(REPAIRS_IN_FLIGHT_MAX),
            repairs_waiting: Rc::default(),
        }
    }
}

impl<D: Disk> StoreDriver<D> {
    /// Asks the other copies for a block with this checksum. Ends in a bounded time.
    pub(crate) fn ask_copies(
        &self,
        volume: VolumeId,
        block: Block,
        checksum: u32,
    ) -> Receiver<Healed> {
        let (sender, receiver) = once();
        let id = HealId(self.healing.next.get());
        self.healing.next.set(id.0 + 1);
        self.healing.asked.borrow_mut().insert(id, sender);
        self.submit(Event::Heal {
            id,
            volume,
            block,
            checksum,
        });
        receiver
    }

    /// What was asked for is here, and stays although the engine lets go of it, or it is nowhere.
    pub(super) fn healed(&self, id: HealId, result: Result<PayloadId, NotHealed>) {
        let sender = self.healing.asked.borrow_mut().remove(&id);
        let sender = sender.expect("the engine answers each request once");
        sender.send(result.map(|payload| {
            let payloads = self.payloads.borrow();
            let held = payloads.get(payload.0);
            let held = held.expect("a payload is held until its release");
            held.stored().clone()
        }));
    }

    /// Reads for a primary whose own blocks are damaged.
    pub(super) fn read_for_primary(
        self: &Rc<Self>,
        id: FillId,
        volume: VolumeId,
        range: BlockRange,
    ) {
        let Some(volume) = self.volume(volume) else {
            return self.submit(Event::BlocksRead { id, found: None });
        };
        let driver = Rc::clone(self);
        self.healing.lends.run(async move {
            let found = volume.read_for_primary(range).await;
            let found = found.map(|(rope, checksums)| Verified {
                payload: driver.hold(Held::Fill(rope)),
                checksums,
            });
            driver.submit(Event::BlocksRead { id, found });
        });
    }

    /// Has a block written again that was `bad`, when its turn comes.
    pub(crate) fn repair_later(&self, volume: VolumeId, bad: Bad, healed: Payload) {
        let waiting = &self.healing.repairs_waiting;
        if waiting.count() >= REPAIRS_WAITING_MAX {
            return;
        }
        let Some(volume) = self.volume(volume) else {
            return;
        };
        let pass = waiting.enter();
        self.healing.repairs.run(async move {
            volume.repair(bad, healed).await;
            drop(pass);
        });
    }
}
