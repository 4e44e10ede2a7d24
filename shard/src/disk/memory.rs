//! A disk in memory that fails when told to, for tests.

use super::Disk;
use crate::runtime::buffer::{Buffer, ReadBytes};
use holdfast_core::block::StoreOffset;
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

/// Clones are the same disk. Each counter counts down the operations that still succeed.
#[derive(Clone, Debug)]
pub(crate) struct MemoryDisk(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes: RefCell<Vec<u8>>,
    reads_left: Cell<u64>,
    writes_left: Cell<u64>,
    syncs_left: Cell<u64>,
}

impl MemoryDisk {
    pub(crate) fn new(bytes: usize) -> Self {
        MemoryDisk(Rc::new(Inner {
            bytes: RefCell::new(vec![0; bytes]),
            reads_left: Cell::new(u64::MAX),
            writes_left: Cell::new(u64::MAX),
            syncs_left: Cell::new(u64::MAX),
        }))
    }

    pub(crate) fn fail_reads_after(&self, reads: u64) {
        self.0.reads_left.set(reads);
    }

    pub(crate) fn fail_writes_after(&self, writes: u64) {
        self.0.writes_left.set(writes);
    }

    pub(crate) fn fail_syncs_after(&self, syncs: u64) {
        self.0.syncs_left.set(syncs);
    }

    /// Shows all bytes, to look at and to damage.
    pub(crate) fn with_bytes<R>(&self, act: impl FnOnce(&mut [u8]) -> R) -> R {
        act(&mut self.0.bytes.borrow_mut())
    }
}

fn spend(left: &Cell<u64>) -> io::Result<()> {
    let Some(rest) = left.get().checked_sub(1) else {
        return Err(io::Error::from_raw_os_error(libc::EIO));
    };
    left.set(rest);
    Ok(())
}

fn range(offset: StoreOffset, bytes: usize) -> std::ops::Range<usize> {
    let start = usize::try_from(offset.0).expect("test disks are small");
    start..start + bytes
}

impl Disk for MemoryDisk {
    async fn read(&self, offset: StoreOffset, bytes: usize) -> io::Result<ReadBytes> {
        spend(&self.0.reads_left)?;
        futures_lite::future::yield_now().await;
        let all = self.0.bytes.borrow();
        let data = all
            .get(range(offset, bytes))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(ReadBytes::Memory(data.into()))
    }

    async fn write(&self, offset: StoreOffset, buffer: &Buffer) -> io::Result<()> {
        spend(&self.0.writes_left)?;
        futures_lite::future::yield_now().await;
        self.0.bytes.borrow_mut()[range(offset, buffer.len())].copy_from_slice(buffer);
        Ok(())
    }

    async fn write_durable(&self, offset: StoreOffset, buffer: &Buffer) -> io::Result<()> {
        self.write(offset, buffer).await?;
        spend(&self.0.syncs_left)
    }

    async fn sync(&self) -> io::Result<()> {
        futures_lite::future::yield_now().await;
        spend(&self.0.syncs_left)
    }

    fn write_through(&self) -> bool {
        false
    }

    fn bytes(&self) -> u64 {
        self.0.bytes.borrow().len() as u64
    }
}
