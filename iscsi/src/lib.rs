//! The RFC 7143 target end point and the SCSI device behind it, sans I/O.
//!
//! Bytes become [`request::BlockRequest`]s, [`request::BlockResponse`]s become bytes. This crate knows no volume, no
//! replication, no runtime, clock or socket. A driver reads `connection`, `effect`, `framing`, `target`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod access;
pub mod connection;
pub mod effect;
pub mod framing;
pub mod limits;
pub mod login;
pub mod pdu;
pub mod request;
pub mod scsi;
mod session;
pub mod target;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod text;
