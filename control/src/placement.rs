//! Placement: which stores get the copies of a new volume.
//!
//! No two copies on a node, nor in a zone. Volumes are thin, so a store may promise more than it
//! has, within [`OVERCOMMIT_MAX`]; those with the most room that is not promised yet are chosen, and
//! of them the one that serves the fewest volumes becomes the primary. A full or failed store and a
//! cordoned node get nothing. Too few places is an error, or by name a degraded volume.

use crate::limits::OVERCOMMIT_MAX;
use crate::registry::{Creation, Durability, Policy, Refusal, RefusalKind};
use crate::size::Size;
use holdfast_core::id::{NodeId, StoreId};
use std::cmp::Reverse;

/// A store as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSpace {
    /// Which.
    pub id: StoreId,
    /// Node it is on.
    pub node: NodeId,
    /// Its name, for messages.
    pub node_name: String,
    /// Its zone; empty: its own.
    pub zone: String,
    /// Path, for messages.
    pub path: String,
    /// Why it takes nothing; empty while it does.
    pub failed: String,
    /// Other nodes can reach its volume server.
    pub has_peer_address: bool,
    /// Bytes in all.
    pub capacity_bytes: u64,
    /// Bytes not written yet.
    pub free_bytes: u64,
    /// Sum of the sizes of its volumes.
    pub promised_bytes: u64,
    /// Volumes served from it.
    pub primaries: usize,
}

/// What is to be placed.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Size of the volume.
    pub bytes: u64,
    /// Store of the primary; `None`: chosen.
    pub primary: Option<StoreId>,
    /// How many copies, and how they are kept.
    pub policy: Policy,
    /// Fewer copies than wanted are better than none.
    pub allow_degraded: bool,
}

impl StoreSpace {
    /// Why a copy cannot go here.
    fn obstacle(&self, wish: &Wish) -> Option<String> {
        let promise = self.promised_bytes.saturating_add(wish.bytes);
        let promise_max = self.capacity_bytes.saturating_mul(OVERCOMMIT_MAX);
        if !self.failed.is_empty() {
            Some(self.failed.clone())
        } else if self.free_bytes == 0 {
            Some("full".into())
        } else if promise > promise_max {
            let (promised, capacity) = (Size(self.promised_bytes), Size(self.capacity_bytes));
            Some(format!(
                "{} promised on {}; thin volumes may promise {OVERCOMMIT_MAX} times the capacity",
                promised.rounded(),
                capacity.rounded()
            ))
        } else if wish.policy.rf > 1 && !self.has_peer_address {
            Some("its volume server listens for no peers (--peer ADDR:PORT)".into())
        } else {
            None
        }
    }

    /// Capacity minus promises; negative when overcommitted.
    fn unpromised(&self) -> i128 {
        i128::from(self.capacity_bytes) - i128::from(self.promised_bytes)
    }

    /// Whether both may not have copies of one volume.
    fn shares_fate(&self, other: &StoreSpace) -> bool {
        self.node == other.node || (!self.zone.is_empty() && self.zone == other.zone)
    }

    fn name(&self) -> String {
        format!("{} of {}", self.path, self.node_name)
    }
}

/// Chooses stores for the copies, the primary's first, or says of each store why not.
pub fn choose(stores: &[StoreSpace], wish: &Wish) -> Result<Vec<StoreId>, Refusal> {
    if stores.is_empty() {
        let message = "no volume server is connected, so no store can take a volume; start \
                       holdfast-volume and look at `holdfast node list`";
        return Err(Refusal::with(RefusalKind::Unavailable, message));
    }
    if let Some(wanted) = wish.primary
        && stores.iter().all(|store| store.id != wanted)
    {
        let message =
            format!("store {wanted} is not connected; `holdfast node list` shows the stores");
        return Err(Refusal::with(RefusalKind::NotFound, message));
    }
    let mut eligible: Vec<_> = stores
        .iter()
        .filter(|store| store.obstacle(wish).is_none())
        .collect();
    // The smaller id decides between equals, so that the choice can be told beforehand.
    let is_wanted = |store: &StoreSpace| wish.primary == Some(store.id);
    eligible.sort_by_key(|store| {
        let room = Reverse(store.unpromised());
        (!is_wanted(store), room, store.id)
    });
    let mut chosen: Vec<&StoreSpace> = Vec::new();
    for store in eligible {
        let free = chosen.iter().all(|other| !store.shares_fate(other));
        if free && chosen.len() < usize::from(wish.policy.rf) {
            chosen.push(store);
        }
    }
    check(stores, wish, &chosen)?;
    chosen.sort_by_key(|store| (!is_wanted(store), store.primaries));
    Ok(chosen.iter().map(|store| store.id).collect())
}

/// Whether more stores could change the decision.
pub fn depends_on_stores(decision: &Result<Creation, Refusal>) -> bool {
    match decision {
        Ok(Creation::Existing(_)) => false,
        Ok(Creation::Fresh(_)) => true,
        Err(refusal) => matches!(
            refusal.kind,
            RefusalKind::Unavailable
                | RefusalKind::NotFound
                | RefusalKind::NoSpace
                | RefusalKind::TooFew
        ),
    }
}

/// Nothing is placed while stores are unknown: those that open first would get everything.
pub fn still_opening(stores: u32) -> Refusal {
    let message = format!(
        "volume servers are still opening {stores} of their stores; try again when `holdfast node \
         list` shows them all"
    );
    Refusal::with(RefusalKind::Opening, message)
}

/// Whether the chosen ones suffice.
fn check(stores: &[StoreSpace], wish: &Wish, chosen: &[&StoreSpace]) -> Result<(), Refusal> {
    let count = chosen.len();
    let enough = usize::from(wish.policy.rf);
    let least = match wish.policy.durability {
        _ if !wish.allow_degraded => enough,
        Durability::SyncQuorum => enough / 2 + 1,
        _ => 1,
    };
    let named = wish.primary;
    let missed = named.filter(|wanted| chosen.iter().all(|store| store.id != *wanted));
    if count >= least && missed.is_none() {
        return Ok(());
    }
    let reasons: Vec<_> = stores
        .iter()
        .filter(|store| missed.is_none_or(|missed| store.id == missed))
        .filter_map(|store| Some(format!("{}: {}", store.name(), store.obstacle(wish)?)))
        .collect();
    let size = Size(wish.bytes);
    if enough == 1 || missed.is_some() || (count == 0 && !reasons.is_empty()) {
        let message = format!(
            "no store can take a volume of {size}: {}; add a store or delete volumes",
            reasons.join("; ")
        );
        return Err(Refusal::with(RefusalKind::NoSpace, message));
    }
    let mut message = format!(
        "{enough} copies need {enough} nodes of different zones with room for {size}, and {count} \
         can be had"
    );
    if !reasons.is_empty() {
        message.push_str(": ");
        message.push_str(&reasons.join("; "));
    }
    message.push_str("; add nodes, or take fewer copies for now with --allow-degraded");
    Err(Refusal::with(RefusalKind::TooFew, message))
}

#[cfg(test)]
mod tests;
