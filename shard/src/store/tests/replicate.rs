//! Data gets to every copy, whatever happens to the streams.

use super::{Cluster, Model, VOLUME_BLOCKS};
use crate::runtime::task;
use crate::runtime::testing::run;
use crate::shard::TICK;
use holdfast_core::cluster::set::Durability;
use holdfast_iscsi::request::{BlockRequest, BlockResponse, ByteRange};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const BLOCKS: usize = 512;

#[test]
fn every_copy_holds_what_the_primary_acknowledged() {
    run(|| async {
        for (copies, durability) in [
            (2, Durability::SyncAll),
            (3, Durability::SyncAll),
            (3, Durability::SyncQuorum),
        ] {
            let cluster = Cluster::start(copies, durability).await;
            cluster.until_in_sync(usize::from(copies)).await;
            let primary = cluster.primary();
            let mut model = Model::new(BLOCKS);
            for round in 0..60_u8 {
                let first = usize::from(round) * 37 % (BLOCKS - 40);
                let blocks = [1, 3, 16, 33][usize::from(round) % 4];
                model.write(&primary, first, blocks, round + 1).await;
            }
            let zeroed = ByteRange {
                offset: 64 << 10,
                bytes: 128 << 10,
            };
            let unmap = BlockRequest::Unmap(vec![zeroed]);
            let executed = primary.volume.execute(unmap, None).await;
            assert_eq!(executed.response, BlockResponse::Done);
            model.0[64 << 10..192 << 10].fill(0);
            assert!(primary.read(0, BLOCKS as u64).await == Ok(model.0.clone()));
            cluster.check_contents(&model.0).await;
        }
    });
}

#[test]
fn streams_that_are_cut_under_load_lose_nothing() {
    run(|| async {
        let cluster = Cluster::start(3, Durability::SyncAll).await;
        cluster.until_in_sync(3).await;
        let cutting = Rc::new(Cell::new(true));
        let (victims, go_on) = (cluster.running(), Rc::clone(&cutting));
        task::spawn(async move {
            while go_on.get() {
                for node in &victims {
                    node.driver.hang_up();
                    task::sleep(Duration::from_millis(70)).await;
                }
            }
        });
        let primary = cluster.primary();
        let mut model = Model::new(BLOCKS);
        for round in 0..200_u8 {
            let first = usize::from(round) * 61 % (BLOCKS - 40);
            let blocks = [1, 16, 5, 32][usize::from(round) % 4];
            model.write(&primary, first, blocks, round + 1).await;
        }
        cutting.set(false);
        cluster.until_in_sync(3).await;
        cluster.check_contents(&model.0).await;
    });
}

#[test]
fn a_peer_that_reads_nothing_costs_less_than_a_second_and_comes_back() {
    run(|| async {
        let cluster = Cluster::start(3, Durability::SyncAll).await;
        cluster.until_in_sync(3).await;
        let slow = cluster.node(2);
        // No memory for payloads: it stops reading at the first one.
        let hold = slow.hub.hold_arrived_memory();
        let primary = cluster.primary();
        let mut model = Model::new(BLOCKS);
        let mut longest = Duration::ZERO;
        for round in 0..50_u8 {
            let start = task::now();
            let first = usize::from(round) * 61 % (BLOCKS - 40);
            model.write(&primary, first, 8, round + 1).await;
            longest = longest.max(task::now() - start);
        }
        assert_eq!(cluster.registry.borrow().in_sync.len(), 2);
        assert!(longest < Duration::from_secs(2), "{longest:?}");
        drop(hold);
        cluster.until_in_sync(3).await;
        model.write(&primary, 1, 8, 99).await;
        cluster.check_contents(&model.0).await;
    });
}

#[test]
fn a_copy_that_was_away_catches_up_or_is_filled() {
    run(|| async {
        let cluster = Cluster::start(3, Durability::SyncAll).await;
        cluster.until_in_sync(3).await;
        let primary = cluster.primary();
        let mut model = Model::new(BLOCKS);
        model.write(&primary, 0, 64, 1).await;
        let disk = cluster.kill(2);
        for round in 0..100_u8 {
            let first = usize::from(round) * 61 % (BLOCKS - 40);
            model.write(&primary, first, 16, round + 2).await;
        }
        assert_eq!(cluster.registry.borrow().in_sync.len(), 2);
        cluster.restart(2, disk).await;
        for index in [2, 0, 1] {
            cluster.assign(index).await;
        }
        // Writes go on while it is filled.
        for round in 0..100_u8 {
            let first = usize::from(round) * 43 % (BLOCKS - 40);
            model.write(&primary, first, 3, round + 100).await;
            if round % 10 == 0 {
                task::sleep(TICK).await;
            }
        }
        cluster.until_in_sync(3).await;
        cluster.check_contents(&model.0).await;
        assert!(VOLUME_BLOCKS >= BLOCKS as u64);
    });
}
