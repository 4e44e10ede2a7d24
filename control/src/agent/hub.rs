//! The agent's one task: what passes between the volume server and the leading master, and what is
//! given from the cache while there is none.
//!
//! Requests of the master keep their numbers on the link; the agent's own have [`OWN`] set, so that
//! the two never meet. An assignment is cached when its OK comes back, and forgotten when its removal
//! does. Nothing is queued for a master that is away: reports repeat themselves, proposals are made
//! again by whoever wants them, orders are given again.

use super::cache::Cache;
use super::masters::{self, Identity};
use crate::limits::{BEAT, LINK_QUEUE, ORDERS_IN_FLIGHT_MAX, RECALL_WAIT, SERVER_WAIT};
use crate::proto::{self, agent_message, master_message};
use holdfast_core::id::{ClusterId, NodeId};
use holdfast_core::link::{self, Body};
use prost::Message as _;
use std::collections::{BTreeMap, VecDeque};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// Set in the numbers of requests that the agent makes itself.
const OWN: u64 = 1 << 63;

/// The agent is gone; the process is about to stop.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the agent is stopping")]
pub(super) struct Stopped;

type Accepted = oneshot::Sender<Result<u64, String>>;

enum Notice {
    LinkUp(Box<link::Hello>, mpsc::Sender<link::Message>, Accepted),
    LinkMessage(u64, Box<link::Message>),
    LinkDown(u64),
    MasterUp(ClusterId, mpsc::Sender<proto::AgentMessage>, Accepted),
    MasterMessage(u64, Box<proto::MasterMessage>),
    MasterDown(u64),
}

/// How others reach the agent.
#[derive(Clone)]
#[allow(missing_debug_implementations)] // Its queue may hold secrets.
pub struct Handle {
    notices: mpsc::Sender<Notice>,
}

/// Starts the agent and its search for the leader among `targets`; the last known leader's URL is
/// published on `leader`.
pub fn start(
    cache: Cache,
    identity: Identity,
    targets: Vec<String>,
    leader: watch::Sender<String>,
) -> Running {
    let (notices, inbox) = mpsc::channel(LINK_QUEUE);
    let handle = Handle { notices };
    let hub = Hub {
        node: cache.node(),
        cluster: cache.cluster(),
        cache,
        link: None,
        absent_from: Instant::now() + SERVER_WAIT,
        waiting: VecDeque::new(),
        master: None,
        last: 0,
        recall: VecDeque::new(),
        recalled: 0,
        recall_at: None,
        under_way: BTreeMap::new(),
    };
    let (node, cluster) = (hub.node, hub.cluster);
    let hub = tokio::spawn(hub.run(inbox));
    let search = masters::Search {
        node,
        identity,
        cluster,
        targets,
        leader,
    };
    let search = tokio::spawn(search.run(handle.clone()));
    Running {
        handle,
        tasks: [hub, search],
    }
}

/// An agent at work; it stops when this is dropped.
#[allow(missing_debug_implementations)] // Its queue may hold secrets.
pub struct Running {
    /// How others reach it.
    pub handle: Handle,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

impl Drop for Running {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Handle {
    /// A volume server said hello: a number for the link, or why it is refused.
    pub(super) async fn link_up(
        &self,
        hello: link::Hello,
        orders: mpsc::Sender<link::Message>,
    ) -> Result<Result<u64, String>, Stopped> {
        let (answer, answered) = oneshot::channel();
        self.tell(Notice::LinkUp(Box::new(hello), orders, answer))
            .await?;
        answered.await.map_err(|_| Stopped)
    }

    /// The volume server says something.
    pub(super) async fn link_message(
        &self,
        link: u64,
        message: link::Message,
    ) -> Result<(), Stopped> {
        self.tell(Notice::LinkMessage(link, Box::new(message)))
            .await
    }

    /// The link ended.
    pub(super) async fn link_down(&self, link: u64) -> Result<(), Stopped> {
        self.tell(Notice::LinkDown(link)).await
    }

    /// A master took this node in: a number for the session, or why it is not the right one.
    pub(super) async fn master_up(
        &self,
        cluster: ClusterId,
        out: mpsc::Sender<proto::AgentMessage>,
    ) -> Result<Result<u64, String>, Stopped> {
        let (answer, answered) = oneshot::channel();
        self.tell(Notice::MasterUp(cluster, out, answer)).await?;
        answered.await.map_err(|_| Stopped)
    }

    /// The master says something.
    pub(super) async fn master_message(
        &self,
        session: u64,
        message: proto::MasterMessage,
    ) -> Result<(), Stopped> {
        self.tell(Notice::MasterMessage(session, Box::new(message)))
            .await
    }

    /// The session ended.
    pub(super) async fn master_down(&self, session: u64) -> Result<(), Stopped> {
        self.tell(Notice::MasterDown(session)).await
    }

    /// Returns when the agent is gone.
    pub async fn stopped(&self) {
        self.notices.closed().await;
    }

    async fn tell(&self, notice: Notice) -> Result<(), Stopped> {
        self.notices.send(notice).await.map_err(|_| Stopped)
    }
}

struct Link {
    number: u64,
    orders: mpsc::Sender<link::Message>,
    /// With the newest report.
    hello: Box<link::Hello>,
}

struct Master {
    number: u64,
    out: mpsc::Sender<proto::AgentMessage>,
    /// It knows whether a volume server is connected.
    told: bool,
}

/// An order of the master without a reply.
enum UnderWay {
    Assign(Box<link::Assignment>),
    Remove(Vec<u8>),
}

struct Hub {
    node: NodeId,
    cluster: Option<ClusterId>,
    cache: Cache,
    link: Option<Link>,
    /// Without a link from then on there is no volume server. An agent that started again gives the
    /// one that runs on some time to come back: a false alarm would cost a failover.
    absent_from: Instant,
    /// Volume servers that wait until the cluster is known.
    waiting: VecDeque<(Box<link::Hello>, mpsc::Sender<link::Message>, Accepted)>,
    master: Option<Master>,
    last: u64,
    /// Cached assignments still to be given.
    recall: VecDeque<link::Assignment>,
    /// How many were given without a reply.
    recalled: usize,
    /// When the cache is used unless a master comes first.
    recall_at: Option<Instant>,
    under_way: BTreeMap<u64, UnderWay>,
}

impl Hub {
    async fn run(mut self, mut inbox: mpsc::Receiver<Notice>) {
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                notice = inbox.recv() => match notice {
                    Some(notice) => self.on_notice(notice),
                    None => return,
                },
                _ = beat.tick() => self.on_beat(),
            }
        }
    }

    fn on_notice(&mut self, notice: Notice) {
        match notice {
            Notice::LinkUp(hello, orders, answer) => self.on_link_up(hello, orders, answer),
            Notice::LinkMessage(number, message) => {
                if self.link.as_ref().is_some_and(|link| link.number == number) {
                    self.on_link_message(*message);
                }
            }
            Notice::LinkDown(number) => {
                if self.link.as_ref().is_some_and(|link| link.number == number) {
                    self.on_link_down();
                }
            }
            Notice::MasterUp(cluster, out, answer) => self.on_master_up(cluster, out, answer),
            Notice::MasterMessage(number, message) => {
                let is_present = |master: &Master| master.number == number;
                if self.master.as_ref().is_some_and(is_present) {
                    self.on_master_message(*message);
                }
            }
            Notice::MasterDown(number) => {
                let is_present = |master: &Master| master.number == number;
                if self.master.as_ref().is_some_and(is_present) {
                    tracing::warn!("lost the master; volumes are served on");
                    self.master = None;
                    self.recall_at = Some(Instant::now() + RECALL_WAIT);
                }
            }
        }
    }

    fn on_beat(&mut self) {
        self.report_up(agent_message::Body::Beat(proto::Beat {}));
        if self.master.as_ref().is_some_and(|master| !master.told) {
            self.introduce_link();
        }
        if self.master.is_some() || self.link.is_none() {
            return;
        }
        if self.recall_at.is_some_and(|at| Instant::now() >= at) {
            self.recall_at = None;
            self.recall = self.cache.alone().collect();
            if !self.recall.is_empty() {
                tracing::warn!(
                    volumes = self.recall.len(),
                    "no master is reachable: giving volumes with one copy from the cache"
                );
            }
            self.recall_more();
        }
    }

    fn on_link_up(
        &mut self,
        hello: Box<link::Hello>,
        orders: mpsc::Sender<link::Message>,
        answer: Accepted,
    ) {
        let Some(cluster) = self.cluster else {
            self.waiting.retain(|(_, orders, _)| !orders.is_closed());
            self.waiting.push_back((hello, orders, answer));
            return;
        };
        if let Some(link) = &self.link
            && !link.orders.is_closed()
        {
            let pid = link.hello.pid;
            let reason = format!("another volume server (process {pid}) is connected");
            let _ = answer.send(Err(reason)); // Then it is gone by itself.
            return;
        }
        if self.link.is_some() {
            self.on_link_down();
        }
        self.last += 1;
        let number = self.last;
        let welcome = link::Welcome {
            version: link::VERSION,
            refused: String::new(),
            cluster_id: cluster.0.to_vec(),
            node_id: self.node.0.to_vec(),
        };
        // The queue is fresh and has room for it; welcome goes before every order.
        let welcomed = orders.try_send(link::Message {
            request_id: 0,
            body: Some(Body::Welcome(welcome)),
        });
        if welcomed.is_err() || answer.send(Ok(number)).is_err() {
            return;
        }
        self.link = Some(Link {
            number,
            orders,
            hello,
        });
        self.recall_at = Some(Instant::now() + RECALL_WAIT);
        self.introduce_link();
    }

    fn on_link_down(&mut self) {
        self.link = None;
        self.under_way.clear();
        self.recall.clear();
        self.recalled = 0;
        self.absent_from = Instant::now();
        self.introduce_link();
    }

    fn on_link_message(&mut self, message: link::Message) {
        match &message.body {
            Some(Body::Report(report)) => {
                if let Some(link) = &mut self.link {
                    link.hello.report = Some(report.clone());
                }
            }
            Some(Body::Reply(_)) if message.request_id & OWN != 0 => {
                self.recalled = self.recalled.saturating_sub(1);
                self.recall_more();
                return;
            }
            Some(Body::Reply(reply)) => self.on_reply(message.request_id, reply),
            _ => {}
        }
        self.report_up(agent_message::Body::Link(message.encode_to_vec()));
    }

    fn on_reply(&mut self, request: u64, reply: &link::Reply) {
        let done = reply.code == link::ReplyCode::Ok as i32;
        match self.under_way.remove(&request) {
            Some(UnderWay::Assign(assignment)) if done => self.cache.put(*assignment),
            Some(UnderWay::Remove(volume)) if done => self.cache.forget(&volume),
            _ => {}
        }
    }

    fn on_master_up(
        &mut self,
        cluster: ClusterId,
        out: mpsc::Sender<proto::AgentMessage>,
        answer: Accepted,
    ) {
        if let Some(own) = self.cluster
            && own != cluster
        {
            let reason = format!("it belongs to cluster {cluster}, this node to {own}");
            let _ = answer.send(Err(reason));
            return;
        }
        if self.cluster.is_none() {
            self.cluster = Some(cluster);
            self.cache.set_cluster(cluster);
        }
        self.last += 1;
        self.master = Some(Master {
            number: self.last,
            out,
            told: false,
        });
        let _ = answer.send(Ok(self.last)); // Else the session's end is noticed by its queue.
        self.recall.clear();
        self.recall_at = None;
        self.under_way.clear();
        self.introduce_link();
        for (hello, orders, answer) in std::mem::take(&mut self.waiting) {
            self.on_link_up(hello, orders, answer);
        }
    }

    fn on_master_message(&mut self, message: proto::MasterMessage) {
        let Some(master_message::Body::Link(bytes)) = message.body else {
            tracing::warn!("the master sent what the agent does not know");
            return;
        };
        let Ok(message) = link::Message::decode(bytes.as_slice()) else {
            tracing::warn!("the master sent an order that cannot be decoded");
            return;
        };
        let Some(link) = &self.link else {
            return; // The master is told that there is none.
        };
        let under_way = match &message.body {
            Some(Body::Assign(assignment)) => {
                let mut assignment = assignment.clone();
                assignment.create = false; // What is cached exists.
                Some(UnderWay::Assign(Box::new(assignment)))
            }
            Some(Body::Remove(removal)) => Some(UnderWay::Remove(removal.volume_id.clone())),
            _ => None,
        };
        let request = message.request_id;
        if link.orders.try_send(message).is_err() {
            // The order is given again after the reconnect, or when its reply is overdue.
            tracing::warn!("control link: an order was not queued");
            return;
        }
        if let Some(under_way) = under_way {
            self.under_way.insert(request, under_way);
            while self.under_way.len() > LINK_QUEUE {
                self.under_way.pop_first(); // Never answered; the master has given up on it too.
            }
        }
    }

    /// Gives cached assignments, a bounded number at a time.
    fn recall_more(&mut self) {
        let Some(link) = &self.link else {
            return;
        };
        while self.recalled < ORDERS_IN_FLIGHT_MAX
            && let Some(assignment) = self.recall.pop_front()
        {
            self.last += 1;
            let order = link::Message {
                request_id: OWN | self.last,
                body: Some(Body::Assign(assignment)),
            };
            if link.orders.try_send(order).is_err() {
                return;
            }
            self.recalled += 1;
        }
    }

    /// Tells the master which volume server is connected, if any.
    fn introduce_link(&mut self) {
        if self.link.is_none() && Instant::now() < self.absent_from {
            return;
        }
        if let Some(master) = &mut self.master {
            master.told = true;
        }
        let hello = self.link.as_ref().map(|link| link.hello.encode_to_vec());
        let server = proto::VolumeServer {
            hello: hello.unwrap_or_default(),
        };
        self.report_up(agent_message::Body::VolumeServer(server));
    }

    /// Queues a message for the master; one that takes none is given up.
    fn report_up(&mut self, body: agent_message::Body) {
        let Some(master) = &self.master else {
            return;
        };
        let message = proto::AgentMessage { body: Some(body) };
        if master.out.try_send(message).is_err() {
            tracing::warn!("the master takes no messages; looking for it anew");
            self.master = None; // With its queue gone the session ends.
            self.recall_at = Some(Instant::now() + RECALL_WAIT);
        }
    }
}
