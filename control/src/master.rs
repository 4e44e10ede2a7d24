//! The leading master: one task that owns registry, reconciler and coordinators and takes requests one
//! after the other.
//!
//! A change is decided, agreed on, applied, reconciled and published, in this order; a caller that
//! goes away interrupts nothing. The task lives for one reign (`leading`): it ends with it, or when the
//! fate of a commit is unknown. A storage error ends the process (see `registry::database`). Waiting for an effect is the caller's business, on the published view.
//!
//! Modules: `task` is the loop, `nodes` the agents, `reigns` drives the coordinators, `repairs` makes and
//! moves copies, `wishes` is what people ask of copies and nodes.

pub mod leading;
mod nodes;
mod reigns;
mod repairs;
mod task;
mod wishes;

use crate::access::Access;
use crate::name::VolumeName;
use crate::proto;
use crate::reconcile::{Answer, Fenced, Report, Server};
use crate::registry::{Durability, NewVolume, Refusal, RefusalKind};
use crate::view::View;
use holdfast_core::id::{ClusterId, NodeId, StoreId, VolumeId};
use holdfast_core::lsn::Epoch;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

pub use task::Master;

/// Who asks, as far as is known; callers are not authenticated.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Name and address.
    pub who: String,
    /// The caller's id of the request.
    pub request_id: String,
}

/// Who leads the masters.
#[derive(Clone)]
#[allow(missing_debug_implementations)] // A handle's queue may hold secrets.
pub enum Lead {
    /// The master in this process.
    Here(Handle),
    /// Another one, at this URL; empty: nobody, as far as is known.
    Elsewhere(String),
}

/// An agent that wants to join.
#[derive(Clone, Debug)]
pub struct Joining {
    /// The cluster it belongs to; `None`: none yet.
    pub cluster: Option<ClusterId>,
    /// Which node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its zone; empty: its own.
    pub zone: String,
}

/// What an agent tells of its volume server.
#[derive(Clone, Debug)]
pub enum LinkEvent {
    /// It is connected.
    Up(Server, Report),
    /// It is not.
    Down,
    /// What is.
    Report(Report),
    /// An order's result.
    Reply(u64, Answer),
    /// A copy's answer to a fence.
    Fenced(Fenced),
    /// A primary wants another in-sync set; the number is for the answer.
    Proposed(u64, Proposal),
}

/// A primary's wish for another in-sync set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Of which volume.
    pub volume: VolumeId,
    /// The primary's store.
    pub from: StoreId,
    /// Its reign.
    pub epoch: Epoch,
    /// The set that it knows.
    pub set_version: u64,
    /// The set that it wants.
    pub in_sync: Vec<StoreId>,
    /// The durability by which it commits alone, once all of its set have everything committed.
    pub settled: Option<Durability>,
    /// For people.
    pub reason: String,
}

/// What is registered after a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProposalResult {
    /// Of which volume.
    pub volume: VolumeId,
    /// Why it was refused; empty when accepted.
    pub refusal: String,
    /// The epoch registered.
    pub epoch: Epoch,
    /// The version registered.
    pub set_version: u64,
    /// The set registered.
    pub in_sync: Vec<StoreId>,
}

/// What a person asks of a volume's copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyWish {
    /// One more, on this node if it is named.
    Add {
        /// Name or id.
        node: Option<String>,
    },
    /// The one on this node leaves.
    Remove {
        /// Name or id.
        node: String,
        /// Fewer than promised may be left.
        force: Force,
    },
    /// Another number.
    SetCopies {
        /// How many.
        rf: u8,
        /// Also when there is no place for them yet.
        degraded: bool,
    },
    /// Another durability.
    SetDurability(Durability),
    /// A greater size.
    Grow {
        /// In bytes.
        size_bytes: u64,
    },
}

/// What a person asks of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeWish {
    /// It gets no new copies.
    Cordon,
    /// It is as any other again.
    Uncordon,
    /// It gives its copies away.
    Drain,
    /// It is forgotten.
    Remove {
        /// Also with copies, when it is dead.
        force: Force,
    },
}

/// Whether a person insists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// No.
    No,
    /// Yes.
    Yes,
}

/// Messages for an agent.
pub type ToAgent = mpsc::Sender<proto::MasterMessage>;

enum Request {
    Create(NewVolume, Caller, Registered),
    SetAccess(VolumeName, Access, Caller, Registered),
    Delete(VolumeName, Caller, Registered),
    Move(VolumeName, String, Caller, Registered),
    ForcePromote(VolumeName, String, Caller, Registered),
    Copies(VolumeName, CopyWish, Caller, Registered),
    Node(String, NodeWish, Caller, RegisteredNode),
    Join(Joining, ToAgent, oneshot::Sender<Result<u64, Refusal>>),
    Agent(NodeId, u64, Option<Box<LinkEvent>>),
    Left(NodeId, u64),
}

type Registered = oneshot::Sender<Result<VolumeId, Refusal>>;

type RegisteredNode = oneshot::Sender<Result<NodeId, Refusal>>;

/// The master is gone: it leads no more, or the process is about to stop.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("this master leads no more, or stops; ask again: the change may have happened")]
pub struct Stopped;

/// How others reach the master.
#[derive(Clone)]
#[allow(missing_debug_implementations)] // Its queue may hold secrets.
pub struct Handle {
    requests: mpsc::Sender<Request>,
    view: watch::Receiver<Arc<View>>,
}

impl Handle {
    /// The newest view, and notice of each next one.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Registers a volume, or finds the one that is so already.
    pub async fn create(&self, request: NewVolume, caller: Caller) -> Result<VolumeId, Refusal> {
        self.ask(|answer| Request::Create(request, caller, answer))
            .await
    }

    /// Registers other access.
    pub async fn set_access(
        &self,
        name: VolumeName,
        access: Access,
        caller: Caller,
    ) -> Result<VolumeId, Refusal> {
        self.ask(|answer| Request::SetAccess(name, access, caller, answer))
            .await
    }

    /// Registers a deletion.
    pub async fn delete(&self, name: VolumeName, caller: Caller) -> Result<VolumeId, Refusal> {
        self.ask(|answer| Request::Delete(name, caller, answer))
            .await
    }

    /// Makes the copy on `node` the primary, in order.
    pub async fn move_primary(
        &self,
        name: VolumeName,
        node: String,
        caller: Caller,
    ) -> Result<VolumeId, Refusal> {
        self.ask(|answer| Request::Move(name, node, caller, answer))
            .await
    }

    /// Makes the copy on `node` the primary, though it may lack acknowledged writes.
    pub async fn force_promote(
        &self,
        name: VolumeName,
        node: String,
        caller: Caller,
    ) -> Result<VolumeId, Refusal> {
        self.ask(|answer| Request::ForcePromote(name, node, caller, answer))
            .await
    }

    /// Registers another wish about a volume's copies.
    pub async fn copies(
        &self,
        name: VolumeName,
        wish: CopyWish,
        caller: Caller,
    ) -> Result<VolumeId, Refusal> {
        self.ask(|answer| Request::Copies(name, wish, caller, answer))
            .await
    }

    /// Registers a wish about a node, named or by id.
    pub async fn node(
        &self,
        node: String,
        wish: NodeWish,
        caller: Caller,
    ) -> Result<NodeId, Refusal> {
        self.ask(|answer| Request::Node(node, wish, caller, answer))
            .await
    }

    /// An agent wants in: a number for the session, or why not.
    pub async fn join(
        &self,
        joining: Joining,
        out: ToAgent,
    ) -> Result<Result<u64, Refusal>, Stopped> {
        let (answer, answered) = oneshot::channel();
        let request = Request::Join(joining, out, answer);
        self.requests.send(request).await.map_err(|_| Stopped)?;
        answered.await.map_err(|_| Stopped)
    }

    /// An agent says something; `None`: it lives.
    pub async fn agent(
        &self,
        node: NodeId,
        session: u64,
        event: Option<LinkEvent>,
    ) -> Result<(), Stopped> {
        let request = Request::Agent(node, session, event.map(Box::new));
        self.requests.send(request).await.map_err(|_| Stopped)
    }

    /// An agent's stream ended.
    pub async fn left(&self, node: NodeId, session: u64) -> Result<(), Stopped> {
        let request = Request::Left(node, session);
        self.requests.send(request).await.map_err(|_| Stopped)
    }

    /// Returns when the master is gone.
    pub async fn stopped(&self) {
        self.requests.closed().await;
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Request,
    ) -> Result<T, Refusal> {
        let (answer, answered) = oneshot::channel();
        let stopping = |_| Refusal::with(RefusalKind::Unavailable, Stopped.to_string());
        self.requests
            .send(request(answer))
            .await
            .map_err(|_| stopping(()))?;
        answered.await.map_err(|_| stopping(()))?
    }
}

#[cfg(test)]
mod tests;
