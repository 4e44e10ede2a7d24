//! The library's own tests of a store, and a restart.

use super::Machine;
use crate::raft::log::Log;
use crate::raft::{Failure, Types};
use crate::registry::database::{Identities, Registry};
use holdfast_core::id::{ClusterId, NodeId};
use openraft::testing::{StoreBuilder, Suite};
use std::path::PathBuf;
use std::sync::Arc;

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Builder;

impl StoreBuilder<Types, Log, Machine, Scratch> for Builder {
    async fn build(&self) -> Result<(Scratch, Log, Machine), Failure> {
        let name = format!("holdfast-machine-{}", uuid::Uuid::new_v4());
        let scratch = Scratch(std::env::temp_dir().join(name));
        let fresh = Identities {
            cluster: Some(ClusterId([1; 16])),
            node: NodeId([2; 16]),
        };
        let (registry, _) = Registry::open(&scratch.0, fresh).expect("opened");
        let registry = Arc::new(registry);
        let machine = Machine::open(Arc::clone(&registry)).expect("loaded");
        Ok((scratch, Log::on(registry), machine))
    }
}

#[test]
fn log_and_machine_pass_the_tests_of_the_library() {
    Suite::test_all(Builder).expect("no storage error");
}
