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
use tracing::warn;

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
    let pools = [OPENING_READS_IN_FLIGHT_MAX; 2].map(Slots::new);
    let mut pools = pools.iter().cycle();
    let mut ahead: Option<Reading> = None;
    let mut buffers: Vec<Vec<u8>> = Vec::new();
    loop {
        let slices: Vec<&[u8]> = buffers.iter().map(Vec::as_slice).collect();
        match recovery.step(&slices) {
            Next::Read(requests) => {
                let begun = ahead.take().filter(|begun| begun.requests == requests);
                let reading = begun.unwrap_or_else(|| begin(disk, next_pool(&mut pools), requests));
                let next = recovery.ahead();
                if !next.is_empty() {
                    ahead = Some(begin(disk, next_pool(&mut pools), next));
                }
                buffers = reading.end().await?;
            }
            Next::Sync => {
                disk.sync().await?;
                buffers = Vec::new();
            }
            Next::Open(store) => {
                for finding in recovery.findings() {
                    warn!(store = %store.id(), finding, "damage found while opening");
                }
                return Ok(store);
            }
            Next::Refused(error) => return Err(error.into()),
        }
    }
}

type Results = Rc<RefCell<Vec<Option<io::Result<ReadBytes>>>>>;

/// Reads on their way.
struct Reading {
    requests: Vec<ReadRequest>,
    /// Index of each piece's request; a request may be larger than one read of the disk.
    pieces: Vec<usize>,
    results: Results,
    pool: Slots,
}

fn next_pool<'a>(pools: &mut impl Iterator<Item = &'a Slots>) -> Slots {
    pools.next().expect("a cycle has no end").clone()
}

fn begin<D: Disk>(disk: &Rc<D>, pool: Slots, requests: Vec<ReadRequest>) -> Reading {
    let results = Results::default();
    let mut pieces = Vec::new();
    for (index, request) in requests.iter().enumerate() {
        for start in (0..request.bytes).step_by(IO_BYTES_MAX) {
            let bytes = (request.bytes - start).min(IO_BYTES_MAX);
            let (offset, place) = (request.offset.plus(start as u64), pieces.len());
            let (disk, results) = (Rc::clone(disk), Rc::clone(&results));
            pieces.push(index);
            results.borrow_mut().push(None);
            pool.run(async move {
                let result = disk.read(offset, bytes).await;
                results.borrow_mut()[place] = Some(result);
            });
        }
    }
    Reading {
        requests,
        pieces,
        results,
        pool,
    }
}

impl Reading {
    /// One buffer for each request.
    async fn end(self) -> io::Result<Vec<Vec<u8>>> {
        self.pool.drained().await;
        let mut buffers: Vec<Vec<u8>> = self
            .requests
            .iter()
            .map(|request| Vec::with_capacity(request.bytes))
            .collect();
        for (index, result) in self.pieces.iter().zip(self.results.take()) {
            let bytes = result.expect("every job stored its result before the pool drained")?;
            buffers[*index].extend_from_slice(&bytes);
        }
        Ok(buffers)
    }
}
