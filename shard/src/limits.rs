//! Every bound of the volume server's driver, with its unit and its reason.
//!
//! Bounds of formats and protocols are in the `limits` of `core` and `iscsi`; thresholds and periods that
//! bound nothing stay with their module.

use std::time::Duration;

// Process and start.

/// How long a start waits for the sockets and locks of a process that was killed.
pub(crate) const TAKEOVER_MAX: Duration = Duration::from_secs(10);

/// Time between two tries.
pub(crate) const TAKEOVER_PAUSE: Duration = Duration::from_millis(50);

/// Of the memory given, the part for transfers in percent; the rest is read cache.
pub(crate) const TRANSFER_PERCENT: u64 = 50;

/// Locked memory that glommio insists on.
pub(crate) const MEMLOCK_BYTES_MIN: u64 = 512 << 10;

/// Memory registered with the rings of one executor at most.
pub(crate) const REGISTERED_BYTES_MAX: u64 = 16 << 20;

/// Memory registered at least: glommio's smallest slab.
pub(crate) const REGISTERED_BYTES_MIN: u64 = 64 << 10;

/// Messages that wait for the coordinator at most; it only routes, so they never do for long.
pub(crate) const COORDINATOR_QUEUE_MAX: usize = 4096;

/// Messages that wait for a shard at most.
pub(crate) const SHARD_QUEUE_MAX: usize = 4096;

/// Time between two reports to the agent when nothing changes.
pub(crate) const REPORT_PERIOD: Duration = Duration::from_secs(1);

/// How long the shards may take to log out hosts and to checkpoint.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(60);

/// Entries of the submission ring; the completion ring has twice as many.
pub(crate) const RING_ENTRIES: usize = 512;

// Control link.

/// First wait before connecting again; doubled each time.
pub(crate) const LINK_BACKOFF_MIN: Duration = Duration::from_millis(50);

/// Longest wait before connecting again.
pub(crate) const LINK_BACKOFF_MAX: Duration = Duration::from_secs(2);

/// How long the agent may take to accept bytes before it counts as gone.
pub(crate) const LINK_WRITE_TIMEOUT: Duration = Duration::from_secs(5);

// Connections.

/// Connections waiting in the kernel to be accepted.
pub(crate) const BACKLOG: i32 = 1024;

/// Wait after a failed accept: descriptors or memory run short.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections of one shard at most.
pub(crate) const CONNECTIONS_MAX: usize = 8192;

/// Connections that have not logged in to a target, at most.
pub(crate) const HALF_OPEN_MAX: usize = 1024;

/// Descriptors of one connection.
pub(crate) const DESCRIPTORS_PER_CONNECTION: u64 = 3;

/// Descriptors for everything else.
pub(crate) const DESCRIPTORS_RESERVED: u64 = 256;

/// Bytes of the receive buffer that all connections of a shard share.
pub(crate) const SCRATCH_BYTES: usize = 256 << 10;

/// Host commands under way in one shard at most; further ones wait in order.
pub(crate) const COMMANDS_IN_FLIGHT_MAX: usize = 1024;

/// Reads that wait for transfer memory at most, before further ones wait for them.
pub(crate) const READS_WAITING_MAX: usize = 8192;

/// Bytes that one connection costs, about, beside its transfers.
pub(crate) const CONNECTION_BYTES: u64 = 32 << 10;

/// Bytes of connections and transfers of one shard that must have been freed before the allocator is
/// asked to give memory back.
pub(crate) const MEMORY_FALL_BYTES: u64 = 32 << 20;

/// How long hosts may take to log out at the end.
pub(crate) const LOG_OUT_MAX: Duration = Duration::from_secs(6);

/// Bytes of one connection's reads that are under way or waiting to be sent; more wait their turn.
pub(crate) const READ_BYTES_MAX: u64 = 16 << 20;

/// How long a closing connection may take to send what is queued.
pub(crate) const CLOSE_TIME_MAX: Duration = Duration::from_secs(5);

/// Slices of one `sendmsg`; the kernel takes up to 1024.
pub(crate) const SLICES_MAX: usize = 128;

/// Bytes waiting to be sent beyond which the connection is not read from.
pub(crate) const QUEUED_BYTES_MAX: usize = 4 << 20;

/// A host that takes nothing for this long is cut off.
pub(crate) const STALL_MAX: Duration = Duration::from_secs(30);

// Disks and stores.

/// Bytes of one operation at most: longer ones have hung kernels, and delay their neighbours.
pub(crate) const IO_BYTES_MAX: usize = 1 << 20;

/// Reads under way at once, for what is wanted, and as many for what comes behind it.
pub(crate) const OPENING_READS_IN_FLIGHT_MAX: usize = 16;

/// Log, page and chunk writes and syncs under way at once.
pub(crate) const WRITES_IN_FLIGHT_MAX: usize = 128;

/// Parts of scattered reads under way at once.
pub(crate) const READS_IN_FLIGHT_MAX: usize = 128;

/// Flush copies under way at once; the machine asks for fewer.
pub(crate) const COPIES_IN_FLIGHT_MAX: usize = 64;

// Volumes.

/// Bytes worked on at once by commands that may cover a whole volume.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// Lookups for one read at most; more than a flush and a few writes can move a block in that time.
pub(crate) const LOOKUPS_MAX: usize = 8;

/// Commits remembered to tell a late reader; older readers do not fill.
pub(crate) const COMMITS_REMEMBERED: usize = 256;

/// Longer transfers pass the cache by: they are scans, and would cost a copy of every block.
pub(crate) const CACHED_BYTES_MAX: usize = 32 << 10;

/// Ranges held or waited for at most; more are refused as busy.
pub(crate) const HOLDERS_MAX: usize = 4096;

// Peers.

/// Streams of one shard to stores of other nodes at most, both directions.
pub(crate) const PEER_STREAMS_MAX: usize = 256;

/// Streams that were accepted and have not said who they are, at most.
pub(crate) const PEER_HALF_OPEN_MAX: usize = 64;

/// How long a connection to a peer may take until both have said who they are.
pub(crate) const PEER_GREETING_MAX: Duration = Duration::from_secs(2);

/// First wait before connecting to a peer again; doubled each time.
pub(crate) const PEER_BACKOFF_MIN: Duration = Duration::from_millis(50);

/// Longest wait before connecting to a peer again.
pub(crate) const PEER_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// How long sent bytes may stay unacknowledged by a peer's kernel before the connection is given up.
pub(crate) const PEER_UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(5);

/// Messages that wait to be sent on one stream at most. A peer that falls further behind loses its
/// stream, and catches up on the next one.
pub(crate) const PEER_QUEUED_MESSAGES_MAX: usize = 64 << 10;

/// Bytes that wait to be sent on one stream at most, beside what hosts may have in flight at once.
pub(crate) const PEER_QUEUED_BYTES_MAX: usize = 32 << 20;

/// Bytes of payloads that arrived from peers and are not on the disk yet, in one shard at most.
pub(crate) const PEER_ARRIVED_BYTES_MAX: u64 = 64 << 20;

/// Fences and resizes of replicated volumes that one shard carries out at once.
pub(crate) const ASIDE_IN_FLIGHT_MAX: usize = 64;

/// Reads for peers that lack blocks, under way at once in one store; the engine asks for fewer.
pub(crate) const FILLS_IN_FLIGHT_MAX: usize = 64;

/// Lines that a volume logs about damaged blocks in one [`DAMAGE_LINES_PERIOD`] at most; the others are
/// counted in one line.
pub(crate) const DAMAGE_LINES_MAX: u32 = 10;

/// See [`DAMAGE_LINES_MAX`].
pub(crate) const DAMAGE_LINES_PERIOD: Duration = Duration::from_secs(1);

/// Reads for primaries whose own blocks are damaged, under way at once in one store.
pub(crate) const LENDS_IN_FLIGHT_MAX: usize = 16;

/// How long one command may take blocks from other copies: far below what hosts wait for a command. What
/// was healed until then is written again, so a host that tries again gets further.
pub(crate) const HEALING_TIME_MAX: Duration = Duration::from_secs(5);

/// Damaged blocks of one store that are being written again at once.
pub(crate) const REPAIRS_IN_FLIGHT_MAX: usize = 16;

/// Blocks that wait to be written again at most; the others wait until they are read once more.
pub(crate) const REPAIRS_WAITING_MAX: usize = 256;

/// How long a host's command waits for the leases of its primary.
pub(crate) const SERVE_WAIT_MAX: Duration = Duration::from_secs(3);

/// Bytes of the receive buffer of one stream.
pub(crate) const PEER_BUFFER_BYTES: usize = 128 << 10;
