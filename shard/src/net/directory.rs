//! Which target is on which shard: what the accepting shard must know before login goes on.

use holdfast_iscsi::target::Announcement as TargetAnnouncement;
use std::collections::BTreeMap;

/// A target was added or changed, or (`target` is `None`) taken away.
#[derive(Clone, Debug)]
pub(crate) struct Announcement {
    /// iSCSI name.
    pub(crate) name: String,
    /// Shard that owns it.
    pub(crate) shard: usize,
    /// What discovery may say of it.
    pub(crate) target: Option<TargetAnnouncement>,
}

/// All targets of the process, on the shard that accepts.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    targets: BTreeMap<String, (usize, TargetAnnouncement)>,
}

impl Directory {
    /// Learns.
    pub(crate) fn apply(&mut self, announcement: Announcement) {
        let Announcement {
            name,
            shard,
            target,
        } = announcement;
        match target {
            Some(target) => {
                self.targets.insert(name, (shard, target));
            }
            None => {
                // Only the owner takes it away: the name may have moved to another shard already.
                if self.shard_of(&name) == Some(shard) {
                    self.targets.remove(&name);
                }
            }
        }
    }

    /// The shard that owns a target.
    pub(crate) fn shard_of(&self, name: &str) -> Option<usize> {
        self.targets.get(name).map(|(shard, _)| *shard)
    }

    /// What discovery may choose from.
    pub(crate) fn announcements(&self) -> Vec<TargetAnnouncement> {
        self.targets
            .values()
            .map(|(_, target)| target.clone())
            .collect()
    }
}
