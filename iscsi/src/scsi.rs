//! The SCSI disk of one volume: decides what a CDB means, what it costs in data and what is answered.
//!
//! [`unit::LogicalUnit`] is the machine: `start` looks at a CDB, `execute` runs it, `finish` turns the
//! storage's answer into status and sense. It does not know PDUs, sessions or task buffers; payload
//! of READ and WRITE never passes through it. Clauses cited: SAM-5 (r21), SPC-4 (r37), SBC-3 (r36).

pub mod alua;
pub mod attention;
mod block;
mod capacity;
pub mod cdb;
pub mod geometry;
mod inquiry;
pub mod limits;
mod mode;
pub mod nexus;
mod opcode;
pub mod reply;
mod report;
pub mod reservation;
pub mod sense;
pub mod unit;
mod vpd;
