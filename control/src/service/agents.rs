//! The agents' end of gRPC: one stream per node, decoded and passed to the master.
//!
//! What breaks the protocol ends the stream with a reason; the agent comes again.

use crate::convert::{self, status_to};
use crate::limits::{JOIN_WAIT, LINK_QUEUE};
use crate::master::{Handle, Lead};
use crate::proto::{self, agent_message, agents_server};
use holdfast_core::id::NodeId;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Nothing of an agent for so long: its machine is gone.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(10);

pub(super) struct Agents {
    lead: watch::Receiver<Lead>,
}

pub(super) fn service(lead: watch::Receiver<Lead>) -> agents_server::AgentsServer<Agents> {
    agents_server::AgentsServer::new(Agents { lead })
}

#[tonic::async_trait]
impl agents_server::Agents for Agents {
    type JoinStream = ReceiverStream<Result<proto::MasterMessage, Status>>;

    async fn join(
        &self,
        request: Request<Streaming<proto::AgentMessage>>,
    ) -> Result<Response<Self::JoinStream>, Status> {
        let mut stream = request.into_inner();
        let (answers, out) = mpsc::channel(LINK_QUEUE);
        let lead = self.lead.borrow().clone();
        let master = match lead {
            Lead::Here(master) => master,
            Lead::Elsewhere(leader) => {
                // A fresh queue has room.
                let _ = answers.try_send(Ok(convert::not_leader_to(leader)));
                return Ok(Response::new(ReceiverStream::new(out)));
            }
        };
        let first = timeout(JOIN_WAIT, stream.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no hello"))??;
        let Some(agent_message::Body::Hello(hello)) = first.and_then(|message| message.body) else {
            return Err(Status::invalid_argument("the first message is not hello"));
        };
        let joining = convert::joining_from(hello).map_err(|refusal| status_to(&refusal))?;
        let node = joining.node;
        let (to_agent, queue) = mpsc::channel(LINK_QUEUE);
        let joined = master.join(joining, to_agent).await;
        let session = joined
            .map_err(|stopped| Status::unavailable(stopped.to_string()))?
            .map_err(|refusal| status_to(&refusal))?;
        let lead = self.lead.clone();
        tokio::spawn(attend(master, lead, node, session, stream, queue, answers));
        Ok(Response::new(ReceiverStream::new(out)))
    }
}

/// Passes messages both ways until one end is gone or another master leads.
async fn attend(
    master: Handle,
    mut lead: watch::Receiver<Lead>,
    node: NodeId,
    session: u64,
    mut stream: Streaming<proto::AgentMessage>,
    mut queue: mpsc::Receiver<proto::MasterMessage>,
    answers: mpsc::Sender<Result<proto::MasterMessage, Status>>,
) {
    let reason = loop {
        tokio::select! {
            message = timeout(SILENCE, stream.message()) => {
                let message = match message {
                    Ok(Ok(Some(message))) => message,
                    Ok(Ok(None)) => break Status::ok(""),
                    Ok(Err(status)) => break status,
                    Err(_) => break Status::deadline_exceeded("the agent is silent"),
                };
                let event = match convert::agent_event_from(message) {
                    Ok(event) => event,
                    Err(refusal) => break status_to(&refusal),
                };
                if master.agent(node, session, event).await.is_err() {
                    break Status::unavailable("the master stops");
                }
            }
            order = queue.recv() => {
                let Some(order) = order else {
                    break Status::aborted("another stream of this node took over");
                };
                if answers.send(Ok(order)).await.is_err() {
                    break Status::ok("");
                }
            }
            Ok(()) = lead.changed() => {
                if !matches!(&*lead.borrow(), Lead::Here(_)) {
                    break Status::unavailable("this master leads no more");
                }
            }
            () = master.stopped() => break Status::unavailable("the master stops"),
        }
    };
    // The agent may be gone, and the master too.
    let _ = answers.try_send(Err(reason));
    let _ = master.left(node, session).await;
}
