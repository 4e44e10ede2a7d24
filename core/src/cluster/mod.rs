//! The cluster's decisions about a volume: who is its primary, which copies may become it, where
//! copies belong.
//!
//! Modules in reading order: what is registered (`set`), what comes in and goes out (`message`), who
//! may reign next (`election`), the machine that drives it (`coordinator`), where copies go (`repair`),
//! bounds (`limits`).
//! Not here: the registry, heartbeats, the wire (`control`), what people see (`control::health`), the copies themselves (`replication`).

pub mod coordinator;
pub mod election;
pub mod limits;
pub mod message;
pub mod repair;
pub mod set;
