//! Finds the leading master among the given URLs and keeps the stream to it, for ever.
//!
//! Each attempt is bounded, and so is the wait between two. A master that is not the leader names the
//! leader when it knows it.

use super::hub::Handle;
use crate::limits::{JOIN_WAIT, LINK_QUEUE, MASTER_BACKOFF_MAX, MASTER_BACKOFF_MIN};
use crate::proto::{self, agent_message, agents_client::AgentsClient, master_message};
use holdfast_core::id::{ClusterId, NodeId};
use holdfast_core::link;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

/// Referrals followed without a wait.
const REFERRALS_MAX: usize = 2;

/// How the node introduces itself.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// Its zone; empty: its own.
    pub zone: String,
}

/// How an attempt ended.
enum End {
    /// The stream was up and broke.
    Lost(String),
    /// Another one leads.
    NotLeader(String),
    /// It did not come about.
    Failed(String),
}

pub(super) struct Search {
    pub(super) node: NodeId,
    pub(super) identity: Identity,
    /// The cluster that the node belonged to at its start.
    pub(super) cluster: Option<ClusterId>,
    pub(super) targets: Vec<String>,
    pub(super) leader: watch::Sender<String>,
}

impl Search {
    pub(super) async fn run(self, agent: Handle) {
        let mut backoff = MASTER_BACKOFF_MIN;
        let (mut next, mut referrals) = (0, 0);
        let mut referred: Option<String> = None;
        let mut told = String::new();
        loop {
            let url = referred.take().unwrap_or_else(|| {
                let url = self.targets[next % self.targets.len()].clone();
                next += 1;
                url
            });
            let end = tokio::select! {
                end = self.attempt(&url, &agent) => end,
                () = agent.stopped() => return,
            };
            let message = match end {
                End::Lost(reason) => {
                    backoff = MASTER_BACKOFF_MIN;
                    format!("master {url}: {reason}")
                }
                End::NotLeader(leader) => {
                    if !leader.is_empty() && leader != url && referrals < REFERRALS_MAX {
                        referrals += 1;
                        referred = Some(leader);
                        continue;
                    }
                    format!("master {url}: does not lead")
                }
                End::Failed(reason) => format!("master {url}: {reason}"),
            };
            referrals = 0;
            if message != told {
                tracing::warn!("{message}; trying on");
                told = message;
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(MASTER_BACKOFF_MAX);
        }
    }

    async fn attempt(&self, url: &str, agent: &Handle) -> End {
        let (mut stream, out, cluster) = match timeout(JOIN_WAIT, self.join(url)).await {
            Ok(Ok(joined)) => joined,
            Ok(Err(end)) => return end,
            Err(_) => return End::Failed(format!("no answer in {} s", JOIN_WAIT.as_secs())),
        };
        let session = match agent.master_up(cluster, out).await {
            Ok(Ok(session)) => session,
            Ok(Err(reason)) => return End::Failed(reason),
            Err(stopped) => return End::Failed(stopped.to_string()),
        };
        tracing::info!("joined master {url}");
        self.leader.send_replace(url.to_owned());
        let reason = loop {
            match stream.message().await {
                Ok(Some(message)) => {
                    if agent.master_message(session, message).await.is_err() {
                        break "the agent stops".into();
                    }
                }
                Ok(None) => break "it ended the stream".into(),
                Err(status) => break status.message().to_owned(),
            }
        };
        self.leader.send_replace(String::new());
        let _ = agent.master_down(session).await; // Else nobody is left to be told.
        End::Lost(reason)
    }

    async fn join(
        &self,
        url: &str,
    ) -> Result<
        (
            tonic::Streaming<proto::MasterMessage>,
            mpsc::Sender<proto::AgentMessage>,
            ClusterId,
        ),
        End,
    > {
        let endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|error| End::Failed(error.to_string()))?
            .connect_timeout(JOIN_WAIT)
            .tcp_nodelay(true)
            // A master that died with its machine is noticed by this alone.
            .http2_keep_alive_interval(Duration::from_secs(1))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true);
        let channel = endpoint.connect().await;
        let channel = channel.map_err(|_| End::Failed("cannot connect".into()))?;
        let (out, queue) = mpsc::channel(LINK_QUEUE);
        let hello = proto::AgentMessage {
            body: Some(agent_message::Body::Hello(self.hello())),
        };
        out.try_send(hello).expect("a fresh queue has room");
        let refused = |status: tonic::Status| End::Failed(status.message().to_owned());
        let mut client = AgentsClient::new(channel);
        let answer = client.join(ReceiverStream::new(queue)).await;
        let mut stream = answer.map_err(refused)?.into_inner();
        let first = stream.message().await.map_err(refused)?;
        match first.and_then(|message| message.body) {
            Some(master_message::Body::Welcome(welcome)) => {
                let cluster = ClusterId::try_from(welcome.cluster_id.as_slice());
                let cluster = cluster.map_err(|error| End::Failed(error.to_string()))?;
                Ok((stream, out, cluster))
            }
            Some(master_message::Body::NotLeader(other)) => Err(End::NotLeader(other.leader)),
            _ => Err(End::Failed("it broke the protocol".into())),
        }
    }

    fn hello(&self) -> proto::AgentHello {
        let cluster = self.cluster.map(|cluster| cluster.0.to_vec());
        proto::AgentHello {
            cluster_id: cluster.unwrap_or_default(),
            node_id: self.node.0.to_vec(),
            name: self.identity.name.clone(),
            zone: self.identity.zone.clone(),
            link_version: link::VERSION,
        }
    }
}
