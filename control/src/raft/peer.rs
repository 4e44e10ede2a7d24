//! Towards other masters: carries the consensus library's messages over gRPC.
//!
//! A connection is made when it is needed and made anew when it breaks. Every call has a deadline;
//! after a failure the library waits before it tries again.

use super::contacts::Contacts;
use super::{MasterId, Seat, Types};
use crate::limits::{RAFT_BACKOFF, RAFT_CONNECT_WAIT, RAFT_ENTRIES_BYTES_MAX, RAFT_RPC_BYTES_MAX};
use crate::masters::masters_client::MastersClient;
use crate::masters::{Answer, Envelope};
use holdfast_core::id::ClusterId;
use openraft::error::{
    InstallSnapshotError, PayloadTooLarge, RPCError, RaftError, RemoteError, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{AnyError, LogId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};

/// Makes the connections of one master.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) cluster: ClusterId,
    pub(super) own: MasterId,
    pub(super) contacts: Arc<Contacts>,
}

/// The way to one other master.
pub(super) struct Peer {
    dialer: Dialer,
    target: MasterId,
    client: Result<MastersClient<Channel>, AnyError>,
}

/// Which call.
#[derive(Clone, Copy)]
enum Call {
    Append,
    Install,
    Vote,
    PreVote,
}

type Error<E = openraft::error::Infallible> = RPCError<MasterId, Seat, RaftError<MasterId, E>>;

/// A client for the master at `address`, not yet connected.
pub(super) fn client(address: &str) -> Result<MastersClient<Channel>, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(RAFT_CONNECT_WAIT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(RAFT_CONNECT_WAIT)
        .keep_alive_timeout(RAFT_CONNECT_WAIT)
        .keep_alive_while_idle(true);
    Ok(MastersClient::new(endpoint.connect_lazy())
        .max_decoding_message_size(RAFT_RPC_BYTES_MAX)
        .max_encoding_message_size(RAFT_RPC_BYTES_MAX))
}

impl RaftNetworkFactory<Types> for Dialer {
    type Network = Peer;

    async fn new_client(&mut self, target: MasterId, seat: &Seat) -> Peer {
        self.peer(target, seat)
    }
}

impl Dialer {
    pub(super) fn peer(&self, target: MasterId, seat: &Seat) -> Peer {
        Peer {
            dialer: self.clone(),
            target,
            client: client(&seat.address).map_err(|error| AnyError::new(&error)),
        }
    }
}

impl Peer {
    /// Whether the other master would vote for one whose newest entry is `last`.
    pub(super) async fn pre_vote(&mut self, last: Option<LogId<MasterId>>, wait: Duration) -> bool {
        let body = encode(&last);
        let asked = self.call(Call::PreVote, body, Vec::new(), wait).await;
        asked.is_ok_and(|answer| serde_json::from_slice(&answer.body).unwrap_or(false))
    }

    async fn exchange<A: DeserializeOwned, E>(
        &mut self,
        call: Call,
        message: &impl Serialize,
        data: Vec<u8>,
        wait: Duration,
    ) -> Result<A, Error<E>>
    where
        E: std::error::Error + DeserializeOwned,
    {
        let asked = self.call(call, encode(message), data, wait).await;
        let answer = asked.map_err(Unreachable::from)?;
        let result: Result<A, RaftError<MasterId, E>> =
            serde_json::from_slice(&answer.body).map_err(|error| Unreachable::new(&error))?;
        Ok(result.map_err(|error| RemoteError::new(self.target, error))?)
    }

    async fn call(
        &mut self,
        call: Call,
        body: Vec<u8>,
        data: Vec<u8>,
        wait: Duration,
    ) -> Result<Answer, AnyError> {
        #[cfg(test)]
        if self.dialer.contacts.is_cut() {
            return Err(AnyError::error("cut off"));
        }
        let client = match &mut self.client {
            Ok(client) => client,
            Err(error) => return Err(error.clone()),
        };
        let mut request = tonic::Request::new(Envelope {
            cluster_id: self.dialer.cluster.0.to_vec(),
            from: self.dialer.own,
            to: self.target,
            body,
            data,
        });
        request.set_timeout(wait);
        let asking = async {
            match call {
                Call::Append => client.append(request).await,
                Call::Install => client.install(request).await,
                Call::Vote => client.vote(request).await,
                Call::PreVote => client.pre_vote(request).await,
            }
        };
        match tokio::time::timeout(wait, asking).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(AnyError::error(status)),
            Err(_) => Err(AnyError::error("no answer in time")),
        }
    }
}

impl RaftNetwork<Types> for Peer {
    async fn append_entries(
        &mut self,
        message: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<MasterId>, Error> {
        let body_bytes = encode(&message).len();
        let count = message.entries.len();
        if body_bytes > RAFT_ENTRIES_BYTES_MAX && count > 1 {
            let half = u64::try_from(count / 2).expect("fits");
            return Err(PayloadTooLarge::new_entries_hint(half).into());
        }
        let sent = Instant::now();
        let wait = option.hard_ttl();
        let answer = self
            .exchange(Call::Append, &message, Vec::new(), wait)
            .await?;
        if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
            self.dialer.contacts.followed(self.target, sent);
        }
        Ok(answer)
    }

    async fn install_snapshot(
        &mut self,
        mut message: InstallSnapshotRequest<Types>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<MasterId>, Error<InstallSnapshotError>> {
        let data = std::mem::take(&mut message.data);
        let sent = Instant::now();
        let wait = option.hard_ttl();
        let answer: InstallSnapshotResponse<MasterId> =
            self.exchange(Call::Install, &message, data, wait).await?;
        if answer.vote <= message.vote {
            self.dialer.contacts.followed(self.target, sent);
        }
        Ok(answer)
    }

    async fn vote(
        &mut self,
        message: VoteRequest<MasterId>,
        option: RPCOption,
    ) -> Result<VoteResponse<MasterId>, Error> {
        self.exchange(Call::Vote, &message, Vec::new(), option.hard_ttl())
            .await
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(RAFT_BACKOFF))
    }
}

fn encode(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("messages are plain data")
}
