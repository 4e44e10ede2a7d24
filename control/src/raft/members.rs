//! The set of masters: who is in it, and its changes, one at a time and on the leader.
//!
//! A new master first catches up without a vote, then votes. A removed one keeps its data and can be
//! added again.

use super::group::{CommitError, Group, Joined, Role, commit_error};
use super::{MasterId, Seat, master_id, peer};
use crate::limits::{COMMIT_WAIT, MASTERS_MAX, MEMBERSHIP_WAIT};
use crate::masters::InviteRequest;
use holdfast_core::id::{ClusterId, NodeId};
use openraft::{ChangeMembers, ServerState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// The set of masters was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// A commit failed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// It is not as it should be for this.
    #[error("{0}")]
    Precondition(String),
    /// The other master.
    #[error("the master at {address} {reason}")]
    Peer {
        /// Where.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A master, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MasterInfo {
    /// Where.
    pub seat: Seat,
    /// It leads.
    pub leader: bool,
    /// It votes; one that does not is still catching up.
    pub voter: bool,
    /// Entries it lacks; only the leader knows.
    pub lag_entries: Option<u64>,
    /// Since it last followed; only the leader knows.
    pub silent: Option<Duration>,
}

impl Group {
    /// The masters, as far as this one knows.
    pub fn masters(&self) -> Vec<MasterInfo> {
        let Ok(joined) = self.joined() else {
            return Vec::new();
        };
        let metrics = joined.raft.metrics().borrow().clone();
        let members = metrics.membership_config.membership();
        let voters: BTreeSet<_> = members.voter_ids().collect();
        let leading = metrics.state == ServerState::Leader;
        // The library names the last leader for ever.
        let leader = match self.inner().role() {
            Role::Leading { .. } => Some(metrics.id),
            Role::Following { leader: Some(_) } => metrics.current_leader,
            _ => None,
        };
        let describe = |(id, seat): (&MasterId, &Seat)| {
            let progress = metrics.replication.as_ref().and_then(|all| all.get(id));
            let last = metrics.last_log_index.unwrap_or(0);
            let has = progress.map(|at| at.map_or(0, |at| at.index));
            let own = *id == metrics.id;
            MasterInfo {
                seat: seat.clone(),
                leader: leader == Some(*id),
                voter: voters.contains(id),
                lag_entries: has.filter(|_| !own).map(|has| last.saturating_sub(has)),
                silent: (leading && !own)
                    .then(|| self.inner().contacts.silence_of(*id))
                    .flatten(),
            }
        };
        members.nodes().map(describe).collect()
    }

    /// Takes the empty master at `address` into the cluster. Doing it again is harmless; so a master
    /// that moved to another address is found again.
    pub async fn add(&self, address: &str) -> Result<Seat, MembershipError> {
        let _one_at_a_time = self.inner().changing.lock().await;
        let joined = self.joined()?;
        self.confirm().await?;
        let (id, seat) = invite(address, joined.cluster).await?;
        let members = joined.members();
        if !members.contains_key(&id) && members.len() >= MASTERS_MAX {
            let message = format!("there are {MASTERS_MAX} masters already");
            return Err(MembershipError::Precondition(message));
        }
        if members.get(&id).is_some_and(|known| *known != seat) {
            // The same master at another address: every message says for whom it is.
            self.change(ChangeMembers::SetNodes(BTreeMap::from([(
                id,
                seat.clone(),
            )])))
            .await?;
        }
        let catching_up = joined.raft.add_learner(id, seat.clone(), true);
        let caught_up = timeout(MEMBERSHIP_WAIT, catching_up).await;
        caught_up
            .map_err(|_| MembershipError::Peer {
                address: address.into(),
                reason: "has not caught up in time; add it again to go on".into(),
            })?
            .map_err(commit_error)?;
        let vote = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
        self.change(vote).await?;
        Ok(seat)
    }

    /// Takes the master on `node` out of the cluster; its data stays where it is.
    pub async fn remove(&self, node: NodeId) -> Result<Seat, MembershipError> {
        let _one_at_a_time = self.inner().changing.lock().await;
        self.confirm().await?;
        let id = master_id(node);
        let members = self.joined()?.members();
        let Some(seat) = members.get(&id) else {
            let message = format!("node {node} is no master; `holdfast master list` shows them");
            return Err(MembershipError::Precondition(message));
        };
        if members.len() == 1 {
            let message = "the last master stays: without it nothing could be decided";
            return Err(MembershipError::Precondition(message.into()));
        }
        self.change(ChangeMembers::RemoveVoters(BTreeSet::from([id])))
            .await?;
        self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id])))
            .await
            .or_else(|error| match error {
                // It was the leader, and is none any more.
                MembershipError::Commit(CommitError::NotLeader(_)) => Ok(()),
                error => Err(error),
            })?;
        Ok(seat.clone())
    }

    async fn change(&self, change: ChangeMembers<MasterId, Seat>) -> Result<(), MembershipError> {
        let changing = self.joined()?.raft.change_membership(change, true);
        match timeout(MEMBERSHIP_WAIT, changing).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(commit_error(error).into()),
            Err(_) => Err(CommitError::Unknown.into()),
        }
    }
}

impl Joined {
    fn members(&self) -> BTreeMap<MasterId, Seat> {
        let metrics = self.raft.metrics();
        let members = Arc::clone(&metrics.borrow().membership_config);
        let nodes = members.membership().nodes();
        nodes.map(|(id, seat)| (*id, seat.clone())).collect()
    }
}

async fn invite(address: &str, cluster: ClusterId) -> Result<(MasterId, Seat), MembershipError> {
    let failed = |reason: String| MembershipError::Peer {
        address: address.into(),
        reason,
    };
    let mut client = peer::client(address).map_err(|error| failed(error.to_string()))?;
    let mut request = tonic::Request::new(InviteRequest {
        cluster_id: cluster.0.to_vec(),
    });
    request.set_timeout(COMMIT_WAIT);
    let invited = client.invite(request).await;
    let reply = invited.map_err(|status| failed(status.message().into()))?;
    let reply = reply.into_inner();
    let seat = Seat {
        node: reply.node_id,
        address: address.into(),
    };
    Ok((reply.master, seat))
}
