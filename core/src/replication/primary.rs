//! The primary of one volume: assigns LSNs, learns what is durable where, tells what is committed.
//!
//! Hot path. Invariants: LSNs are dense; `committed <= appended`; the commit point never goes down
//! (I5); a record is committed when as many members as required have it durable (I1, I3: only for the
//! present epoch).

use crate::lsn::{Epoch, Lsn};
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

/// A copy of the volume; [`Member::LOCAL`] is this node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member(pub usize);

impl Member {
    /// The primary's own copy.
    pub const LOCAL: Member = Member(0);
}

/// The caller believed in an epoch that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the epoch is lower than the volume's")]
pub struct StaleEpoch;

/// The machine; `T` is what waits for its commit.
#[derive(Debug)]
pub struct Primary<T> {
    epoch: Epoch,
    appended: Lsn,
    committed: Lsn,
    /// Highest durable LSN of each member.
    durable: Vec<Lsn>,
    /// Members that must have a record durable before it is committed.
    required: usize,
    in_flight: VecDeque<(Lsn, T)>,
}

impl<T> Primary<T> {
    /// The only copy, with everything up to `committed` committed.
    pub fn alone(epoch: Epoch, committed: Lsn) -> Self {
        Primary {
            epoch,
            appended: committed,
            committed,
            durable: vec![committed],
            required: 1,
            in_flight: VecDeque::new(),
        }
    }

    /// The present reign.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The last LSN that was given out.
    pub fn appended(&self) -> Lsn {
        self.appended
    }

    /// The last committed LSN.
    pub fn committed(&self) -> Lsn {
        self.committed
    }

    /// Takes the next LSN for a record of the reign `epoch`.
    pub fn append(&mut self, epoch: Epoch, waits: T) -> Result<Lsn, StaleEpoch> {
        if epoch < self.epoch {
            return Err(StaleEpoch);
        }
        assert_eq!(epoch, self.epoch); // A higher one begins with begin_epoch.
        self.appended = self.appended.next();
        self.in_flight.push_back((self.appended, waits));
        Ok(self.appended)
    }

    /// A higher reign begins.
    pub fn begin_epoch(&mut self, epoch: Epoch) {
        assert!(epoch >= self.epoch);
        self.epoch = epoch;
    }

    /// A record found in the log while opening: it was committed before, or is now.
    pub fn replayed(&mut self, lsn: Lsn) {
        assert!(self.in_flight.is_empty());
        self.appended = self.appended.max(lsn);
        self.durable[Member::LOCAL.0] = self.appended;
        self.committed = self.appended;
    }

    /// Learns that `member` has everything up to `up_to` durable, and takes out what that commits,
    /// in LSN order.
    pub fn on_durable(&mut self, member: Member, up_to: Lsn, mut committed: impl FnMut(Lsn, T)) {
        assert!(up_to <= self.appended); // Nothing becomes durable before it was appended.
        let durable = &mut self.durable[member.0];
        assert!(*durable <= up_to); // Members report progress.
        *durable = up_to;
        let quorum = self.quorum();
        assert!(self.committed <= quorum); // A promise is never taken back.
        self.committed = quorum;
        while let Some((lsn, waits)) = self.in_flight.pop_front_if(|(lsn, _)| *lsn <= quorum) {
            committed(lsn, waits);
        }
    }

    /// The highest LSN that the required number of members has durable.
    fn quorum(&self) -> Lsn {
        let mut durable = self.durable.clone();
        durable.sort_unstable_by(|a, b| b.cmp(a));
        durable[self.required - 1]
    }
}

#[cfg(test)]
mod tests;
