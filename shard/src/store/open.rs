//! Opening a store: performs what recovery asks for. Never writes.

use crate::disk::Disk;
use crate::limits::{IO_BYTES_MAX, OPENING_READS_IN_FLIGHT_MAX};
use crate::runtime::buffer::ReadBytes;
use crate::runtime::slots::Slots;
use holdfast_core::store::Config;
use holdfast_core::store::machine::Store;
use holdfast_core::store::recovery::{Next, OpenError, ReadRequest, Recovery};
use std::cell::RefCell;
use std::io;
use std::rc::Rc;

/// Why a store is not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenFailure {
    /// The disk could not be read.
    #[error("reading the store failed: {0}")]
    Io(#[from] io::Error),
    /// What is on it cannot be served.
    #[error(transparent)]
    Refused(#[from] OpenError),
}

/// Runs recovery over `disk` to its end.
pub(crate) async fn open<D: Disk>(disk: &Rc<D>) -> Result<Box<Store>, OpenFailure> {
    let config = Config {
        write_through: disk.write_through(),
        ..Config::default()
    };
    let mut recovery = Recovery::new(config, disk.bytes());
    let slots = Slots::new(OPENING_READS_IN_FLIGHT_MAX);
    let mut buffers: Vec<Vec<u8>> = Vec::new();
    loop {
        let slices: Vec<&[u8]> = buffers.iter().map(Vec::as_slice).collect();
        match recovery.step(&slices) {
            Next::Read(requests) => buffers = read_all(disk, &slots, &requests).await?,
            Next::Sync => {
                disk.sync().await?;
                buffers = Vec::new();
            }
            Next::Open(store) => return Ok(store),
            Next::Refused(error) => return Err(error.into()),
        }
    }
}

type Results = Rc<RefCell<Vec<Option<io::Result<ReadBytes>>>>>;

async fn read_all<D: Disk>(
    disk: &Rc<D>,
    slots: &Slots,
    requests: &[ReadRequest],
) -> io::Result<Vec<Vec<u8>>> {
    let mut pieces = Vec::new();
    for (index, request) in requests.iter().enumerate() {
        for start in (0..request.bytes).step_by(IO_BYTES_MAX) {
            let bytes = (request.bytes - start).min(IO_BYTES_MAX);
            pieces.push((index, request.offset.plus(start as u64), bytes));
        }
    }
    let results: Results = Rc::new(RefCell::new(pieces.iter().map(|_| None).collect()));
    for (place, &(_, offset, bytes)) in pieces.iter().enumerate() {
        let (disk, results) = (Rc::clone(disk), Rc::clone(&results));
        slots.run(async move {
            let result = disk.read(offset, bytes).await;
            results.borrow_mut()[place] = Some(result);
        });
    }
    slots.drained().await;
    let mut buffers: Vec<Vec<u8>> = requests
        .iter()
        .map(|request| Vec::with_capacity(request.bytes))
        .collect();
    for ((index, _, _), result) in pieces.iter().zip(results.take()) {
        let bytes = result.expect("every job stored its result before the pool drained")?;
        buffers[*index].extend_from_slice(&bytes);
    }
    Ok(buffers)
}
