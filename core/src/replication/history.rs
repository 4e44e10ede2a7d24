//! How far two logs are the same, judged by their histories of reigns.
//!
//! A primary gives each LSN of its reign to one record only, and begins its reign with a log that it
//! never changes below. So two logs whose records at one LSN have the same epoch are the same up to that
//! LSN. (The log matching of Ongaro's Raft thesis, §3.5.)

use super::Reign;
use crate::lsn::{Epoch, Lsn};

/// A log in the eyes of this comparison.
#[derive(Clone, Copy, Debug)]
pub struct Log<'a> {
    /// Its last record.
    pub last: Lsn,
    /// Its reigns, ascending; the oldest may be missing.
    pub reigns: &'a [Reign],
}

impl Log<'_> {
    /// The epoch of the record `lsn`; `None` when the history does not reach it.
    pub fn epoch_at(&self, lsn: Lsn) -> Option<Epoch> {
        let count = self.reigns.partition_point(|reign| reign.start <= lsn);
        Some(self.reigns[count.checked_sub(1)?].epoch)
    }

    fn start_of(&self, epoch: Epoch) -> Lsn {
        let reign = self.reigns.iter().find(|reign| reign.epoch == epoch);
        reign.expect("the epoch is of this history").start
    }
}

/// The last LSN up to which the two logs are certain to be the same. `committed` is known to be common,
/// because the second log's copy committed it; it decides where a history does not reach. `None`: the
/// logs differ below it, which no rule of replication allows.
pub fn common(ours: Log<'_>, theirs: Log<'_>, committed: Lsn) -> Option<Lsn> {
    let mut lsn = ours.last.min(theirs.last);
    if committed > lsn {
        return None;
    }
    while lsn > committed {
        let (Some(here), Some(there)) = (ours.epoch_at(lsn), theirs.epoch_at(lsn)) else {
            return Some(committed);
        };
        if here == there {
            return Some(lsn);
        }
        // Epochs rise with LSNs: the later reign shares nothing from its start on.
        let start = if here > there {
            ours.start_of(here)
        } else {
            theirs.start_of(there)
        };
        lsn = Lsn(start.0 - 1);
    }
    // At or below the commit point: the same, or a contradiction that the history shows.
    let (here, there) = (ours.epoch_at(committed), theirs.epoch_at(committed));
    match (here, there) {
        (Some(here), Some(there)) if here != there => None,
        _ => Some(committed),
    }
}

#[cfg(test)]
mod tests;
