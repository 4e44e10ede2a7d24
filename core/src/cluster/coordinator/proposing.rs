//! The primary's proposals of another in-sync set.

use super::{Coordinator, Origin, Phase, answer};
use crate::cluster::message::{Effect, Proposal, ProposalRefusal, Why};
use crate::cluster::set::VolumeSet;
use alloc::vec::Vec;

impl Coordinator {
    pub(super) fn on_proposal(&mut self, proposal: Proposal, effects: &mut Vec<Effect>) {
        if let Some(refusal) = obstacle(&self.set, &proposal) {
            // Accepted before, and the answer was lost: what is registered is what it wants.
            let unconfirmed = self.set.durability_was.is_some() && proposal.settled.is_some();
            let repeated = refusal == ProposalRefusal::StaleSet
                && !unconfirmed
                && proposal.set_version < self.set.set_version
                && same_set(&self.set, &proposal);
            let refusal = (!repeated).then_some(refusal);
            effects.push(answer(&self.set, proposal.id, refusal));
            return;
        }
        match &self.phase {
            Phase::Idle => self.accept(&proposal, effects),
            // Copies have promised to obey the present reign no longer: its set stands still.
            Phase::Electing(_) => {
                let refusal = Some(ProposalRefusal::ElectionRuns);
                effects.push(answer(&self.set, proposal.id, refusal));
            }
            Phase::Committing(_) => {
                if let Some(older) = self.parked.replace(proposal) {
                    effects.push(answer(&self.set, older.id, Some(ProposalRefusal::Busy)));
                }
            }
        }
    }

    /// Registers the proposal, also when it changes nothing: only a higher set version tells the
    /// primary that no earlier proposal of its can still be accepted.
    fn accept(&mut self, proposal: &Proposal, effects: &mut Vec<Effect>) {
        let mut set = self.set.clone();
        set.set_version += 1;
        set.set_in_sync(&proposal.in_sync);
        if proposal.settled == Some(set.durability) {
            set.durability_was = None;
        }
        self.commit(set, Why::Proposal, Origin::Proposal(proposal.id), effects);
    }
}

/// Why the proposal cannot be accepted in any phase.
fn obstacle(set: &VolumeSet, proposal: &Proposal) -> Option<ProposalRefusal> {
    if proposal.epoch != set.epoch {
        return Some(ProposalRefusal::StaleEpoch);
    }
    if proposal.from != set.primary {
        return Some(ProposalRefusal::NotPrimary);
    }
    if proposal.set_version != set.set_version {
        return Some(ProposalRefusal::StaleSet);
    }
    let members = &proposal.in_sync;
    let known = members
        .iter()
        .all(|store| set.members().any(|replica| replica.store == *store));
    let distinct = (1..members.len()).all(|i| !members[..i].contains(&members[i]));
    // More than three could not be counted by "all but one".
    let countable = !set.counts_by_quorum() || members.len() <= 3;
    let with_primary = members.contains(&set.primary);
    let possible = known && distinct && countable && with_primary;
    (!possible).then_some(ProposalRefusal::Invalid)
}

/// True when the proposal's set is the one registered.
fn same_set(set: &VolumeSet, proposal: &Proposal) -> bool {
    let mut wanted = proposal.in_sync.clone();
    wanted.sort_unstable();
    wanted == set.in_sync_stores()
}
