//! What a coordinator hears and wants: events, effects, reasons.
//!
//! Messages of people (`Request`) are answered once by [`Effect::Done`]. Everything else is an
//! observation that may come late, twice, in another order, or never.

use super::election::Position;
use super::set::{Durability, Replica, VolumeSet};
use crate::id::{NodeId, StoreId};
use crate::lsn::{Epoch, Lsn};
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

/// Names a request of a person, chosen by the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names a proposal, chosen by the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposalId(pub u64);

/// Names a commit, chosen by the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(pub u64);

/// What a coordinator learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The node's agent was heard after silence, or for the first time.
    NodeHeard(NodeId),
    /// The node's agent was not heard for [`super::limits::NODE_SILENT`], also when it never was since
    /// this coordinator exists.
    NodeSilent(NodeId),
    /// The agent, heard, says that its volume server is not there.
    ServerDown(NodeId),
    /// The volume server's word about a copy.
    Report(CopyReport),
    /// A copy's answer to [`Effect::Fence`].
    Fenced(FenceAnswer),
    /// The primary wants another in-sync set, or confirms the present one.
    Proposal(Proposal),
    /// [`Effect::Commit`] is registered; never said of one that might not be.
    Committed(CommitId),
    /// [`Effect::Commit`] is not registered and will not be, or its fate was unknown and the registry
    /// was read again: this is in it. Also says, with any id, what somebody else registered.
    Registered(VolumeSet),
    /// A person's wish.
    Request(RequestId, Request),
    /// Time passed. Wanted each 100 ms.
    Tick,
}

/// What a volume server says about its copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyReport {
    /// Which copy.
    pub store: StoreId,
    /// What it is.
    pub state: CopyState,
    /// The reign it obeys: that of its assignment.
    pub epoch: Epoch,
    /// The highest epoch it has promised to obey.
    pub promised: Epoch,
    /// Up to where it is durable.
    pub durable: Lsn,
    /// Up to where it knows that all is committed.
    pub committed: Lsn,
}

/// What a copy is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyState {
    /// It reigns; `serving` while hosts' commands are carried out (its leases hold).
    Primary {
        /// Hosts are served.
        serving: bool,
    },
    /// It follows, or waits for a primary, which it last heard so long ago (`None`: never since it
    /// started).
    Secondary {
        /// Silence of the primary.
        primary_silent: Option<Duration>,
    },
    /// As a secondary, and it lacks changes.
    Resyncing {
        /// Bytes still to be copied.
        left_bytes: u64,
        /// Silence of the primary.
        primary_silent: Option<Duration>,
    },
    /// Its store or the copy itself failed for good.
    Failed,
    /// The server is up, its stores are open, and the copy is not there.
    Missing,
}

/// A copy's answer to a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FenceAnswer {
    /// Which copy.
    pub store: StoreId,
    /// The highest epoch it has promised: when [`FenceResult::Obeyed`], the fence's.
    pub promised: Epoch,
    /// Obeyed or not.
    pub result: FenceResult,
}

/// Whether a copy obeyed a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceResult {
    /// The promise is durable; what follows stands still until a higher reign begins.
    Obeyed {
        /// The end of its log, durable.
        position: Position,
        /// It lacks changes: never to be promoted.
        resyncing: bool,
        /// The lease granted to the old primary runs for so long; zero from the old primary itself.
        lease_left: Duration,
    },
    /// It obeys that or a higher epoch already.
    Promised,
    /// It cannot promise: its store failed or the copy is not there.
    Unable,
}

/// The primary's wish for another in-sync set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// For the answer.
    pub id: ProposalId,
    /// Who asks.
    pub from: StoreId,
    /// Its reign.
    pub epoch: Epoch,
    /// The set it knows.
    pub set_version: u64,
    /// The set it wants.
    pub in_sync: Vec<StoreId>,
    /// The mode by which it commits alone, once every member of its set has everything committed. The
    /// set version does not say it: it may be known from an answer that did not name the mode.
    pub settled: Option<Durability>,
}

/// What a person may ask of a volume's copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Another in-sync copy shall be the primary, in order.
    Move {
        /// Which copy.
        to: StoreId,
    },
    /// A copy shall be the primary though it may lack acknowledged writes. The others are discarded.
    ForcePromote {
        /// Which copy.
        to: StoreId,
    },
    /// A copy more, on a store that has none; it is created and synced next.
    AddReplica(Replica),
    /// The copy was created on its store (again).
    ReplicaCreated(StoreId),
    /// The copy leaves; if it is the primary, another one reigns first.
    RemoveReplica(StoreId),
    /// Another number of copies. Adding and removing them is done by further requests.
    SetCopiesWanted(usize),
    /// Another durability.
    SetDurability(Durability),
}

/// What a coordinator wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send the fence to the copy. May be lost.
    Fence {
        /// The copy.
        store: StoreId,
        /// Its node.
        node: NodeId,
        /// The reign that may follow.
        epoch: Epoch,
    },
    /// Register `set` if the registry still has `expected`'s epoch and set version, then assign all
    /// members anew. Answered by [`Event::Committed`] or [`Event::Registered`], always; at most one is
    /// under way.
    Commit {
        /// For the answer.
        id: CommitId,
        /// Epoch and set version that it replaces.
        expected: (Epoch, u64),
        /// What shall be true.
        set: VolumeSet,
        /// For the audit entry.
        why: Why,
    },
    /// The answer to a proposal: what is registered now.
    Answer {
        /// Whose.
        id: ProposalId,
        /// None: accepted.
        refusal: Option<ProposalRefusal>,
        /// The epoch registered.
        epoch: Epoch,
        /// The set version registered.
        set_version: u64,
        /// The set registered.
        in_sync: Vec<StoreId>,
    },
    /// A person's wish is done, or why not.
    Done {
        /// Whose.
        request: RequestId,
        /// None: done.
        refusal: Option<RequestRefusal>,
    },
    /// For the log.
    Note(Note),
}

/// Why the registry changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A new reign.
    Election(Cause),
    /// The primary proposed the in-sync set.
    Proposal,
    /// A person wished it.
    Request(RequestId),
}

/// Why a new reign begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The primary's volume server is down.
    ServerDown,
    /// The primary's node is silent, and a secondary does not hear it either.
    Silent,
    /// The primary's copy or store failed, or is missing.
    CopyFailed,
    /// The primary's volume server started again, or never began the reign.
    NotReigning,
    /// A copy has promised a higher epoch than the registered one and cannot follow before.
    PromisedAhead,
    /// A person asked.
    Request(RequestId),
}

/// Why no copy can reign: the volume is closed, and all copies are asked again each second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// No in-sync copy answered.
    NobodyAnswered,
    /// Too few in-sync copies answered to be certain that one has all acknowledged writes.
    TooFewAnswers {
        /// How many did.
        answered: usize,
        /// How many must.
        needed: usize,
    },
    /// Those that answered lack changes.
    OnlyResyncing,
    /// The copy to be promoted by force did not answer.
    ForcedIsAway,
}

/// Why a proposal is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposalRefusal {
    /// Another epoch is registered.
    StaleEpoch,
    /// It is not from the primary.
    NotPrimary,
    /// A new reign is on its way.
    ElectionRuns,
    /// Another change is being registered; ask again.
    Busy,
    /// Another set version is registered.
    StaleSet,
    /// Without the primary, twice the same, not a member, or too many.
    Invalid,
}

/// Why a person's wish is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestRefusal {
    /// No copy on that store.
    UnknownReplica,
    /// The copy is not in sync.
    NotInSync,
    /// A new reign or another change is under way; ask again.
    Busy,
    /// The move ended with another copy as the primary: the wanted one did not answer or was behind.
    AnotherWon,
    /// No copy can reign.
    Closed(Closed),
    /// The registry changed meanwhile; ask again.
    Raced,
    /// There is a copy on that store or node already, or as many as allowed.
    TooMany,
    /// The only in-sync copy stays.
    LastCopy,
    /// `SyncQuorum` needs three copies; the present mode does not allow it.
    WrongDurability,
    /// The last change of durability is not confirmed by the primary yet.
    Unconfirmed,
}

/// For the log: what the coordinator decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// Fences were sent.
    ElectionBegan {
        /// Why.
        cause: Cause,
        /// The reign wanted.
        epoch: Epoch,
    },
    /// Nobody can reign.
    ClosedFor(Closed),
    /// A reign began in the registry.
    Elected {
        /// The new primary.
        primary: StoreId,
        /// Its reign.
        epoch: Epoch,
    },
    /// The registry held something else than expected.
    Raced,
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Closed::NobodyAnswered => f.write_str(
                "no in-sync copy answers: the nodes that hold them are away; start one of them",
            ),
            Closed::TooFewAnswers { answered, needed } => write!(
                f,
                "{answered} of the in-sync copies answered and {needed} must, to be certain that no \
                 acknowledged write is lost"
            ),
            Closed::OnlyResyncing => {
                f.write_str("the copies that answered lack changes and cannot be promoted")
            }
            Closed::ForcedIsAway => f.write_str("the copy to be promoted by force does not answer"),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::ServerDown => f.write_str("the primary's volume server is down"),
            Cause::Silent => f.write_str("the primary's node is silent towards masters and copies"),
            Cause::CopyFailed => f.write_str("the primary's copy failed"),
            Cause::NotReigning => f.write_str("the primary's volume server started again"),
            Cause::PromisedAhead => f.write_str("a copy had promised a higher epoch"),
            Cause::Request(_) => f.write_str("asked for"),
        }
    }
}

impl fmt::Display for ProposalRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProposalRefusal::StaleEpoch => "another epoch is registered",
            ProposalRefusal::NotPrimary => "not from the registered primary",
            ProposalRefusal::ElectionRuns => "a new reign is on its way",
            ProposalRefusal::Busy => "another change is being registered",
            ProposalRefusal::StaleSet => "another version of the in-sync set is registered",
            ProposalRefusal::Invalid => "not a possible in-sync set",
        })
    }
}

impl fmt::Display for RequestRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestRefusal::UnknownReplica => f.write_str("the volume has no copy there"),
            RequestRefusal::NotInSync => f.write_str("that copy is not in sync"),
            RequestRefusal::Busy => f.write_str("another change is under way; ask again"),
            RequestRefusal::AnotherWon => {
                f.write_str("the wanted copy did not answer or was behind; another one reigns")
            }
            RequestRefusal::Closed(closed) => closed.fmt(f),
            RequestRefusal::Raced => f.write_str("the registry changed meanwhile; ask again"),
            RequestRefusal::TooMany => {
                f.write_str("there is a copy there, or no room for one more")
            }
            RequestRefusal::LastCopy => f.write_str("the only in-sync copy cannot leave"),
            RequestRefusal::WrongDurability => {
                f.write_str("sync_quorum needs three copies wanted; change the durability first")
            }
            RequestRefusal::Unconfirmed => {
                f.write_str("the primary has not confirmed the last change of durability yet")
            }
        }
    }
}
