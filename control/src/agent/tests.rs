//! Agent and master against a scripted volume server at the other end of a socket pair.

use super::cache::Cache;
use super::{Identity, converse};
use crate::limits::ORDERS_IN_FLIGHT_MAX;
use crate::master::{Caller, Handle, Lead, Master};
use crate::raft::{Group, Role, Timing};
use crate::reconcile::Condition;
use crate::registry::database::{Identities, Registry};
use crate::registry::{NewVolume, Policy, RefusalKind};
use crate::view::View;
use holdfast_core::id::{ClusterId, NodeId, VolumeId};
use holdfast_core::link::{self, Body, Message};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::transport::server::TcpIncoming;

/// Long enough for a loaded machine; a test that waits so long fails.
const PATIENCE: Duration = Duration::from_secs(60);

const STORE: [u8; 16] = [7; 16];

/// A master with its registry in a directory of its own.
pub(crate) struct Control {
    pub(crate) handle: Handle,
    pub(crate) url: String,
    agent: super::Running,
    directory: PathBuf,
    stop: watch::Sender<bool>,
    running: tokio::task::JoinHandle<()>,
}

impl Control {
    pub(crate) async fn start() -> Control {
        let name = format!("holdfast-agent-{}", uuid::Uuid::new_v4());
        Control::start_in(std::env::temp_dir().join(name)).await
    }

    async fn start_in(directory: PathBuf) -> Control {
        let fresh = Identities {
            cluster: Some(ClusterId([1; 16])),
            node: NodeId([2; 16]),
        };
        let (registry, state) = Registry::open(&directory, fresh).expect("opened");
        // Another one for each start: the agent before closes its file in its own time.
        let cache = directory.join(format!("agent-{}", uuid::Uuid::new_v4()));
        let cache = Cache::open(&cache, state.node).expect("opened");
        let any = "127.0.0.1:0".parse().expect("an address");
        let incoming = TcpIncoming::bind(any).expect("bound");
        let address = incoming.local_addr().expect("bound").to_string();
        let group = Group::start(registry, state.node, address, Timing::default());
        let group = group.await.expect("started");
        let mut role = group.role();
        let leads = role.wait_for(|role| matches!(role, Role::Leading { .. }));
        timeout(PATIENCE, leads)
            .await
            .expect("in time")
            .expect("running");
        let applied = group.state().await.expect("in a cluster");
        let audit = group.audit(1_000).await.expect("read");
        let (master, handle) = Master::start(group.clone(), applied, audit);
        let (stop, mut stopping) = watch::channel(false);
        let url = format!("http://{}", incoming.local_addr().expect("bound"));
        let (_, lead) = watch::channel(Lead::Here(handle.clone()));
        let (leader, _) = watch::channel(String::new());
        let ended = handle.clone();
        let grpc =
            crate::service::serve(incoming, lead, None, async move { ended.stopped().await });
        tokio::spawn(grpc);
        let identity = Identity {
            name: "n".into(),
            zone: String::new(),
        };
        let agent = super::start(cache, identity, vec![url.clone()], leader);
        let running = tokio::spawn(async move {
            let stopped = async move {
                let _ = stopping.wait_for(|stop| *stop).await;
            };
            master.run(stopped).await.expect("storage works");
            let file = group.file();
            group.stop().await;
            drop(group);
            while file.upgrade().is_some() {
                tokio::task::yield_now().await;
            }
        });
        Control {
            handle,
            url,
            agent,
            directory,
            stop,
            running,
        }
    }

    async fn restart(self) -> Control {
        self.stop.send_replace(true);
        self.running.await.expect("no panic");
        Control::start_in(self.directory).await
    }

    pub(crate) async fn end(self) {
        self.stop.send_replace(true);
        self.running.await.expect("no panic");
        std::fs::remove_dir_all(&self.directory).expect("ours");
    }

    /// An agent of another node that joins this master.
    pub(crate) fn join(&self, byte: u8) -> super::Running {
        let cache = self.directory.join(format!("agent-{byte}"));
        let cache = Cache::open(&cache, NodeId([byte; 16])).expect("opened");
        let identity = Identity {
            name: format!("n{byte}"),
            zone: String::new(),
        };
        let (leader, _) = watch::channel(String::new());
        super::start(cache, identity, vec![self.url.clone()], leader)
    }

    async fn create(&self, name: &str) -> VolumeId {
        let request = NewVolume {
            name: name.parse().expect("a name"),
            size_bytes: 1 << 30,
            access: None,
            store: None,
            policy: Policy::default(),
            allow_degraded: false,
        };
        self.handle
            .create(request, caller())
            .await
            .expect("created")
    }

    pub(crate) async fn until(&self, what: impl Fn(&View) -> bool) -> Arc<View> {
        let mut views = self.handle.view();
        let view = timeout(PATIENCE, views.wait_for(|view| what(view))).await;
        Arc::clone(&view.expect("in time").expect("the master lives"))
    }

    async fn until_condition(&self, condition: Condition) {
        self.until(|view| {
            view.volumes
                .first()
                .is_some_and(|v| v.status.condition == condition)
        })
        .await;
    }
}

pub(crate) fn caller() -> Caller {
    Caller {
        who: "test".into(),
        request_id: "1".into(),
    }
}

/// The scripted volume server.
pub(crate) struct Server {
    stream: UnixStream,
    bytes: Vec<u8>,
}

impl Server {
    /// Connects without a word.
    fn silent(control: &Control) -> (Server, tokio::task::JoinHandle<String>) {
        Server::silent_at(&control.agent)
    }

    fn silent_at(agent: &super::Running) -> (Server, tokio::task::JoinHandle<String>) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let agent = agent.handle.clone();
        let link = tokio::spawn(async move { converse(theirs, agent).await.to_string() });
        let server = Server {
            stream: ours,
            bytes: Vec::new(),
        };
        (server, link)
    }

    /// Connects to an agent and is welcomed.
    pub(crate) async fn connect_to(agent: &super::Running, hello: link::Hello) -> Server {
        let (mut server, _) = Server::silent_at(agent);
        server.send(0, Body::Hello(hello)).await;
        match server.receive().await.body {
            Some(Body::Welcome(welcome)) => assert_eq!(welcome.version, link::VERSION),
            _ => panic!("no welcome"),
        }
        server
    }

    /// Connects and is welcomed.
    pub(crate) async fn connect(control: &Control, volumes: &[(VolumeId, u64)]) -> Server {
        let (mut server, _) = Server::silent(control);
        server.send(0, hello(link::VERSION, volumes)).await;
        match server.receive().await.body {
            Some(Body::Welcome(welcome)) => assert_eq!(welcome.version, link::VERSION),
            _ => panic!("no welcome"),
        }
        let known = |view: &View| view.nodes.iter().any(|node| node.server.is_some());
        control.until(known).await;
        server
    }

    pub(crate) async fn send(&mut self, request_id: u64, body: Body) {
        let message = Message {
            request_id,
            body: Some(body),
        };
        let bytes = link::encode(&message).expect("small");
        self.stream.write_all(&bytes).await.expect("open");
    }

    pub(crate) async fn receive(&mut self) -> Message {
        loop {
            if let Some((message, used)) = link::decode(&self.bytes).expect("well framed") {
                self.bytes.drain(..used);
                return message;
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.bytes)).await;
            assert_ne!(read.expect("in time").expect("open"), 0, "closed");
        }
    }

    /// The next message, which is an assignment.
    pub(crate) async fn assignment(&mut self) -> (u64, link::Assignment) {
        let message = self.receive().await;
        match message.body {
            Some(Body::Assign(assignment)) => (message.request_id, assignment),
            _ => panic!("no assignment"),
        }
    }

    async fn removal(&mut self) -> u64 {
        let message = self.receive().await;
        assert!(matches!(message.body, Some(Body::Remove(_))));
        message.request_id
    }

    /// Answers the next message, which is a removal.
    pub(crate) async fn confirm_removal(&mut self) {
        let request = self.removal().await;
        self.reply(request, link::ReplyCode::Ok).await;
        self.report(&[]).await;
    }

    pub(crate) async fn reply(&mut self, request_id: u64, code: link::ReplyCode) {
        let reply = link::Reply {
            code: code.into(),
            message: "as scripted".into(),
        };
        self.send(request_id, Body::Reply(reply)).await;
    }

    pub(crate) async fn report(&mut self, volumes: &[(VolumeId, u64)]) {
        self.send(0, Body::Report(report(volumes))).await;
    }

    /// The link is closed by the other end.
    async fn is_closed(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.bytes)).await;
        matches!(read.expect("in time"), Ok(0) | Err(_))
    }
}

fn hello(version: u32, volumes: &[(VolumeId, u64)]) -> Body {
    Body::Hello(link::Hello {
        version_min: version,
        version_max: version,
        pid: 42,
        portals: vec!["127.0.0.1:3260".into()],
        report: Some(report(volumes)),
        ..Default::default()
    })
}

pub(crate) fn report(volumes: &[(VolumeId, u64)]) -> link::Report {
    let volume = |&(id, epoch): &(VolumeId, u64)| link::VolumeReport {
        volume_id: id.0.to_vec(),
        store_id: STORE.to_vec(),
        epoch,
        serving: true,
        size_bytes: 1 << 30,
        ..Default::default()
    };
    link::Report {
        stores: vec![link::StoreReport {
            store_id: STORE.to_vec(),
            path: "/store".into(),
            capacity_bytes: 1 << 40,
            free_bytes: 1 << 40,
            ..Default::default()
        }],
        volumes: volumes.iter().map(volume).collect(),
        stores_opening: 0,
    }
}

#[tokio::test]
async fn a_volume_is_assigned_confirmed_and_served() {
    let control = Control::start().await;
    let mut server = Server::connect(&control, &[]).await;
    let id = control.create("a").await;
    let (request, assignment) = server.assignment().await;
    assert_eq!(assignment.volume_id, id.0);
    assert_eq!(assignment.store_id, STORE);
    assert_eq!(assignment.iqn, "iqn.2026-11.io.holdfast:a");
    assert!(assignment.create);
    server.reply(request, link::ReplyCode::Ok).await;
    server.report(&[(id, 1)]).await;
    control.until_condition(Condition::Serving).await;
    control.end().await;
}

#[tokio::test]
async fn a_lost_reply_is_made_up_for_after_the_reconnect() {
    let control = Control::start().await;
    let mut server = Server::connect(&control, &[]).await;
    let id = control.create("a").await;
    let (_, first) = server.assignment().await;
    drop(server); // It was created, and the reply was lost.
    control.until(|view| view.nodes[0].server.is_none()).await;
    let mut server = Server::connect(&control, &[]).await;
    let (request, second) = server.assignment().await;
    assert!(first == second); // Secrets have no Debug.
    server.reply(request, link::ReplyCode::Ok).await;
    server.report(&[(id, 1)]).await;
    control.until_condition(Condition::Serving).await;
    control.end().await;
}

#[tokio::test]
async fn a_confirmed_volume_is_not_created_again_even_after_a_restart_of_the_control_process() {
    let control = Control::start().await;
    let mut server = Server::connect(&control, &[]).await;
    let id = control.create("a").await;
    let (request, _) = server.assignment().await;
    server.reply(request, link::ReplyCode::Ok).await;
    control
        .until(|view| view.volumes[0].volume.is_created())
        .await;
    drop(server);
    let control = control.restart().await;
    let mut server = Server::connect(&control, &[]).await;
    let (request, assignment) = server.assignment().await;
    assert_eq!(assignment.volume_id, id.0);
    assert!(!assignment.create);
    server.reply(request, link::ReplyCode::NotFound).await;
    let told = |view: &View| view.volumes[0].status.reason == "as scripted";
    let view = control.until(told).await;
    assert_eq!(view.volumes[0].status.condition, Condition::Unavailable);
    control.end().await;
}

#[tokio::test]
async fn a_stale_epoch_makes_the_volume_unavailable() {
    let control = Control::start().await;
    let mut server = Server::connect(&control, &[]).await;
    let id = control.create("a").await;
    let (request, assignment) = server.assignment().await;
    assert_eq!(assignment.epoch, 1);
    server.report(&[(id, 5)]).await;
    server.reply(request, link::ReplyCode::StaleEpoch).await;
    let told = |view: &View| view.volumes[0].status.reason.contains("older");
    control.until(told).await;
    control.end().await;
}

#[tokio::test]
async fn a_deleted_volume_is_buried_and_its_ghost_removed() {
    let control = Control::start().await;
    let mut server = Server::connect(&control, &[]).await;
    let id = control.create("a").await;
    let (request, _) = server.assignment().await;
    server.reply(request, link::ReplyCode::Ok).await;
    let name: crate::name::VolumeName = "a".parse().expect("a name");
    control
        .handle
        .delete(name.clone(), caller())
        .await
        .expect("registered");
    let request = server.removal().await;
    server.reply(request, link::ReplyCode::Ok).await;
    control.until(|view| view.volumes.is_empty()).await;
    let twice = control
        .handle
        .delete(name, caller())
        .await
        .expect_err("gone");
    assert_eq!(twice.kind, RefusalKind::NotFound);
    drop(server);
    control.until(|view| view.nodes[0].server.is_none()).await;
    let mut server = Server::connect(&control, &[(id, 0)]).await;
    server.removal().await;
    control.end().await;
}

#[tokio::test]
async fn a_second_volume_server_is_told_and_the_first_goes_on() {
    let control = Control::start().await;
    let mut first = Server::connect(&control, &[]).await;
    let (mut second, link) = Server::silent(&control);
    second.send(0, hello(link::VERSION, &[])).await;
    match second.receive().await.body {
        Some(Body::Welcome(welcome)) => assert!(welcome.refused.contains("42")),
        _ => panic!("no answer"),
    }
    assert!(second.is_closed().await);
    assert!(link.await.expect("no panic").contains("refused"));
    control.create("a").await;
    first.assignment().await;
    control.end().await;
}

#[tokio::test]
async fn another_version_is_refused_with_a_reason() {
    let control = Control::start().await;
    let (mut server, _) = Server::silent(&control);
    server.send(0, hello(link::VERSION + 1, &[])).await;
    match server.receive().await.body {
        Some(Body::Welcome(welcome)) => {
            assert_eq!(welcome.version, 0);
            assert!(welcome.refused.contains("version"));
        }
        _ => panic!("no answer"),
    }
    assert!(server.is_closed().await);
    control.end().await;
}

#[tokio::test]
async fn what_breaks_the_protocol_closes_the_link_and_nothing_else() {
    let control = Control::start().await;
    let too_long = u32::MAX.to_le_bytes().to_vec();
    let malformed = vec![4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
    let not_hello = link::encode(&Message {
        request_id: 0,
        body: Some(Body::Report(report(&[]))),
    });
    for bytes in [too_long, malformed, not_hello.expect("small")] {
        let (mut server, _) = Server::silent(&control);
        server.stream.write_all(&bytes).await.expect("open");
        assert!(server.is_closed().await);
    }
    let mut server = Server::connect(&control, &[]).await;
    server.send(0, Body::Drain(link::Drain {})).await;
    assert!(server.is_closed().await);
    drop(Server::connect(&control, &[]).await);
    control.end().await;
}

#[tokio::test]
async fn many_orders_pass_in_turn() {
    let control = Control::start().await;
    let mut server = Server::connect(&control, &[]).await;
    let count = 2 * ORDERS_IN_FLIGHT_MAX + 10;
    for index in 0..count {
        control.create(&format!("v{index}")).await;
    }
    for _ in 0..count {
        let (request, _) = server.assignment().await;
        server.reply(request, link::ReplyCode::Ok).await;
    }
    let all = |view: &View| {
        view.volumes
            .iter()
            .filter(|v| v.volume.is_created())
            .count()
            == count
    };
    control.until(all).await;
    control.end().await;
}
