//! Whether hosts are served from this copy: only by the primary of a reign, and only while its leases
//! hold. Hot path for volumes with one copy: one flag.
//!
//! Invariant: data is given to a host only if the copy was allowed to serve after the data was fetched
//! and no role has changed in between (I2, I3). Each role has its own name in the read cache, so
//! nothing that was cached in one is read in another.

use super::cache::VolumeSlot;
use super::rope::Rope;
use super::{Fault, Volume};
use crate::disk::Disk;
use crate::limits::SERVE_WAIT_MAX;
use crate::runtime::buffer::Buffer;
use crate::runtime::task;
use holdfast_core::engine::{Role, Serve};
use holdfast_iscsi::request::{BlockRequest, BlockResponse};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// Between two looks at a lease.
const LOOK: Duration = Duration::from_millis(5);

/// What a volume knows of its role.
#[derive(Debug)]
pub(super) struct HostGate {
    /// Whether the engine has to be asked.
    shared: Cell<bool>,
    slot: Cell<VolumeSlot>,
}

impl HostGate {
    /// A copy that has no role yet. A `shared` one serves nothing until the engine says so.
    pub(super) fn new(shared: bool, slot: VolumeSlot) -> Self {
        HostGate {
            shared: Cell::new(shared),
            slot: Cell::new(slot),
        }
    }

    /// Whether there may be other copies.
    pub(super) fn is_shared(&self) -> bool {
        self.shared.get()
    }

    /// Its name in the cache now.
    pub(super) fn slot(&self) -> VolumeSlot {
        self.slot.get()
    }
}

impl<D: Disk> Volume<D> {
    /// The copy has another role from now on.
    pub(crate) fn role_changed(&self, role: Role) {
        self.gate.shared.set(role != Role::Alone);
        let slot = self.store.cache().borrow_mut().fresh_slot();
        self.gate.slot.set(slot);
    }

    /// Whether hosts are served at this moment.
    pub(super) fn serves_now(&self) -> bool {
        !self.gate.shared.get() || self.store.may_serve(self.id) == Serve::Yes
    }

    /// Executes a command inside the gate.
    pub(super) async fn guarded(
        &self,
        request: BlockRequest,
        task: Option<Rc<Buffer>>,
    ) -> Result<(BlockResponse, Rope), Fault> {
        if !self.gate.shared.get() {
            return self.dispatch(request, task).await;
        }
        let reign = self.gate.slot();
        self.allowed(reign).await?;
        // What only changes data is answered by the engine when it is committed.
        let changes = matches!(
            request,
            BlockRequest::Write(_)
                | BlockRequest::WriteSame(_)
                | BlockRequest::WriteZeros(_)
                | BlockRequest::Unmap(_)
                | BlockRequest::SaveAttributes(_)
        );
        let result = self.dispatch(request, task).await;
        if !changes {
            self.allowed(reign).await?;
        }
        result
    }

    /// Waits, a bounded time, until hosts are served.
    async fn allowed(&self, reign: VolumeSlot) -> Result<(), Fault> {
        let start = task::now();
        loop {
            if self.gate.slot() != reign {
                return Err(Fault::NotServed);
            }
            match self.store.may_serve(self.id) {
                Serve::Yes => return Ok(()),
                Serve::No(_) => return Err(Fault::NotServed),
                Serve::Wait if task::now() - start > SERVE_WAIT_MAX => {
                    return Err(Fault::NotServed);
                }
                Serve::Wait => task::sleep(LOOK).await,
            }
        }
    }
}
