//! The only place that knows both protobuf messages and the domain.

use crate::access::{Access, AccessError, Chap, Secret};
use crate::health::{Health, Part};
use crate::master::{Joining, LinkEvent, Proposal, ProposalResult};
use crate::name::VolumeName;
use crate::proto::{self, agent_message, master_message};
use crate::reconcile::{
    Answer, Assignment, Condition, CopyReport, CopyState, Fenced, Member, Order, Report, Role,
    Server, StoreReport, VolumeReport,
};
use crate::registry::{Audit, Durability, NewVolume, Paths, Policy, Refusal, RefusalKind};
use crate::view::{CopyView, NodeView, StoreView, View, VolumeView};
use holdfast_core::id::{ClusterId, NodeId, StoreId, VolumeId};
use holdfast_core::link;
use holdfast_core::lsn::{Epoch, Lsn};
use prost::Message as _;
use std::str::FromStr;
use std::time::Duration;

// ---- the control link

/// Who connected and what it has.
pub fn hello_from(hello: link::Hello) -> Result<(Server, Report), Refusal> {
    let server = Server {
        pid: hello.pid,
        portals: hello.portals,
        peer_address: hello.peer_address,
    };
    Ok((server, report_from(hello.report.unwrap_or_default())?))
}

/// What a volume server says.
pub fn link_event_from(message: link::Message) -> Result<LinkEvent, Refusal> {
    let request = message.request_id;
    Ok(match message.body {
        Some(link::Body::Report(report)) => LinkEvent::Report(report_from(report)?),
        Some(link::Body::Reply(reply)) => LinkEvent::Reply(request, answer_from(reply)),
        Some(link::Body::Fenced(fenced)) => LinkEvent::Fenced(fenced_from(fenced)?),
        Some(link::Body::Propose(proposal)) => {
            LinkEvent::Proposed(request, proposal_from(proposal)?)
        }
        _ => {
            let message = "a message that only the agent sends, or an unknown one";
            return Err(Refusal::with(RefusalKind::Invalid, message));
        }
    })
}

/// What a volume server has.
pub fn report_from(report: link::Report) -> Result<Report, Refusal> {
    let stores = report.stores.into_iter().map(store_report_from);
    let volumes = report.volumes.into_iter().map(|volume| {
        let volume = volume_report_from(volume)?;
        Ok((volume.id, volume))
    });
    Ok(Report {
        stores: stores.collect::<Result<_, Refusal>>()?,
        volumes: volumes.collect::<Result<_, Refusal>>()?,
        stores_opening: report.stores_opening,
    })
}

fn store_report_from(store: link::StoreReport) -> Result<StoreReport, Refusal> {
    let id = match store.store_id.as_slice() {
        [] => None,
        bytes => Some(store_id(bytes)?),
    };
    Ok(StoreReport {
        id,
        path: store.path,
        failed: store.failed,
        capacity_bytes: store.capacity_bytes,
        free_bytes: store.free_bytes,
        wal_used_bytes: store.wal_used_bytes,
        wal_capacity_bytes: store.wal_capacity_bytes,
        shard: store.shard,
    })
}

fn volume_report_from(volume: link::VolumeReport) -> Result<VolumeReport, Refusal> {
    let silent = volume.primary_silent_ms;
    let role = match volume.role() {
        link::Role::Alone => Role::Alone,
        link::Role::Primary => Role::Primary,
        link::Role::Secondary => Role::Secondary,
    };
    let copies = volume.copies.iter().map(copy_report_from);
    Ok(VolumeReport {
        id: volume_id(&volume.volume_id)?,
        store: store_id(&volume.store_id)?,
        epoch: Epoch(volume.epoch),
        set_version: volume.set_version,
        role,
        serving: volume.serving,
        promised: Epoch(volume.promised_epoch),
        durable: Lsn(volume.durable_lsn),
        committed: Lsn(volume.committed_lsn),
        resyncing: volume.resyncing,
        primary_silent: (silent != u64::MAX).then(|| Duration::from_millis(silent)),
        copies: copies.collect::<Result<_, Refusal>>()?,
        size_bytes: volume.size_bytes,
        used_bytes: volume.used_bytes,
        sessions: volume.sessions,
        failed: volume.failed,
        blocks_healed: volume.blocks_healed,
        blocks_repaired: volume.blocks_repaired,
    })
}

fn copy_report_from(copy: &link::CopyReport) -> Result<CopyReport, Refusal> {
    let state = match copy.state() {
        link::CopyState::Down => CopyState::Down,
        link::CopyState::Attaching => CopyState::Attaching,
        link::CopyState::CatchingUp => CopyState::CatchingUp,
        link::CopyState::Resyncing => CopyState::Resyncing,
        link::CopyState::Joining => CopyState::Joining,
        link::CopyState::InSync => CopyState::InSync,
    };
    Ok(CopyReport {
        store: store_id(&copy.store_id)?,
        state,
        lag: copy.lag_lsn,
        resync_done_bytes: copy.resync_done_bytes,
        resync_total_bytes: copy.resync_total_bytes,
        resync_bytes_per_second: copy.resync_bytes_per_second,
        slow_left: Duration::from_millis(copy.slow_left_ms),
        refusal: copy.refusal.clone(),
    })
}

fn fenced_from(fenced: link::Fenced) -> Result<Fenced, Refusal> {
    Ok(Fenced {
        volume: volume_id(&fenced.volume_id)?,
        store: store_id(&fenced.store_id)?,
        obeyed: fenced.ok,
        promised: Epoch(fenced.epoch),
        last_epoch: Epoch(fenced.last_epoch),
        last: Lsn(fenced.last_lsn),
        resyncing: fenced.resyncing,
        lease_left: Duration::from_millis(fenced.lease_left_ms),
        reason: fenced.reason,
    })
}

fn proposal_from(proposal: link::Propose) -> Result<Proposal, Refusal> {
    let in_sync = proposal.in_sync.iter().map(|bytes| store_id(bytes));
    Ok(Proposal {
        volume: volume_id(&proposal.volume_id)?,
        from: store_id(&proposal.store_id)?,
        epoch: Epoch(proposal.epoch),
        set_version: proposal.set_version,
        in_sync: in_sync.collect::<Result<_, Refusal>>()?,
        settled: settled_from(proposal.settled),
        reason: proposal.reason.chars().take(200).collect(),
    })
}

fn settled_from(settled: i32) -> Option<Durability> {
    let mode = link::Durability::try_from(settled.checked_sub(1)?).ok()?;
    Some(match mode {
        link::Durability::SyncAll => Durability::SyncAll,
        link::Durability::SyncQuorum => Durability::SyncQuorum,
        link::Durability::BestEffort => Durability::BestEffort,
    })
}

fn volume_id(bytes: &[u8]) -> Result<VolumeId, Refusal> {
    VolumeId::try_from(bytes).map_err(invalid)
}

fn store_id(bytes: &[u8]) -> Result<StoreId, Refusal> {
    StoreId::try_from(bytes).map_err(invalid)
}

/// The result of an order.
pub fn answer_from(reply: link::Reply) -> Answer {
    let code = reply.code();
    let text = if reply.message.is_empty() {
        format!("the volume server answered {code:?}")
    } else {
        reply.message
    };
    match code {
        // An unknown code reads as the first one; it must not count as success.
        link::ReplyCode::Ok if reply.code == 0 => Answer::Done,
        link::ReplyCode::NoSpace => Answer::NoSpace(text),
        link::ReplyCode::Busy => Answer::Later(text),
        _ => Answer::Refused(text),
    }
}

/// The message that carries an order.
pub fn order_to(request_id: u64, order: &Order) -> link::Message {
    let body = match order {
        Order::Remove(id) => link::Body::Remove(link::Removal {
            volume_id: id.0.to_vec(),
        }),
        Order::Assign(assignment) => link::Body::Assign(assignment_to(assignment)),
    };
    link::Message {
        request_id,
        body: Some(body),
    }
}

fn assignment_to(assignment: &Assignment) -> link::Assignment {
    let volume = &assignment.volume;
    let role = match assignment.role {
        Role::Alone => link::Role::Alone,
        Role::Primary => link::Role::Primary,
        Role::Secondary => link::Role::Secondary,
    };
    let durability = match volume.policy.durability {
        Durability::SyncAll => link::Durability::SyncAll,
        Durability::SyncQuorum => link::Durability::SyncQuorum,
        Durability::BestEffort => link::Durability::BestEffort,
    };
    let paths = match volume.policy.paths {
        Paths::Redirect => link::Paths::Redirect,
        Paths::Multipath => link::Paths::Multipath,
    };
    link::Assignment {
        volume_id: volume.id.0.to_vec(),
        name: volume.name.to_string(),
        size_bytes: volume.size_bytes,
        epoch: volume.epoch.0,
        store_id: assignment.store.0.to_vec(),
        iqn: volume.name.iqn(),
        advertised_portals: assignment.portals.clone(),
        access: Some(link_access(&volume.access)),
        create: assignment.create,
        role: role.into(),
        members: assignment.members.iter().map(member_to).collect(),
        set_version: volume.set_version,
        durability: durability.into(),
        paths: paths.into(),
    }
}

fn member_to(member: &Member) -> link::Member {
    link::Member {
        store_id: member.store.0.to_vec(),
        node_id: member.node.0.to_vec(),
        peer_address: member.peer_address.clone(),
        in_sync: member.in_sync,
        portals: member.portals.clone(),
        primary: member.primary,
    }
}

/// The message that fences a copy.
pub fn fence_to(request_id: u64, volume: VolumeId, store: StoreId, epoch: Epoch) -> link::Message {
    let fence = link::Fence {
        volume_id: volume.0.to_vec(),
        epoch: epoch.0,
        store_id: store.0.to_vec(),
    };
    link::Message {
        request_id,
        body: Some(link::Body::Fence(fence)),
    }
}

/// The message that answers a proposal.
pub fn proposal_answer_to(request_id: u64, result: &ProposalResult) -> link::Message {
    let in_sync = result.in_sync.iter().map(|store| store.0.to_vec());
    let answer = link::ProposalAnswer {
        accepted: result.refusal.is_empty(),
        epoch: result.epoch.0,
        set_version: result.set_version,
        in_sync: in_sync.collect(),
        reason: result.refusal.clone(),
        volume_id: result.volume.0.to_vec(),
    };
    link::Message {
        request_id,
        body: Some(link::Body::ProposalAnswer(answer)),
    }
}

fn link_access(access: &Access) -> link::Access {
    let user = |chap: Option<&Chap>| chap.map_or_else(String::new, |chap| chap.user.clone());
    let secret =
        |chap: Option<&Chap>| chap.map_or_else(Vec::new, |chap| chap.secret.expose().to_vec());
    link::Access {
        initiators: access.initiators().to_vec(),
        chap_user: user(access.chap()),
        chap_secret: secret(access.chap()),
        mutual_user: user(access.mutual()),
        mutual_secret: secret(access.mutual()),
    }
}

// ---- agents

/// How an agent introduces itself.
pub fn joining_from(hello: proto::AgentHello) -> Result<Joining, Refusal> {
    if hello.link_version != link::VERSION {
        let message = format!(
            "this master speaks link version {}, the agent of node '{}' {}; run builds of the same \
             release",
            link::VERSION,
            hello.name,
            hello.link_version
        );
        return Err(Refusal::with(RefusalKind::Precondition, message));
    }
    let cluster = match hello.cluster_id.as_slice() {
        [] => None,
        bytes => Some(ClusterId::try_from(bytes).map_err(invalid)?),
    };
    Ok(Joining {
        cluster,
        node: NodeId::try_from(hello.node_id.as_slice()).map_err(invalid)?,
        name: hello.name,
        zone: hello.zone,
    })
}

/// What an agent says; `None`: it lives.
pub fn agent_event_from(message: proto::AgentMessage) -> Result<Option<LinkEvent>, Refusal> {
    let malformed = |error: prost::DecodeError| invalid(error);
    match message.body {
        Some(agent_message::Body::VolumeServer(server)) if server.hello.is_empty() => {
            Ok(Some(LinkEvent::Down))
        }
        Some(agent_message::Body::VolumeServer(server)) => {
            let hello = link::Hello::decode(server.hello.as_slice()).map_err(malformed)?;
            let (server, report) = hello_from(hello)?;
            Ok(Some(LinkEvent::Up(server, report)))
        }
        Some(agent_message::Body::Link(bytes)) => {
            let message = link::Message::decode(bytes.as_slice()).map_err(malformed)?;
            link_event_from(message).map(Some)
        }
        Some(agent_message::Body::Beat(_)) => Ok(None),
        Some(agent_message::Body::Hello(_)) | None => {
            let message = "a message at the wrong time, or an unknown one";
            Err(Refusal::with(RefusalKind::Invalid, message))
        }
    }
}

/// The welcome of an agent.
pub fn agent_welcome_to(cluster: ClusterId) -> proto::MasterMessage {
    let welcome = proto::Welcome {
        cluster_id: cluster.0.to_vec(),
    };
    proto::MasterMessage {
        body: Some(master_message::Body::Welcome(welcome)),
    }
}

/// Sends an agent on.
pub fn not_leader_to(leader: String) -> proto::MasterMessage {
    proto::MasterMessage {
        body: Some(master_message::Body::NotLeader(proto::NotLeader { leader })),
    }
}

/// A message for the volume server behind an agent.
pub fn through_agent(message: &link::Message) -> proto::MasterMessage {
    proto::MasterMessage {
        body: Some(master_message::Body::Link(message.encode_to_vec())),
    }
}

// ---- gRPC

/// A request for a volume.
pub fn new_volume_from(request: proto::CreateVolumeRequest) -> Result<NewVolume, Refusal> {
    let store = match request.store_id.as_str() {
        "" => None,
        text => Some(StoreId::from_str(text).map_err(|error| {
            Refusal::with(RefusalKind::Invalid, format!("store '{text}': {error}"))
        })?),
    };
    Ok(NewVolume {
        name: name_from(&request.name)?,
        size_bytes: request.size_bytes,
        access: request.access.map(access_from).transpose()?,
        store,
        policy: policy_from(request.rf, &request.durability, &request.paths)?,
        allow_degraded: request.allow_degraded,
    })
}

fn policy_from(rf: u32, durability: &str, paths: &str) -> Result<Policy, Refusal> {
    let default = Policy::default();
    Ok(Policy {
        rf: match rf {
            0 => default.rf,
            given => u8::try_from(given).unwrap_or(u8::MAX),
        },
        durability: match durability {
            "" => default.durability,
            text => text.parse().map_err(invalid)?,
        },
        paths: match paths {
            "" => default.paths,
            text => text.parse().map_err(invalid)?,
        },
    })
}

/// A volume's name.
pub fn name_from(text: &str) -> Result<VolumeName, Refusal> {
    text.parse().map_err(invalid)
}

/// Who may log in.
pub fn access_from(access: proto::Access) -> Result<Access, Refusal> {
    let chap = access.chap.map(chap_from).transpose().map_err(invalid)?;
    let mutual = access.mutual.map(chap_from).transpose().map_err(invalid)?;
    Access::from_parts(access.initiators, chap, mutual).map_err(invalid)
}

/// Who may log in, as a request says it.
pub fn access_to(access: &Access) -> proto::Access {
    let chap = |chap: &Chap| proto::Chap {
        user: chap.user.clone(),
        secret: chap.secret.expose().to_vec(),
    };
    proto::Access {
        initiators: access.initiators().to_vec(),
        chap: access.chap().map(chap),
        mutual: access.mutual().map(chap),
    }
}

/// A volume, without its secrets.
pub fn volume_to(seen: &VolumeView) -> proto::Volume {
    let volume = &seen.volume;
    let user = |chap: Option<&Chap>| chap.map_or_else(String::new, |chap| chap.user.clone());
    let state = match seen.status.condition {
        _ if seen.is_unheard() => proto::VolumeState::Unspecified,
        Condition::Creating => proto::VolumeState::Creating,
        Condition::Serving => proto::VolumeState::Serving,
        Condition::Unavailable => proto::VolumeState::Unavailable,
        Condition::Deleting => proto::VolumeState::Deleting,
    };
    let health = match seen.verdict.health {
        Health::Healthy => proto::VolumeHealth::Healthy,
        Health::Degraded => proto::VolumeHealth::Degraded,
        Health::Rebuilding => proto::VolumeHealth::Rebuilding,
        Health::AtRisk => proto::VolumeHealth::AtRisk,
        Health::Unavailable => proto::VolumeHealth::Unavailable,
    };
    proto::Volume {
        name: volume.name.to_string(),
        id: volume.id.to_string(),
        size_bytes: volume.size_bytes,
        used_bytes: seen.used_bytes,
        epoch: volume.epoch.0,
        state: state.into(),
        reason: seen.status.reason.clone(),
        iqn: volume.name.iqn(),
        lun: 0,
        portals: seen.portals.clone(),
        store_id: volume.primary.to_string(),
        sessions: seen.sessions,
        initiators: volume.access.initiators().to_vec(),
        chap_user: user(volume.access.chap()),
        mutual_user: user(volume.access.mutual()),
        rf: u32::from(volume.policy.rf),
        durability: volume.policy.durability.to_string(),
        paths: volume.policy.paths.to_string(),
        set_version: volume.set_version,
        primary_node: seen.primary_node.clone(),
        replicas: seen.copies.iter().map(copy_to).collect(),
        may_lose: volume.policy.may_lose().to_owned(),
        degraded: seen.degraded().to_owned(),
        health: health.into(),
        health_reason: seen.verdict.reason.clone(),
        health_score: seen.verdict.score,
        report_age_ms: seen.report_age.map(millis),
    }
}

fn copy_to(copy: &CopyView) -> proto::Replica {
    let told = copy.told.as_ref();
    let own = copy.own.as_ref();
    proto::Replica {
        store_id: copy.replica.store.to_string(),
        node_id: copy.node.to_string(),
        node: copy.node_name.clone(),
        role: if copy.primary { "primary" } else { "secondary" }.to_owned(),
        in_sync: copy.replica.in_sync,
        state: copy.state.to_owned(),
        reason: copy.facts.complaint(),
        durable_lsn: own.map_or(0, |own| own.durable.0),
        committed_lsn: own.map_or(0, |own| own.committed.0),
        lag: told.map_or(0, |told| told.lag),
        resync_done_bytes: told.map_or(0, |told| told.resync_done_bytes),
        resync_total_bytes: told.map_or(0, |told| told.resync_total_bytes),
        resync_bytes_per_second: told.map_or(0, |told| told.resync_bytes_per_second),
        health_score: copy.facts.score(),
        health_parts: copy.facts.parts().into_iter().map(part_to).collect(),
        blocks_healed: copy.facts.blocks_healed,
        blocks_repaired: copy.facts.blocks_repaired,
        slow_left_ms: millis(copy.facts.slow_left),
        report_age_ms: copy.report_age.map(millis),
    }
}

fn part_to(part: Part) -> proto::HealthPart {
    proto::HealthPart {
        name: part.name.to_owned(),
        lost: part.lost,
        text: part.text,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// All volumes.
pub fn volumes_to(view: &View) -> proto::ListVolumesReply {
    proto::ListVolumesReply {
        volumes: view.volumes.iter().map(volume_to).collect(),
    }
}

/// The cluster's nodes, the silent ones too.
pub fn nodes_to(view: &View) -> proto::ListNodesReply {
    proto::ListNodesReply {
        cluster_id: view.cluster.to_string(),
        nodes: view.nodes.iter().map(node_to).collect(),
    }
}

fn node_to(seen: &NodeView) -> proto::Node {
    let (node, server) = (&seen.node, seen.server.as_ref());
    proto::Node {
        id: node.id.to_string(),
        name: node.name.clone(),
        connected: server.is_some(),
        volume_server_pid: server.map_or(0, |server| server.pid),
        portals: server.map_or_else(Vec::new, |server| server.portals.clone()),
        stores: seen.stores.iter().map(store_to).collect(),
        unknown_volumes: seen.unknown.iter().map(ToString::to_string).collect(),
        zone: node.zone.clone(),
        peer_address: node.peer_address.clone(),
        cordoned: node.cordoned,
        agent_connected: seen.heard,
        draining: node.draining,
        copies: u32::try_from(seen.copies).unwrap_or(u32::MAX),
        drain_obstacle: seen.obstacle.clone(),
    }
}

fn store_to(store: &StoreView) -> proto::Store {
    let report = &store.report;
    proto::Store {
        id: report.id.map_or_else(String::new, |id| id.to_string()),
        path: report.path.clone(),
        serving: report.failed.is_empty(),
        reason: report.failed.clone(),
        capacity_bytes: report.capacity_bytes,
        free_bytes: report.free_bytes,
        promised_bytes: store.promised_bytes,
        wal_used_bytes: report.wal_used_bytes,
        wal_capacity_bytes: report.wal_capacity_bytes,
        shard: report.shard,
    }
}

/// One event.
pub fn event_to(event: &Audit) -> proto::Event {
    proto::Event {
        at_ms: event.at_ms,
        who: event.who.clone(),
        request_id: event.request_id.clone(),
        what: event.what.clone(),
    }
}

/// The gRPC status of a refusal.
pub fn status_to(refusal: &Refusal) -> tonic::Status {
    let code = match refusal.kind {
        RefusalKind::Invalid => tonic::Code::InvalidArgument,
        RefusalKind::NotFound => tonic::Code::NotFound,
        RefusalKind::Exists => tonic::Code::AlreadyExists,
        RefusalKind::Precondition | RefusalKind::TooFew => tonic::Code::FailedPrecondition,
        RefusalKind::NoSpace => tonic::Code::ResourceExhausted,
        RefusalKind::Unavailable | RefusalKind::Opening => tonic::Code::Unavailable,
    };
    tonic::Status::new(code, &refusal.message)
}

fn chap_from(chap: proto::Chap) -> Result<Chap, AccessError> {
    Chap::from_parts(chap.user, Secret::from_bytes(chap.secret)?)
}

fn invalid(error: impl std::fmt::Display) -> Refusal {
    Refusal::with(RefusalKind::Invalid, error.to_string())
}
