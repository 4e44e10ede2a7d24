//! iSCSI on sockets: accepting, login on the accepting shard, hand-over to the shard of the volume,
//! and the two tasks of each connection. Protocol decisions are the iscsi crate's machines'.

pub(crate) mod budget;
mod connection;
pub(crate) mod directory;
pub(crate) mod handover;
mod listen;
mod output;
mod reader;
mod receive;
mod route;
pub(crate) mod service;
mod tasks;
