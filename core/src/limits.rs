//! Every bound of the data plane, with its unit and its reason. Bounds are not repeated elsewhere.

use core::time::Duration;

/// Bytes of a block, the unit of checksums, of the dirty map and of crash atomicity (I12).
///
/// Equal to the physical sector of the disks we meet, so a block is never torn by a larger sector.
pub const BLOCK_BYTES: usize = 4096;

/// Blocks of a chunk, the unit of allocation, copy-on-write and rebuild: 64 KiB.
pub const CHUNK_BLOCKS: usize = 16;

/// Bytes of a chunk.
pub const CHUNK_BYTES: usize = CHUNK_BLOCKS * BLOCK_BYTES;

/// Bytes of one write-ahead log segment. A frame never crosses a segment.
pub const WAL_SEGMENT_BYTES: usize = 4 << 20;

/// Payload bytes of one WAL frame at most: bounds the group commit and the buffer behind it.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// Records of one WAL frame at most.
pub const FRAME_RECORDS_MAX: usize = 256;

/// Bytes of a frame's header at most: the largest attributes blob, or all records, and some room.
pub const FRAME_HEADER_BYTES_MAX: usize = 64 << 10;

/// Bytes of one WAL frame at most.
pub const FRAME_BYTES_MAX: usize = FRAME_HEADER_BYTES_MAX + FRAME_PAYLOAD_BYTES_MAX;

/// Requests that one store holds at the same time at most; one more is answered with `Busy`.
pub const STORE_REQUESTS_MAX: usize = 8192;

/// Bytes of one host command's transfer at most (VPD B0h MAXIMUM TRANSFER LENGTH reports it).
pub const TRANSFER_BYTES_MAX: usize = 4 << 20;

/// Volumes of one store at most: both copies of the volume table fit in a quarter of the smallest map.
pub const VOLUMES_PER_STORE_MAX: usize = 512;

/// Bytes of one volume at most: 64 TiB.
pub const VOLUME_BYTES_MAX: u64 = 64 << 40;

/// Bytes of one volume at least.
pub const VOLUME_BYTES_MIN: u64 = 1 << 20;

/// Bytes of a volume's attributes blob (persistent reservations with APTPL) at most.
pub const ATTRIBUTES_BYTES_MAX: usize = 32 << 10;

/// Bytes of one message on the control link at most.
pub const LINK_MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Bytes of the body of one message between peers at most: the largest attributes blob and some room.
pub const PEER_BODY_BYTES_MAX: usize = ATTRIBUTES_BYTES_MAX + 1024;

/// Bytes of payload behind one message between peers at most: a chunk.
pub const PEER_PAYLOAD_BYTES_MAX: usize = CHUNK_BYTES;

/// How often the primary's side of a stream between peers asks for a sign of life.
pub const HEARTBEAT: Duration = Duration::from_millis(200);

/// How long a primary may serve after it *sent* a heartbeat that every other in-sync copy answered.
pub const LEASE: Duration = Duration::from_secs(2);

/// What a copy adds to the lease that it granted, for clocks of another speed.
pub const LEASE_MARGIN: Duration = Duration::from_millis(200);

/// Silence after which a peer is taken for lost.
pub const PEER_SILENCE: Duration = Duration::from_millis(600);

/// Heartbeats of one stream that wait for their answer at most; older ones grant nothing any more.
pub const HEARTBEATS_UNANSWERED_MAX: usize = 64;

/// Time for a lost stream to a copy to come back before the copy is taken for lost.
pub const DOWN_GRACE: Duration = Duration::from_millis(200);

/// Between two tries to attach a copy that refused.
pub const ATTACH_RETRY: Duration = Duration::from_millis(100);

/// Longest wait between two tries to attach a copy whose history is another: only a person, or making
/// it anew, changes that. It begins with [`ATTACH_RETRY`] and doubles.
pub const DIVERGED_RETRY_MAX: Duration = Duration::from_secs(10);

const _: () = assert!(ATTACH_RETRY.as_millis() < DIVERGED_RETRY_MAX.as_millis());

/// Between two questions for the same change of an in-sync set.
pub const PROPOSAL_RETRY: Duration = Duration::from_millis(500);

/// Sets that may be registered besides the known one at most.
pub const PROPOSED_SETS_MAX: usize = 4;

/// Records that a copy outside the in-sync set may lag when commits begin to wait for it.
pub const JOIN_LAG_MAX: u64 = 1024;

/// A copy is slow when its records take longer than this ...
pub const SLOW_LATENCY_MIN: Duration = Duration::from_millis(200);

/// ... and this many times as long as the others' ...
pub const SLOW_FACTOR: u32 = 10;

/// ... for so long.
pub const SLOW_TIME: Duration = Duration::from_secs(3);

/// A copy that was too slow is not proposed again before.
pub const SLOW_PENALTY: Duration = Duration::from_secs(30);

/// Records that the journal of one copy remembers: 24 bytes each.
pub const JOURNAL_RECORDS_MAX: usize = 1 << 16;

/// Fills of one resync between being read and being durable on the other side at most: 2 MiB.
pub const FILL_WINDOW_MAX: usize = 32;

/// Blocks that one fill or unmap of a resync covers at most.
pub const FILL_ZEROS_MAX: u32 = 1 << 18;

/// Damaged blocks of one volume that its primary asks other copies for, or a secondary reads for its
/// primary, at once; one more is refused as busy, or as not there.
pub const HEALS_MAX: usize = 64;

/// How long a copy that was asked for a damaged block may take, before the next one is asked.
pub const HEAL_WAIT_MAX: Duration = Duration::from_millis(600);

/// Fences of one volume that wait for the same promise at most.
pub const FENCES_WAITING_MAX: usize = 16;

/// Reigns that a copy's history tells a peer at most; older ones are left out.
pub const PEER_REIGNS_MAX: usize = 32;

/// Characters of a volume's name at most; names are `[a-z0-9][a-z0-9.-]*`, so they fit an IQN.
pub const VOLUME_NAME_CHARS_MAX: usize = 63;

/// Bytes of neighbouring map pages in one write at most.
pub const MAP_RUN_BYTES_MAX: usize = 1 << 20;

/// Map pages asked for at once while a store is opened: 4 MiB of buffers.
pub const MAP_LOAD_PAGES_MAX: usize = 1024;

/// Findings listed by a check at most; the others are counted.
pub const CHECK_FINDINGS_MAX: usize = 1000;

const _: () = assert!(HEARTBEAT.as_millis() * 2 < PEER_SILENCE.as_millis());
const _: () = assert!(PEER_SILENCE.as_millis() * 2 < LEASE.as_millis());
const _: () = assert!(CHUNK_BYTES == 65536);
const _: () = assert!(FRAME_PAYLOAD_BYTES_MAX < WAL_SEGMENT_BYTES);
const _: () = assert!(WAL_SEGMENT_BYTES.is_multiple_of(BLOCK_BYTES));
