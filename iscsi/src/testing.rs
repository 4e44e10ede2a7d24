//! Hosts without sockets: a target with a disk in memory and any number of connections to it, all in
//! one thread and under the caller's clock. And the bodies of the fuzz tests.

pub mod fuzz;
pub mod lab;
