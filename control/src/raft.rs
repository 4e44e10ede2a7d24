//! The masters' registry, replicated: one Raft group whose state machine is [`crate::registry::State`].
//!
//! The algorithm is openraft's. Here is what it needs: `log` and `machine` keep its data in the
//! registry's file, `peer` and `door` carry its messages, `election` decides when to stand for
//! election, `group` and `members` are what the rest of the process sees. A single master is a group of one.
//!
//! Invariants: vote and entries are durable before they are answered; applied records, the last
//! applied entry and the members change in one transaction; a command is judged against the state it
//! meets, so that a decision taken on an older state is refused by every master alike.
//! Not here: who may be asked for what (`master`), and how the file is made (`registry::database`).

mod command;
mod contacts;
mod door;
mod election;
mod group;
mod log;
mod machine;
mod members;
mod peer;

pub use command::{Command, Expect, Outcome, VolumeVersion};
pub use group::{CommitError, Group, Role, Timing};
pub use members::{MasterInfo, MembershipError};

use crate::registry::database::StorageError;
use holdfast_core::id::NodeId;
use openraft::{AnyError, ErrorSubject, ErrorVerb, StorageIOError};
use serde::{Deserialize, Serialize};
use std::io::Cursor;

/// A master in the group: the first eight bytes of its node's id.
pub type MasterId = u64;

/// Where a master is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seat {
    /// Its node, as UUID text.
    pub node: String,
    /// Its gRPC address.
    pub address: String,
}

openraft::declare_raft_types!(
    /// The types of our group.
    pub Types:
        D = Command,
        R = Outcome,
        NodeId = MasterId,
        Node = Seat,
        Entry = openraft::Entry<Types>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = openraft::TokioRuntime,
);

/// The consensus library's handle.
type Raft = openraft::Raft<Types>;

/// An error as the consensus library wants it; it stops for good at the first one.
type Failure = openraft::StorageError<MasterId>;

/// The id of the master on `node`.
pub fn master_id(node: NodeId) -> MasterId {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&node.0[..8]);
    MasterId::from_le_bytes(bytes)
}

fn failure(subject: ErrorSubject<MasterId>, verb: ErrorVerb, error: &StorageError) -> Failure {
    StorageIOError::new(subject, verb, AnyError::new(error)).into()
}

/// Runs `work`, which waits for the disk, where it holds nobody up.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let task = tokio::task::spawn_blocking(work);
    task.await
        .expect("work on the registry returns its errors and does not panic")
}

#[cfg(test)]
mod tests;
