//! What the agent remembers over a restart: who the node is, and its last assignments.
//!
//! One redb file, mode 0600: assignments carry secrets. The identity must be durable before the agent
//! starts. Assignments are a convenience, the masters have the truth: they are written behind by a
//! thread, several at a time, and a failure to write them is told and survived.

use crate::registry::database::{
    StorageError, check_mode, create_file, failed, file, prepare_directory,
};
use holdfast_core::id::{ClusterId, NodeId};
use holdfast_core::link;
use prost::Message as _;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Name of the file in its directory.
pub const FILE_NAME: &str = "agent.redb";

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const ASSIGNMENTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("assignments");

enum Write {
    Cluster(ClusterId),
    Put(Vec<u8>, Vec<u8>),
    Forget(Vec<u8>),
}

/// See the module's head.
#[allow(missing_debug_implementations)] // Assignments carry secrets.
pub struct Cache {
    node: NodeId,
    cluster: Option<ClusterId>,
    assignments: BTreeMap<Vec<u8>, link::Assignment>,
    writer: Sender<Write>,
}

/// The node that the file in `directory` names, if there is one.
pub fn peek(directory: &Path) -> Result<Option<NodeId>, StorageError> {
    let path = directory.join(FILE_NAME);
    if !path.try_exists().map_err(|source| file(&path, source))? {
        return Ok(None);
    }
    let database = open(&path)?;
    let (node, _) = identities(&database).map_err(|source| failed(&path, source))?;
    Ok(node)
}

impl Cache {
    /// Opens the file in `directory`, or makes one there for the node `fresh`.
    pub fn open(directory: &Path, fresh: NodeId) -> Result<Cache, StorageError> {
        prepare_directory(directory)?;
        let path = directory.join(FILE_NAME);
        if !path.try_exists().map_err(|source| file(&path, source))? {
            create_file(directory, &path, |database| initialise(database, fresh))?;
        }
        let database = open(&path)?;
        let (node, cluster) = identities(&database).map_err(|source| failed(&path, source))?;
        let assignments = assignments(&database).map_err(|source| failed(&path, source))?;
        let (writer, writes) = channel();
        std::thread::Builder::new()
            .name("agent cache".into())
            .spawn(move || write_behind(&database, &path, &writes))
            .map_err(|source| file(&directory.join(FILE_NAME), source))?;
        Ok(Cache {
            node: node.unwrap_or(fresh),
            cluster,
            assignments,
            writer,
        })
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The cluster that it belongs to; `None`: it has not joined yet.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// The node belongs to that cluster from now on.
    pub fn set_cluster(&mut self, cluster: ClusterId) {
        self.cluster = Some(cluster);
        self.write(Write::Cluster(cluster));
    }

    /// Remembers an assignment that was carried out.
    pub fn put(&mut self, assignment: link::Assignment) {
        let key = assignment.volume_id.clone();
        if self.assignments.get(&key) == Some(&assignment) {
            return; // As after each reconnect.
        }
        self.write(Write::Put(key.clone(), assignment.encode_to_vec()));
        self.assignments.insert(key, assignment);
    }

    /// Forgets a volume.
    pub fn forget(&mut self, volume: &[u8]) {
        if self.assignments.remove(volume).is_some() {
            self.write(Write::Forget(volume.to_vec()));
        }
    }

    /// Assignments of volumes with one copy.
    pub fn alone(&self) -> impl Iterator<Item = link::Assignment> {
        let all = self.assignments.values();
        all.filter(|assignment| assignment.role() == link::Role::Alone)
            .cloned()
    }

    fn write(&self, write: Write) {
        // The thread ends only after a failure that it told.
        let _ = self.writer.send(write);
    }
}

/// Writes until the cache is dropped.
fn write_behind(database: &Database, path: &Path, writes: &Receiver<Write>) {
    while let Ok(first) = writes.recv() {
        let more = std::iter::from_fn(|| writes.try_recv().ok());
        let batch: Vec<_> = std::iter::once(first).chain(more).collect();
        if let Err(error) = write_all(database, &batch) {
            tracing::error!(
                "cannot write {}: {error}; after a restart without masters the volumes of this node \
                 may have to wait for them",
                path.display()
            );
            return;
        }
    }
}

fn write_all(database: &Database, batch: &[Write]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        let mut assignments = transaction.open_table(ASSIGNMENTS)?;
        for write in batch {
            match write {
                Write::Cluster(cluster) => {
                    meta.insert("cluster_id", &cluster.0[..])?;
                }
                Write::Put(key, bytes) => {
                    assignments.insert(&key[..], &bytes[..])?;
                }
                Write::Forget(key) => {
                    assignments.remove(&key[..])?;
                }
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

fn open(path: &Path) -> Result<Database, StorageError> {
    check_mode(path, 0o077, 0o600)?;
    redb::Builder::new()
        .open(path)
        .map_err(|source| failed(path, source))
}

fn initialise(database: &Database, node: NodeId) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction
        .open_table(META)?
        .insert("node_id", &node.0[..])?;
    transaction.open_table(ASSIGNMENTS)?;
    transaction.commit()?;
    Ok(())
}

fn identities(database: &Database) -> Result<(Option<NodeId>, Option<ClusterId>), redb::Error> {
    let transaction = database.begin_read()?;
    let meta = transaction.open_table(META)?;
    let node = meta.get("node_id")?;
    let node = node.and_then(|bytes| NodeId::try_from(bytes.value()).ok());
    let cluster = meta.get("cluster_id")?;
    let cluster = cluster.and_then(|bytes| ClusterId::try_from(bytes.value()).ok());
    Ok((node, cluster))
}

/// What cannot be decoded was written by another version and is asked of the masters.
fn assignments(database: &Database) -> Result<BTreeMap<Vec<u8>, link::Assignment>, redb::Error> {
    let transaction = database.begin_read()?;
    let table = transaction.open_table(ASSIGNMENTS)?;
    let mut found = BTreeMap::new();
    for row in table.iter()? {
        let (key, bytes) = row?;
        if let Ok(assignment) = link::Assignment::decode(bytes.value()) {
            found.insert(key.value().to_vec(), assignment);
        }
    }
    Ok(found)
}
