//! The production machines in a simulated world: a disk that loses what was not synced, a synchronous
//! driver, an oracle that knows what may be read, and a harness that makes crash images.
//!
//! Everything follows from one seed. Not for production: behind the feature `testing`.

pub mod cluster;
pub mod copies;
pub mod crash;
pub mod disk;
pub mod driver;
pub mod fuzz;
pub mod node;
pub mod oracle;
pub mod workload;
