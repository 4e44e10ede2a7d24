//! Lets the master of this process lead while its group says so, and tells everybody else who does.
//!
//! Each reign has a master of its own, made from what is applied after the barrier; it ends with the
//! reign, and whatever waited for it is told to ask again.

use super::{Lead, Master};
use crate::limits::{EVENTS_MAX, REIGN_RETRY};
use crate::raft::{CommitError, Group, Role};
use crate::registry::database::StorageError;
use std::time::Duration;
use tokio::sync::watch;

/// Copies whose node is gone for `replace_after` are made anew elsewhere. Runs until `stop` resolves or the registry fails, then leaves the group.
pub async fn lead(
    group: Group,
    lead: watch::Sender<Lead>,
    replace_after: Duration,
    stop: impl Future<Output = ()>,
) -> Result<(), StorageError> {
    tokio::pin!(stop);
    let mut roles = group.role();
    loop {
        let role = roles.borrow_and_update().clone();
        let wait = match &role {
            Role::Stopped { reason } => return Err(StorageError::Consensus(reason.clone())),
            Role::Following { leader } => {
                let url = leader
                    .as_ref()
                    .map(|seat| format!("http://{}", seat.address));
                lead.send_replace(Lead::Elsewhere(url.unwrap_or_default()));
                None
            }
            Role::Leading { .. } => {
                let mut roles = group.role();
                let over = async {
                    // The sender lives in the group.
                    let _ = roles.wait_for(|now| *now != role).await;
                };
                tokio::select! {
                    () = &mut stop => break,
                    ended = reign(&group, &lead, replace_after, over) => ended?,
                }
                Some(REIGN_RETRY)
            }
        };
        tokio::select! {
            () = &mut stop => break,
            _ = roles.changed() => {}
            () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
        }
    }
    lead.send_replace(Lead::Elsewhere(String::new()));
    group.stop().await;
    Ok(())
}

/// One reign: until `over`, or until a commit shows that it is over.
async fn reign(
    group: &Group,
    lead: &watch::Sender<Lead>,
    replace_after: Duration,
    over: impl Future<Output = ()>,
) -> Result<(), StorageError> {
    match group.confirm().await {
        Ok(()) => {}
        Err(CommitError::Stopped(reason)) => return Err(StorageError::Consensus(reason)),
        Err(_) => return Ok(()), // The role says more soon.
    }
    let Some(applied) = group.state().await else {
        return Ok(());
    };
    let audit = group.audit(EVENTS_MAX).await?;
    let (master, handle) = Master::start(group.clone(), applied, audit);
    lead.send_replace(Lead::Here(handle));
    let master = master.replacing_after(replace_after);
    let ended = master.run(over).await;
    lead.send_replace(Lead::Elsewhere(String::new()));
    match ended {
        Err(StorageError::ReignOver(reason)) => {
            tracing::warn!("this master leads no more: {reason}");
            Ok(())
        }
        ended => ended,
    }
}
