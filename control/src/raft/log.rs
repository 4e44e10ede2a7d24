//! Vote and log in the registry's file. Every write is durable when it returns.
//!
//! Cost: one transaction (two syncs) per vote, per batch of entries, per cut.

use super::{Failure, MasterId, Types, blocking, failure};
use crate::registry::database::{CONSENSUS, LOG, Registry, StorageError};
use crate::registry::record::RecordError;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{
    Entry, ErrorSubject, ErrorVerb, LogId, LogState, OptionalSend, RaftLogReader, Vote,
};
use redb::{ReadableTable, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

const VOTE: &str = "vote";
const PURGED: &str = "purged";

/// See the module's head.
#[derive(Clone, Debug)]
pub(super) struct Log {
    registry: Arc<Registry>,
}

impl Log {
    pub(super) fn on(registry: Arc<Registry>) -> Log {
        Log { registry }
    }

    /// The newest entry, or the newest that was purged.
    pub(super) async fn last(&self) -> Result<Option<LogId<MasterId>>, Failure> {
        Ok(self.state().await?.last_log_id)
    }

    async fn state(&self) -> Result<LogState<Types>, Failure> {
        self.read(ErrorSubject::Logs, |registry| {
            let last_purged_log_id = value::<LogId<MasterId>>(registry, PURGED)?;
            let transaction = registry.snapshot()?;
            let table = registry.read(transaction.open_table(LOG))?;
            let last = match registry.read(table.last())? {
                Some((_, bytes)) => Some(decode::<Entry<Types>>(bytes.value())?.log_id),
                None => last_purged_log_id,
            };
            Ok(LogState {
                last_purged_log_id,
                last_log_id: last,
            })
        })
        .await
    }

    async fn read<T: Send + 'static>(
        &self,
        subject: ErrorSubject<MasterId>,
        work: impl FnOnce(&Registry) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, Failure> {
        let registry = Arc::clone(&self.registry);
        let result = blocking(move || work(&registry)).await;
        result.map_err(|error| failure(subject, ErrorVerb::Read, &error))
    }

    async fn write(
        &self,
        subject: ErrorSubject<MasterId>,
        work: impl FnOnce(&Registry, &WriteTransaction) -> Result<(), StorageError> + Send + 'static,
    ) -> Result<(), Failure> {
        let registry = Arc::clone(&self.registry);
        let result = blocking(move || registry.transact(|writing| work(&registry, writing))).await;
        result.map_err(|error| failure(subject, ErrorVerb::Write, &error))
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry<Types>>, Failure> {
        let bounds: (Bound<u64>, Bound<u64>) =
            (range.start_bound().cloned(), range.end_bound().cloned());
        self.read(ErrorSubject::Logs, move |registry| {
            let transaction = registry.snapshot()?;
            let table = registry.read(transaction.open_table(LOG))?;
            let mut entries = Vec::new();
            for row in registry.read(table.range(bounds))? {
                let (_, bytes) = registry.read(row)?;
                entries.push(decode(bytes.value())?);
            }
            Ok(entries)
        })
        .await
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, Failure> {
        self.state().await
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<MasterId>) -> Result<(), Failure> {
        let vote = *vote;
        let work = move |registry: &Registry, writing: &WriteTransaction| {
            put_value(registry, writing, VOTE, &vote)
        };
        self.write(ErrorSubject::Vote, work).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<MasterId>>, Failure> {
        self.read(ErrorSubject::Vote, |registry| value(registry, VOTE))
            .await
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), Failure>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        let work = move |registry: &Registry, writing: &WriteTransaction| {
            let mut table = registry.read(writing.open_table(LOG))?;
            for entry in &entries {
                let bytes = encode(entry)?;
                registry.read(table.insert(entry.log_id.index, &bytes[..]))?;
            }
            Ok(())
        };
        match self.write(ErrorSubject::Logs, work).await {
            Ok(()) => {
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(error) => {
                callback.log_io_completed(Err(std::io::Error::other(error.to_string())));
                Err(error)
            }
        }
    }

    async fn truncate(&mut self, from: LogId<MasterId>) -> Result<(), Failure> {
        let work = move |registry: &Registry, writing: &WriteTransaction| {
            let mut table = registry.read(writing.open_table(LOG))?;
            registry.read(table.retain_in(from.index.., |_, _| false))
        };
        self.write(ErrorSubject::Log(from), work).await
    }

    async fn purge(&mut self, up_to: LogId<MasterId>) -> Result<(), Failure> {
        let work = move |registry: &Registry, writing: &WriteTransaction| {
            put_value(registry, writing, PURGED, &up_to)?;
            let mut table = registry.read(writing.open_table(LOG))?;
            registry.read(table.retain_in(..=up_to.index, |_, _| false))
        };
        self.write(ErrorSubject::Log(up_to), work).await
    }
}

/// A value of [`CONSENSUS`].
pub(super) fn value<T: DeserializeOwned>(
    registry: &Registry,
    key: &str,
) -> Result<Option<T>, StorageError> {
    let transaction = registry.snapshot()?;
    let table = registry.read(transaction.open_table(CONSENSUS))?;
    let found = registry.read(table.get(key))?;
    found.map(|bytes| decode(bytes.value())).transpose()
}

/// Sets a value of [`CONSENSUS`].
pub(super) fn put_value(
    registry: &Registry,
    writing: &WriteTransaction,
    key: &str,
    value: &impl Serialize,
) -> Result<(), StorageError> {
    let mut table = registry.read(writing.open_table(CONSENSUS))?;
    let bytes = encode(value)?;
    registry.read(table.insert(key, &bytes[..]))?;
    Ok(())
}

pub(super) fn encode(value: &impl Serialize) -> Result<Vec<u8>, StorageError> {
    Ok(serde_json::to_vec(value).map_err(RecordError::from)?)
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StorageError> {
    Ok(serde_json::from_slice(bytes).map_err(RecordError::from)?)
}
