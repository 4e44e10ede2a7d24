//! From other masters: the gRPC service between them.
//!
//! An envelope for another cluster or another master is refused before its body is read.

use super::group::Inner;
use super::{MasterId, Raft, Types};
use crate::masters::masters_server::Masters;
use crate::masters::{Answer, Envelope, InviteReply, InviteRequest};
use holdfast_core::id::ClusterId;
use openraft::LogId;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, VoteRequest,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// See the module's head.
pub(super) struct Door(pub(super) Arc<Inner>);

#[tonic::async_trait]
impl Masters for Door {
    async fn append(&self, request: Request<Envelope>) -> Result<Response<Answer>, Status> {
        let (raft, envelope) = self.open(request)?;
        let message: AppendEntriesRequest<Types> = decode(&envelope.body)?;
        let result = raft.append_entries(message).await;
        if matches!(&result, Ok(answer) if !matches!(answer, AppendEntriesResponse::HigherVote(_)))
        {
            self.0.contacts.heard();
        }
        Ok(answer(&result))
    }

    async fn install(&self, request: Request<Envelope>) -> Result<Response<Answer>, Status> {
        let (raft, envelope) = self.open(request)?;
        let mut message: InstallSnapshotRequest<Types> = decode(&envelope.body)?;
        message.data = envelope.data;
        let vote = message.vote;
        let result = raft.install_snapshot(message).await;
        if matches!(&result, Ok(answer) if answer.vote <= vote) {
            self.0.contacts.heard();
        }
        Ok(answer(&result))
    }

    async fn vote(&self, request: Request<Envelope>) -> Result<Response<Answer>, Status> {
        let (raft, envelope) = self.open(request)?;
        let message: VoteRequest<MasterId> = decode(&envelope.body)?;
        Ok(answer(&raft.vote(message).await))
    }

    async fn pre_vote(&self, request: Request<Envelope>) -> Result<Response<Answer>, Status> {
        let (_, envelope) = self.open(request)?;
        let last: Option<LogId<MasterId>> = decode(&envelope.body)?;
        let granted = self.0.would_vote(last).await;
        Ok(answer(&granted))
    }

    async fn invite(
        &self,
        request: Request<InviteRequest>,
    ) -> Result<Response<InviteReply>, Status> {
        let cluster = cluster(&request.into_inner().cluster_id)?;
        let joined = Arc::clone(&self.0).join(cluster).await;
        joined.map_err(Status::failed_precondition)?;
        Ok(Response::new(InviteReply {
            master: self.0.own,
            node_id: self.0.node.to_string(),
        }))
    }
}

impl Door {
    fn open(&self, request: Request<Envelope>) -> Result<(&Raft, Envelope), Status> {
        #[cfg(test)]
        if self.0.contacts.is_cut() {
            return Err(Status::unavailable("cut off"));
        }
        let envelope = request.into_inner();
        let raft = self.0.raft.get();
        let raft = raft.ok_or_else(|| Status::unavailable("this master is in no cluster yet"))?;
        if cluster(&envelope.cluster_id)? != raft.cluster || envelope.to != self.0.own {
            return Err(Status::failed_precondition("for another cluster or master"));
        }
        Ok((&raft.raft, envelope))
    }
}

fn cluster(bytes: &[u8]) -> Result<ClusterId, Status> {
    let bytes = bytes.try_into();
    Ok(ClusterId(bytes.map_err(|_| {
        Status::invalid_argument("a cluster id has 16 bytes")
    })?))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Status> {
    let decoded = serde_json::from_slice(bytes);
    decoded.map_err(|error| Status::invalid_argument(error.to_string()))
}

fn answer(result: &impl Serialize) -> Response<Answer> {
    Response::new(Answer {
        body: serde_json::to_vec(result).expect("answers are plain data"),
    })
}
