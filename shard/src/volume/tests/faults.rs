//! What hosts see when the disk fails, lies, or is full.

use super::{Rig, range};
use crate::runtime::testing::run;
use holdfast_iscsi::request::{BlockRequest, BlockResponse};

const BYTES: u64 = 2 << 20;

/// Finds where on the disk a block of these bytes lies.
fn find(rig: &Rig, byte: u8) -> Vec<usize> {
    rig.disk.with_bytes(|bytes| {
        let blocks = bytes.chunks_exact(4096).enumerate();
        blocks
            .filter(|(_, block)| block.iter().all(|&b| b == byte))
            .map(|(index, _)| index * 4096)
            .collect()
    })
}

#[test]
fn a_corrupt_block_is_a_medium_error_until_it_is_written_again() {
    run(|| async {
        let rig = Rig::format(64 << 20, BYTES).await;
        for block in 0..16_u64 {
            let byte = 100 + u8::try_from(block).expect("a byte");
            assert_eq!(
                rig.write(block * 4096, &[byte; 4096]).await,
                BlockResponse::Done
            );
        }
        rig.checkpoint().await;
        let places = find(&rig, 105);
        assert!(!places.is_empty());
        rig.disk
            .with_bytes(|bytes| places.iter().for_each(|place| bytes[place + 9] ^= 1));
        let bad = Err(BlockResponse::MediumError { offset: 5 * 4096 });
        assert_eq!(rig.read(5 * 4096, 4096).await, bad);
        assert_eq!(rig.read(0, 16 * 4096).await, bad);
        assert_eq!(rig.read(4 * 4096, 4096).await, Ok(vec![104; 4096]));
        assert_eq!(rig.write(5 * 4096, &[1; 4096]).await, BlockResponse::Done);
        assert_eq!(rig.read(5 * 4096, 4096).await, Ok(vec![1; 4096]));
    });
}

#[test]
fn an_unreadable_block_is_a_medium_error_and_the_store_serves_on() {
    run(|| async {
        let rig = Rig::format(64 << 20, BYTES).await;
        assert_eq!(rig.write(0, &[1; 4096]).await, BlockResponse::Done);
        rig.disk.fail_reads_after(0);
        assert_eq!(
            rig.read(0, 4096).await,
            Err(BlockResponse::MediumError { offset: 0 })
        );
        assert_eq!(rig.write(4096, &[2; 4096]).await, BlockResponse::Done);
        rig.disk.fail_reads_after(u64::MAX);
        assert_eq!(rig.read(0, 4096).await, Ok(vec![1; 4096]));
        assert_eq!(rig.driver.failure(), None);
    });
}

#[test]
fn after_a_failed_write_nothing_is_acknowledged_any_more() {
    run(|| async {
        let rig = Rig::format(64 << 20, BYTES).await;
        assert_eq!(rig.write(0, &[1; 4096]).await, BlockResponse::Done);
        rig.disk.fail_writes_after(0);
        assert_eq!(rig.write(0, &[2; 4096]).await, BlockResponse::Failed);
        rig.disk.fail_writes_after(u64::MAX);
        assert_eq!(rig.write(0, &[3; 4096]).await, BlockResponse::Failed);
        assert!(rig.driver.failure().is_some());
    });
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_any_more() {
    run(|| async {
        let rig = Rig::format(64 << 20, BYTES).await;
        rig.disk.fail_syncs_after(0);
        assert_eq!(rig.write(0, &[2; 4096]).await, BlockResponse::Failed);
        rig.disk.fail_syncs_after(u64::MAX);
        assert_eq!(rig.write(0, &[3; 4096]).await, BlockResponse::Failed);
        assert!(rig.driver.failure().is_some());
    });
}

#[test]
fn a_full_store_says_so_reads_on_and_recovers_when_space_is_freed() {
    run(|| async {
        let rig = Rig::format(64 << 20, 128 << 20).await;
        let data = vec![9; 1 << 20];
        let mut written = 0;
        let refused = loop {
            match rig.write(written, &data).await {
                BlockResponse::Done => written += data.len() as u64,
                other => break other,
            }
            assert!(written < 64 << 20, "a store does not hold more than itself");
        };
        assert_eq!(refused, BlockResponse::NoSpace);
        assert!(written > 8 << 20);
        assert_eq!(rig.read(written - 4096, 4096).await, Ok(vec![9; 4096]));
        let freed = BlockRequest::Unmap(vec![range(0, written / 2)]);
        assert_eq!(rig.execute(freed, &[]).await.response, BlockResponse::Done);
        rig.checkpoint().await;
        for at in (0..written / 4).step_by(data.len()) {
            assert_eq!(rig.write(at, &data).await, BlockResponse::Done);
        }
        assert_eq!(rig.driver.failure(), None);
    });
}
