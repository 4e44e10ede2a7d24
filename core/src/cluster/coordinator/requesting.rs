//! What people ask for.

use super::electing::Election;
use super::{Coordinator, Origin, Phase, done};
use crate::cluster::limits::REPLICAS_MAX;
use crate::cluster::message::{Cause, Effect, Request, RequestId, RequestRefusal, Why};
use crate::cluster::set::{Durability, Replica, VolumeSet};
use crate::id::StoreId;
use crate::lsn::Epoch;
use alloc::vec::Vec;
use core::time::Duration;

impl Coordinator {
    pub(super) fn on_request(
        &mut self,
        now: Duration,
        id: RequestId,
        request: Request,
        effects: &mut Vec<Effect>,
    ) {
        let begun = match (&self.phase, request) {
            // The last resort is for volumes that nobody can open otherwise.
            (Phase::Electing(_) | Phase::Idle, Request::ForcePromote { to }) => {
                self.force(now, id, to, effects)
            }
            (Phase::Idle, request) => self.on_idle_request(now, id, request, effects),
            _ => Err(RequestRefusal::Busy),
        };
        if let Err(refusal) = begun {
            effects.push(done(id, Some(refusal)));
        }
    }

    fn on_idle_request(
        &mut self,
        now: Duration,
        id: RequestId,
        request: Request,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RequestRefusal> {
        let mut set = self.set.clone();
        set.set_version += 1;
        match request {
            Request::Move { to } => return self.move_primary(now, id, to, effects),
            Request::RemoveReplica(store) if self.needs_reign(store)? => {
                let mut election = Election::new(Cause::Request(id));
                election.request = Some(id);
                election.wanted.exclude = Some(store);
                if store != self.set.primary {
                    election.wanted.prefer = Some(self.set.primary);
                }
                self.begin_election(now, election, effects);
                return Ok(());
            }
            Request::RemoveReplica(store) => {
                set.replicas.retain(|replica| replica.store != store);
                // A reign of its own without leases begins; only its primary can have it.
                if set.is_alone() {
                    begin_reign(&mut set);
                }
            }
            Request::AddReplica(replica) => add(&mut set, replica)?,
            Request::ReplicaCreated(store) => {
                let replica = set
                    .replica_mut(store)
                    .ok_or(RequestRefusal::UnknownReplica)?;
                replica.created = true;
                replica.discard = false;
            }
            Request::SetCopiesWanted(wanted) => want_copies(&mut set, wanted)?,
            Request::SetDurability(durability) => {
                if set.durability_was.is_some() {
                    return Err(RequestRefusal::Unconfirmed);
                }
                let counted = durability == Durability::SyncQuorum;
                if counted && (set.copies_wanted != 3 || set.in_sync().count() > 3) {
                    return Err(RequestRefusal::WrongDurability);
                }
                // One copy has everything by any mode, and nobody else to confirm it.
                if set.durability != durability && !set.is_alone() {
                    set.durability_was = Some(set.durability);
                }
                set.durability = durability;
            }
            Request::ForcePromote { .. } => return Err(RequestRefusal::Busy),
        }
        self.commit(set, Why::Request(id), Origin::Request(id), effects);
        Ok(())
    }

    fn move_primary(
        &mut self,
        now: Duration,
        id: RequestId,
        to: StoreId,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RequestRefusal> {
        let target = self.set.replica(to).ok_or(RequestRefusal::UnknownReplica)?;
        if !target.in_sync {
            return Err(RequestRefusal::NotInSync);
        }
        if to == self.set.primary {
            effects.push(done(id, None));
            return Ok(());
        }
        // Nobody is disturbed for a copy that will hardly answer.
        if !self.observed.is_up(target.node) {
            return Err(RequestRefusal::AnotherWon);
        }
        let mut election = Election::new(Cause::Request(id));
        election.request = Some(id);
        election.wanted.prefer = Some(to);
        self.begin_election(now, election, effects);
        Ok(())
    }

    fn force(
        &mut self,
        now: Duration,
        id: RequestId,
        to: StoreId,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RequestRefusal> {
        let target = self.set.replica(to).ok_or(RequestRefusal::UnknownReplica)?;
        if !target.created || self.set.is_alone() {
            return Err(RequestRefusal::NotInSync);
        }
        let mut election = Election::new(Cause::Request(id));
        if let Phase::Electing(running) = &self.phase {
            if running.request.is_some() {
                return Err(RequestRefusal::Busy);
            }
            election.epoch = running.epoch;
        }
        election.request = Some(id);
        election.forced = Some(to);
        self.begin_election(now, election, effects);
        Ok(())
    }

    /// True when the copy can leave only by a new reign: it is the primary, or what is committed may
    /// be on it and one other copy only.
    fn needs_reign(&self, store: StoreId) -> Result<bool, RequestRefusal> {
        let set = &self.set;
        let replica = set.replica(store).ok_or(RequestRefusal::UnknownReplica)?;
        if store == set.primary && set.in_sync().count() == 1 {
            return Err(RequestRefusal::LastCopy);
        }
        let counted = set.counts_by_quorum() && set.in_sync().count() >= 3;
        Ok(store == set.primary || (replica.in_sync && counted))
    }
}

fn add(set: &mut VolumeSet, replica: Replica) -> Result<(), RequestRefusal> {
    let there = |r: &Replica| r.store == replica.store || r.node == replica.node;
    let room = set.replicas.len() <= set.copies_wanted;
    if set.replicas.iter().any(there) || !room || set.replicas.len() >= REPLICAS_MAX {
        return Err(RequestRefusal::TooMany);
    }
    let was_alone = set.is_alone();
    set.replicas.push(Replica {
        in_sync: false,
        created: false,
        discard: false,
        ..replica
    });
    // As when two are wanted: a volume of one copy moves by having a second one for a while.
    if was_alone {
        begin_reign(set);
    }
    Ok(())
}

fn want_copies(set: &mut VolumeSet, wanted: usize) -> Result<(), RequestRefusal> {
    if !(1..=3).contains(&wanted) {
        return Err(RequestRefusal::TooMany);
    }
    if set.counts_by_quorum() && wanted != 3 {
        return Err(RequestRefusal::WrongDurability);
    }
    let was_alone = set.is_alone();
    set.copies_wanted = wanted;
    // The log's records say whether they need peers, so another way of sharing is another reign. It is
    // the same primary's, the only in-sync copy: no fence is needed.
    if was_alone != set.is_alone() {
        begin_reign(set);
    }
    Ok(())
}

/// Another reign of the same primary, the only copy that could have it.
fn begin_reign(set: &mut VolumeSet) {
    set.epoch = Epoch(set.epoch.0 + 1);
    // The one copy in sync has what was committed, by whatever mode.
    set.durability_was = None;
}
