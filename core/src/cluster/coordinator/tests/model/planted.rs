//! Planted bugs of the coordinator: its inputs, state or outputs are bent as the bug would.

use super::world::World;
use super::{Bug, run};
use crate::cluster::coordinator::{Coordinator, Phase};
use crate::cluster::message::{Event, FenceResult};
use crate::cluster::set::{Durability, VolumeSet};
use crate::lsn::Epoch;
use alloc::vec::Vec;
use core::time::Duration;
use std::println;

/// Bends what the coordinator hears; `None`: the bug has dealt with it.
pub(super) fn before(world: &mut World, leader: usize, mut event: Event) -> Option<Event> {
    let bug = world.bug;
    match &mut event {
        Event::Fenced(answer) => {
            if let FenceResult::Obeyed {
                lease_left,
                resyncing,
                ..
            } = &mut answer.result
            {
                if bug == Some(Bug::NoLeaseWait) {
                    *lease_left = Duration::ZERO;
                }
                if bug == Some(Bug::ResyncingPromoted) {
                    *resyncing = false;
                }
            }
        }
        Event::Proposal(proposal) if bug == Some(Bug::ProposalDuringElection) => {
            let electing = !matches!(world.coordinator(leader).phase, Phase::Idle);
            let fits = proposal.epoch == world.registry.epoch
                && proposal.set_version == world.registry.set_version
                && proposal.in_sync.contains(&world.registry.primary);
            if electing && fits && world.leads(leader) {
                world.registry.set_in_sync(&proposal.in_sync);
                world.answer_as_news(proposal.from);
                return None;
            }
        }
        Event::Proposal(proposal) if bug == Some(Bug::ShrunkByStalePrimary) => {
            let set = world.coordinator(leader).set().clone();
            if proposal.epoch < set.epoch {
                proposal.from = set.primary;
                proposal.epoch = set.epoch;
                proposal.set_version = set.set_version;
                proposal.in_sync.retain(|store| *store != set.primary);
                proposal.in_sync.push(set.primary);
            }
        }
        _ => {}
    }
    Some(event)
}

/// Bends what the coordinator knows while it takes a step.
pub(super) fn around(
    bug: Option<Bug>,
    coordinator: &mut Coordinator,
    step: impl FnOnce(&mut Coordinator),
) {
    match bug {
        Some(Bug::CandidateNotInSync) => {
            if matches!(coordinator.phase, Phase::Electing(_)) {
                let honest = coordinator.set.clone();
                for replica in &mut coordinator.set.replicas {
                    replica.in_sync = true;
                }
                let bent = coordinator.set.clone();
                step(coordinator);
                if coordinator.set == bent {
                    coordinator.set = honest;
                }
                return;
            }
        }
        Some(Bug::QuorumMiscounted) => {
            let honest = (coordinator.set.durability, coordinator.set.durability_was);
            coordinator.set.durability = Durability::SyncAll;
            coordinator.set.durability_was = None;
            let version = coordinator.set.set_version;
            step(coordinator);
            if coordinator.set.set_version == version {
                (coordinator.set.durability, coordinator.set.durability_was) = honest;
            }
            return;
        }
        _ => {}
    }
    step(coordinator);
    if let (Some(Bug::PromiseForgotten), Phase::Electing(election)) = (bug, &mut coordinator.phase)
    {
        election.epoch = Epoch(coordinator.set.epoch.0 + 1);
    }
}

/// Bends what is registered.
pub(super) fn committed_set(
    bug: Option<Bug>,
    registry: &VolumeSet,
    mut set: VolumeSet,
) -> VolumeSet {
    match bug {
        Some(Bug::QuorumMiscounted) => {
            set.durability = registry.durability;
            set.durability_was = None;
        }
        Some(Bug::ShorterStaysInSync) if set.epoch != registry.epoch => {
            for replica in &mut set.replicas {
                let was = registry.replica(replica.store).is_some_and(|r| r.in_sync);
                replica.in_sync = was && (replica.in_sync || replica.store != registry.primary);
            }
        }
        _ => {}
    }
    set
}

/// Each planted bug, and a schedule that shows it: the first one, counted from 0.
const PLANTED: &[(Bug, u64)] = &[
    (Bug::NoLeaseWait, 112),
    (Bug::CandidateNotInSync, 8),
    (Bug::ProposalDuringElection, 239),
    (Bug::ShrunkByStalePrimary, 499),
    (Bug::QuorumMiscounted, 23),
    (Bug::ResyncingPromoted, 206),
    (Bug::ShorterStaysInSync, 1642),
    (Bug::PromiseForgotten, 7),
    (Bug::NoLeaseCheck, 1),
    (Bug::LeaseOfOldSetOnly, 37),
    (Bug::ServeBeforeSettled, 1),
    (Bug::BeginTwice, 39),
    (Bug::JoinBehind, 8),
    (Bug::EqualVersionIsNews, 569),
];

/// When the model changes, the schedules of its seeds do: a new one is searched below this.
const SEEDS_MAX: u64 = 5000;

#[test]
fn each_planted_bug_is_found() {
    let mut missed = Vec::new();
    for (bug, kept) in PLANTED {
        let mut seeds = core::iter::once(*kept).chain(0..SEEDS_MAX);
        match seeds.find_map(|seed| run(seed, Some(*bug)).err()) {
            Some(what) => println!("{bug:?}: {what}"),
            None => missed.push(*bug),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
