//! The registry on disk: one redb file, mode 0600, in a directory of mode 0700.
//!
//! Every set of changes is one durable transaction together with its audit entry. Any storage error
//! is final: the caller stops the process, and the next start checks the whole file. A file of
//! another format is refused untouched; a damaged one is refused, never opened as empty.
//! Cost: one commit (two syncs) per change; nothing is written while nothing changes.

use super::record::{Record, RecordError};
use super::{Audit, Change, State};
use crate::limits::AUDIT_MAX;
use crate::raft::CommitError;
use holdfast_core::id::{ClusterId, NodeId};
use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    TableDefinition, WriteTransaction,
};
use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Version of the stored form.
pub const FORMAT: &str = "holdfast registry 3";

/// Name of the file in its directory.
pub const FILE_NAME: &str = "registry.redb";

/// The cluster of a registry that is in none yet.
pub(crate) const NO_CLUSTER: ClusterId = ClusterId([0; 16]);

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const VOLUMES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("volumes");
const TOMBSTONES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("tombstones");
const STORES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("stores");
const NODES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("nodes");
const AUDIT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("audit");

/// Entries of the masters' log by index, as `raft::log` writes them.
pub(crate) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

/// Vote, last applied entry and members, as `raft` writes them.
pub(crate) const CONSENSUS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("consensus");

/// Key in [`CONSENSUS`]: this master was taken into a cluster and must never found one.
pub(crate) const INVITED: &str = "invited";

/// The open file.
#[derive(Debug)]
pub struct Registry {
    database: Database,
    path: PathBuf,
}

/// Identities for a registry that does not exist yet.
#[derive(Clone, Copy, Debug)]
pub struct Identities {
    /// The cluster's; `None` for a master that waits to be taken into one.
    pub cluster: Option<ClusterId>,
    /// This node's.
    pub node: NodeId,
}

/// The registry cannot be opened, or must not be used any more.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The directory or the file.
    #[error("cannot use {path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Readable for others.
    #[error(
        "{path} is open to other users (mode {mode:o}); it holds secrets: `chmod {wanted:o} {path}`"
    )]
    Exposed {
        /// Which.
        path: String,
        /// Its mode.
        mode: u32,
        /// The mode it should have.
        wanted: u32,
    },
    /// Written by another version.
    #[error(
        "{path} has format '{found}', this build reads '{FORMAT}'; use the build that wrote it"
    )]
    Format {
        /// Which.
        path: String,
        /// Its format.
        found: String,
    },
    /// The database.
    #[error("registry {path}: {source}")]
    Database {
        /// Which.
        path: String,
        /// Why.
        source: redb::Error,
    },
    /// A record.
    #[error("registry: {0}")]
    Record(#[from] RecordError),
    /// The masters' log.
    #[error("registry: {0}")]
    Consensus(String),
    /// Not the storage: this master leads no more, or cannot know. Ends its reign, not the process.
    #[error("{0}")]
    ReignOver(CommitError),
}

impl Registry {
    /// Opens the registry in `directory`, or makes one there with `fresh` identities.
    pub fn open(directory: &Path, fresh: Identities) -> Result<(Registry, State), StorageError> {
        prepare_directory(directory)?;
        let path = directory.join(FILE_NAME);
        let exists = path.try_exists().map_err(|source| file(&path, source))?;
        if exists {
            check_mode(&path, 0o077, 0o600)?;
        } else {
            create_file(directory, &path, |database| initialise(database, fresh))?;
        }
        let database = redb::Builder::new()
            .set_check_integrity_on_open(true)
            .open(&path)
            .map_err(|source| failed(&path, source))?;
        let registry = Registry { database, path };
        let state = registry.load()?;
        Ok((registry, state))
    }

    /// Makes `changes` durable together with their `audit` entry.
    #[cfg(test)]
    fn commit(&self, changes: &[Change], audit: &Audit) -> Result<(), StorageError> {
        self.transact(|transaction| {
            self.put(transaction, changes)?;
            self.put_audit(transaction, audit)
        })
    }

    /// Runs `work` as one transaction, which is durable when this returns.
    pub(crate) fn transact<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let mut transaction = self.read(self.database.begin_write())?;
        self.read(transaction.set_durability(Durability::Immediate))?;
        transaction.set_two_phase_commit(true);
        let result = work(&transaction)?;
        self.read(transaction.commit())?;
        Ok(result)
    }

    /// A consistent look at the file.
    pub(crate) fn snapshot(&self) -> Result<ReadTransaction, StorageError> {
        self.read(self.database.begin_read())
    }

    /// Stores `changes` with `transaction`.
    pub(crate) fn put(
        &self,
        transaction: &WriteTransaction,
        changes: &[Change],
    ) -> Result<(), StorageError> {
        let mut volumes = self.read(transaction.open_table(VOLUMES))?;
        let mut tombstones = self.read(transaction.open_table(TOMBSTONES))?;
        let mut stores = self.read(transaction.open_table(STORES))?;
        let mut nodes = self.read(transaction.open_table(NODES))?;
        for change in changes {
            match change {
                Change::PutVolume(volume) => {
                    let bytes = volume.encode()?;
                    self.read(volumes.insert(&volume.id.0[..], &bytes[..]))?;
                }
                Change::BuryVolume(stone) => {
                    let bytes = stone.encode()?;
                    self.read(volumes.remove(&stone.id.0[..]))?;
                    self.read(tombstones.insert(&stone.id.0[..], &bytes[..]))?;
                }
                Change::ForgetTombstone(id) => {
                    self.read(tombstones.remove(&id.0[..]))?;
                }
                Change::PutStore(store) => {
                    let bytes = store.encode()?;
                    self.read(stores.insert(&store.id.0[..], &bytes[..]))?;
                }
                Change::PutNode(node) => {
                    let bytes = node.encode()?;
                    self.read(nodes.insert(&node.id.0[..], &bytes[..]))?;
                }
                Change::ForgetNode(id) => {
                    self.read(nodes.remove(&id.0[..]))?;
                    let mut gone = Vec::new();
                    for row in self.read(stores.iter())? {
                        let (key, value) = self.read(row)?;
                        if super::Store::decode(value.value())?.node == *id {
                            gone.push(key.value().to_vec());
                        }
                    }
                    for store in gone {
                        self.read(stores.remove(&store[..]))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds an audit entry with `transaction`; the oldest goes when there are too many.
    pub(crate) fn put_audit(
        &self,
        transaction: &WriteTransaction,
        audit: &Audit,
    ) -> Result<(), StorageError> {
        let mut entries = self.read(transaction.open_table(AUDIT))?;
        let last = self.read(entries.last())?.map_or(0, |(key, _)| key.value());
        let bytes = audit.encode()?;
        self.read(entries.insert(last + 1, &bytes[..]))?;
        if self.read(entries.len())? > AUDIT_MAX {
            self.read(entries.pop_first())?;
        }
        Ok(())
    }

    /// Takes out every record and audit entry with `transaction`.
    pub(crate) fn clear(&self, transaction: &WriteTransaction) -> Result<(), StorageError> {
        for table in [VOLUMES, TOMBSTONES, STORES, NODES] {
            self.read(transaction.delete_table(table))?;
            self.read(transaction.open_table(table))?;
        }
        self.read(transaction.delete_table(AUDIT))?;
        self.read(transaction.open_table(AUDIT))?;
        Ok(())
    }

    /// Gives an empty registry its cluster.
    pub(crate) fn join(&self, cluster: ClusterId) -> Result<(), StorageError> {
        self.transact(|transaction| {
            let mut consensus = self.read(transaction.open_table(CONSENSUS))?;
            self.read(consensus.insert(INVITED, &b"1"[..]))?;
            let mut meta = self.read(transaction.open_table(META))?;
            self.read(meta.insert("cluster_id", &cluster.0[..]))?;
            Ok(())
        })
    }

    /// The newest audit entries, oldest first.
    pub fn audit(&self, count_max: usize) -> Result<Vec<Audit>, StorageError> {
        let transaction = self.read(self.database.begin_read())?;
        let table = self.read(transaction.open_table(AUDIT))?;
        let mut entries = Vec::new();
        for row in self.read(table.iter())?.rev().take(count_max) {
            let (_, bytes) = self.read(row)?;
            entries.push(Audit::decode(bytes.value())?);
        }
        entries.reverse();
        Ok(entries)
    }

    /// Closes the file; errors that a drop would swallow are returned.
    pub fn close(self) -> Result<(), StorageError> {
        let Registry { database, path } = self;
        database.close().map_err(|source| failed(&path, source))
    }

    /// Everything in the file.
    pub(crate) fn load(&self) -> Result<State, StorageError> {
        let transaction = self.read(self.database.begin_read())?;
        let meta = self.read(transaction.open_table(META))?;
        let value = |key: &str| -> Result<Vec<u8>, StorageError> {
            let found = self.read(meta.get(key))?;
            Ok(found.map_or_else(Vec::new, |guard| guard.value().to_vec()))
        };
        let format = value("format")?;
        if format != FORMAT.as_bytes() {
            return Err(StorageError::Format {
                path: self.path.display().to_string(),
                found: String::from_utf8_lossy(&format).chars().take(80).collect(),
            });
        }
        let identity = |field, bytes: Vec<u8>| {
            <[u8; 16]>::try_from(bytes).map_err(|_| RecordError::Field {
                field,
                reason: "not 16 bytes".into(),
            })
        };
        let cluster = match value("cluster_id")? {
            none if none.is_empty() => NO_CLUSTER,
            bytes => ClusterId(identity("cluster id", bytes)?),
        };
        let node = NodeId(identity("node id", value("node_id")?)?);
        let mut state = State::empty(cluster, node);
        for volume in self.records(&transaction, VOLUMES)? {
            state.apply(&Change::PutVolume(volume));
        }
        for stone in self.records(&transaction, TOMBSTONES)? {
            state.apply(&Change::BuryVolume(stone));
        }
        for store in self.records(&transaction, STORES)? {
            state.apply(&Change::PutStore(store));
        }
        for node in self.records(&transaction, NODES)? {
            state.apply(&Change::PutNode(node));
        }
        Ok(state)
    }

    fn records<T: Record>(
        &self,
        transaction: &redb::ReadTransaction,
        table: TableDefinition<'_, &'static [u8], &'static [u8]>,
    ) -> Result<Vec<T>, StorageError> {
        let table = self.read(transaction.open_table(table))?;
        let mut records = Vec::new();
        for row in self.read(table.iter())? {
            let (_, bytes) = self.read(row)?;
            records.push(T::decode(bytes.value())?);
        }
        Ok(records)
    }

    /// Names the file in an error of the database.
    pub(crate) fn read<T, E: Into<redb::Error>>(
        &self,
        result: Result<T, E>,
    ) -> Result<T, StorageError> {
        result.map_err(|source| failed(&self.path, source))
    }
}

/// Makes a complete database under another name and then gives it its name, so that a crash leaves
/// either none or a whole one.
pub(crate) fn create_file(
    directory: &Path,
    path: &Path,
    initialise: impl FnOnce(&Database) -> Result<(), redb::Error>,
) -> Result<(), StorageError> {
    let unfinished = path.with_extension("unfinished");
    let file_handle = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)
        .map_err(|source| file(&unfinished, source))?;
    let backend = redb::backends::FileBackend::new(file_handle)
        .map_err(|source| failed(&unfinished, source))?;
    let database = redb::Builder::new()
        .create_with_backend(backend)
        .map_err(|source| failed(&unfinished, source))?;
    initialise(&database).map_err(|source| StorageError::Database {
        path: unfinished.display().to_string(),
        source,
    })?;
    database
        .close()
        .map_err(|source| failed(&unfinished, source))?;
    std::fs::rename(&unfinished, path).map_err(|source| file(path, source))?;
    let handle = std::fs::File::open(directory).map_err(|source| file(directory, source))?;
    handle.sync_all().map_err(|source| file(directory, source))
}

fn initialise(database: &Database, fresh: Identities) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert("format", FORMAT.as_bytes())?;
        if let Some(cluster) = fresh.cluster {
            meta.insert("cluster_id", &cluster.0[..])?;
        }
        meta.insert("node_id", &fresh.node.0[..])?;
        for table in [VOLUMES, TOMBSTONES, STORES, NODES] {
            transaction.open_table(table)?;
        }
        transaction.open_table(AUDIT)?;
        transaction.open_table(LOG)?;
        transaction.open_table(CONSENSUS)?;
    }
    transaction.commit()?;
    Ok(())
}

pub(crate) fn prepare_directory(directory: &Path) -> Result<(), StorageError> {
    let exists = directory
        .try_exists()
        .map_err(|source| file(directory, source))?;
    let mut entries = match exists {
        true => Some(std::fs::read_dir(directory).map_err(|source| file(directory, source))?),
        false => None,
    };
    // An empty directory may be made private; what others use is not ours to close.
    if entries
        .as_mut()
        .is_some_and(|entries| entries.next().is_some())
    {
        return check_mode(directory, 0o077, 0o700);
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| file(directory, source))?;
    // The umask may have taken bits away; it never adds some.
    std::fs::set_permissions(directory, Permissions::from_mode(0o700))
        .map_err(|source| file(directory, source))
}

pub(crate) fn check_mode(path: &Path, forbidden: u32, wanted: u32) -> Result<(), StorageError> {
    let metadata = std::fs::metadata(path).map_err(|source| file(path, source))?;
    let mode = metadata.mode() & 0o7777;
    if mode & forbidden == 0 {
        return Ok(());
    }
    Err(StorageError::Exposed {
        path: path.display().to_string(),
        mode,
        wanted,
    })
}

pub(crate) fn file(path: &Path, source: io::Error) -> StorageError {
    StorageError::File {
        path: path.display().to_string(),
        source,
    }
}

pub(crate) fn failed(path: &Path, source: impl Into<redb::Error>) -> StorageError {
    StorageError::Database {
        path: path.display().to_string(),
        source: source.into(),
    }
}

#[cfg(test)]
mod tests;
