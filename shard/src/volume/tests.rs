//! Volumes on a disk in memory.

mod cost;
mod faults;
mod model;
mod ranges;

use super::cache::Cache;
use super::{Executed, Volume};
use crate::disk::Disk;
use crate::disk::memory::MemoryDisk;
use crate::peer::hub::Hub;
use crate::runtime::buffer::Buffer;
use crate::store::driver::StoreDriver;
use crate::store::open::open;
use holdfast_core::id::{StoreId, VolumeId};
use holdfast_core::limits::BLOCK_BYTES;
use holdfast_core::lsn::Epoch;
use holdfast_core::store::Event;
use holdfast_core::store::append::Sharing;
use holdfast_core::store::format::format;
use holdfast_iscsi::request::{BlockRequest, BlockResponse, ByteRange};
use std::cell::RefCell;
use std::rc::Rc;

const VOLUME: VolumeId = VolumeId([7; 16]);

/// A volume under test.
struct Rig {
    disk: MemoryDisk,
    driver: Rc<StoreDriver<MemoryDisk>>,
    volume: Rc<Volume<MemoryDisk>>,
}

impl Rig {
    /// A fresh store of `store_bytes` with one volume of `volume_bytes`.
    async fn format(store_bytes: usize, volume_bytes: u64) -> Rig {
        let disk = MemoryDisk::new(store_bytes);
        let plan = format(StoreId([3; 16]), store_bytes as u64).expect("large enough");
        for (offset, bytes) in plan.writes {
            let buffer = Buffer::concat(&[&bytes]);
            disk.write(offset, &buffer).await.expect("no fault yet");
        }
        let rig = Self::open(disk, 0).await;
        let created = rig.driver.ask(|tag| Event::CreateVolume {
            tag,
            id: VOLUME,
            size_blocks: volume_bytes / BLOCK_BYTES as u64,
            epoch: Epoch(1),
            sharing: Sharing::Alone,
        });
        created.receive().await.expect("room for a volume");
        rig
    }

    /// Opens what is on the disk, with a read cache of `cache_bytes`.
    async fn open(disk: MemoryDisk, cache_bytes: u64) -> Rig {
        let cache = Rc::new(RefCell::new(Cache::new(cache_bytes)));
        let machine = open(&Rc::new(disk.clone())).await.expect("opens");
        let driver = StoreDriver::new(
            "test".into(),
            Rc::new(disk.clone()),
            machine,
            cache,
            Hub::new(None, 1 << 20),
        );
        driver.tick();
        Rig {
            disk,
            volume: Volume::new(VOLUME, Rc::clone(&driver)),
            driver,
        }
    }

    async fn execute(&self, request: BlockRequest, task: &[u8]) -> Executed {
        let task = (!task.is_empty()).then(|| Rc::new(Buffer::concat(&[task])));
        self.volume.execute(request, task).await
    }

    async fn write(&self, offset: u64, data: &[u8]) -> BlockResponse {
        let range = range(offset, data.len() as u64);
        self.execute(BlockRequest::Write(range), data)
            .await
            .response
    }

    async fn read(&self, offset: u64, bytes: u64) -> Result<Vec<u8>, BlockResponse> {
        let request = BlockRequest::Read(range(offset, bytes));
        let executed = self.execute(request, &[]).await;
        if executed.response != BlockResponse::Done {
            return Err(executed.response);
        }
        let mut data = vec![0; executed.data.len()];
        executed.data.copy_to(&mut data);
        Ok(data)
    }

    /// Everything committed moves to its chunks.
    async fn checkpoint(&self) {
        let done = self.driver.ask(|tag| Event::Checkpoint { tag });
        done.receive().await.expect("the disk works");
        self.driver.settled().await;
    }
}

fn range(offset: u64, bytes: u64) -> ByteRange {
    ByteRange { offset, bytes }
}
