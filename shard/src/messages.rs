//! What the threads of the volume server say to each other.

use crate::net::directory::Announcement;
use crate::net::handover::Handover;
use crate::peer::hub::Identity;
use crate::peer::stream::Accepted;
use crate::runtime::mailbox;
use holdfast_core::id::{StoreId, VolumeId};
use holdfast_core::link::{
    Assignment, Fence, Fenced, Message, ProposalAnswer, Propose, Reply, Report,
};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{SyncSender, TrySendError};
use tracing::error;

/// To a shard.
#[derive(Debug)]
pub(crate) enum ToShard {
    /// Serve a volume.
    Assign(u64, Box<Assignment>),
    /// Stop serving a volume and free its space.
    Remove(u64, VolumeId),
    /// A connection whose login named a target of this shard.
    Connection(Box<Handover>),
    /// Obey no reign below an epoch any more.
    Fence(u64, Box<Fence>),
    /// What the masters say to a proposal.
    ProposalAnswer(Box<ProposalAnswer>),
    /// Who this process is.
    Identity(Identity),
    /// The stores that a shard has open; to the shard that accepts.
    PeerStores(usize, Vec<StoreId>),
    /// A peer's stream to a store of this shard.
    PeerStream(Box<Accepted>),
    /// A target was added, changed or taken away; to the shard that accepts.
    Announce(Announcement),
    /// Log hosts out, checkpoint, close, end.
    Drain,
}

/// To the coordinator.
#[derive(Debug)]
pub(crate) enum ToCoordinator {
    /// A shard opened its stores, or something changed, or a second passed.
    Report(usize, Report),
    /// A request of the agent was carried out.
    Reply(u64, Reply),
    /// What a copy is after the agent wanted it fenced.
    Fenced(u64, Box<Fenced>),
    /// A primary wants another in-sync set; which shard it is in.
    Propose(usize, Box<Propose>),
    /// A shard freed much memory.
    MemoryFreed,
    /// A shard ended in order.
    Drained(usize),
    /// The agent is there.
    LinkUp(UnixStream),
    /// The agent said something.
    LinkMessage(Box<Message>),
    /// The agent is gone.
    LinkDown,
    /// The process shall end.
    Terminate,
}

/// Sends to the coordinator.
#[derive(Clone, Debug)]
pub(crate) struct Coordinator(pub(crate) SyncSender<ToCoordinator>);

/// Sends to a shard.
pub(crate) type ShardSender = mailbox::Sender<ToShard>;

impl Coordinator {
    /// Sends without waiting: shards never wait for another thread. A report that finds the queue
    /// full is dropped, the next one follows in a second.
    pub(crate) fn send(&self, message: ToCoordinator) {
        match self.0.try_send(message) {
            Ok(())
            | Err(TrySendError::Disconnected(_) | TrySendError::Full(ToCoordinator::Report(..))) => {
            }
            Err(TrySendError::Full(message)) => {
                error!(
                    ?message,
                    "the coordinator's queue is full: a message is lost"
                );
            }
        }
    }
}
