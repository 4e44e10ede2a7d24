//! The only place that knows both protobuf messages and the domain.

use crate::access::{Access, AccessError, Chap, Secret};
use crate::name::VolumeName;
use crate::proto;
use crate::reconcile::{Answer, Condition, Order, Report, Server, StoreReport, VolumeReport};
use crate::registry::{Audit, NewVolume, Refusal, RefusalKind, State};
use crate::view::{StoreView, View, VolumeView};
use holdfast_core::id::{StoreId, VolumeId};
use holdfast_core::link;
use holdfast_core::lsn::Epoch;
use std::str::FromStr;

// ---- the control link

/// Who connected and what it has.
pub fn hello_from(hello: link::Hello) -> Result<(Server, Report), Refusal> {
    let server = Server {
        pid: hello.pid,
        portals: hello.portals,
    };
    Ok((server, report_from(hello.report.unwrap_or_default())?))
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
        bytes => Some(StoreId::try_from(bytes).map_err(invalid)?),
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
    Ok(VolumeReport {
        id: VolumeId::try_from(volume.volume_id.as_slice()).map_err(invalid)?,
        store: StoreId::try_from(volume.store_id.as_slice()).map_err(invalid)?,
        epoch: Epoch(volume.epoch),
        size_bytes: volume.size_bytes,
        used_bytes: volume.used_bytes,
        sessions: volume.sessions,
        failed: volume.failed,
    })
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
        Order::Assign {
            volume,
            create,
            portals,
        } => link::Body::Assign(link::Assignment {
            volume_id: volume.id.0.to_vec(),
            name: volume.name.to_string(),
            size_bytes: volume.size_bytes,
            epoch: volume.epoch.0,
            store_id: volume.store.0.to_vec(),
            iqn: volume.name.iqn(),
            advertised_portals: portals.clone(),
            access: Some(link_access(&volume.access)),
            create: *create,
            ..link::Assignment::default()
        }),
    };
    link::Message {
        request_id,
        body: Some(body),
    }
}

/// The answer to an accepted hello.
pub fn welcome_to(state: &State) -> link::Message {
    welcome(link::Welcome {
        version: link::VERSION,
        refused: String::new(),
        cluster_id: state.cluster.0.to_vec(),
        node_id: state.node.0.to_vec(),
    })
}

/// The answer to a refused hello.
pub fn refusal_to(reason: String) -> link::Message {
    welcome(link::Welcome {
        version: 0,
        refused: reason,
        cluster_id: Vec::new(),
        node_id: Vec::new(),
    })
}

fn welcome(welcome: link::Welcome) -> link::Message {
    link::Message {
        request_id: 0,
        body: Some(link::Body::Welcome(welcome)),
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
pub fn volume_to(view: &View, seen: &VolumeView) -> proto::Volume {
    let volume = &seen.volume;
    let user = |chap: Option<&Chap>| chap.map_or_else(String::new, |chap| chap.user.clone());
    let state = match seen.status.condition {
        Condition::Creating => proto::VolumeState::Creating,
        Condition::Serving => proto::VolumeState::Serving,
        Condition::Unavailable => proto::VolumeState::Unavailable,
        Condition::Deleting => proto::VolumeState::Deleting,
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
        portals: view
            .server
            .as_ref()
            .map_or_else(Vec::new, |server| server.portals.clone()),
        store_id: volume.store.to_string(),
        sessions: seen.sessions,
        initiators: volume.access.initiators().to_vec(),
        chap_user: user(volume.access.chap()),
        mutual_user: user(volume.access.mutual()),
    }
}

/// All volumes.
pub fn volumes_to(view: &View) -> proto::ListVolumesReply {
    proto::ListVolumesReply {
        volumes: view
            .volumes
            .iter()
            .map(|seen| volume_to(view, seen))
            .collect(),
    }
}

/// The cluster's nodes: this one.
pub fn nodes_to(view: &View) -> proto::ListNodesReply {
    let server = view.server.as_ref();
    proto::ListNodesReply {
        cluster_id: view.cluster.to_string(),
        nodes: vec![proto::Node {
            id: view.node.to_string(),
            name: view.node_name.clone(),
            connected: server.is_some(),
            volume_server_pid: server.map_or(0, |server| server.pid),
            portals: server.map_or_else(Vec::new, |server| server.portals.clone()),
            stores: view.stores.iter().map(store_to).collect(),
            unknown_volumes: view.unknown.iter().map(ToString::to_string).collect(),
        }],
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
        RefusalKind::Precondition => tonic::Code::FailedPrecondition,
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
