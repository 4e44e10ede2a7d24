//! Damaged blocks of the primary come from another copy, through real sockets.

use super::{Cluster, Model, Node};
use crate::runtime::buffer::Buffer;
use crate::runtime::task;
use crate::runtime::testing::run;
use holdfast_core::cluster::set::Durability;
use holdfast_core::engine::Role;
use holdfast_core::limits::BLOCK_BYTES;
use holdfast_core::store::Event;
use holdfast_iscsi::request::{BlockRequest, BlockResponse, ByteRange};
use std::rc::Rc;

const BLOCKS: usize = 64;

/// A cluster whose blocks are in chunks, and nothing of them in a cache.
async fn cluster_with_blocks(copies: u8) -> (Rc<Cluster>, Model) {
    let cluster = Cluster::start(copies, Durability::SyncAll).await;
    cluster.until_in_sync(usize::from(copies)).await;
    let mut model = Model::new(BLOCKS);
    for block in 0..BLOCKS {
        let byte = u8::try_from(block).expect("few") + 100;
        model.write(&cluster.primary(), block, 1, byte).await;
    }
    for node in cluster.running() {
        let done = node.driver.ask(|tag| Event::Checkpoint { tag });
        done.receive().await.expect("the disk works");
    }
    (cluster, model)
}

/// Flips a bit wherever this byte fills a block; gives in how many places.
fn damage(node: &Node, byte: u8) -> usize {
    node.disk.with_bytes(|bytes| {
        let blocks = bytes.chunks_exact_mut(BLOCK_BYTES);
        let its = blocks.filter(|block| block.iter().all(|&b| b == byte));
        its.map(|block| block[9] ^= 1).count()
    })
}

fn repaired(node: &Node) -> u64 {
    node.volume.counters().repaired.get()
}

/// Goal: a host reads what it wrote, and once that was repaired, it needs no other copy for it. Reads of
/// all blocks pass the cache by.
#[test]
fn a_damaged_block_is_read_from_another_copy_and_written_again() {
    run(|| async {
        let (cluster, model) = cluster_with_blocks(2).await;
        let primary = cluster.primary();
        for byte in [103, 104, 130] {
            assert!(damage(&primary, byte) > 0);
        }
        assert!(primary.read(0, BLOCKS as u64).await == Ok(model.0.clone()));
        assert_eq!(primary.volume.counters().healed.get(), 3);
        cluster
            .until("the blocks are written again", |_| repaired(&primary) == 3)
            .await;
        cluster.check_contents(&model.0).await;
        cluster.kill(1);
        cluster
            .until("the primary serves alone", |_| {
                primary
                    .status()
                    .is_some_and(|status| status.in_sync.len() == 1)
            })
            .await;
        assert!(primary.read(0, BLOCKS as u64).await == Ok(model.0.clone()));
        assert_eq!(primary.volume.counters().healed.get(), 3);
    });
}

#[test]
fn a_block_that_is_damaged_on_every_copy_is_a_medium_error() {
    run(|| async {
        let (cluster, mut model) = cluster_with_blocks(3).await;
        let primary = cluster.primary();
        for node in cluster.running() {
            assert!(damage(&node, 107) > 0);
        }
        let offset = 7 * BLOCK_BYTES as u64;
        let bad = Err(BlockResponse::MediumError { offset });
        assert_eq!(primary.read(0, BLOCKS as u64).await, bad);
        assert_eq!(primary.volume.counters().healed.get(), 0);
        model.write(&primary, 7, 1, 200).await;
        assert!(primary.read(0, BLOCKS as u64).await == Ok(model.0.clone()));
        cluster.check_contents(&model.0).await;
    });
}

#[test]
fn blocks_that_cannot_be_read_come_from_another_copy() {
    run(|| async {
        let (cluster, model) = cluster_with_blocks(2).await;
        let primary = cluster.primary();
        primary.disk.fail_reads_after(0);
        assert!(primary.read(0, BLOCKS as u64).await == Ok(model.0.clone()));
        primary.disk.fail_reads_after(u64::MAX);
        assert_eq!(primary.driver.failure(), None);
        assert_eq!(primary.volume.counters().healed.get(), BLOCKS as u64);
        cluster.check_contents(&model.0).await;
    });
}

#[test]
fn part_of_a_damaged_block_is_changed_on_the_ground_of_another_copy() {
    run(|| async {
        let (cluster, mut model) = cluster_with_blocks(2).await;
        let primary = cluster.primary();
        assert!(damage(&primary, 110) > 0);
        let range = ByteRange {
            offset: 10 * BLOCK_BYTES as u64 + 512,
            bytes: 512,
        };
        primary.volume.role_changed(Role::Primary); // Nothing is cached under its present name.
        let task = Some(Rc::new(Buffer::concat(&[&[7; 512]])));
        let request = BlockRequest::Write(range);
        let executed = primary.volume.execute(request, task).await;
        assert_eq!(executed.response, BlockResponse::Done);
        assert_eq!(primary.volume.counters().healed.get(), 1);
        model.0[10 * BLOCK_BYTES + 512..][..512].fill(7);
        cluster.check_contents(&model.0).await;
    });
}

/// Goal: a host's writes to blocks that are being healed are never undone by a repair.
#[test]
fn repairs_undo_no_write() {
    run(|| async {
        let (cluster, mut model) = cluster_with_blocks(2).await;
        let primary = cluster.primary();
        for round in 0..20_u8 {
            let block = usize::from(round) * 3;
            damage(&primary, 100 + round * 3);
            let reader = Rc::clone(&primary);
            task::spawn(async move {
                let _ = reader.read(0, BLOCKS as u64).await;
            });
            for _ in 0..round {
                futures_lite::future::yield_now().await;
            }
            model.write(&primary, block, 1, 220 + round).await;
        }
        assert!(primary.volume.counters().healed.get() > 0);
        assert!(primary.read(0, BLOCKS as u64).await == Ok(model.0.clone()));
        cluster.check_contents(&model.0).await;
        assert!(primary.read(0, BLOCKS as u64).await == Ok(model.0.clone()));
    });
}
