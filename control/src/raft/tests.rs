//! Three masters in one process, over loopback, each with its own file.
//!
//! Every wait is for a condition and bounded; a master that is "cut" neither sends nor answers.

use super::{Command, CommitError, Expect, Group, MembershipError, Role, Timing};
use crate::registry::database::{Identities, Registry};
use crate::registry::{Audit, Change, Node, State};
use holdfast_core::id::{ClusterId, NodeId};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;

const LONG: Duration = Duration::from_secs(60);

fn timing() -> Timing {
    Timing {
        commit: Duration::from_millis(1_500),
        snapshot_entries: 20,
        ..Timing::default()
    }
}

struct Master {
    number: u8,
    directory: PathBuf,
    address: String,
    running: Option<Running>,
}

struct Running {
    group: Group,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl Master {
    /// A master that founds a cluster.
    async fn founding(number: u8) -> Master {
        Master::make(number, Some(ClusterId([number; 16]))).await
    }

    /// A master that waits to be taken into one.
    async fn empty(number: u8) -> Master {
        Master::make(number, None).await
    }

    async fn make(number: u8, cluster: Option<ClusterId>) -> Master {
        let name = format!("holdfast-raft-{}", uuid::Uuid::new_v4());
        let mut master = Master {
            number,
            directory: std::env::temp_dir().join(name),
            address: "127.0.0.1:0".into(),
            running: None,
        };
        master.start_as(cluster).await;
        master
    }

    async fn start(&mut self) {
        self.start_as(None).await;
    }

    async fn start_as(&mut self, cluster: Option<ClusterId>) {
        let incoming = TcpIncoming::bind(self.address.parse().expect("an address"));
        let incoming = incoming.expect("the port is free");
        self.address = incoming.local_addr().expect("bound").to_string();
        let node = NodeId([self.number; 16]);
        let opened = Registry::open(&self.directory, Identities { cluster, node });
        let (registry, _) = opened.expect("opened");
        let group = Group::start(registry, node, self.address.clone(), timing());
        let group = group.await.expect("started");
        let (stop, stopped) = oneshot::channel::<()>();
        let service = group.service();
        let server = tonic::transport::Server::builder().add_service(service);
        let stopped = async move {
            let _ = stopped.await;
        };
        let server = tokio::spawn(async move {
            let served = server.serve_with_incoming_shutdown(incoming, stopped).await;
            served.expect("served");
        });
        self.running = Some(Running {
            group,
            stop,
            server,
        });
    }

    /// Ends as if killed: nothing is handed over.
    async fn kill(&mut self) {
        let running = self.running.take().expect("running");
        let Running {
            group,
            stop,
            server,
        } = running;
        let file = group.file();
        group.contacts().cut(true);
        group.stop().await;
        drop((group, stop));
        let ended = tokio::time::timeout(LONG, server).await;
        ended.expect("in time").expect("not panicked");
        // The library's tasks let go of the file one by one.
        let gone = async {
            while file.upgrade().is_some() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, gone).await.expect("closed");
    }

    fn group(&self) -> &Group {
        &self.running.as_ref().expect("running").group
    }

    fn term(&self) -> u64 {
        self.group().metrics().borrow().current_term
    }

    async fn becomes(&self, wanted: impl Fn(&Role) -> bool) -> Role {
        let mut role = self.group().role();
        let reached = tokio::time::timeout(LONG, role.wait_for(|role| wanted(role))).await;
        let reached = reached.unwrap_or_else(|_| panic!("master {} never did", self.number));
        reached.expect("running").clone()
    }

    async fn leads(&self) {
        self.becomes(|role| matches!(role, Role::Leading { .. }))
            .await;
    }

    async fn follows(&self, leader: &Master) {
        self.becomes(|role| {
            matches!(role, Role::Following { leader: Some(seat) } if seat.address == leader.address)
        })
        .await;
    }

    async fn state(&self) -> State {
        self.group().state().await.expect("in a cluster").0
    }

    async fn commit(&self, name: &str) -> Result<u64, CommitError> {
        self.group().commit(naming(name)).await
    }

    /// Waits until it has asked for votes so many times more.
    async fn asks_in_vain(&self, times: u64) {
        let mut asked = self.group().contacts().asked();
        let goal = *asked.borrow() + times;
        let reached = tokio::time::timeout(LONG, asked.wait_for(|count| *count >= goal)).await;
        reached.expect("in time").expect("running");
    }

    /// Waits until its log begins behind `index`.
    async fn purges(&self, index: u64) {
        let mut metrics = self.group().metrics();
        let purged = metrics.wait_for(|now| now.purged.is_some_and(|at| at.index >= index));
        let purged = tokio::time::timeout(LONG, purged).await;
        purged.expect("in time").expect("running");
    }

    /// Waits until the node of that name is in its state.
    async fn learns(&self, name: &str) {
        let id = node(name).id;
        let learned = async {
            let mut metrics = self.group().metrics();
            while !self.state().await.nodes.contains_key(&id) {
                metrics.changed().await.expect("running");
            }
        };
        let learned = tokio::time::timeout(LONG, learned).await;
        learned.unwrap_or_else(|_| panic!("master {} never learned of {name}", self.number));
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn node(name: &str) -> Node {
    let mut id = [0; 16];
    id[..name.len()].copy_from_slice(name.as_bytes());
    Node {
        id: NodeId(id),
        name: name.into(),
        zone: String::new(),
        peer_address: String::new(),
        portals: vec![],
        cordoned: false,
        draining: false,
    }
}

fn naming(name: &str) -> Command {
    Command {
        changes: vec![Change::PutNode(node(name))],
        audit: Audit {
            at_ms: 1,
            who: "test".into(),
            request_id: String::new(),
            what: format!("name {name}"),
        },
        expects: Vec::new(),
    }
}

/// Three masters, the first leads.
async fn three() -> [Master; 3] {
    let first = Master::founding(1).await;
    first.leads().await;
    let (second, third) = (Master::empty(2).await, Master::empty(3).await);
    for other in [&second, &third] {
        first.group().add(&other.address).await.expect("added");
        other.follows(&first).await;
    }
    [first, second, third]
}

/// The one of `masters` that comes to lead first.
async fn new_leader(masters: [&Master; 2]) -> &Master {
    tokio::select! {
        () = masters[0].leads() => masters[0],
        () = masters[1].leads() => masters[1],
    }
}

#[tokio::test]
async fn a_single_master_leads_at_once_and_keeps_everything_over_a_restart() {
    let mut master = Master::founding(1).await;
    master.leads().await;
    master.commit("a").await.expect("committed");
    let before = master.state().await;
    master.kill().await;
    master.address = "127.0.0.1:0".into(); // It may move, too.
    master.start().await;
    master.leads().await;
    assert_eq!(master.state().await, before);
    master.commit("b").await.expect("committed");
    let masters = master.group().masters();
    assert_eq!(masters.len(), 1);
    assert_eq!(masters[0].seat.address, master.address);
}

#[tokio::test]
async fn a_master_without_a_cluster_never_founds_one() {
    let mut waiting = Master::empty(1).await;
    assert_eq!(waiting.commit("a").await, Err(CommitError::NotLeader(None)));
    waiting.kill().await;
    waiting.start().await;
    let leader = Master::founding(2).await;
    leader.leads().await;
    // Invited, and then forgotten by its host.
    leader.group().add(&waiting.address).await.expect("added");
    waiting.kill().await;
    waiting.start().await;
    waiting.follows(&leader).await;
    let stranger = Master::founding(3).await;
    stranger.leads().await;
    let refused = leader.group().add(&stranger.address).await;
    assert!(
        matches!(refused, Err(MembershipError::Peer { .. })),
        "{refused:?}"
    );
    assert_eq!(leader.group().masters().len(), 2);
}

#[tokio::test]
async fn the_others_elect_a_leader_and_the_killed_one_comes_back_without_disturbing() {
    let [mut first, second, third] = three().await;
    first.commit("a").await.expect("committed");
    first.kill().await;
    let leader = new_leader([&second, &third]).await;
    assert!(leader.state().await.nodes.contains_key(&node("a").id));
    leader.commit("b").await.expect("committed");
    let term = leader.term();
    first.start().await;
    first.follows(leader).await;
    first.learns("b").await;
    leader.commit("c").await.expect("committed");
    for master in [&first, &second, &third] {
        master.learns("c").await;
        assert_eq!(master.term(), term);
    }
}

#[tokio::test]
async fn a_leader_that_is_cut_off_commits_nothing_and_steps_back() {
    let [first, second, third] = three().await;
    first.group().contacts().cut(true);
    let lost = first.commit("lost").await;
    assert_eq!(lost, Err(CommitError::Unknown));
    let leader = new_leader([&second, &third]).await;
    first
        .becomes(|role| matches!(role, Role::Following { leader: None }))
        .await;
    assert!(first.group().confirm().await.is_err());
    leader.commit("kept").await.expect("committed");
    first.group().contacts().cut(false);
    first.learns("kept").await;
    first.follows(leader).await;
    for master in [&first, &second, &third] {
        master.learns("kept").await;
        assert!(!master.state().await.nodes.contains_key(&node("lost").id));
    }
}

#[tokio::test]
async fn a_follower_that_was_cut_off_returns_without_an_election() {
    let [first, second, third] = three().await;
    let term = first.term();
    third.group().contacts().cut(true);
    third
        .becomes(|role| matches!(role, Role::Following { leader: None }))
        .await;
    third.asks_in_vain(3).await;
    first.commit("a").await.expect("committed");
    third.group().contacts().cut(false);
    third.learns("a").await;
    first.commit("b").await.expect("committed");
    for master in [&first, &second, &third] {
        master.learns("b").await;
        assert_eq!(master.term(), term);
    }
}

#[tokio::test]
async fn a_master_that_missed_more_than_the_log_keeps_gets_a_snapshot() {
    let [first, second, mut third] = three().await;
    third.kill().await;
    for index in 0..100 {
        first.commit(&format!("n{index}")).await.expect("committed");
    }
    first.purges(60).await;
    third.start().await;
    third.learns("n99").await;
    assert_eq!(third.state().await.nodes, first.state().await.nodes);
    let audit = third.group().audit(1_000).await.expect("read");
    assert_eq!(audit, first.group().audit(1_000).await.expect("read"));
    // And it is worth as much as the others: it survives a restart, and votes.
    third.kill().await;
    third.start().await;
    third.learns("n99").await;
    drop(second);
}

#[tokio::test]
async fn masters_are_removed_even_the_leader_and_the_last_one_stays() {
    let [first, second, third] = three().await;
    let gone = first.group().remove(NodeId([3; 16])).await;
    assert_eq!(gone.expect("removed").address, third.address);
    assert_eq!(first.group().masters().len(), 2);
    assert!(first.group().remove(NodeId([9; 16])).await.is_err());
    first
        .group()
        .remove(NodeId([1; 16]))
        .await
        .expect("removed");
    second.leads().await;
    second.commit("a").await.expect("committed");
    let masters = second.group().masters();
    assert!(
        masters.iter().filter(|master| master.voter).count() == 1,
        "{masters:?}"
    );
    // Its place can be taken again.
    second.group().add(&third.address).await.expect("added");
    third.learns("a").await;
}

#[tokio::test]
async fn a_command_on_an_older_state_is_refused_and_changes_nothing() {
    let master = Master::founding(1).await;
    master.leads().await;
    let seen = master.commit("a").await.expect("committed");
    let with = |name: &str, expect| Command {
        expects: vec![expect],
        ..naming(name)
    };
    let group = master.group();
    let late = group
        .commit(with("b", Expect::NothingSince(seen - 1)))
        .await;
    assert!(matches!(late, Err(CommitError::Refused(_))), "{late:?}");
    let fresh = group.commit(with("c", Expect::NothingSince(seen))).await;
    fresh.expect("committed");
    let state = master.state().await;
    assert!(!state.nodes.contains_key(&node("b").id));
    assert!(state.nodes.contains_key(&node("c").id));
    let audit = group.audit(10).await.expect("read");
    assert!(audit.iter().all(|entry| entry.what != "name b"));
}
