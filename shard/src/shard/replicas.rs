//! Copies of replicated volumes: the agent's orders for them, and what their engines want of the masters.

use super::assign::{Refused, invalid, refused};
use super::{Shard, VolumeEntry};
use crate::disk::file::FileDisk;
use crate::messages::ToCoordinator;
use crate::store::driver::StoreDriver;
use crate::store::peers::{Proposal, Upcall};
use holdfast_core::cluster::set::Durability;
use holdfast_core::engine::{self, Event, Member, Role};
use holdfast_core::id::{NodeId, StoreId, VolumeId};
use holdfast_core::link::{self, Assignment, Fence, Fenced, ProposalAnswer, Propose};
use holdfast_core::lsn::Epoch;
use holdfast_core::store;
use std::rc::Rc;
use tracing::{info, warn};

impl Shard {
    /// Passes on what the stores' engines decide, for as long as they live.
    pub(super) fn hear_stores(self: &Rc<Self>) {
        for driver in self.open_stores() {
            let (shard, store) = (Rc::downgrade(self), driver.id());
            driver.set_upcall(move |upcall| {
                let Some(shard) = shard.upgrade() else {
                    return;
                };
                match upcall {
                    Upcall::Propose(proposal) => shard.propose(store, proposal),
                    Upcall::RoleChanged(volume, role) => {
                        info!(%volume, %store, ?role, "the copy has another role");
                        shard.service.role_changed(volume);
                        shard.report_soon.set(true);
                    }
                }
            });
        }
    }

    fn propose(&self, store: StoreId, proposal: Proposal) {
        let propose = Propose {
            volume_id: proposal.volume.0.to_vec(),
            epoch: proposal.epoch.0,
            set_version: proposal.set_version,
            in_sync: bytes_of(&proposal.in_sync),
            reason: proposal.reason,
            store_id: store.0.to_vec(),
            settled: settled_to(proposal.settled),
        };
        self.coordinator
            .send(ToCoordinator::Propose(self.index, Box::new(propose)));
    }

    /// Gives the masters' answer to the copy that asked.
    pub(super) fn on_proposal_answer(&self, answer: &ProposalAnswer) {
        let entry = VolumeId::try_from(answer.volume_id.as_slice())
            .ok()
            .and_then(|id| self.volumes.borrow().get(&id).cloned());
        let (Some(entry), Some(in_sync)) = (entry, stores_of(&answer.in_sync)) else {
            return warn!("an answer to a proposal names no volume of this shard");
        };
        entry.volume.store().tell(Event::ProposalAnswered {
            volume: entry.volume.id(),
            accepted: answer.accepted,
            epoch: Epoch(answer.epoch),
            set_version: answer.set_version,
            in_sync,
        });
    }

    /// Makes a copy obey no reign below an epoch. Beside the other requests: a failover waits for it.
    pub(super) fn fence(self: &Rc<Self>, id: u64, fence: &Fence) {
        let volume = VolumeId::try_from(fence.volume_id.as_slice());
        let entry = volume
            .ok()
            .and_then(|id| self.volumes.borrow().get(&id).cloned())
            .filter(|entry| entry.volume.store().id().0[..] == fence.store_id);
        let mut fenced = Fenced {
            volume_id: fence.volume_id.clone(),
            store_id: fence.store_id.clone(),
            ..Fenced::default()
        };
        let Some(entry) = entry else {
            fenced.reason = "no such copy here".into();
            return self
                .coordinator
                .send(ToCoordinator::Fenced(id, Box::new(fenced)));
        };
        let (shard, epoch) = (Rc::clone(self), Epoch(fence.epoch));
        self.aside.run(async move {
            let volume = &entry.volume;
            let answer = volume.store().fence(volume.id(), epoch).receive().await;
            fenced.ok = answer.ok;
            fenced.epoch = answer.epoch.0;
            fenced.last_epoch = answer.last_epoch.0;
            fenced.last_lsn = answer.last.0;
            fenced.committed_lsn = answer.committed.0;
            fenced.resyncing = answer.resyncing;
            // Rounded up: a lease is never told shorter than it is.
            let left = answer.lease_left.as_micros().div_ceil(1000);
            fenced.lease_left_ms = u64::try_from(left).unwrap_or(u64::MAX);
            fenced.reason = answer.reason;
            shard.send_report();
            shard
                .coordinator
                .send(ToCoordinator::Fenced(id, Box::new(fenced)));
        });
    }

    /// Grows a volume whose primary is here. Not waited for: the record is committed when the other
    /// copies have it, and the next assignment may be what that needs.
    pub(super) fn grow_shared(&self, entry: &VolumeEntry, size_blocks: u64) {
        let id = entry.volume.id();
        let resized = entry.volume.store().ask(|tag| store::Event::ResizeVolume {
            tag,
            id,
            size_blocks,
        });
        self.aside.run(async move {
            if let Err(error) = resized.receive().await {
                warn!(volume = %id, "the volume did not grow: {error}");
            }
        });
    }

    /// Tells a copy what it is in which reign.
    pub(super) async fn assign_role(
        &self,
        id: VolumeId,
        driver: &Rc<StoreDriver<FileDisk>>,
        assignment: &Assignment,
    ) -> Result<(), Refused> {
        let members: Option<Vec<Member>> = assignment.members.iter().map(member_of).collect();
        let members = members.ok_or_else(|| invalid("a member has no ids of 16 bytes"))?;
        let role = match assignment.role() {
            link::Role::Alone => Role::Alone,
            link::Role::Primary => Role::Primary,
            link::Role::Secondary => Role::Secondary,
        };
        let durability = match assignment.durability() {
            link::Durability::SyncAll => Durability::SyncAll,
            link::Durability::SyncQuorum => Durability::SyncQuorum,
            link::Durability::BestEffort => Durability::BestEffort,
        };
        let assignment = engine::Assignment {
            volume: id,
            epoch: Epoch(assignment.epoch),
            set_version: assignment.set_version,
            role,
            members,
            durability,
        };
        let assigned = driver.ask_engine(|tag| Event::Assign { tag, assignment });
        assigned.receive().await.map_err(refused)
    }
}

fn member_of(member: &link::Member) -> Option<Member> {
    Some(Member {
        replica: StoreId::try_from(member.store_id.as_slice()).ok()?,
        node: NodeId::try_from(member.node_id.as_slice()).ok()?,
        address: member.peer_address.clone(),
        in_sync: member.in_sync,
    })
}

/// Store ids as the link carries them.
pub(super) fn bytes_of(stores: &[StoreId]) -> Vec<Vec<u8>> {
    stores.iter().map(|store| store.0.to_vec()).collect()
}

fn stores_of(ids: &[Vec<u8>]) -> Option<Vec<StoreId>> {
    ids.iter()
        .map(|id| StoreId::try_from(id.as_slice()).ok())
        .collect()
}

/// Zero: not settled.
fn settled_to(mode: Option<Durability>) -> i32 {
    let mode = mode.map(|mode| match mode {
        Durability::SyncAll => link::Durability::SyncAll,
        Durability::SyncQuorum => link::Durability::SyncQuorum,
        Durability::BestEffort => link::Durability::BestEffort,
    });
    mode.map_or(0, |mode| i32::from(mode) + 1)
}
