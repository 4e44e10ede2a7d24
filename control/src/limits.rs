//! Every bound of the control plane, with its unit and its reason.

use std::time::Duration;

/// How long creating a volume may take before the caller is told to look again.
pub const CREATE_WAIT: Duration = Duration::from_secs(30);

/// How long creating a volume waits for stores that are still being opened, before a store is chosen
/// for it; a full log is read at the speed of its disk.
pub const STORES_WAIT: Duration = Duration::from_secs(20);

/// How long deleting a volume, or changing its access, may take before the caller is told.
pub const CHANGE_WAIT: Duration = Duration::from_secs(20);

/// Time between two looks at the reigns of replicated volumes; the coordinator wants it so.
pub const REIGN_TICK: Duration = Duration::from_millis(100);

/// Time between two looks of the reconciler when nothing happens.
pub const TICK: Duration = Duration::from_millis(250);

/// An order without a reply for so long is sent again.
pub const REPLY_WAIT: Duration = Duration::from_secs(20);

/// Wait before a refused order is sent again; doubled up to [`RETRY_MAX`].
pub const RETRY_MIN: Duration = Duration::from_secs(1);

/// Longest wait before a refused order is sent again.
pub const RETRY_MAX: Duration = Duration::from_secs(30);

/// Orders on the link without a reply at most.
pub const ORDERS_IN_FLIGHT_MAX: usize = 32;

/// Messages queued between a master and an agent, and between an agent and its volume server. More
/// than the orders in flight with a report for each, so it never fills while the peer reads; fences of
/// a failover that find no room are sent again.
pub const LINK_QUEUE: usize = 256;

/// A volume server reports once a second; silent for so long it is taken for hung and cut off.
pub const LINK_SILENCE: Duration = Duration::from_secs(15);

/// Time for `hello`, and for one message to be taken by the peer.
pub const LINK_STEP: Duration = Duration::from_secs(5);

/// What a volume server said last is believed for so long when nothing else tells whether hosts are served:
/// then its agent would have noticed too that it is gone.
pub const UNHEARD_MAX: Duration = LINK_SILENCE;

/// Records that a copy may lack without a loss of points: more than the hosts of a volume have under way.
pub const LAG_MAX: u64 = 1024;

/// Connections on the link socket at the same time, the refused ones included.
pub const LINK_CONNECTIONS_MAX: usize = 8;

/// Time between two signs of life of an agent.
pub const BEAT: Duration = Duration::from_millis(500);

/// A volume server that runs connects within this after its agent started: its longest wait between
/// two attempts is 2 s.
pub const SERVER_WAIT: Duration = Duration::from_secs(3);

/// Without a master for so long after a volume server connected, the agent uses its cache.
pub const RECALL_WAIT: Duration = Duration::from_secs(2);

/// Time to reach a master and to be welcomed by it.
pub const JOIN_WAIT: Duration = Duration::from_secs(3);

/// First wait before the next master is tried; doubled up to [`MASTER_BACKOFF_MAX`].
pub const MASTER_BACKOFF_MIN: Duration = Duration::from_millis(50);

/// Longest wait before the next master is tried.
pub const MASTER_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Requests queued towards the master.
pub const MASTER_QUEUE: usize = 256;

/// Copies of a volume that may be wanted at most.
pub const VOLUME_COPIES_MAX: u8 = 3;

/// Between two steps of repair for one volume.
pub const REPAIR_PAUSE: Duration = Duration::from_secs(1);

/// Between two moves of one volume's primary off drained nodes; hosts notice each.
pub const MOVE_PAUSE: Duration = Duration::from_secs(5);

/// Copies that are filled at the same time before repair makes another one.
pub const RESYNCS_MAX: usize = 8;

/// A deletion waits so long for a node that is away; the tombstone does the rest when it is back.
pub const DELETION_PATIENCE: Duration = Duration::from_secs(5);

/// Volumes in the registry at most.
pub const VOLUMES_MAX: usize = 4096;

/// Tombstones kept; the oldest goes first. A volume whose tombstone is gone is reported as unknown,
/// never removed.
pub const TOMBSTONES_MAX: usize = 65_536;

/// Audit entries kept in the registry.
pub const AUDIT_MAX: u64 = 10_000;

/// Events kept in memory.
pub const EVENTS_MAX: usize = 1_000;

/// Volumes are thin. The sizes of those on one store add up to at most so many times its capacity.
pub const OVERCOMMIT_MAX: u64 = 10;

/// Bytes of a CHAP secret at least (RFC 7143 §12.1.3: 96 bits).
pub const SECRET_BYTES_MIN: usize = 12;

/// Bytes of a CHAP secret at most.
pub const SECRET_BYTES_MAX: usize = 255;

/// Bytes of a CHAP user name at most.
pub const CHAP_USER_BYTES_MAX: usize = 255;

/// Initiator names of one volume at most.
pub const INITIATORS_MAX: usize = 256;

/// Bytes of an iSCSI name at most (RFC 7143 §4.2.7.1).
pub const ISCSI_NAME_BYTES_MAX: usize = 223;

/// Time for calls under way when the process is told to stop.
pub const SHUTDOWN_WAIT: Duration = Duration::from_secs(5);

/// A call waits so long for a leading master: the time of an election, and more.
pub const LEAD_WAIT: Duration = Duration::from_secs(5);

/// Wait before a master that ended while its process still leads is made anew.
pub const REIGN_RETRY: Duration = Duration::from_millis(200);

/// Masters at most; more make every commit slower and no failure more bearable.
pub const MASTERS_MAX: usize = 5;

/// Time for a commit by a majority of the masters; then its fate is unknown to the caller.
pub const COMMIT_WAIT: Duration = Duration::from_secs(5);

/// Time for a master to catch up and to be given its vote.
pub const MEMBERSHIP_WAIT: Duration = Duration::from_secs(30);

/// Time to connect to another master, and between two looks at an idle connection.
pub const RAFT_CONNECT_WAIT: Duration = Duration::from_secs(1);

/// Wait before another master that could not be reached is tried again.
pub const RAFT_BACKOFF: Duration = Duration::from_millis(200);

/// Bytes of one command in the masters' log at most.
pub const COMMAND_BYTES_MAX: usize = 1 << 20;

/// Bytes of entries sent at once; a single bigger one goes alone.
pub const RAFT_ENTRIES_BYTES_MAX: usize = 4 << 20;

/// Bytes of one message between masters at most.
pub const RAFT_RPC_BYTES_MAX: usize = 8 << 20;

const _: () = assert!(RAFT_ENTRIES_BYTES_MAX + COMMAND_BYTES_MAX < RAFT_RPC_BYTES_MAX);
