//! Changes of copies and nodes over gRPC.

use super::{Service, caller, find, name, not_in_time};
use crate::convert::{self, status_to};
use crate::limits::CHANGE_WAIT;
use crate::master::{Caller, CopyWish, Force, Lead, NodeWish};
use crate::name::VolumeName;
use crate::proto::{self, operations_server};
use crate::reconcile::Condition;
use crate::registry::{Durability, Policy, Refusal, RefusalKind};
use crate::view::VolumeView;
use holdfast_core::id::VolumeId;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

/// See the module's head.
pub(super) struct Operations {
    service: Service,
}

pub(super) fn service(
    lead: watch::Receiver<Lead>,
) -> operations_server::OperationsServer<Operations> {
    let service = Service { lead };
    operations_server::OperationsServer::new(Operations { service })
}

#[tonic::async_trait]
impl operations_server::Operations for Operations {
    async fn add_replica(
        &self,
        request: Request<proto::AddReplicaRequest>,
    ) -> Result<Response<proto::Volume>, Status> {
        let caller = caller(&request);
        let request = request.into_inner();
        let name = name(&request.name)?;
        let node = Some(request.node).filter(|node| !node.is_empty());
        let id = self.wish(&name, CopyWish::Add { node }, &caller).await?;
        self.when_serving(&name, id).await
    }

    async fn remove_replica(
        &self,
        request: Request<proto::RemoveReplicaRequest>,
    ) -> Result<Response<proto::Volume>, Status> {
        let caller = caller(&request);
        let request = request.into_inner();
        let name = name(&request.name)?;
        let wish = CopyWish::Remove {
            node: request.node,
            force: force_from(request.force),
        };
        let id = self.wish(&name, wish, &caller).await?;
        self.when_serving(&name, id).await
    }

    async fn set_volume(
        &self,
        request: Request<proto::SetVolumeRequest>,
    ) -> Result<Response<proto::Volume>, Status> {
        let caller = caller(&request);
        let request = request.into_inner();
        let name = name(&request.name)?;
        let (before, _) = self.seen(&name).await?;
        let wanted = wanted_policy(&request, before).map_err(|refusal| status_to(&refusal))?;
        if request.size_bytes > 0 {
            let size_bytes = request.size_bytes;
            let id = self
                .wish(&name, CopyWish::Grow { size_bytes }, &caller)
                .await?;
            let grown = |seen: &VolumeView| seen.served_bytes >= size_bytes && serves(seen);
            self.until(&name, id, "has its new size registered", grown)
                .await?;
        }
        // Fewer copies than three only after the quorum is given up, a quorum only of three.
        let fewer_first = before.durability != Durability::SyncQuorum;
        if fewer_first {
            self.set_copies(&name, &request, wanted, &caller).await?;
        }
        if wanted.durability == Durability::SyncQuorum {
            // A quorum of one does not exist.
            let two = |seen: &VolumeView| seen.volume.in_sync().count() >= 2;
            let what = "has its number of copies registered, and sync_quorum needs two in sync: ask \
                        again when it has them";
            let (_, id) = self.seen(&name).await?;
            self.until(&name, id, what, two).await?;
        }
        let wish = CopyWish::SetDurability(wanted.durability);
        let id = self.wish(&name, wish, &caller).await?;
        let confirmed = |seen: &VolumeView| seen.volume.durability_was.is_none();
        let what = "has its new durability registered, and keeps the promise of the one before too until \
                    all copies are level";
        self.until(&name, id, what, confirmed).await?;
        if !fewer_first {
            self.set_copies(&name, &request, wanted, &caller).await?;
        }
        self.when_serving(&name, id).await
    }

    async fn change_node(
        &self,
        request: Request<proto::ChangeNodeRequest>,
    ) -> Result<Response<proto::ListNodesReply>, Status> {
        let caller = caller(&request);
        let request = request.into_inner();
        let wish = match request.change() {
            proto::NodeChange::Cordon => NodeWish::Cordon,
            proto::NodeChange::Uncordon => NodeWish::Uncordon,
            proto::NodeChange::Drain => NodeWish::Drain,
            proto::NodeChange::Remove => NodeWish::Remove {
                force: force_from(request.force),
            },
            proto::NodeChange::Unspecified => {
                return Err(Status::invalid_argument("no change is named"));
            }
        };
        let master = self.service.master().await?;
        let changed = master.node(request.node, wish, caller).await;
        changed.map_err(|refusal| status_to(&refusal))?;
        let view = self.service.view().await?;
        Ok(Response::new(convert::nodes_to(&view)))
    }
}

impl Operations {
    async fn wish(
        &self,
        name: &VolumeName,
        wish: CopyWish,
        caller: &Caller,
    ) -> Result<VolumeId, Status> {
        let master = self.service.master().await?;
        let id = master.copies(name.clone(), wish, caller.clone()).await;
        id.map_err(|refusal| status_to(&refusal))
    }

    async fn set_copies(
        &self,
        name: &VolumeName,
        request: &proto::SetVolumeRequest,
        wanted: Policy,
        caller: &Caller,
    ) -> Result<VolumeId, Status> {
        let wish = CopyWish::SetCopies {
            rf: wanted.rf,
            degraded: request.allow_degraded,
        };
        self.wish(name, wish, caller).await
    }

    async fn seen(&self, name: &VolumeName) -> Result<(Policy, VolumeId), Status> {
        let view = self.service.view().await?;
        let found = view.volumes.iter().find(|seen| seen.volume.name == *name);
        let found = found.map(|seen| (seen.volume.policy, seen.volume.id));
        found.ok_or_else(|| {
            Status::not_found(format!(
                "no volume '{name}'; `holdfast volume list` shows those that exist"
            ))
        })
    }

    /// The volume as soon as hosts are served again: a change of its copies may begin a reign.
    async fn when_serving(
        &self,
        name: &VolumeName,
        id: VolumeId,
    ) -> Result<Response<proto::Volume>, Status> {
        let volume = self
            .until(name, id, "has the change registered", serves)
            .await?;
        Ok(Response::new(volume))
    }

    async fn until(
        &self,
        name: &VolumeName,
        id: VolumeId,
        what: &str,
        done: impl Fn(&VolumeView) -> bool,
    ) -> Result<proto::Volume, Status> {
        let settled = |seen: Option<&VolumeView>| seen.is_none_or(&done);
        let view = self.service.wait(id, CHANGE_WAIT, settled).await?;
        match find(&view, id) {
            Some(seen) if done(seen) => Ok(convert::volume_to(seen)),
            Some(seen) => Err(not_in_time(name, &format!("{what}; it is done"), seen)),
            None => Err(Status::aborted(format!(
                "volume '{name}' was deleted meanwhile"
            ))),
        }
    }
}

fn serves(seen: &VolumeView) -> bool {
    seen.status.condition == Condition::Serving
}

fn force_from(force: bool) -> Force {
    match force {
        true => Force::Yes,
        false => Force::No,
    }
}

/// The policy after the change, checked as a whole.
fn wanted_policy(request: &proto::SetVolumeRequest, before: Policy) -> Result<Policy, Refusal> {
    let invalid = |error: crate::registry::PolicyError| {
        Refusal::with(RefusalKind::Invalid, error.to_string())
    };
    let wanted = Policy {
        rf: match request.rf {
            0 => before.rf,
            given => u8::try_from(given).unwrap_or(u8::MAX),
        },
        durability: match request.durability.as_str() {
            "" => before.durability,
            text => text.parse().map_err(invalid)?,
        },
        ..before
    };
    wanted.check().map_err(invalid)?;
    Ok(wanted)
}
