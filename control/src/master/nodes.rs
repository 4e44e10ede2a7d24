//! The agents that joined: their sessions, and what they tell.
//!
//! Hearing an agent is an observation, never a change of the registry; a node's name, zone and
//! addresses are registered when they change.

use super::{Joining, LinkEvent, Master, ToAgent};
use crate::convert;
use crate::reconcile::{Event, Report, Server};
use crate::registry::database::StorageError;
use crate::registry::{Change, Node, Refusal, RefusalKind, Store};
use holdfast_core::cluster::limits::NODE_SILENT;
use holdfast_core::id::NodeId;
use holdfast_core::link;
use std::time::Duration;
use tokio::sync::oneshot;

/// The stream to one agent.
pub(super) struct Session {
    pub(super) number: u64,
    out: ToAgent,
    /// The agent said that its volume server is not there.
    pub(super) server_down: bool,
    /// When its volume server was last heard.
    server_heard: Duration,
}

impl Session {
    /// Whether the volume server should be talking and is not: it is paused, or its machine is.
    fn stands_still(&self, now: Duration) -> bool {
        !self.server_down && now.saturating_sub(self.server_heard) > NODE_SILENT
    }
}

impl Master {
    pub(super) async fn join(
        &mut self,
        joining: Joining,
        out: ToAgent,
        answer: oneshot::Sender<Result<u64, Refusal>>,
    ) -> Result<(), StorageError> {
        if let Some(other) = joining.cluster.filter(|other| *other != self.state.cluster) {
            let message = format!(
                "node '{}' belongs to cluster {other}, this is cluster {}",
                joining.name, self.state.cluster
            );
            let _ = answer.send(Err(Refusal::with(RefusalKind::Precondition, message)));
            return Ok(());
        }
        let node = joining.node;
        if self.sessions.contains_key(&node) {
            self.drop_session(node).await?; // The agent started again, or lost its connection.
        }
        self.register_node(&joining).await?;
        self.last_session += 1;
        let number = self.last_session;
        // The queue is fresh and has room for it; welcome goes before every order.
        let welcomed = out.try_send(convert::agent_welcome_to(self.state.cluster));
        if welcomed.is_err() || answer.send(Ok(number)).is_err() {
            return Ok(());
        }
        let session = Session {
            number,
            out,
            server_down: false,
            server_heard: self.now(),
        };
        self.sessions.insert(node, session);
        self.note(format!("node {} joined", joining.name));
        self.hear(node).await?;
        self.publish();
        Ok(())
    }

    pub(super) async fn on_left(&mut self, node: NodeId, number: u64) -> Result<(), StorageError> {
        if self.is_present(node, number) {
            self.drop_session(node).await?;
        }
        Ok(())
    }

    pub(super) async fn on_agent(
        &mut self,
        node: NodeId,
        number: u64,
        event: Option<LinkEvent>,
    ) -> Result<(), StorageError> {
        if !self.is_present(node, number) {
            return Ok(()); // A late message of a stream that was given up.
        }
        let now = self.now();
        let mut stands_still = false;
        if let Some(session) = self.sessions.get_mut(&node) {
            match event {
                Some(LinkEvent::Up(..)) => session.server_down = false,
                Some(LinkEvent::Down) => session.server_down = true,
                _ => {}
            }
            if event.is_some() {
                session.server_heard = now;
            }
            stands_still = session.stands_still(now);
        }
        // An agent's beat says nothing of a volume server that stands still beside it.
        if !stands_still {
            self.hear(node).await?;
        }
        match event {
            None => Ok(()),
            Some(LinkEvent::Up(server, report)) => self.on_server_up(node, server, report).await,
            Some(LinkEvent::Down) => {
                self.reconcile(Event::Disconnected(node)).await?;
                self.on_server_down(node).await
            }
            Some(LinkEvent::Report(report)) => {
                self.register_stores(node, &report).await?;
                self.reconcile(Event::Reported(node, report)).await?;
                self.on_copies_reported(node).await
            }
            Some(LinkEvent::Reply(request, answer)) => {
                self.reconcile(Event::Answered(node, request, answer)).await
            }
            Some(LinkEvent::Fenced(fenced)) => self.on_fenced(fenced).await,
            Some(LinkEvent::Proposed(request, proposal)) => {
                self.on_proposed(node, request, proposal).await
            }
        }
    }

    async fn on_server_up(
        &mut self,
        node: NodeId,
        server: Server,
        report: Report,
    ) -> Result<(), StorageError> {
        self.register_addresses(node, &server).await?;
        self.register_stores(node, &report).await?;
        if self.reconciler.server(node).is_some() {
            self.reconcile(Event::Disconnected(node)).await?; // Told late, or not at all.
        }
        self.reconcile(Event::Connected(node, server, report))
            .await?;
        self.on_copies_reported(node).await
    }

    pub(super) async fn drop_session(&mut self, node: NodeId) -> Result<(), StorageError> {
        self.sessions.remove(&node);
        self.note(format!("node {} left", self.state.node_name(node)));
        self.reconcile(Event::Unheard(node)).await
    }

    fn is_present(&self, node: NodeId, number: u64) -> bool {
        let session = self.sessions.get(&node);
        session.is_some_and(|session| session.number == number)
    }

    /// For how long nothing was heard of the node's volume server; `None`: it is heard.
    pub(super) fn silent_for(&self, node: NodeId) -> Option<Duration> {
        let now = self.now();
        let silence = match self.sessions.get(&node) {
            Some(session) if session.server_down || session.stands_still(now) => {
                now.saturating_sub(session.server_heard)
            }
            Some(_) => return None,
            None => self.reigns.agent_silence(now, node),
        };
        Some(silence)
    }

    /// Queues a message for the volume server behind an agent; one that takes none is cut off.
    pub(super) fn send(&mut self, node: NodeId, message: &link::Message) {
        let Some(session) = self.sessions.get(&node) else {
            return;
        };
        if session
            .out
            .try_send(convert::through_agent(message))
            .is_err()
        {
            // The order is repeated after the reconnect, or when its reply is overdue.
            tracing::warn!(
                "a message for node {} was not queued",
                self.state.node_name(node)
            );
        }
    }

    async fn register_node(&mut self, joining: &Joining) -> Result<(), StorageError> {
        let known = self.state.nodes.get(&joining.node);
        let node = Node {
            id: joining.node,
            name: joining.name.clone(),
            zone: joining.zone.clone(),
            peer_address: known.map_or_else(String::new, |node| node.peer_address.clone()),
            portals: known.map_or_else(Vec::new, |node| node.portals.clone()),
            cordoned: known.is_some_and(|node| node.cordoned),
            draining: known.is_some_and(|node| node.draining),
        };
        self.put_node(node).await
    }

    /// The others must find a node's copies also when the master was away meanwhile.
    async fn register_addresses(
        &mut self,
        node: NodeId,
        server: &Server,
    ) -> Result<(), StorageError> {
        let Some(known) = self.state.nodes.get(&node) else {
            return Ok(());
        };
        let node = Node {
            peer_address: server.peer_address.clone(),
            portals: server.portals.clone(),
            ..known.clone()
        };
        self.put_node(node).await
    }

    async fn put_node(&mut self, node: Node) -> Result<(), StorageError> {
        if self.state.nodes.get(&node.id) == Some(&node) {
            return Ok(());
        }
        let what = format!("register node {} as {}", node.id, node.name);
        self.confirm(&[Change::PutNode(node)], what).await
    }

    /// Remembers stores that were never seen, or not at this node and path.
    async fn register_stores(&mut self, node: NodeId, report: &Report) -> Result<(), StorageError> {
        let mut changes = Vec::new();
        for store in &report.stores {
            let Some(id) = store.id else {
                continue;
            };
            let known = self.state.stores.get(&id);
            let elsewhere = known.filter(|known| known.node != node);
            let serves_elsewhere = elsewhere.is_some_and(|known| {
                let report = self.reconciler.report(known.node);
                report.is_some_and(|report| report.stores.iter().any(|seen| seen.id == Some(id)))
            });
            if serves_elsewhere {
                tracing::error!(
                    "store {id} is served by two nodes; {} is not believed",
                    store.path
                );
                continue;
            }
            if known.is_none_or(|known| known.path != store.path || known.node != node) {
                changes.push(Change::PutStore(Store {
                    id,
                    node,
                    path: store.path.clone(),
                    capacity_bytes: store.capacity_bytes,
                }));
            }
        }
        let what = format!("register {} stores", changes.len());
        self.confirm(&changes, what).await
    }
}
