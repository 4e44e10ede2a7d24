//! Replication: who decides that a record of a volume is committed.
//!
//! Not here: shipping to peers, leases, rebuild. With one copy the same machine runs with one member.

pub mod primary;
