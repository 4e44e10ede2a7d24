//! How a volume is, for people and callers.

use super::link::Progress;
use super::{Answer, Reconciler, Role};
use crate::registry::{State, Volume};
use holdfast_core::id::StoreId;

/// Kinds of [`Status`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Registered, not served yet.
    Creating,
    /// Hosts can log in.
    Serving,
    /// Should be served and is not.
    Unavailable,
    /// To be removed.
    Deleting,
}

/// Condition of a volume, with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// How it is.
    pub condition: Condition,
    /// Why it is not serving; empty while it is.
    pub reason: String,
    /// The newest access is in force.
    pub current: bool,
    /// A store said that there is no room for it.
    pub no_space: bool,
}

impl Reconciler {
    /// How `volume` is.
    pub fn status(&self, desired: &State, volume: &Volume) -> Status {
        let of_primary = self.copy_status(desired, volume, volume.primary);
        if of_primary.condition == Condition::Serving {
            return of_primary;
        }
        // A new volume waits for the copy that is missing, a deleted one for those that are left.
        let missing = volume.replicas.iter().find(|copy| !copy.created);
        let left = volume.replicas.first().map(|copy| copy.store);
        let left = left.or(volume.retired.first().copied());
        let told_by = match volume.replica(volume.primary) {
            Some(_) => missing.map_or(volume.primary, |missing| missing.store),
            None => left.unwrap_or(volume.primary),
        };
        if told_by == volume.primary {
            return of_primary;
        }
        self.copy_status(desired, volume, told_by)
    }

    fn copy_status(&self, desired: &State, volume: &Volume, store: StoreId) -> Status {
        let link = desired
            .node_of(store)
            .and_then(|node| self.links.get(&node));
        let Some(link) = link else {
            let reason = match desired.node_of(store) {
                Some(node) if volume.is_shared() => {
                    let name = desired.node_name(node);
                    format!("no volume server of node {name} is connected")
                }
                _ => "no volume server is connected".into(),
            };
            return Status::waiting(volume, reason);
        };
        let task = link.tasks.get(&volume.id);
        let done = task.is_some_and(|task| {
            task.revision == volume.revision && matches!(task.progress, Progress::Done { .. })
        });
        if let Some(reported) = self.copy(desired, volume.id, store) {
            let reigns = reported.role != Role::Secondary;
            let serves = reported.epoch == volume.epoch && reported.failed.is_empty();
            let answers = !volume.is_shared() || reported.serving;
            if serves && reigns && answers && !volume.deleting {
                return Status::serving(done);
            }
            if !reported.failed.is_empty() {
                return Status::waiting(volume, reported.failed.clone());
            }
            if reported.epoch > volume.epoch {
                let reason = format!(
                    "the volume server knows {}, the registry {}: the registry is older than the \
                     store; restore the newer registry",
                    reported.epoch, volume.epoch
                );
                return Status::waiting(volume, reason);
            }
        }
        if let Some(Progress::Failed { answer, .. }) = task.map(|task| &task.progress) {
            let mut status = Status::waiting(volume, answer.reason().to_owned());
            status.no_space = matches!(answer, Answer::NoSpace(_));
            return status;
        }
        let mut stores = link.report.stores.iter();
        let reason = match stores.find(|reported| reported.id == Some(store)) {
            None => format!("store {store} is not connected"),
            Some(store) if !store.failed.is_empty() => {
                format!("store {}: {}", store.path, store.failed)
            }
            Some(_) => "waiting for the volume server".into(),
        };
        Status::waiting(volume, reason)
    }
}

impl Status {
    fn serving(current: bool) -> Status {
        Status {
            condition: Condition::Serving,
            reason: String::new(),
            current,
            no_space: false,
        }
    }

    fn waiting(volume: &Volume, reason: String) -> Status {
        let condition = if volume.deleting {
            Condition::Deleting
        } else if volume.is_created() {
            Condition::Unavailable
        } else {
            Condition::Creating
        };
        Status {
            condition,
            reason,
            current: false,
            no_space: false,
        }
    }
}
