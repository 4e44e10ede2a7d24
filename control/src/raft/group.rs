//! What the process sees of the masters' group: commit, lead or follow, members.

use super::command::{Command, Outcome};
use super::contacts::Contacts;
use super::door::Door;
use super::log::Log;
use super::machine::Machine;
use super::peer::Dialer;
use super::{MasterId, Raft, Seat, blocking, election, master_id};
use crate::limits::{COMMAND_BYTES_MAX, COMMIT_WAIT, RAFT_RPC_BYTES_MAX};
use crate::masters::masters_server::MastersServer;
use crate::registry::State;
use crate::registry::database::{INVITED, NO_CLUSTER, Registry, StorageError};
use holdfast_core::id::{ClusterId, NodeId};
use openraft::error::{CheckIsLeaderError, ClientWriteError, RaftError};
use openraft::{LogId, SnapshotPolicy};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// Times of the group.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Time between two signs of life of the leader.
    pub heartbeat: Duration,
    /// For so long after a leader's sign of life no vote is given to another.
    pub lease: Duration,
    /// Silence of the leader before a master stands for election, at least.
    pub election_min: Duration,
    /// And so much more at most, drawn for each attempt.
    pub election_spread: Duration,
    /// A leader that no majority has followed for so long stops acting.
    pub silence: Duration,
    /// Time for a commit by a majority; then its fate is unknown to the caller.
    pub commit: Duration,
    /// Entries after which a snapshot is made; as many are kept behind it.
    pub snapshot_entries: u64,
}

/// What this master is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It decides; everything that was committed before is applied. Each reign has another number.
    Leading {
        /// Grows with each time this process came to lead.
        reign: u64,
    },
    /// Another one decides, or none.
    Following {
        /// The one who does, as far as is known.
        leader: Option<Seat>,
    },
    /// The registry failed; the process must stop.
    Stopped {
        /// Why.
        reason: String,
    },
}

/// A command was not carried out, or nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// What it expected does not hold.
    #[error("the change was refused: {0}")]
    Refused(String),
    /// It is bigger than one entry may be.
    #[error("a change of {0} bytes is too big")]
    TooBig(usize),
    /// Another master decides.
    #[error("this master does not lead")]
    NotLeader(Option<Seat>),
    /// No majority answered in time. The command may still be carried out.
    #[error("no majority of the masters answered in time; the change may still happen")]
    Unknown,
    /// The registry failed.
    #[error("the registry stopped: {0}")]
    Stopped(String),
}

/// This master in its group. Clones are the same.
#[derive(Clone)]
#[allow(missing_debug_implementations)] // Its state holds secrets.
pub struct Group {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) own: MasterId,
    pub(super) node: NodeId,
    pub(super) timing: Timing,
    pub(super) contacts: Arc<Contacts>,
    pub(super) raft: OnceLock<Joined>,
    address: String,
    registry: Arc<Registry>,
    joining: tokio::sync::Mutex<()>,
    /// Held while the set of masters is changed.
    pub(super) changing: tokio::sync::Mutex<()>,
    role: watch::Sender<Role>,
    reigns: Mutex<u64>,
}

/// What there is once the master is in a cluster.
#[derive(Clone)]
pub(super) struct Joined {
    pub(super) raft: Raft,
    pub(super) cluster: ClusterId,
    pub(super) log: Log,
    pub(super) dialer: Dialer,
    pub(super) machine: Machine,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            heartbeat: Duration::from_millis(200),
            lease: Duration::from_millis(1_000),
            election_min: Duration::from_millis(1_200),
            election_spread: Duration::from_millis(800),
            silence: Duration::from_millis(1_500),
            commit: COMMIT_WAIT,
            snapshot_entries: 4_096,
        }
    }
}

impl Group {
    /// This master on an open registry, reachable for others at `address`. With a registry that has a
    /// cluster and no members yet it founds the group, and is its only member.
    pub async fn start(
        registry: Registry,
        node: NodeId,
        address: String,
        timing: Timing,
    ) -> Result<Group, StorageError> {
        let registry = Arc::new(registry);
        let cluster = registry.load()?.cluster;
        let (role, _) = watch::channel(Role::Following { leader: None });
        let inner = Arc::new(Inner {
            own: master_id(node),
            node,
            timing,
            contacts: Arc::new(Contacts::begin()),
            raft: OnceLock::new(),
            address,
            registry,
            joining: tokio::sync::Mutex::new(()),
            changing: tokio::sync::Mutex::new(()),
            role,
            reigns: Mutex::new(0),
        });
        if cluster != NO_CLUSTER {
            Arc::clone(&inner).enter(cluster).await?;
            inner.found().await?;
        }
        Ok(Group { inner })
    }

    /// The gRPC service for other masters.
    pub fn service(&self) -> MastersServer<impl crate::masters::masters_server::Masters> {
        MastersServer::new(Door(Arc::clone(&self.inner)))
            .max_decoding_message_size(RAFT_RPC_BYTES_MAX)
            .max_encoding_message_size(RAFT_RPC_BYTES_MAX)
    }

    /// What this master is, and notice of each change.
    pub fn role(&self) -> watch::Receiver<Role> {
        self.inner.role.subscribe()
    }

    /// What is applied here, and the index of the newest command in it. Current on a leader only.
    pub async fn state(&self) -> Option<(State, u64)> {
        Some(self.joined().ok()?.machine.state().await)
    }

    /// The newest audit entries, oldest first.
    pub async fn audit(
        &self,
        count_max: usize,
    ) -> Result<Vec<crate::registry::Audit>, StorageError> {
        let registry = Arc::clone(&self.inner.registry);
        blocking(move || registry.audit(count_max)).await
    }

    /// Has `command` carried out by a majority; its index in the log.
    pub async fn commit(&self, command: Command) -> Result<u64, CommitError> {
        let bytes = serde_json::to_vec(&command).map_or(usize::MAX, |bytes| bytes.len());
        if bytes > COMMAND_BYTES_MAX {
            return Err(CommitError::TooBig(bytes));
        }
        let raft = &self.joined()?.raft;
        let written = match timeout(self.inner.timing.commit, raft.client_write(command)).await {
            Ok(written) => written.map_err(commit_error)?,
            Err(_) => return Err(CommitError::Unknown),
        };
        match written.data {
            Outcome::Applied | Outcome::Nothing => Ok(written.log_id.index),
            Outcome::Refused(reason) => Err(CommitError::Refused(reason)),
        }
    }

    /// Returns when a majority has confirmed that this master leads and all that was committed before
    /// the call is applied here.
    pub async fn confirm(&self) -> Result<(), CommitError> {
        let raft = &self.joined()?.raft;
        match timeout(self.inner.timing.commit, raft.ensure_linearizable()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(to)))) => {
                Err(CommitError::NotLeader(to.leader_node))
            }
            Ok(Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_)))) | Err(_) => {
                Err(CommitError::Unknown)
            }
            Ok(Err(RaftError::Fatal(error))) => Err(CommitError::Stopped(error.to_string())),
        }
    }

    /// Stops taking part; what is committed stays.
    pub async fn stop(&self) {
        if let Ok(joined) = self.joined() {
            // An error means that it had stopped before.
            let _ = joined.raft.shutdown().await;
        }
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.inner
    }

    pub(super) fn joined(&self) -> Result<&Joined, CommitError> {
        let joined = self.inner.raft.get();
        joined.ok_or(CommitError::NotLeader(None))
    }

    #[cfg(test)]
    pub(super) fn contacts(&self) -> &Contacts {
        &self.inner.contacts
    }

    #[cfg(test)]
    pub(crate) fn file(&self) -> std::sync::Weak<Registry> {
        Arc::downgrade(&self.inner.registry)
    }

    #[cfg(test)]
    pub(super) fn metrics(&self) -> watch::Receiver<openraft::RaftMetrics<MasterId, Seat>> {
        self.joined().expect("in a cluster").raft.metrics()
    }
}

impl Inner {
    /// Accepts an invitation into `cluster`.
    pub(super) async fn join(self: Arc<Self>, cluster: ClusterId) -> Result<(), String> {
        let _one_at_a_time = self.joining.lock().await;
        if let Some(joined) = self.raft.get() {
            return match joined.cluster == cluster {
                true => Ok(()),
                false => Err(format!("belongs to cluster {} already", joined.cluster)),
            };
        }
        let registry = Arc::clone(&self.registry);
        let written = blocking(move || registry.join(cluster)).await;
        written.map_err(|error| error.to_string())?;
        let entered = Arc::clone(&self).enter(cluster).await;
        entered.map_err(|error| error.to_string())
    }

    /// Whether this master would vote for one whose newest entry is `last`.
    pub(super) async fn would_vote(&self, last: Option<LogId<MasterId>>) -> bool {
        let Some(joined) = self.raft.get() else {
            return false;
        };
        if matches!(self.role(), Role::Leading { .. })
            || self.contacts.last_heard().elapsed() < self.timing.lease
        {
            return false;
        }
        let would = joined.log.last().await.is_ok_and(|own| last >= own);
        if would {
            self.contacts.promise();
        }
        would
    }

    /// Where this master is.
    pub(super) fn seat(&self) -> Seat {
        Seat {
            node: self.node.to_string(),
            address: self.address.clone(),
        }
    }

    pub(super) fn role(&self) -> Role {
        self.role.borrow().clone()
    }

    /// Publishes a role; `make` is given the number of reigns so far.
    pub(super) fn become_role(&self, make: impl FnOnce(u64) -> Role) {
        let mut reigns = self.reigns.lock().unwrap_or_else(PoisonError::into_inner);
        let role = make(*reigns);
        if let Role::Leading { reign } = &role {
            *reigns = *reign;
        }
        self.role.send_if_modified(|present| {
            let changed = *present != role;
            if changed {
                tracing::info!("masters: {role:?}");
                *present = role;
            }
            changed
        });
    }

    pub(super) fn stop(&self, reason: String) {
        self.become_role(|_| Role::Stopped { reason });
    }

    async fn enter(self: Arc<Self>, cluster: ClusterId) -> Result<(), StorageError> {
        let registry = Arc::clone(&self.registry);
        let machine = blocking(move || Machine::open(registry)).await?;
        let log = Log::on(Arc::clone(&self.registry));
        let dialer = Dialer {
            cluster,
            own: self.own,
            contacts: Arc::clone(&self.contacts),
        };
        let config = Arc::new(self.timing.config(cluster));
        let raft = Raft::new(
            self.own,
            config,
            dialer.clone(),
            log.clone(),
            machine.clone(),
        );
        let raft = raft
            .await
            .map_err(|error| StorageError::Consensus(error.to_string()))?;
        self.contacts.heard();
        let joined = Joined {
            raft,
            cluster,
            log,
            dialer,
            machine,
        };
        tokio::spawn(election::watch(Arc::clone(&self), joined.clone()));
        let fresh = self.raft.set(joined).is_ok();
        assert!(fresh); // Entered once: at the start, or under the lock of `join`.
        Ok(())
    }

    /// Founds the group, unless this master was taken into one or has founded it before.
    async fn found(&self) -> Result<(), StorageError> {
        let invited = super::log::value::<u64>(&self.registry, INVITED)?;
        let Some(joined) = self.raft.get().filter(|_| invited.is_none()) else {
            return Ok(());
        };
        let members = BTreeMap::from([(self.own, self.seat())]);
        match joined.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(_)) => Ok(()), // The latter: founded before.
            Err(error) => Err(StorageError::Consensus(error.to_string())),
        }
    }
}

impl Timing {
    fn config(&self, cluster: ClusterId) -> openraft::Config {
        let ms = |time: Duration| u64::try_from(time.as_millis()).expect("fits");
        let config = openraft::Config {
            cluster_name: cluster.to_string(),
            heartbeat_interval: ms(self.heartbeat),
            // Only the lease comes from this; elections are `election`'s business.
            election_timeout_min: ms(self.lease) - 1,
            election_timeout_max: ms(self.lease),
            enable_elect: false,
            install_snapshot_timeout: ms(COMMIT_WAIT),
            max_payload_entries: 64,
            replication_lag_threshold: self.snapshot_entries * 2,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_entries),
            max_in_snapshot_log_to_keep: self.snapshot_entries,
            snapshot_max_chunk_size: 1 << 20,
            ..openraft::Config::default()
        };
        config
            .validate()
            .expect("the lease is longer than the heartbeat")
    }
}

pub(super) fn commit_error(
    error: RaftError<MasterId, ClientWriteError<MasterId, Seat>>,
) -> CommitError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
            CommitError::NotLeader(to.leader_node)
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
            CommitError::Refused(error.to_string())
        }
        RaftError::Fatal(error) => CommitError::Stopped(error.to_string()),
    }
}
