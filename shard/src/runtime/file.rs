//! A file or block device opened for direct I/O.

use super::buffer::{Buffer, ReadBytes};
use glommio::io::{DmaFile, OpenOptions};
use std::io;
use std::path::Path;
use std::rc::Rc;

/// An open file.
#[derive(Debug)]
pub(crate) struct File(DmaFile);

/// Whether a completed write is durable by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteMode {
    /// It is not; `fdatasync` makes it so.
    Plain,
    /// It is (`O_DSYNC`).
    Durable,
}

impl File {
    /// Opens `path`, which exists and is not empty, for reading and writing.
    ///
    /// The first open of a thread decides for ever whether glommio polls the device, by reading the
    /// first bytes: on an empty file it decides wrongly. The caller has looked at the first block.
    pub(crate) async fn open(path: &Path, mode: WriteMode) -> io::Result<File> {
        let durable = match mode {
            WriteMode::Plain => 0,
            WriteMode::Durable => libc::O_DSYNC,
        };
        // O_DIRECT is asked for explicitly: glommio leaves it out on devtmpfs, where devices live.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(durable | libc::O_DIRECT)
            .dma_open(path)
            .await
            .map_err(io::Error::from)?;
        Ok(File(file))
    }

    /// Reads up to `bytes` bytes; fewer only at the end of the file.
    pub(crate) async fn read(&self, offset: u64, bytes: usize) -> io::Result<ReadBytes> {
        let result = self
            .0
            .read_at_aligned(offset, bytes)
            .await
            .map_err(io::Error::from)?;
        Ok(ReadBytes::Ring(result))
    }

    /// Writes the whole buffer; fewer bytes only when the device refuses the rest.
    pub(crate) async fn write(&self, offset: u64, buffer: &Buffer) -> io::Result<usize> {
        self.0
            .write_rc_at(Rc::clone(&buffer.0), offset)
            .await
            .map_err(io::Error::from)
    }

    /// Makes every completed write durable.
    pub(crate) async fn sync(&self) -> io::Result<()> {
        self.0.fdatasync().await.map_err(io::Error::from)
    }
}
