//! A store's file or block device, opened once by one shard.

use super::Disk;
use super::durability::{Durability, cache_of, choose};
use crate::limits::IO_BYTES_MAX;
use crate::runtime::buffer::{Buffer, ReadBytes};
use crate::runtime::file::{File, WriteMode};
use holdfast_core::block::StoreOffset;
use holdfast_core::limits::BLOCK_BYTES;
use rustix::fs::{FlockOperation, flock};
use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use tracing::info;

/// A claimed path: locked, looked at, not yet opened for I/O.
#[derive(Debug)]
pub(crate) struct Claim {
    path: PathBuf,
    lock: std::fs::File,
    bytes: u64,
}

/// Why a path cannot be a store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClaimError {
    /// The operating system refused.
    #[error("{what} failed: {source}")]
    Io {
        what: &'static str,
        source: io::Error,
    },
    /// Another process has it.
    #[error("another process serves it (it is locked)")]
    Locked,
    /// Nothing was ever written at its start.
    #[error("it is not formatted; run `holdfast store format PATH --size SIZE`")]
    Blank,
}

impl Claim {
    /// Locks `path` for this process and looks at its first block. Changes nothing. Blocking: for
    /// the start of the process only.
    pub(crate) fn new(path: &Path) -> Result<Claim, ClaimError> {
        let io = |what| move |source| ClaimError::Io { what, source };
        let path = std::path::absolute(path).map_err(io("resolving the path"))?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(io("opening"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
            rustix::io::Errno::AGAIN => ClaimError::Locked,
            other => ClaimError::Io {
                what: "locking",
                source: other.into(),
            },
        })?;
        // Seeking to the end tells the length of files and of block devices alike.
        let bytes = lock.seek(SeekFrom::End(0)).map_err(io("seeking"))?;
        lock.seek(SeekFrom::Start(0)).map_err(io("seeking"))?;
        let mut first = vec![0; BLOCK_BYTES];
        if bytes < BLOCK_BYTES as u64 {
            return Err(ClaimError::Blank);
        }
        lock.read_exact(&mut first)
            .map_err(io("reading the first block"))?;
        if first.iter().all(|&byte| byte == 0) && !has_data(&mut lock, bytes) {
            return Err(ClaimError::Blank);
        }
        Ok(Claim { path, lock, bytes })
    }
}

/// Whether the second superblock's place holds anything: the first may have been wiped.
fn has_data(file: &mut std::fs::File, bytes: u64) -> bool {
    let mut head = vec![0; 2 << 20];
    let wanted = usize::try_from(bytes).map_or(head.len(), |bytes| bytes.min(head.len()));
    file.seek(SeekFrom::Start(0))
        .and_then(|_| file.read_exact(&mut head[..wanted]))
        .is_ok()
        && head[..wanted].iter().any(|&byte| byte != 0)
}

/// An open store file.
#[derive(Debug)]
pub(crate) struct FileDisk {
    /// Its writes are durable when they are done.
    durable: File,
    /// Its writes need a sync; none when the device makes every write durable at no cost.
    plain: Option<File>,
    bytes: u64,
    /// Holds the lock until the end.
    _lock: std::fs::File,
}

impl FileDisk {
    /// Opens a claimed path on this executor and chooses how it makes writes durable.
    pub(crate) async fn open(claim: Claim) -> io::Result<FileDisk> {
        let cache = cache_of(&claim.path);
        let durability = choose(cache);
        let durable = File::open(&claim.path, WriteMode::Durable).await?;
        let plain = match durability {
            Durability::Writes => None,
            Durability::FramesAndSyncs => Some(File::open(&claim.path, WriteMode::Plain).await?),
        };
        let bytes = claim.bytes / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        // The first read tells whether direct I/O works here at all.
        let first = durable.read(0, BLOCK_BYTES).await?;
        if first.len() != BLOCK_BYTES {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        info!(
            path = %claim.path.display(), bytes, cache = ?cache,
            "store device: durable by {durability}"
        );
        Ok(FileDisk {
            durable,
            plain,
            bytes,
            _lock: claim.lock,
        })
    }
}

async fn write(file: &File, offset: StoreOffset, buffer: &Buffer) -> io::Result<()> {
    assert!(buffer.len() <= IO_BYTES_MAX);
    assert!(buffer.len().is_multiple_of(BLOCK_BYTES));
    let written = file.write(offset.0, buffer).await?;
    if written != buffer.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(())
}

impl Disk for FileDisk {
    async fn read(&self, offset: StoreOffset, bytes: usize) -> io::Result<ReadBytes> {
        assert!(bytes <= IO_BYTES_MAX);
        let data = self.durable.read(offset.0, bytes).await?;
        if data.len() != bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(data)
    }

    async fn write(&self, offset: StoreOffset, buffer: &Buffer) -> io::Result<()> {
        write(self.plain.as_ref().unwrap_or(&self.durable), offset, buffer).await
    }

    async fn write_durable(&self, offset: StoreOffset, buffer: &Buffer) -> io::Result<()> {
        write(&self.durable, offset, buffer).await
    }

    async fn sync(&self) -> io::Result<()> {
        match &self.plain {
            Some(file) => file.sync().await,
            None => Ok(()),
        }
    }

    fn write_through(&self) -> bool {
        self.plain.is_none()
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}
