//! The state machine: applies commands to the registry's records, in memory and in the file.
//!
//! One transaction per batch of entries holds the records, the audit, the last applied entry and the
//! members. A snapshot is the list of changes that make the state out of an empty one; it is kept in
//! memory and made again after a restart when it is wanted.

use super::log::{decode, encode, put_value, value};
use super::{Failure, MasterId, Outcome, Seat, Types, blocking, failure};
use crate::limits::AUDIT_MAX;
use crate::registry::database::{Registry, StorageError};
use crate::registry::record::{StoredAudit, StoredChange};
use crate::registry::{Audit, Change, State};
use openraft::storage::RaftStateMachine;
use openraft::{
    Entry, EntryPayload, ErrorSubject, ErrorVerb, LogId, OptionalSend, RaftSnapshotBuilder,
    Snapshot, SnapshotMeta, StoredMembership,
};
use serde::{Deserialize, Serialize};
use std::io::Cursor;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const APPLIED: &str = "applied";
const MEMBERS: &str = "members";
const VERSION: &str = "version";

type Members = StoredMembership<MasterId, Seat>;
type Meta = SnapshotMeta<MasterId, Seat>;

/// See the module's head. Clones are the same machine.
#[derive(Clone)]
pub(super) struct Machine {
    registry: Arc<Registry>,
    /// Locked only where waiting for the disk is allowed.
    applied: Arc<Mutex<Applied>>,
}

struct Applied {
    state: State,
    /// Index of the newest command that took effect.
    version: u64,
    last: Option<LogId<MasterId>>,
    members: Members,
    snapshot: Option<(Meta, Arc<Vec<u8>>)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SnapshotDocument {
    version: u64,
    changes: Vec<StoredChange>,
    /// Oldest first.
    audit: Vec<StoredAudit>,
}

impl Machine {
    /// The machine as the file has it.
    pub(super) fn open(registry: Arc<Registry>) -> Result<Machine, StorageError> {
        let applied = Applied {
            state: registry.load()?,
            version: value(&registry, VERSION)?.unwrap_or(0),
            last: value(&registry, APPLIED)?,
            members: value(&registry, MEMBERS)?.unwrap_or_default(),
            snapshot: None,
        };
        Ok(Machine {
            registry,
            applied: Arc::new(Mutex::new(applied)),
        })
    }

    /// A copy of the state, and the index of the newest command in it.
    pub(super) async fn state(&self) -> (State, u64) {
        let machine = self.clone();
        blocking(move || {
            let applied = machine.lock();
            (applied.state.clone(), applied.version)
        })
        .await
    }

    fn lock(&self) -> MutexGuard<'_, Applied> {
        // A panic stops the process; until then the data is only read.
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply_all(&self, entries: Vec<Entry<Types>>) -> Result<Vec<Outcome>, StorageError> {
        let registry = &self.registry;
        let mut applied = self.lock();
        registry.transact(|writing| {
            let mut outcomes = Vec::with_capacity(entries.len());
            for entry in entries {
                let index = entry.log_id.index;
                applied.last = Some(entry.log_id);
                let outcome = match entry.payload {
                    EntryPayload::Blank => Outcome::Nothing,
                    EntryPayload::Membership(members) => {
                        applied.members = StoredMembership::new(Some(entry.log_id), members);
                        put_value(registry, writing, MEMBERS, &applied.members)?;
                        Outcome::Nothing
                    }
                    EntryPayload::Normal(command) => {
                        match command.check(&applied.state, applied.version) {
                            Err(reason) => Outcome::Refused(reason),
                            Ok(()) => {
                                registry.put(writing, &command.changes)?;
                                registry.put_audit(writing, &command.audit)?;
                                for change in &command.changes {
                                    applied.state.apply(change);
                                }
                                applied.version = index;
                                Outcome::Applied
                            }
                        }
                    }
                };
                outcomes.push(outcome);
            }
            put_value(registry, writing, VERSION, &applied.version)?;
            put_value(registry, writing, APPLIED, &applied.last)?;
            Ok(outcomes)
        })
    }

    fn build(&self) -> Result<Snapshot<Types>, StorageError> {
        let mut applied = self.lock();
        let audit_max = usize::try_from(AUDIT_MAX).expect("fits");
        let audit = self.registry.audit(audit_max)?;
        let changes = applied.state.changes();
        let document = SnapshotDocument {
            version: applied.version,
            changes: changes.iter().map(StoredChange::from).collect(),
            audit: audit.iter().map(StoredAudit::from).collect(),
        };
        let index = applied.last.map_or(0, |last| last.index);
        let meta = SnapshotMeta {
            last_log_id: applied.last,
            last_membership: applied.members.clone(),
            snapshot_id: format!("{index}-{}", uuid::Uuid::new_v4()),
        };
        let bytes = Arc::new(encode(&document)?);
        applied.snapshot = Some((meta.clone(), Arc::clone(&bytes)));
        Ok(snapshot(meta, &bytes))
    }

    fn install(&self, meta: Meta, bytes: Vec<u8>) -> Result<(), StorageError> {
        let document: SnapshotDocument = decode(&bytes)?;
        let changes = document.changes.into_iter().map(Change::try_from);
        let changes = changes.collect::<Result<Vec<_>, _>>()?;
        let audit = document.audit.into_iter().map(Audit::try_from);
        let audit = audit.collect::<Result<Vec<_>, _>>()?;
        let registry = &self.registry;
        let mut applied = self.lock();
        registry.transact(|writing| {
            registry.clear(writing)?;
            registry.put(writing, &changes)?;
            for entry in &audit {
                registry.put_audit(writing, entry)?;
            }
            put_value(registry, writing, MEMBERS, &meta.last_membership)?;
            put_value(registry, writing, VERSION, &document.version)?;
            put_value(registry, writing, APPLIED, &meta.last_log_id)
        })?;
        applied.state = State::empty(applied.state.cluster, applied.state.node);
        for change in &changes {
            applied.state.apply(change);
        }
        applied.version = document.version;
        applied.last = meta.last_log_id;
        applied.members = meta.last_membership.clone();
        applied.snapshot = Some((meta, Arc::new(bytes)));
        Ok(())
    }
}

fn snapshot(meta: Meta, bytes: &Arc<Vec<u8>>) -> Snapshot<Types> {
    // The copy is sent piece by piece and dropped: some megabytes at most, seldom.
    Snapshot {
        meta,
        snapshot: Box::new(Cursor::new(bytes.to_vec())),
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, Failure> {
        let machine = self.clone();
        let built = blocking(move || machine.build()).await;
        built.map_err(|error| failure(ErrorSubject::Snapshot(None), ErrorVerb::Write, &error))
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Machine;

    async fn applied_state(&mut self) -> Result<(Option<LogId<MasterId>>, Members), Failure> {
        let machine = self.clone();
        Ok(blocking(move || {
            let applied = machine.lock();
            (applied.last, applied.members.clone())
        })
        .await)
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcome>, Failure>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let machine = self.clone();
        let entries: Vec<_> = entries.into_iter().collect();
        let done = blocking(move || machine.apply_all(entries)).await;
        done.map_err(|error| failure(ErrorSubject::StateMachine, ErrorVerb::Write, &error))
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, Failure> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &Meta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), Failure> {
        let (machine, meta) = (self.clone(), meta.clone());
        let bytes = snapshot.into_inner();
        let done = blocking(move || machine.install(meta, bytes)).await;
        done.map_err(|error| failure(ErrorSubject::Snapshot(None), ErrorVerb::Write, &error))
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, Failure> {
        let machine = self.clone();
        let current = blocking(move || machine.lock().snapshot.clone()).await;
        Ok(current.map(|(meta, bytes)| snapshot(meta, &bytes)))
    }
}

#[cfg(test)]
mod tests;
