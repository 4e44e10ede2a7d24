//! What Holdfast decides: formats, limits and state machines, without a runtime, clock, file or socket.
//!
//! Modules in reading order: vocabulary (`limits`, `id`, `block`, `lsn`, `checksum`), the control
//! link's messages (`link`), then the storage engine (`store`) and replication (`replication`).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(any(test, feature = "testing"))]
extern crate std;

pub mod block;
pub mod checksum;
pub mod cluster;
pub mod engine;
pub mod id;
pub mod limits;
pub mod link;
pub mod lsn;
pub mod map;
pub mod peer;
pub mod replication;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod wal;
