//! Another primary has everything that was acknowledged, and the former one serves nothing.

use super::{Cluster, Model};
use crate::runtime::testing::run;
use holdfast_core::cluster::set::Durability;
use holdfast_core::limits::LEASE;
use holdfast_iscsi::request::BlockResponse;

const BLOCKS: usize = 256;

#[test]
fn a_copy_that_was_promoted_has_everything_and_the_former_primary_serves_nothing() {
    run(|| async {
        let cluster = Cluster::start(3, Durability::SyncAll).await;
        cluster.until_in_sync(3).await;
        let former = cluster.primary();
        let mut model = Model::new(BLOCKS);
        for round in 0..30_u8 {
            let first = usize::from(round) * 7 % (BLOCKS - 8);
            model.write(&former, first, 8, round + 1).await;
        }
        // Some of it is in the former primary's read cache.
        assert!(former.read(0, 4).await.is_ok());
        cluster.promote(1).await;
        assert_eq!(former.read(0, 4).await, Err(BlockResponse::NotReady));
        assert_eq!(former.write(0, &[9; 4096]).await, BlockResponse::NotReady);
        cluster.until_in_sync(3).await;
        let next = cluster.primary();
        assert!(next.read(0, BLOCKS as u64).await == Ok(model.0.clone()));
        model.write(&next, 0, 4, 200).await;
        cluster.promote(0).await;
        cluster.until_in_sync(3).await;
        // Nothing that it cached in its first reign is left.
        assert!(former.read(0, BLOCKS as u64).await == Ok(model.0.clone()));
        cluster.check_contents(&model.0).await;
    });
}

#[test]
fn a_primary_that_died_is_followed_by_one_with_all_its_acknowledged_writes() {
    run(|| async {
        for durability in [Durability::SyncAll, Durability::SyncQuorum] {
            let cluster = Cluster::start(3, durability).await;
            cluster.until_in_sync(3).await;
            let former = cluster.primary();
            let mut model = Model::new(BLOCKS);
            for round in 0..30_u8 {
                let first = usize::from(round) * 7 % (BLOCKS - 8);
                model.write(&former, first, 8, round + 1).await;
            }
            drop(former);
            let disk = cluster.kill(0);
            cluster.promote(1).await;
            let next = cluster.primary();
            model.write(&next, 3, 8, 150).await;
            assert!(next.read(0, BLOCKS as u64).await == Ok(model.0.clone()));
            cluster.restart(0, disk).await;
            // It died a moment ago: for all it knows, a lease that it granted is still held.
            let fenced = cluster.fence(0, 2).await;
            assert!(fenced.ok && fenced.lease_left > LEASE / 2, "{fenced:?}");
            for index in 0..3 {
                cluster.assign(index).await;
            }
            cluster.until_in_sync(3).await;
            cluster.check_contents(&model.0).await;
        }
    });
}
