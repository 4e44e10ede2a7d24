//! What people ask of copies and nodes: decided as far as the coordinators do not, and passed to them.
//!
//! Nothing here waits for a resync: the change is registered, repair and the copies do the rest.

use super::repairs::fresh;
use super::{Caller, CopyWish, Force, Master, NodeWish, Registered, RegisteredNode};
use crate::limits::VOLUME_COPIES_MAX;
use crate::name::VolumeName;
use crate::registry::database::StorageError;
use crate::registry::{Change, Durability, Node, Policy, Refusal, RefusalKind, Volume};
use holdfast_core::cluster::message::Request;
use holdfast_core::cluster::repair::place;
use holdfast_core::id::{NodeId, StoreId, VolumeId};

impl Master {
    /// Answers as soon as the wish is registered.
    pub(super) async fn copy_wish(
        &mut self,
        name: &VolumeName,
        wish: CopyWish,
        caller: Caller,
        answer: Registered,
    ) -> Result<(), StorageError> {
        self.keep_coordinators().await?;
        let asked = match self.complete_volume(name).cloned() {
            Err(refusal) => Err(refusal),
            Ok(volume) => match wish {
                CopyWish::Add { node } => self.add_copy(&volume, node.as_deref()),
                CopyWish::Remove { node, force } => self.remove_copy(&volume, &node, force),
                CopyWish::SetCopies { rf, degraded } => self.set_copies(&volume, rf, degraded),
                CopyWish::SetDurability(mode) => set_durability(&volume, mode),
                CopyWish::Grow { size_bytes } => {
                    return self.grow(name, size_bytes, &caller, answer).await;
                }
            },
        };
        let (id, mut requests) = match asked {
            Ok(asked) => asked,
            Err(refusal) => {
                let _ = answer.send(Err(refusal)); // The caller may have gone.
                return Ok(());
            }
        };
        let Some(last) = requests.pop() else {
            let _ = answer.send(Ok(id)); // It is so already.
            return Ok(());
        };
        // What comes before the last is registered at once, or the last is refused for it.
        for request in requests {
            let (told, mut registered) = tokio::sync::oneshot::channel();
            self.ask(id, request, caller.clone(), told).await?;
            let outcome = registered.try_recv().unwrap_or_else(|_| {
                let message = "another change is under way; ask again";
                Err(Refusal::with(RefusalKind::Precondition, message))
            });
            if outcome.is_err() {
                let _ = answer.send(outcome);
                return Ok(());
            }
        }
        self.ask(id, last, caller, answer).await
    }

    /// A volume whose copies can be changed.
    fn complete_volume(&self, name: &VolumeName) -> Result<&Volume, Refusal> {
        let volume = self.state.volume(name)?;
        if self.reigns.coordinator(volume.id).is_some() {
            return Ok(volume);
        }
        let message = format!(
            "volume '{name}' is not complete yet, or is being deleted; `holdfast volume status \
             {name}` tells"
        );
        Err(Refusal::with(RefusalKind::Precondition, message))
    }

    fn add_copy(&self, volume: &Volume, node: Option<&str>) -> Asked {
        let name = &volume.name;
        let count = volume.replicas.len();
        if count >= usize::from(VOLUME_COPIES_MAX) {
            return refused(format!(
                "volume '{name}' has {count} copies, and a volume has {VOLUME_COPIES_MAX} at most; \
                 `holdfast volume replica remove {name} NODE` gives one up"
            ));
        }
        let wanted = node.map(|node| self.state.node(node)).transpose()?;
        let (store, node) = self.place_for(volume, wanted, 1)?[0];
        let mut requests = Vec::new();
        if count >= usize::from(volume.policy.rf) {
            requests.push(Request::SetCopiesWanted(count + 1));
        }
        requests.push(Request::AddReplica(fresh(store, node)));
        Ok((volume.id, requests))
    }

    fn remove_copy(&self, volume: &Volume, node: &str, force: Force) -> Asked {
        let name = &volume.name;
        let (_, store) = self.copy_on(name, node)?;
        let in_sync = volume.in_sync().filter(|other| *other != store).count();
        let rf = volume.policy.rf;
        let counts = volume.replica(store).is_some_and(|copy| copy.in_sync);
        if counts && in_sync == 0 {
            return refused(format!(
                "the copy on {node} is the only one of volume '{name}' that has everything; add \
                 another with `holdfast volume replica add {name}` and wait until it is in sync"
            ));
        }
        let mut requests = Vec::new();
        if counts && in_sync < usize::from(rf) {
            if volume.policy.durability == Durability::SyncQuorum {
                return refused(format!(
                    "volume '{name}' keeps three copies while its durability is sync_quorum; \
                     `holdfast volume set {name} --rf 2 --durability sync_all` changes both"
                ));
            }
            if force == Force::No {
                return refused(format!(
                    "volume '{name}' is promised rf={rf}, and {in_sync} in-sync copies would be left; \
                     --force lowers the promise to rf={in_sync}. To have the copy elsewhere instead: \
                     `holdfast volume replica add {name} --node OTHER` first, or `holdfast node drain`"
                ));
            }
            requests.push(Request::SetCopiesWanted(in_sync));
        }
        requests.push(Request::RemoveReplica(store));
        Ok((volume.id, requests))
    }

    fn set_copies(&self, volume: &Volume, rf: u8, degraded: bool) -> Asked {
        if rf == volume.policy.rf {
            return Ok((volume.id, Vec::new()));
        }
        let policy = Policy {
            rf,
            ..volume.policy
        };
        let illegal = |error: crate::registry::PolicyError| {
            Refusal::with(RefusalKind::Invalid, error.to_string())
        };
        policy.check().map_err(illegal)?;
        let missing = usize::from(rf).saturating_sub(volume.replicas.len());
        if missing > 0 && !degraded {
            self.place_for(volume, None, missing)?;
        }
        Ok((volume.id, vec![Request::SetCopiesWanted(usize::from(rf))]))
    }

    /// Places for `count` more copies, on `wanted` if it is given.
    fn place_for(
        &self,
        volume: &Volume,
        wanted: Option<NodeId>,
        count: usize,
    ) -> Result<Vec<(StoreId, NodeId)>, Refusal> {
        let copies = volume.replicas.iter();
        let copies = copies.filter_map(|copy| self.state.node_of(copy.store));
        let mut copies: Vec<_> = copies.collect();
        let mut offered = self.places(volume);
        for place in &mut offered {
            if wanted.is_some_and(|wanted| wanted != place.node) {
                place.stores.clear();
            }
        }
        let mut found = Vec::new();
        while found.len() < count {
            let Some((store, node)) = place(&offered, &copies, volume.size_bytes) else {
                let name = &volume.name;
                let reasons = self.no_place(&offered, wanted, &copies, volume.size_bytes);
                return Err(Refusal::with(
                    RefusalKind::TooFew,
                    format!(
                        "volume '{name}' can get {} of {count} more copies: {reasons}; add nodes or \
                         free some (`holdfast node list`)",
                        found.len()
                    ),
                ));
            };
            copies.push(node);
            found.push((store, node));
        }
        Ok(found)
    }

    async fn grow(
        &mut self,
        name: &VolumeName,
        size_bytes: u64,
        caller: &Caller,
        answer: Registered,
    ) -> Result<(), StorageError> {
        let grown = match self.state.grow(name, size_bytes) {
            Ok(grown) => grown,
            Err(refusal) => {
                let _ = answer.send(Err(refusal));
                return Ok(());
            }
        };
        if let Some(volume) = grown {
            let what = format!("grow volume {name} ({}) to {size_bytes} bytes", volume.id);
            self.change(vec![Change::PutVolume(volume)], caller, what)
                .await?;
        }
        let _ = answer.send(self.state.volume(name).map(|volume| volume.id));
        Ok(())
    }

    /// Answers as soon as the wish is registered.
    pub(super) async fn node_wish(
        &mut self,
        text: &str,
        wish: NodeWish,
        caller: Caller,
        answer: RegisteredNode,
    ) -> Result<(), StorageError> {
        let result = match self.state.node(text) {
            Err(refusal) => Err(refusal),
            Ok(node) => match wish {
                NodeWish::Remove { force } => self.remove_node(node, force, &caller).await?,
                NodeWish::Cordon => self.mark_node(node, (true, None), &caller).await?,
                NodeWish::Uncordon => self.mark_node(node, (false, Some(false)), &caller).await?,
                NodeWish::Drain => self.mark_node(node, (true, Some(true)), &caller).await?,
            },
        };
        let _ = answer.send(result); // The caller may have gone.
        Ok(())
    }

    async fn mark_node(
        &mut self,
        node: NodeId,
        (cordoned, draining): (bool, Option<bool>),
        caller: &Caller,
    ) -> Result<Result<NodeId, Refusal>, StorageError> {
        let known = &self.state.nodes[&node];
        let marked = Node {
            cordoned,
            draining: draining.unwrap_or(known.draining),
            ..known.clone()
        };
        if marked != *known {
            let what = match (marked.draining, marked.cordoned) {
                (true, _) => "gives away its copies and takes none",
                (false, true) => "takes no new copies",
                (false, false) => "takes copies again",
            };
            let what = format!("node {}: {what}", marked.name);
            self.change(vec![Change::PutNode(marked)], caller, what)
                .await?;
        }
        Ok(Ok(node))
    }

    async fn remove_node(
        &mut self,
        node: NodeId,
        force: Force,
        caller: &Caller,
    ) -> Result<Result<NodeId, Refusal>, StorageError> {
        let name = self.state.node_name(node);
        let refusal = |message: String| Ok(Err(Refusal::with(RefusalKind::Precondition, message)));
        let mut masters = self.group.masters().into_iter();
        let id = node.to_string();
        if masters.any(|master| master.seat.node == id) {
            return refusal(format!(
                "node {name} is a master: `holdfast master remove {node}` first"
            ));
        }
        let held = self.state.copies_of(node);
        if self.silent_for(node).is_none() {
            return refusal(match held.is_empty() {
                true => format!(
                    "node {name} is running: stop holdfast-volume and holdfast-control there first, \
                     or it joins again"
                ),
                false => format!(
                    "node {name} is running and holds copies: {}; `holdfast node drain {name}` gives \
                     them to other nodes",
                    self.held_text(node)
                ),
            });
        }
        if !held.is_empty() && force == Force::No {
            return refusal(format!(
                "node {name} holds copies: {}; start it and drain it, or let go of them with --force",
                self.held_text(node)
            ));
        }
        let only: Vec<_> = held.iter().filter(|held| held.only).collect();
        if !only.is_empty() {
            let names: Vec<_> = only.iter().map(|held| held.name.as_str()).collect();
            return refusal(format!(
                "node {name} has the only copy with everything of: {}. Nothing of them would be left; \
                 start the node again, or give them up by name first: `holdfast volume delete`, or \
                 `volume force-promote` where another copy may lack writes",
                names.join(" ")
            ));
        }
        for held in held {
            self.wish(held.volume, Request::RemoveReplica(held.store))
                .await?;
        }
        if !self.state.copies_of(node).is_empty() {
            return refusal(format!(
                "node {name} is still needed to decide about: {}; ask again in a moment",
                self.held_text(node)
            ));
        }
        if self.sessions.contains_key(&node) {
            self.drop_session(node).await?; // One that only stood still joins anew.
        }
        self.reigns.forget_node(node);
        let what = format!("node {name} ({node}) is removed");
        self.change(vec![Change::ForgetNode(node)], caller, what)
            .await?;
        Ok(Ok(node))
    }

    /// The copies of a node, for people.
    fn held_text(&self, node: NodeId) -> String {
        let text = |held: crate::registry::Held| match (held.only, held.in_sync) {
            (true, _) => format!(
                "{} (the only one with everything: its data would be lost)",
                held.name
            ),
            (false, true) => format!("{} (others are in sync)", held.name),
            (false, false) => format!("{} (not in sync)", held.name),
        };
        let all = self.state.copies_of(node).into_iter().map(text);
        all.collect::<Vec<_>>().join(", ")
    }
}

/// A volume, and what its coordinator is asked, in order.
type Asked = Result<(VolumeId, Vec<Request>), Refusal>;

fn set_durability(volume: &Volume, mode: Durability) -> Asked {
    let name = &volume.name;
    if mode == volume.policy.durability {
        return Ok((volume.id, Vec::new()));
    }
    let policy = Policy {
        durability: mode,
        ..volume.policy
    };
    if let Err(error) = policy.check() {
        return Err(Refusal::with(RefusalKind::Invalid, error.to_string()));
    }
    let in_sync = volume.in_sync().count();
    if mode == Durability::SyncQuorum && in_sync < 2 {
        // A quorum of one does not exist: hosts would wait until the second copy follows.
        return refused(format!(
            "volume '{name}' has {in_sync} copy in sync and sync_quorum needs two at any time; wait \
             for the others (`holdfast volume status {name}`) and ask again"
        ));
    }
    let mode = super::reigns::durability_to(mode);
    Ok((volume.id, vec![Request::SetDurability(mode)]))
}

fn refused(message: String) -> Asked {
    Err(Refusal::with(RefusalKind::Precondition, message))
}

#[cfg(test)]
mod tests;
