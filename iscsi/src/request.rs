//! What an iSCSI target asks of a disk, and what the disk answers: all this crate knows of storage.
//!
//! Positions are bytes, so the logical block size (512 or 4096) stays inside `scsi`. The payload of
//! a command lives in its *task buffer*, which the driver owns: data from the host is placed there
//! before the request is executed, data for the host is placed there by executing it.

use alloc::vec::Vec;

/// A run of bytes of the volume, aligned to the logical block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// What to do with the disk. All ranges were checked against the volume's size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockRequest {
    /// Fill the task buffer from the range.
    Read(ByteRange),
    /// Store the task buffer at the range; GOOD means durable, so FUA adds nothing.
    Write(ByteRange),
    /// Store the one logical block in the task buffer over the whole range.
    WriteSame(ByteRange),
    /// Store zeros over the range; the space may be returned (thin provisioning).
    WriteZeros(ByteRange),
    /// Return the space of these ranges; they read as zeros afterwards.
    Unmap(Vec<ByteRange>),
    /// Everything acknowledged is durable already; waits for writes that arrived before it.
    Flush,
    /// Atomically: when the range equals the first half of the task buffer, store the second half.
    CompareAndWrite(ByteRange),
    /// Atomically: store the bitwise OR of the range and the task buffer.
    OrWrite(ByteRange),
    /// Read the range from the disk and check it, transfer nothing.
    Verify(ByteRange),
    /// Compare the range with the task buffer.
    Compare(ByteRange),
    /// Compare every logical block of the range with the one in the task buffer.
    CompareSame(ByteRange),
    /// Store the task buffer at the range, then read it back from the disk and compare.
    WriteAndVerify(ByteRange),
    /// Bring the range into the cache; a hint.
    Prefetch(ByteRange),
    /// Describe the provisioning from `offset` on, at most `descriptors_max` runs.
    Provisioning {
        /// First byte.
        offset: u64,
        /// Runs wanted at most.
        descriptors_max: usize,
    },
    /// Make this blob (persistent reservations with APTPL) durable with the volume.
    SaveAttributes(Vec<u8>),
}

/// How a [`BlockRequest`] ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockResponse {
    /// Done; data, if any, is in the task buffer.
    Done,
    /// Answer to [`BlockRequest::Provisioning`], in order, without gaps.
    Provisioning(Vec<ProvisionedRun>),
    /// A compare found a difference, first at this byte of the compared data.
    Miscompare {
        /// Offset from the start of the range.
        offset: u64,
    },
    /// No good copy of the data at this byte of the volume.
    MediumError {
        /// First bad byte.
        offset: u64,
    },
    /// The store is full. Nothing was written; freeing space mends it.
    NoSpace,
    /// The disk under the volume failed; nothing will mend it without an operator.
    Failed,
    /// The volume is not served by this node now.
    NotReady,
    /// Too much is waiting; the host may try again.
    Busy,
}

/// One run of equal provisioning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProvisionedRun {
    /// Length in bytes.
    pub bytes: u64,
    /// Whether space is allocated for it.
    pub mapped: bool,
}
