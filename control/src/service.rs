//! The gRPC service: checks requests, hands them to the master, waits on the view for their effect.
//!
//! Waiting is bounded; when the time is over the change stays registered and the answer says so.

mod agents;
mod members;
mod operations;

use crate::convert::{self, status_to};
use crate::limits::{CHANGE_WAIT, CREATE_WAIT, LEAD_WAIT, SHUTDOWN_WAIT, STORES_WAIT};
use crate::master::{Caller, Handle, Lead, Stopped};
use crate::name::VolumeName;
use crate::proto::{self, control_server};
use crate::raft::Group;
use crate::reconcile::Condition;
use crate::registry::{NewVolume, Refusal, RefusalKind};
use crate::view::{View, VolumeView};
use holdfast_core::id::VolumeId;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// Metadata key of the caller's request id.
pub const REQUEST_ID_KEY: &str = "x-request-id";

/// Metadata key of the name that the caller gives itself.
pub const ACTOR_KEY: &str = "x-actor";

/// Characters of a caller's name or request id that are kept.
const CALLER_CHARS_MAX: usize = 64;

/// Metadata key of the leader's URL in the answer of a process that does not lead.
pub const LEADER_KEY: &str = "x-leader";

/// Answers requests through the leading master.
#[allow(missing_debug_implementations)]
pub struct Service {
    lead: watch::Receiver<Lead>,
}

/// Serves gRPC and its health service on `incoming` until `stop`; calls under way get
/// [`SHUTDOWN_WAIT`].
pub async fn serve(
    incoming: TcpIncoming,
    lead: watch::Receiver<Lead>,
    group: Option<Group>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), tonic::transport::Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    type Server = control_server::ControlServer<Service>;
    health.set_serving::<Server>().await;
    let (stopping, mut stopped) = tokio::sync::watch::channel(false);
    let stop = async move {
        stop.await;
        health.set_not_serving::<Server>().await;
        stopping.send_replace(true);
    };
    let serving = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .max_concurrent_streams(64)
        .add_service(health_service)
        .add_service(agents::service(lead.clone()))
        .add_service(members::service(lead.clone(), group.clone()))
        .add_service(operations::service(lead.clone()))
        .add_optional_service(group.as_ref().map(Group::service))
        .add_service(Server::new(Service { lead }))
        .serve_with_incoming_shutdown(incoming, stop);
    let overdue = async move {
        if stopped.wait_for(|stopping| *stopping).await.is_ok() {
            tokio::time::sleep(SHUTDOWN_WAIT).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        result = serving => result,
        () = overdue => Ok(()),
    }
}

#[tonic::async_trait]
impl control_server::Control for Service {
    async fn create_volume(
        &self,
        request: Request<proto::CreateVolumeRequest>,
    ) -> Result<Response<proto::Volume>, Status> {
        let caller = caller(&request);
        let request = convert::new_volume_from(request.into_inner());
        let request = request.map_err(|refusal| status_to(&refusal))?;
        let name = request.name.clone();
        let id = self.place(request, &caller).await?;
        let id = id.map_err(|refusal| status_to(&refusal))?;
        let settled = |seen: Option<&VolumeView>| {
            seen.is_none_or(|seen| {
                let status = &seen.status;
                status.condition == Condition::Serving || status.no_space
            })
        };
        let view = self.wait(id, CREATE_WAIT, settled).await?;
        let Some(seen) = find(&view, id) else {
            return Err(Status::aborted(format!(
                "volume '{name}' was deleted meanwhile"
            )));
        };
        if seen.status.condition == Condition::Serving {
            return Ok(Response::new(convert::volume_to(seen)));
        }
        if seen.status.no_space && !seen.volume.is_created() {
            // Nothing was made; a registered volume that can never be would only be in the way.
            let undone = self.master().await?.delete(name, caller).await;
            undone.map_err(|refusal| status_to(&refusal))?;
            return Err(Status::resource_exhausted(seen.status.reason.clone()));
        }
        Err(not_in_time(&name, "is registered and will be served", seen))
    }

    async fn list_volumes(
        &self,
        _: Request<proto::ListVolumesRequest>,
    ) -> Result<Response<proto::ListVolumesReply>, Status> {
        let view = self.view().await?;
        Ok(Response::new(convert::volumes_to(&view)))
    }

    async fn get_volume(
        &self,
        request: Request<proto::GetVolumeRequest>,
    ) -> Result<Response<proto::Volume>, Status> {
        let name = name(&request.into_inner().name)?;
        let view = self.view().await?;
        let seen = view.volumes.iter().find(|seen| seen.volume.name == name);
        let seen = seen.ok_or_else(|| {
            Status::not_found(format!(
                "no volume '{name}'; `holdfast volume list` shows those that exist"
            ))
        })?;
        Ok(Response::new(convert::volume_to(seen)))
    }

    async fn delete_volume(
        &self,
        request: Request<proto::DeleteVolumeRequest>,
    ) -> Result<Response<proto::DeleteVolumeReply>, Status> {
        let caller = caller(&request);
        let name = name(&request.into_inner().name)?;
        let id = self.master().await?.delete(name, caller).await;
        let id = id.map_err(|refusal| status_to(&refusal))?;
        let view = self.wait(id, CHANGE_WAIT, |seen| seen.is_none()).await?;
        let left = find(&view, id);
        Ok(Response::new(proto::DeleteVolumeReply {
            pending: left.is_some(),
            reason: left.map_or_else(String::new, |seen| seen.status.reason.clone()),
        }))
    }

    async fn set_volume_access(
        &self,
        request: Request<proto::SetVolumeAccessRequest>,
    ) -> Result<Response<proto::Volume>, Status> {
        let caller = caller(&request);
        let request = request.into_inner();
        let name = name(&request.name)?;
        let access = convert::access_from(request.access.unwrap_or_default());
        let access = access.map_err(|refusal| status_to(&refusal))?;
        let id = self
            .master()
            .await?
            .set_access(name.clone(), access, caller)
            .await;
        let id = id.map_err(|refusal| status_to(&refusal))?;
        let settled = |seen: Option<&VolumeView>| seen.is_none_or(|seen| seen.status.current);
        let view = self.wait(id, CHANGE_WAIT, settled).await?;
        match find(&view, id) {
            Some(seen) if seen.status.current => Ok(Response::new(convert::volume_to(seen))),
            Some(seen) => Err(not_in_time(&name, "keeps its new access registered", seen)),
            None => Err(Status::aborted(format!(
                "volume '{name}' was deleted meanwhile"
            ))),
        }
    }

    async fn move_primary(
        &self,
        request: Request<proto::MovePrimaryRequest>,
    ) -> Result<Response<proto::Volume>, Status> {
        let caller = caller(&request);
        let request = request.into_inner();
        let name = name(&request.name)?;
        let asked = self
            .master()
            .await?
            .move_primary(name.clone(), request.node, caller)
            .await;
        self.wait_for_reign(&name, asked).await
    }

    async fn force_promote(
        &self,
        request: Request<proto::ForcePromoteRequest>,
    ) -> Result<Response<proto::Volume>, Status> {
        let caller = caller(&request);
        let request = request.into_inner();
        let name = name(&request.name)?;
        if !request.accept_data_loss {
            return Err(Status::invalid_argument(
                "force-promote may lose acknowledged writes; accept_data_loss must be set",
            ));
        }
        let asked = self
            .master()
            .await?
            .force_promote(name.clone(), request.node, caller)
            .await;
        self.wait_for_reign(&name, asked).await
    }

    async fn list_nodes(
        &self,
        _: Request<proto::ListNodesRequest>,
    ) -> Result<Response<proto::ListNodesReply>, Status> {
        let view = self.view().await?;
        Ok(Response::new(convert::nodes_to(&view)))
    }

    async fn list_events(
        &self,
        _: Request<proto::ListEventsRequest>,
    ) -> Result<Response<proto::ListEventsReply>, Status> {
        let view = self.view().await?;
        let events = view.events.iter().map(|event| convert::event_to(event));
        Ok(Response::new(proto::ListEventsReply {
            events: events.collect(),
        }))
    }
}

impl Service {
    /// The leading master, if it is here. While nobody leads, as between two reigns, it waits a while.
    async fn master(&self) -> Result<Handle, Status> {
        let mut lead = self.lead.clone();
        let known = lead.wait_for(|lead| match lead {
            Lead::Here(_) => true,
            Lead::Elsewhere(leader) => !leader.is_empty(),
        });
        match timeout(LEAD_WAIT, known).await {
            Ok(Ok(lead)) => match &*lead {
                Lead::Here(master) => Ok(master.clone()),
                Lead::Elsewhere(leader) => Err(elsewhere(leader)),
            },
            Ok(Err(_)) | Err(_) => Err(elsewhere("")),
        }
    }

    /// Registers a volume; waits, at most [`STORES_WAIT`], while its store cannot be chosen because
    /// some are still being opened.
    async fn place(
        &self,
        request: NewVolume,
        caller: &Caller,
    ) -> Result<Result<VolumeId, Refusal>, Status> {
        let master = self.master().await?;
        let mut views = master.view();
        let until = Instant::now() + STORES_WAIT;
        loop {
            let placed = master.create(request.clone(), caller.clone()).await;
            match &placed {
                Err(refusal) if refusal.kind == RefusalKind::Opening => {
                    let opened = views.wait_for(|view| view.stores_opening == 0);
                    // The time is over, or the master gone: the refusal says enough.
                    let Ok(Ok(_)) = timeout_at(until, opened).await else {
                        return Ok(placed);
                    };
                }
                _ => return Ok(placed),
            }
        }
    }

    async fn view(&self) -> Result<Arc<View>, Status> {
        Ok(Arc::clone(&self.master().await?.view().borrow()))
    }

    /// Waits until the volume is served by the primary that is registered now.
    async fn wait_for_reign(
        &self,
        name: &VolumeName,
        asked: Result<VolumeId, Refusal>,
    ) -> Result<Response<proto::Volume>, Status> {
        let id = asked.map_err(|refusal| status_to(&refusal))?;
        let serves = |seen: &VolumeView| seen.status.condition == Condition::Serving;
        let settled = |seen: Option<&VolumeView>| seen.is_none_or(serves);
        let view = self.wait(id, CHANGE_WAIT, settled).await?;
        match find(&view, id) {
            Some(seen) if serves(seen) => Ok(Response::new(convert::volume_to(seen))),
            Some(seen) => Err(not_in_time(
                name,
                "has its new primary registered and serves",
                seen,
            )),
            None => Err(Status::aborted(format!(
                "volume '{name}' was deleted meanwhile"
            ))),
        }
    }

    /// Waits until `settled` says so of the volume, at most `wait`; returns the newest view.
    async fn wait(
        &self,
        id: VolumeId,
        wait: Duration,
        settled: impl Fn(Option<&VolumeView>) -> bool,
    ) -> Result<Arc<View>, Status> {
        let mut views = self.master().await?.view();
        let settled = async {
            let found = views.wait_for(|view| settled(find(view, id))).await;
            found.map(|view| Arc::clone(&view))
        };
        match timeout(wait, settled).await {
            Ok(found) => found.map_err(|_| Status::unavailable(Stopped.to_string())),
            Err(_) => self.view().await,
        }
    }
}

/// The answer of a process that does not lead, with [`LEADER_KEY`]: nothing was done.
fn elsewhere(leader: &str) -> Status {
    let mut status = if leader.is_empty() {
        Status::unavailable("no master leads at present; try again")
    } else {
        Status::unavailable(format!("not the leading master; it is {leader}"))
    };
    if let Ok(url) = leader.parse() {
        status.metadata_mut().insert(LEADER_KEY, url);
    }
    status
}

fn find(view: &View, id: VolumeId) -> Option<&VolumeView> {
    view.volumes.iter().find(|seen| seen.volume.id == id)
}

fn name(text: &str) -> Result<VolumeName, Status> {
    convert::name_from(text).map_err(|refusal| status_to(&refusal))
}

fn not_in_time(name: &VolumeName, what: &str, seen: &VolumeView) -> Status {
    let reasons = [
        seen.status.reason.as_str(),
        seen.degraded(),
        "the volume server has not answered",
    ];
    let reason = reasons.into_iter().find(|reason| !reason.is_empty());
    let reason = reason.unwrap_or_default();
    Status::unavailable(format!(
        "volume '{name}' {what} as soon as it can be: {reason}; `holdfast volume status {name}` \
         tells how it is"
    ))
}

fn caller<T>(request: &Request<T>) -> Caller {
    let metadata = |key: &str| {
        let value = request
            .metadata()
            .get(key)
            .and_then(|value| value.to_str().ok());
        let value = value.unwrap_or_default();
        value.chars().take(CALLER_CHARS_MAX).collect::<String>()
    };
    let address = request.remote_addr();
    let address = address.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
    let actor = metadata(ACTOR_KEY);
    Caller {
        who: format!(
            "{}@{address}",
            if actor.is_empty() { "unknown" } else { &actor }
        ),
        request_id: metadata(REQUEST_ID_KEY),
    }
}

#[cfg(test)]
mod tests;
