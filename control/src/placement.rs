//! Placement: which store gets a new volume.
//!
//! Volumes are thin, so a store may promise more than it has, within [`OVERCOMMIT_MAX`]; the one with
//! the most room that is not promised yet is chosen. A full or failed store gets nothing.

use crate::limits::OVERCOMMIT_MAX;
use crate::registry::{Creation, Refusal, RefusalKind};
use crate::size::Size;
use holdfast_core::id::StoreId;

/// A store as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSpace {
    /// Which.
    pub id: StoreId,
    /// Path, for messages.
    pub path: String,
    /// Why it serves nothing; empty while it serves.
    pub failed: String,
    /// Bytes in all.
    pub capacity_bytes: u64,
    /// Bytes not written yet.
    pub free_bytes: u64,
    /// Sum of the sizes of its volumes.
    pub promised_bytes: u64,
}

impl StoreSpace {
    /// Why a volume of `bytes` cannot go here.
    fn obstacle(&self, bytes: u64) -> Option<String> {
        let promise = self.promised_bytes.saturating_add(bytes);
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
        } else {
            None
        }
    }

    /// Capacity minus promises; negative when overcommitted.
    fn unpromised(&self) -> i128 {
        i128::from(self.capacity_bytes) - i128::from(self.promised_bytes)
    }
}

/// Chooses a store for a volume of `bytes`, or says of each store why not.
pub fn choose(
    stores: &[StoreSpace],
    bytes: u64,
    wanted: Option<StoreId>,
) -> Result<StoreId, Refusal> {
    if stores.is_empty() {
        let message = "no volume server is connected, so no store can take a volume; start \
                       holdfast-volume and look at `holdfast node list`";
        return Err(Refusal::with(RefusalKind::Unavailable, message));
    }
    let candidates: Vec<_> = stores
        .iter()
        .filter(|store| wanted.is_none_or(|wanted| store.id == wanted))
        .collect();
    if let (Some(wanted), true) = (wanted, candidates.is_empty()) {
        let message =
            format!("store {wanted} is not connected; `holdfast node list` shows the stores");
        return Err(Refusal::with(RefusalKind::NotFound, message));
    }
    let eligible = candidates
        .iter()
        .filter(|store| store.obstacle(bytes).is_none());
    // The smaller id decides between equals, so that the choice can be told beforehand.
    let best = eligible.max_by_key(|store| (store.unpromised(), std::cmp::Reverse(store.id)));
    best.map(|store| store.id).ok_or_else(|| {
        let reasons: Vec<_> = candidates
            .iter()
            .filter_map(|store| Some(format!("{}: {}", store.path, store.obstacle(bytes)?)))
            .collect();
        let message = format!(
            "no store can take a volume of {}: {}; add a store or delete volumes",
            Size(bytes),
            reasons.join("; ")
        );
        Refusal::with(RefusalKind::NoSpace, message)
    })
}

/// Whether more stores could change the decision.
pub fn depends_on_stores(decision: &Result<Creation, Refusal>) -> bool {
    match decision {
        Ok(Creation::Existing(_)) => false,
        Ok(Creation::Fresh(_)) => true,
        Err(refusal) => matches!(
            refusal.kind,
            RefusalKind::Unavailable | RefusalKind::NotFound | RefusalKind::NoSpace
        ),
    }
}

/// Nothing is placed while stores are unknown: those that open first would get everything.
pub fn still_opening(stores: u32) -> Refusal {
    let message = format!(
        "the volume server is still opening {stores} of its stores; try again when `holdfast node \
         list` shows them all"
    );
    Refusal::with(RefusalKind::Opening, message)
}

#[cfg(test)]
mod tests;
