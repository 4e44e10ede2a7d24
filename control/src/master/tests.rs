//! Several nodes: agents over gRPC, scripted volume servers, the coordinator of a replicated volume.

use super::Handle;
use crate::agent::Running;
use crate::agent::tests::{Control, Server, caller};
use crate::health::Health;
use crate::reconcile::Condition;
use crate::registry::{NewVolume, Policy};
use holdfast_core::id::VolumeId;
use holdfast_core::link::{self, Body, Role};

const GIB: u64 = 1 << 30;

/// A node beside the one with the master: its agent and its scripted volume server.
pub(super) struct Peer {
    agent: Option<Running>,
    pub(super) server: Server,
    pub(super) store: [u8; 16],
    pub(super) volume: Option<link::VolumeReport>,
    /// The last epoch that it was fenced with.
    fenced: u64,
}

impl Peer {
    /// As its agent joined.
    pub(super) fn node_name(&self) -> String {
        format!("n{}", self.store[0] - 100)
    }

    pub(super) async fn join(control: &Control, byte: u8) -> Peer {
        let agent = control.join(byte);
        let store = [byte + 100; 16];
        let hello = link::Hello {
            version_min: link::VERSION,
            version_max: link::VERSION,
            pid: u32::from(byte),
            portals: vec![format!("127.0.0.{byte}:3260")],
            report: Some(report(store, None)),
            peer_address: format!("127.0.0.{byte}:9481"),
        };
        let server = Server::connect_to(&agent, hello).await;
        Peer {
            agent: Some(agent),
            server,
            store,
            volume: None,
            fenced: 0,
        }
    }

    /// Obeys fences and assignments up to the next one of the latter, which it returns.
    pub(super) async fn obey(&mut self) -> link::Assignment {
        loop {
            let message = self.server.receive().await;
            match message.body {
                Some(Body::Fence(fence)) => self.promise(message.request_id, fence).await,
                Some(Body::Assign(assignment)) => {
                    self.take(message.request_id, &assignment).await;
                    return assignment;
                }
                _ => panic!("neither fence nor assignment"),
            }
        }
    }

    /// Confirms an assignment and reports what it made of the copy.
    async fn take(&mut self, request: u64, assignment: &link::Assignment) {
        assert_eq!(assignment.store_id, self.store);
        self.server.reply(request, link::ReplyCode::Ok).await;
        self.volume = Some(link::VolumeReport {
            volume_id: assignment.volume_id.clone(),
            store_id: self.store.to_vec(),
            epoch: assignment.epoch,
            promised_epoch: assignment.epoch,
            set_version: assignment.set_version,
            role: assignment.role,
            serving: assignment.role() == Role::Primary,
            size_bytes: GIB,
            ..Default::default()
        });
        self.tell().await;
    }

    /// Answers a fence as a copy that is whole.
    async fn promise(&mut self, request: u64, fence: link::Fence) {
        self.fenced = fence.epoch;
        let answer = link::Fenced {
            volume_id: fence.volume_id,
            store_id: fence.store_id,
            ok: true,
            epoch: fence.epoch,
            last_epoch: 1,
            last_lsn: 7,
            ..Default::default()
        };
        self.server.send(request, Body::Fenced(answer)).await;
    }

    /// Obeys until it has the given reign and set.
    pub(super) async fn obey_until(&mut self, epoch: u64, set_version: u64) -> link::Assignment {
        loop {
            let told = self.obey().await;
            if (told.epoch, told.set_version) >= (epoch, set_version) {
                return told;
            }
        }
    }

    pub(super) async fn tell(&mut self) {
        let report = report(self.store, self.volume.clone());
        self.server.send(0, Body::Report(report)).await;
    }
}

pub(super) fn report(store: [u8; 16], volume: Option<link::VolumeReport>) -> link::Report {
    link::Report {
        stores: vec![link::StoreReport {
            store_id: store.to_vec(),
            path: "/store".into(),
            capacity_bytes: 1 << 40,
            free_bytes: 1 << 40,
            ..Default::default()
        }],
        volumes: volume.into_iter().collect(),
        ..Default::default()
    }
}

pub(super) async fn create(handle: &Handle, rf: u8) -> VolumeId {
    let request = NewVolume {
        name: "a".parse().expect("a name"),
        size_bytes: GIB,
        access: None,
        store: None,
        policy: Policy {
            rf,
            ..Policy::default()
        },
        allow_degraded: false,
    };
    handle.create(request, caller()).await.expect("created")
}

/// A volume with two copies that is served; the primary's peer first.
pub(super) async fn two_copies(control: &Control) -> (VolumeId, Peer, Peer) {
    let mut first = Peer::join(control, 11).await;
    let mut second = Peer::join(control, 12).await;
    let both = |view: &crate::view::View| {
        view.nodes
            .iter()
            .filter(|node| node.server.is_some())
            .count()
            == 2
    };
    control.until(both).await;
    let id = create(&control.handle, 2).await;
    let (told, other) = tokio::join!(first.obey(), second.obey());
    assert_eq!(told.members.len(), 2);
    assert!(told.create);
    let primary = told.role() == Role::Primary;
    assert_ne!(primary, other.role() == Role::Primary);
    let serving = |view: &crate::view::View| {
        let seen = &view.volumes[0];
        seen.status.condition == Condition::Serving && seen.volume.is_created()
    };
    control.until(serving).await;
    if primary {
        (id, first, second)
    } else {
        (id, second, first)
    }
}

fn proposal(of: &Peer, in_sync: &[&Peer]) -> Body {
    let volume = of.volume.as_ref().expect("assigned");
    Body::Propose(link::Propose {
        volume_id: volume.volume_id.clone(),
        epoch: volume.epoch,
        set_version: volume.set_version,
        in_sync: in_sync.iter().map(|peer| peer.store.to_vec()).collect(),
        reason: "as scripted".into(),
        store_id: of.store.to_vec(),
        ..Default::default()
    })
}

/// The answer to a proposal; assignments that come before it are confirmed.
async fn answer_of(peer: &mut Peer) -> link::ProposalAnswer {
    loop {
        let message = peer.server.receive().await;
        match message.body {
            Some(Body::ProposalAnswer(answer)) => return answer,
            Some(Body::Assign(_)) => {
                peer.server
                    .reply(message.request_id, link::ReplyCode::Ok)
                    .await;
            }
            _ => panic!("neither answer nor assignment"),
        }
    }
}

#[tokio::test]
async fn the_other_copy_reigns_when_the_primarys_volume_server_dies() {
    let control = Control::start().await;
    let (_, primary, mut secondary) = two_copies(&control).await;
    drop(primary.server);
    let told = secondary.obey_until(2, 1).await;
    assert_eq!(secondary.fenced, 2);
    assert_eq!(told.role(), Role::Primary);
    assert!(!told.create);
    let in_sync: Vec<_> = told.members.iter().filter(|m| m.in_sync).collect();
    assert_eq!(in_sync.len(), 1);
    assert_eq!(in_sync[0].store_id, secondary.store);
    let view = control
        .until(|view| {
            let seen = &view.volumes[0];
            seen.status.condition == Condition::Serving && seen.volume.epoch.0 == 2
        })
        .await;
    assert!(!view.volumes[0].degraded().is_empty());
    let cause = |event: &std::sync::Arc<crate::registry::Audit>| {
        event.what.contains("choosing a primary for epoch 2")
    };
    assert!(view.events.iter().any(cause), "{:?}", view.events);
    control.end().await;
}

#[tokio::test]
async fn the_primary_leaves_a_copy_out_only_when_the_masters_agree() {
    let control = Control::start().await;
    let (_, mut primary, mut secondary) = two_copies(&control).await;
    let alone = proposal(&primary, &[&primary]);
    primary.server.send(5, alone.clone()).await;
    let answer = answer_of(&mut primary).await;
    assert!(answer.accepted, "{}", answer.reason);
    assert_eq!((answer.epoch, answer.set_version), (1, 2));
    assert_eq!(answer.in_sync, [primary.store.to_vec()]);
    let told = secondary.obey_until(1, 2).await;
    let itself = told.members.iter().find(|m| m.store_id == secondary.store);
    assert!(!itself.expect("still a member").in_sync);
    // The same once more is of an old set; a stranger has nothing to propose.
    primary.server.send(6, alone).await;
    let answer = answer_of(&mut primary).await;
    assert!(!answer.accepted || answer.set_version == 2);
    let foreign = proposal(&secondary, &[&secondary]);
    secondary.server.send(7, foreign).await;
    let answer = answer_of(&mut secondary).await;
    assert!(!answer.accepted);
    assert_eq!(answer.in_sync, [primary.store.to_vec()]);
    control.end().await;
}

#[tokio::test]
async fn a_primary_is_moved_by_fencing_it_first() {
    let control = Control::start().await;
    let (_, mut primary, mut secondary) = two_copies(&control).await;
    let handle = control.handle.clone();
    let to = format!("n{}", secondary.store[0] - 100);
    let name: crate::name::VolumeName = "a".parse().expect("a name");
    let asked = tokio::spawn(async move { handle.move_primary(name, to, caller()).await });
    let (before, after) = tokio::join!(primary.obey_until(2, 1), secondary.obey_until(2, 1));
    assert_eq!(primary.fenced, 2);
    assert_eq!(before.role(), Role::Secondary);
    assert_eq!(after.role(), Role::Primary);
    asked.await.expect("no panic").expect("moved");
    control.end().await;
}

/// Its volume server serves on while its agent is away, and another copy tells so: nobody is to be woken
/// for a volume that is "unavailable".
#[tokio::test]
async fn a_volume_whose_primary_has_no_agent_is_not_called_unavailable() {
    let control = Control::start().await;
    let (_, mut primary, mut secondary) = two_copies(&control).await;
    // Behind an answer its coordinator knows both copies.
    primary.tell().await;
    let same = proposal(&primary, &[&primary, &secondary]);
    primary.server.send(5, same).await;
    answer_of(&mut primary).await;
    drop(primary.agent.take());
    secondary.tell().await; // It hears its primary.
    let known = |view: &crate::view::View| {
        let seen = &view.volumes[0];
        let reason = &seen.verdict.reason;
        seen.is_unheard()
            && seen.verdict.health == Health::Degraded
            && reason.contains("s old and says that hosts are served")
            && reason.contains("hears it")
    };
    control.until(known).await;
    control.end().await;
}

#[tokio::test]
async fn a_node_that_is_silent_stays_in_the_list() {
    let control = Control::start().await;
    let peer = Peer::join(&control, 11).await;
    control.until(|view| view.nodes.len() == 2).await;
    drop(peer);
    let view = control
        .until(|view| view.nodes.iter().any(|node| !node.heard))
        .await;
    let silent = view.nodes.iter().find(|node| !node.heard).expect("one");
    assert_eq!(silent.node.name, "n11");
    assert_eq!(silent.stores[0].report.failed, "not connected");
    control.end().await;
}
