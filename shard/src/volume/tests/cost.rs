//! What a command on a volume with one copy costs the shard: steps of the engine and allocations.
//!
//! A ratchet: copies on other nodes must not make the single one slower.

use super::Rig;
use crate::runtime::testing::{allocations, run};
use holdfast_iscsi::request::BlockResponse;

const WRITES: u64 = 256;

#[test]
fn a_write_of_a_single_copy_costs_three_steps_and_few_allocations() {
    run(|| async {
        let rig = Rig::format(64 << 20, 16 << 20).await;
        // The tables and buffers that are kept get their size first.
        for block in 0..WRITES {
            rig.write(block * 4096, &[1; 4096]).await;
        }
        let (steps, before) = (rig.driver.steps(), allocations());
        for block in 0..WRITES {
            let response = rig.write(block * 4096, &[2; 4096]).await;
            assert_eq!(response, BlockResponse::Done);
        }
        let steps = rig.driver.steps() - steps;
        let allocations = allocations() - before;
        println!("{WRITES} writes: {steps} steps, {allocations} allocations");
        // The command, its log frame written, the frame durable; a flush round or two beside them.
        assert!(steps <= 3 * WRITES + 16, "{steps}");
        assert!(allocations <= 18 * WRITES, "{allocations}");
    });
}
