//! Replication: who decides that a record of a volume is committed, and how copies become the same.
//!
//! [`replica::Replica`] is the machine of one copy of a shared volume. It is fenced until the masters
//! assign it; as primary it leads ([`leading`]), as secondary it follows ([`following`]). It never
//! touches a store or a stream: it looks at its copy through [`OwnCopy`] and gives [`Action`]s, which
//! the engine carries out in order. Volumes with one copy have no such machine.
//!
//! Not here: who is primary (the masters decide), bytes on streams, disks.
//!
//! Invariants: epochs are compared before anything else is believed; the commit point never goes down
//! (I5); nothing is committed that is not durable here and on the copies that the mode requires (I1);
//! hosts are served only under leases of every copy that may be in the registered set (I3); records
//! below the reign's first are shipped only after that is durable here (I4).

pub mod defect;
pub mod filling;
pub mod follower;
pub mod following;
pub mod healing;
pub mod history;
pub mod journal;
pub mod leading;
pub mod membership;
pub mod primary;
pub mod replica;
pub mod streams;

use crate::block::{Block, BlockRange};
use crate::cluster::set::Durability;
use crate::engine::{Fenced, FillId, HealId, NotHealed, PayloadRef, Role, StreamId};
use crate::id::StoreId;
use crate::lsn::{Epoch, Lsn};
use crate::peer::Body;
use crate::store::append::{AppendBody, Resync, Sharing};
use crate::store::{Change, PayloadId, PendingRecord, RequestError, Tag, VolumeInfo};
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

/// A copy of a volume, named by the store incarnation that holds it.
pub type ReplicaId = StoreId;

/// Where one primary's reign begins in the log of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reign {
    /// Its epoch.
    pub epoch: Epoch,
    /// LSN of the record that begins it.
    pub start: Lsn,
}

/// What a machine can see of its own copy. Nothing that it asked for in this step shows here yet.
pub trait OwnCopy {
    /// Where it stands.
    fn info(&self) -> VolumeInfo;
    /// The reigns in its log, ascending.
    fn reigns(&self) -> &[Reign];
    /// Records behind `after` that are not known to be committed, in order.
    fn pending(&self, after: Lsn) -> Vec<PendingRecord>;
    /// What changed since `base`, from a block on.
    fn changed(&self, from: Block, base: Lsn, runs_max: usize)
    -> Result<Vec<Change>, RequestError>;
    /// What a range holds as committed.
    fn stored(&self, range: BlockRange) -> Result<Stored, RequestError>;
    /// Its attributes blob.
    fn attributes(&self) -> Vec<u8>;
}

/// What a range of blocks holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Lengths in blocks, and whether something is stored there; else zeros.
    pub runs: Vec<(u32, bool)>,
    /// CRC32C of each block; 0 for zeros.
    pub checksums: Vec<u32>,
}

/// Surroundings of one step of a machine.
#[expect(missing_debug_implementations, reason = "it lives for one call")]
pub struct Scope<'a> {
    /// Monotonic.
    pub now: Duration,
    /// The copy.
    pub copy: &'a dyn OwnCopy,
    /// The streams of its store.
    pub streams: &'a streams::Streams,
    /// What has to be done, in order.
    pub out: &'a mut Vec<Action>,
    /// Names reads for other copies.
    pub next_fill: &'a mut u64,
    /// A planted defect; never one outside tests.
    pub defect: defect::Planted,
}

/// What the engine has to do for a machine, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Own copy: begin a reign.
    Begin {
        /// Its epoch.
        epoch: Epoch,
        /// Who decides what is committed.
        sharing: Sharing,
    },
    /// Own copy: obey nobody below.
    Promise {
        /// The lowest epoch that is obeyed.
        epoch: Epoch,
    },
    /// Own copy: follow a reign.
    Adopt {
        /// The reign.
        epoch: Epoch,
        /// What it says about logs.
        adopt: crate::peer::Adopt,
        /// What the copy lacks from then on.
        resync: Option<Resync>,
        /// Repeated in the answer.
        operation: u16,
    },
    /// Own copy: log a record.
    Append {
        /// The reign that sends it.
        reign: Epoch,
        /// The reign that wrote it.
        epoch: Epoch,
        /// Its LSN.
        lsn: Lsn,
        /// What it says.
        body: AppendBody,
        /// Its data.
        payload: Option<PayloadId>,
        /// The adoption that it belongs to.
        operation: u16,
    },
    /// Own copy: log what it lacks.
    Fill {
        /// The reign that sends it.
        reign: Epoch,
        /// What it says.
        body: AppendBody,
        /// Its data.
        payload: Option<PayloadId>,
        /// Everything below is filled.
        cursor: Block,
        /// The adoption that it belongs to.
        operation: u16,
    },
    /// Own copy: nothing is lacking.
    EndResync {
        /// The reign that filled it.
        reign: Epoch,
        /// The adoption that it belongs to.
        operation: u16,
    },
    /// Own copy: everything up to here is committed.
    Commit {
        /// The commit point.
        up_to: Lsn,
    },
    /// Give a payload back.
    Release {
        /// Which.
        payload: PayloadId,
    },
    /// Say something about this volume.
    Send {
        /// On which stream.
        stream: StreamId,
        /// The sender's epoch.
        epoch: Epoch,
        /// What.
        body: Body,
        /// What follows it.
        payload: Option<PayloadRef>,
    },
    /// Ask for a sign of life, and so for a lease, before it is time.
    Heartbeat {
        /// On which stream.
        stream: StreamId,
    },
    /// Read for a resync.
    Read {
        /// Repeated in the answer.
        fill: FillId,
        /// Blocks of one chunk.
        range: BlockRange,
    },
    /// Read for a primary whose own blocks are damaged.
    ReadBlocks {
        /// Repeated in the answer.
        read: FillId,
        /// At most a chunk.
        range: BlockRange,
    },
    /// A request for a damaged block ended.
    Healed {
        /// Request.
        heal: HealId,
        /// How.
        result: Result<PayloadId, NotHealed>,
    },
    /// Ask the masters.
    Propose {
        /// The reign.
        epoch: Epoch,
        /// The version that it follows.
        set_version: u64,
        /// The whole set.
        in_sync: Vec<ReplicaId>,
        /// The mode by which commits happen alone; `None` while the one before is obeyed too.
        settled: Option<Durability>,
        /// For people.
        reason: String,
    },
    /// An assignment ended.
    Assigned {
        /// Request.
        tag: Tag,
        /// How.
        result: Result<(), RequestError>,
    },
    /// A fence ended.
    Fenced {
        /// Request.
        tag: Tag,
        /// What it found.
        answer: Fenced,
    },
    /// The role is another one.
    RoleChanged {
        /// What it is now.
        role: Role,
    },
    /// The copies to which streams are wanted are others.
    MembersChanged,
}

/// What the masters answered to a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether it was registered.
    pub accepted: bool,
    /// The registered reign.
    pub epoch: Epoch,
    /// The registered version.
    pub set_version: u64,
    /// The registered set.
    pub in_sync: Vec<ReplicaId>,
}

/// The highest LSN that the mode lets commit, by what the copies have durable. `sets` are all in-sync
/// sets that may be registered now; each holds the primary. `durable` gives what a copy has durable,
/// zero when it does not count. `others` are all copies but the primary, members of a set or not.
pub fn committable(
    mode: Durability,
    own: (ReplicaId, Lsn),
    sets: &[&[ReplicaId]],
    others: &[(ReplicaId, Lsn)],
) -> Lsn {
    let (own_id, own_durable) = own;
    let durable = |replica: &ReplicaId| {
        if *replica == own_id {
            return own_durable;
        }
        let row = others.iter().find(|(other, _)| other == replica);
        row.map_or(Lsn(0), |(_, durable)| *durable)
    };
    let of_set = |set: &[ReplicaId], spared: usize| {
        let mut all: Vec<Lsn> = set.iter().map(&durable).collect();
        all.sort_unstable();
        all.get(spared).copied().unwrap_or(own_durable)
    };
    let mut lowest = own_durable;
    match mode {
        Durability::BestEffort => {}
        Durability::SyncAll => {
            for set in sets {
                lowest = lowest.min(of_set(set, 0));
            }
        }
        Durability::SyncQuorum => {
            // Two copies at least; all but one of a set of three; every one of a smaller set.
            let best = others.iter().map(|(_, durable)| *durable).max();
            lowest = lowest.min(best.unwrap_or(Lsn(0)));
            for set in sets {
                lowest = lowest.min(of_set(set, usize::from(set.len() >= 3)));
            }
        }
    }
    lowest
}

/// As [`committable`], in a reign whose first record is `begun`: under a quorum, what is below it commits
/// with it, or when no copy lacks it that may be a member. Full logs may have no room for `begun` before
/// what is pending in them ends.
pub fn committable_in_reign(
    begun: Lsn,
    mode: Durability,
    own: (ReplicaId, Lsn),
    sets: &[&[ReplicaId]],
    others: &[(ReplicaId, Lsn)],
) -> Lsn {
    let target = committable(mode, own, sets, others);
    if mode != Durability::SyncQuorum || target >= begun {
        return target;
    }
    target.min(committable(Durability::SyncAll, own, sets, others))
}

impl Scope<'_> {
    /// Whether a defect is planted. Constant without the feature `testing`.
    pub fn planted(&self, defect: defect::Defect) -> bool {
        self.defect.is(defect)
    }

    /// Adds an action.
    pub fn push(&mut self, action: Action) {
        self.out.push(action);
    }

    /// Queues a message without payload.
    pub fn send(&mut self, stream: StreamId, epoch: Epoch, body: Body) {
        self.push(Action::Send {
            stream,
            epoch,
            body,
            payload: None,
        });
    }
}

#[cfg(test)]
mod tests;
