//! Bounds of the logical unit that hosts see in VPD pages, with their reasons.

use holdfast_core::limits::{ATTRIBUTES_BYTES_MAX, CHUNK_BYTES};

/// Bytes of one UNMAP command over all its descriptors at most; keeps one command from being
/// unbounded work, and libiscsi takes more than 1 Mi blocks for a mistake.
pub const UNMAP_BYTES_MAX: u64 = 512 << 20;

/// Block descriptors of one UNMAP parameter list at most.
pub const UNMAP_DESCRIPTORS_MAX: usize = 256;

/// Bytes that one WRITE SAME command stores at most; keeps one command from being unbounded work.
pub const WRITE_SAME_BYTES_MAX: u64 = 16 << 20;

/// Bytes that one PRE-FETCH brings in at most.
pub const PREFETCH_BYTES_MAX: u64 = 16 << 20;

/// Bytes that one COMPARE AND WRITE compares at most: what fits one chunk stays atomic.
pub const COMPARE_AND_WRITE_BYTES_MAX: u64 = CHUNK_BYTES as u64;

/// Granularity in which UNMAP returns space.
pub const UNMAP_GRANULARITY_BYTES: u64 = CHUNK_BYTES as u64;

/// Descriptors of one GET LBA STATUS answer at most.
pub const PROVISIONING_DESCRIPTORS_MAX: usize = 256;

/// Bytes of one parameter list from the host at most; more is refused.
pub const PARAMETER_LIST_BYTES_MAX: usize = 8 << 10;

/// Registered I_T nexuses of one volume at most: their encoding fits the volume's attributes.
pub const REGISTRANTS_MAX: usize = 128;

/// Bytes of an iSCSI name at most (RFC 7143 §4.2.7.1).
pub const ISCSI_NAME_BYTES_MAX: usize = 223;

const _: () = assert!(8 + UNMAP_DESCRIPTORS_MAX * 16 <= PARAMETER_LIST_BYTES_MAX);
const _: () = assert!(64 + REGISTRANTS_MAX * (24 + ISCSI_NAME_BYTES_MAX) <= ATTRIBUTES_BYTES_MAX);
