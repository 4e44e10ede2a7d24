//! The facade over glommio: executors, tasks, time, files, buffers, sockets, channels.
//!
//! The only place that names glommio, and with `disk` the only one that may hold `unsafe`. Everything
//! here performs one operation and returns a fact; no decision about storage or iSCSI is taken here.
//! The rules behind the shapes are glommio's hazards: futures of files and `accept` are never raced
//! or dropped while in flight, tasks live long and are detached, foreign threads wake only mailboxes.

pub(crate) mod buffer;
pub(crate) mod executor;
pub(crate) mod file;
pub(crate) mod local;
pub(crate) mod mailbox;
pub(crate) mod memory;
pub(crate) mod signal;
pub(crate) mod slots;
pub(crate) mod socket;
pub(crate) mod task;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
