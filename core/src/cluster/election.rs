//! Who may reign next, from the answers of fenced copies: a pure function.
//!
//! Invariant: the winner has every committed record (I1). Under `SyncAll` each in-sync copy has; under
//! `SyncQuorum` with three the longest of any two has. The new in-sync set keeps that promise for the
//! reign that follows: a copy that may lack something is left out and joins again through the primary.

use super::message::Closed;
use super::set::{Durability, VolumeSet};
use crate::id::StoreId;
use crate::lsn::{Epoch, Lsn};
use alloc::vec::Vec;

/// The end of a copy's log. Of two, the greater has every committed record that the lesser has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The reign in which the last record was written.
    pub last_epoch: Epoch,
    /// The last record's LSN.
    pub last: Lsn,
}

/// What a fenced copy said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which copy.
    pub store: StoreId,
    /// The end of its log, durable.
    pub position: Position,
    /// It lacks changes.
    pub resyncing: bool,
}

/// What is wanted of the election.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// This copy, if it may.
    pub prefer: Option<StoreId>,
    /// Not this copy, and not as a member either.
    pub exclude: Option<StoreId>,
}

/// The outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elected {
    /// The new primary.
    pub primary: StoreId,
    /// The new in-sync set, the primary included.
    pub in_sync: Vec<StoreId>,
}

/// Elects from `answers`, one for each copy that obeyed the fence, whatever its standing in `set`.
pub fn elect(set: &VolumeSet, answers: &[Candidate], wanted: Wanted) -> Result<Elected, Closed> {
    let in_sync = |candidate: &&Candidate| {
        set.replica(candidate.store)
            .is_some_and(|replica| replica.in_sync)
    };
    let answered: Vec<&Candidate> = answers.iter().filter(in_sync).collect();
    if answered.is_empty() {
        return Err(Closed::NobodyAnswered);
    }
    let whole: Vec<&Candidate> = answered.into_iter().filter(|c| !c.resyncing).collect();
    if whole.is_empty() {
        return Err(Closed::OnlyResyncing);
    }
    let needed = set.answers_needed();
    if whole.len() < needed {
        let answered = whole.len();
        return Err(Closed::TooFewAnswers { answered, needed });
    }
    // At least as long as so many, itself included: then no committed record is elsewhere only.
    let has_all = |candidate: &&&Candidate| {
        let behind = whole.iter().filter(|c| c.position <= candidate.position);
        behind.count() >= needed
    };
    let stays = |candidate: &&&Candidate| Some(candidate.store) != wanted.exclude;
    let rank = |candidate: &&&Candidate| {
        (
            Some(candidate.store) == wanted.prefer,
            candidate.position,
            candidate.store == set.primary,
            core::cmp::Reverse(candidate.store),
        )
    };
    let eligible = whole.iter().filter(has_all).filter(stays);
    let winner = eligible.max_by_key(rank).ok_or(Closed::TooFewAnswers {
        answered: whole.len(),
        needed: needed + 1,
    })?;
    Ok(Elected {
        primary: winner.store,
        in_sync: next_in_sync(set, &whole, winner, wanted),
    })
}

/// The in-sync set of the reign that `winner` begins.
fn next_in_sync(
    set: &VolumeSet,
    whole: &[&Candidate],
    winner: &Candidate,
    wanted: Wanted,
) -> Vec<StoreId> {
    let counted = set.counts_by_quorum() && set.in_sync().count() >= 3;
    // The same three, counted again, still have every committed record on any two of them.
    let same_set = whole.len() == set.in_sync().count()
        && wanted.exclude.is_none()
        && set.durability == Durability::SyncQuorum;
    let has_all =
        |candidate: &&&Candidate| !counted || same_set || candidate.position == winner.position;
    let stays = |candidate: &&&Candidate| Some(candidate.store) != wanted.exclude;
    let members = whole.iter().filter(has_all).filter(stays);
    members.map(|candidate| candidate.store).collect()
}

#[cfg(test)]
mod tests;
