//! From the bytes of a store to an open one. Never writes.

use super::Config;
use super::machine::Store;
use crate::block::StoreOffset;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

/// What recovery wants next.
#[derive(Debug)]
pub enum Next {
    /// Read these; call [`Recovery::step`] with one buffer for each, in this order.
    Read(Vec<ReadRequest>),
    /// Make what was read durable (it may be in the volatile cache of a disk whose host only
    /// restarted the process); then call [`Recovery::step`] with no buffer.
    Sync,
    /// The store serves. Its first [`super::Event`] starts it; send [`super::Event::Tick`] at once.
    Open(Box<Store>),
    /// The store cannot be served; it was not changed.
    Refused(OpenError),
}

/// One read, whole blocks. Up to 4 MiB each and 16 MiB in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// Where.
    pub offset: StoreOffset,
    /// Length.
    pub bytes: usize,
}

/// Why a store cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Neither superblock begins like one.
    #[error("not a Holdfast store: no superblock found")]
    NotFormatted,
    /// Both copies are there and damaged.
    #[error("both superblocks are damaged: {0}")]
    Superblocks(String),
    /// Made by a later build.
    #[error("store format version {0} is not known to this build")]
    Version(u32),
    /// The device is smaller than the store.
    #[error("the device has {device} bytes, the store needs {store}")]
    Truncated {
        /// Bytes of the device.
        device: u64,
        /// Bytes of the store.
        store: u64,
    },
    /// A map page is damaged.
    #[error("the chunk map is damaged: {0}")]
    Map(String),
    /// A log frame in front of valid later ones is damaged: acknowledged writes are lost.
    #[error("the write-ahead log is damaged: {0}")]
    Log(String),
}

/// Reads a store and decides what is in it.
#[derive(Debug)]
pub struct Recovery {
    config: Config,
    store_bytes: u64,
}

impl Recovery {
    /// Begins with a device or file of `store_bytes`.
    pub fn new(config: Config, store_bytes: u64) -> Self {
        Recovery {
            config,
            store_bytes,
        }
    }

    /// Takes what was read and says what is wanted next. The first call has no buffers.
    pub fn step(&mut self, _buffers: &[&[u8]]) -> Next {
        let _ = (self.config, self.store_bytes);
        unimplemented!()
    }
}
