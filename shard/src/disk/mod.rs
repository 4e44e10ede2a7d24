//! The disk under a store: read, write, sync. Nothing else reaches a device.
//!
//! Implementations: `file` (io_uring, direct I/O) and, in tests, `memory` (faults on demand). Offsets
//! and lengths are whole 4 KiB blocks; an operation is at most `IO_BYTES_MAX` long. An error is never
//! retried here: what it means is decided by the store.

pub(crate) mod durability;
pub(crate) mod file;
#[cfg(test)]
pub(crate) mod memory;

use crate::runtime::buffer::{Buffer, ReadBytes};
use holdfast_core::block::StoreOffset;
use std::io;

/// A disk. Futures must be run to their end: a dropped write may still land, later.
pub(crate) trait Disk: 'static {
    /// Exactly `bytes` bytes from `offset`.
    fn read(
        &self,
        offset: StoreOffset,
        bytes: usize,
    ) -> impl Future<Output = io::Result<ReadBytes>>;

    /// Stores the whole buffer at `offset`; durable after [`Disk::sync`], or at once when
    /// [`Disk::write_through`].
    fn write(&self, offset: StoreOffset, buffer: &Buffer) -> impl Future<Output = io::Result<()>>;

    /// Stores the whole buffer at `offset`, durably: this write, not those before it.
    fn write_durable(
        &self,
        offset: StoreOffset,
        buffer: &Buffer,
    ) -> impl Future<Output = io::Result<()>>;

    /// Makes every write that completed before the call durable.
    fn sync(&self) -> impl Future<Output = io::Result<()>>;

    /// Whether a completed write is durable without a sync.
    fn write_through(&self) -> bool;

    /// Its length.
    fn bytes(&self) -> u64;
}
