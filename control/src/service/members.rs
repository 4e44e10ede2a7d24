//! The set of masters over gRPC. Changes are made by the leader; others send callers on to it.

use super::elsewhere;
use crate::master::Lead;
use crate::proto::{self, members_server};
use crate::raft::{CommitError, Group, MasterInfo, MembershipError};
use holdfast_core::id::NodeId;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

/// See the module's head.
pub(super) struct Members {
    lead: watch::Receiver<Lead>,
    group: Option<Group>,
}

pub(super) fn service(
    lead: watch::Receiver<Lead>,
    group: Option<Group>,
) -> members_server::MembersServer<Members> {
    members_server::MembersServer::new(Members { lead, group })
}

#[tonic::async_trait]
impl members_server::Members for Members {
    async fn list_masters(
        &self,
        _: Request<proto::ListMastersRequest>,
    ) -> Result<Response<proto::ListMastersReply>, Status> {
        let lead = self.lead.borrow().clone();
        match (lead, &self.group) {
            (Lead::Elsewhere(leader), None) => Err(elsewhere(&leader)),
            (Lead::Elsewhere(leader), Some(_)) if !leader.is_empty() => Err(elsewhere(&leader)),
            // Without a leader this one says what it knows.
            (_, Some(group)) => Ok(masters(group)),
            (Lead::Here(_), None) => Err(Status::internal("a leader is in its group")),
        }
    }

    async fn add_master(
        &self,
        request: Request<proto::AddMasterRequest>,
    ) -> Result<Response<proto::ListMastersReply>, Status> {
        let group = self.leading()?;
        let added = group.add(&request.into_inner().address).await;
        let seat = added.map_err(refused)?;
        tracing::info!("master {} at {} added", seat.node, seat.address);
        Ok(masters(group))
    }

    async fn remove_master(
        &self,
        request: Request<proto::RemoveMasterRequest>,
    ) -> Result<Response<proto::ListMastersReply>, Status> {
        let group = self.leading()?;
        let wanted = request.into_inner().master;
        let named = |info: &MasterInfo| info.seat.node == wanted || info.seat.address == wanted;
        let found = group.masters().into_iter().find(named);
        let node = found.map_or(wanted, |info| info.seat.node);
        let node: NodeId = node.parse().map_err(|_| {
            let message = format!("'{node}' is no master; `holdfast master list` shows them");
            Status::not_found(message)
        })?;
        let seat = group.remove(node).await.map_err(refused)?;
        tracing::info!("master {} at {} removed", seat.node, seat.address);
        Ok(masters(group))
    }
}

impl Members {
    fn leading(&self) -> Result<&Group, Status> {
        let lead = self.lead.borrow().clone();
        match (lead, &self.group) {
            (Lead::Here(_), Some(group)) => Ok(group),
            (Lead::Elsewhere(leader), _) => Err(elsewhere(&leader)),
            (Lead::Here(_), None) => Err(Status::internal("a leader is in its group")),
        }
    }
}

fn masters(group: &Group) -> Response<proto::ListMastersReply> {
    let info = |info: MasterInfo| proto::MasterInfo {
        node_id: info.seat.node,
        address: info.seat.address,
        leader: info.leader,
        voter: info.voter,
        lag_entries: info.lag_entries,
        silent_ms: info
            .silent
            .map(|silent| u64::try_from(silent.as_millis()).unwrap_or(u64::MAX)),
    };
    Response::new(proto::ListMastersReply {
        masters: group.masters().into_iter().map(info).collect(),
    })
}

fn refused(error: MembershipError) -> Status {
    match error {
        MembershipError::Commit(CommitError::NotLeader(to)) => {
            elsewhere(&to.map_or_else(String::new, |seat| format!("http://{}", seat.address)))
        }
        MembershipError::Commit(CommitError::Refused(reason)) => {
            Status::failed_precondition(reason)
        }
        MembershipError::Commit(error) => Status::unavailable(error.to_string()),
        MembershipError::Precondition(reason) => Status::failed_precondition(reason),
        error @ MembershipError::Peer { .. } => Status::unavailable(error.to_string()),
    }
}
