//! Where a volume stands in the log: its reign, its positions, its history, what waits for its commit.
//!
//! `committed <= durable <= appended`, and the commit point never goes down (I5). Of a volume that is
//! alone, durable is committed. Of a shared one, records are *pending* from their frame's durability until
//! [`super::Event::Commit`] covers them. *Obeyed* is the highest epoch that was asked for: what comes in the
//! name of a lower one is refused from that moment on, before it is durable.

use super::append::{Resync, Sharing};
use super::pending::Pending;
use super::{RequestError, VolumeInfo};
use crate::id::VolumeId;
use crate::lsn::{Epoch, FrameSeq, Lsn};
use crate::map::{CopyRecord, REIGNS_KEPT, VolumeRecord};
use crate::replication::Reign;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

/// Committed reigns that are remembered.
const REIGNS_COMMITTED_MAX: usize = 8;

/// Reigns that are remembered at most; the oldest goes.
const REIGNS_MAX: usize = 32;

/// What this copy may log in the present reign. Not durable: a process that restarts asks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Fenced,
    Leads,
    Follows,
}

/// One volume's.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) sharing: Sharing,
    pub(super) epoch: Epoch,
    pub(super) obeyed: Epoch,
    pub(super) promised: Epoch,
    pub(super) standing: Standing,
    pub(super) appended: Lsn,
    pub(super) durable: Lsn,
    pub(super) committed: Lsn,
    /// The last commit that was told; records up to it take effect when they are durable.
    pub(super) told: Lsn,
    pub(super) resync: Option<Resync>,
    /// Size once everything in the log is committed.
    pub(super) size_blocks: u64,
    pub(super) pending: VecDeque<Pending>,
    /// The commit point rose since a frame noted it.
    pub(super) unnoted: bool,
    /// The commit point that the durable log tells.
    pub(super) noted: Lsn,
    /// Committed records above it, and their frames.
    pub(super) unsettled: VecDeque<(Lsn, FrameSeq)>,
    /// A replay met a record whose predecessor is missing.
    pub(super) gap: bool,
    reigns: Vec<Reign>,
    /// Positions after frames behind the checkpoint.
    marks: VecDeque<Mark>,
    /// Position as of the checkpoint.
    base: Mark,
}

/// A position after a frame.
#[derive(Clone, Copy, Debug)]
struct Mark {
    seq: FrameSeq,
    sharing: Sharing,
    appended: Lsn,
}

impl Place {
    /// Of a volume that was just created.
    pub(super) fn new(sharing: Sharing, epoch: Epoch, size_blocks: u64) -> Place {
        let reigns = match sharing {
            Sharing::Alone => vec![Reign {
                epoch,
                start: Lsn(1),
            }],
            Sharing::Shared => Vec::new(),
        };
        let copy = CopyRecord {
            sharing,
            promised: epoch,
            ..CopyRecord::default()
        };
        Place {
            reigns,
            ..Place::at(epoch, Lsn(0), copy, size_blocks)
        }
    }

    /// Of a volume as of a checkpoint.
    pub(super) fn of_record(record: &VolumeRecord) -> Place {
        Place::at(record.epoch, record.lsn, record.copy, record.size_blocks)
    }

    fn at(epoch: Epoch, committed: Lsn, copy: CopyRecord, size_blocks: u64) -> Place {
        let known = copy.reigns.into_iter().filter(|reign| reign.epoch.0 > 0);
        Place {
            sharing: copy.sharing,
            epoch,
            obeyed: copy.promised.max(epoch),
            promised: copy.promised,
            standing: Standing::Fenced,
            appended: copy.appended,
            durable: copy.appended,
            committed,
            told: committed,
            resync: copy.resync,
            size_blocks,
            pending: VecDeque::new(),
            unnoted: false,
            noted: committed,
            unsettled: VecDeque::new(),
            gap: false,
            reigns: known.collect(),
            marks: VecDeque::new(),
            base: Mark {
                seq: FrameSeq(0),
                sharing: copy.sharing,
                appended: copy.appended,
            },
        }
    }

    /// What is told about it.
    pub(super) fn info(&self, id: VolumeId, size_blocks: u64, chunks: u64) -> VolumeInfo {
        VolumeInfo {
            id,
            size_blocks,
            sharing: self.sharing,
            epoch: self.epoch,
            promised: self.promised,
            appended: self.appended,
            durable: self.durable,
            committed: self.committed,
            last_epoch: self.epoch_at(self.appended),
            resync: self.resync,
            chunks,
            attributes_lost: false,
        }
    }

    /// The reigns that the log knows.
    pub(super) fn reigns(&self) -> &[Reign] {
        &self.reigns
    }

    /// The reign that the record `lsn` belongs to, as far as it is known.
    pub(super) fn epoch_at(&self, lsn: Lsn) -> Epoch {
        let reign = self.reigns.iter().rfind(|reign| reign.start <= lsn);
        reign.map_or(Epoch(0), |reign| reign.epoch)
    }

    /// Whether `reign` is the one that was adopted by this process, and nothing higher was asked for.
    pub(super) fn follows(&self, reign: Epoch) -> Result<(), RequestError> {
        let present = reign == self.epoch && reign == self.obeyed;
        if present && self.standing == Standing::Follows {
            return Ok(());
        }
        Err(RequestError::StaleEpoch)
    }

    /// Whether records may begin here: nothing higher than the own reign was asked for.
    pub(super) fn leads(&self) -> Result<(), RequestError> {
        let leads = self.standing == Standing::Leads && self.epoch == self.obeyed;
        if self.sharing == Sharing::Alone || leads {
            return Ok(());
        }
        Err(RequestError::StaleEpoch)
    }

    /// The record `lsn` begins a reign.
    pub(super) fn begin_reign(&mut self, epoch: Epoch, lsn: Lsn) {
        // Without other copies a reign may be begun again; what it wrote before is its own as well.
        let begun = |last: &Reign| last.epoch == epoch && last.start < lsn;
        if self.reigns.last().is_some_and(begun) {
            return;
        }
        self.reigns
            .retain(|reign| reign.start < lsn && reign.epoch < epoch);
        self.reigns.push(Reign { epoch, start: lsn });
        let committed = self
            .reigns
            .iter()
            .filter(|reign| reign.start <= self.committed);
        let surplus = committed.count().saturating_sub(REIGNS_COMMITTED_MAX);
        let surplus = surplus.max(self.reigns.len().saturating_sub(REIGNS_MAX));
        self.reigns.drain(..surplus);
    }

    /// From the record `lsn` on, `sharing` says who decides what is committed.
    pub(super) fn share(&mut self, sharing: Sharing, lsn: Lsn) {
        if self.sharing == Sharing::Alone && sharing == Sharing::Shared && self.marks.is_empty() {
            self.base.appended = Lsn(lsn.0 - 1);
        }
        self.sharing = sharing;
    }

    /// Follows another log: its history, and a position of `cut` once everything above `keep` that is not
    /// committed is gone. Gives what is gone, in order. Resync data that still waits stays: it is committed
    /// data of the copy that it came from.
    pub(super) fn adopt(
        &mut self,
        (keep, cut): (Lsn, Lsn),
        reigns: &[Reign],
        resync: Option<Resync>,
    ) -> Vec<Pending> {
        assert!(self.committed <= keep);
        let mut dropped = Vec::new();
        for mut record in core::mem::take(&mut self.pending) {
            if record.fill {
                record.lsn = record.lsn.min(keep);
            }
            if record.lsn <= keep {
                self.pending.push_back(record);
            } else {
                dropped.push(record);
            }
        }
        self.appended = cut;
        self.durable = self.durable.min(keep);
        self.told = self.committed;
        self.reigns = reigns.to_vec();
        if resync.is_some() {
            self.resync = resync;
        }
        dropped
    }

    /// The frame `seq` with records of this volume is durable.
    pub(super) fn mark(&mut self, seq: FrameSeq) {
        let mark = Mark {
            seq,
            sharing: self.sharing,
            appended: self.appended,
        };
        match self.marks.back_mut() {
            Some(last) if last.seq == seq => *last = mark,
            _ => self.marks.push_back(mark),
        }
    }

    /// What a checkpoint that ends with frame `seq` keeps: positions as of that frame, the rest as of now.
    pub(super) fn record(&mut self, id: VolumeId, size_blocks: u64, seq: FrameSeq) -> VolumeRecord {
        while let Some(mark) = self.marks.pop_front_if(|mark| mark.seq <= seq) {
            self.base = mark;
        }
        let alone = self.sharing == Sharing::Alone && self.marks.is_empty();
        if alone {
            self.base.sharing = Sharing::Alone;
            self.base.appended = self.committed;
        }
        let appended = self.base.appended;
        let mut reigns = [Reign::default(); REIGNS_KEPT];
        let known = self.reigns.iter().rev();
        let known = known.filter(|reign| reign.start <= appended || alone);
        let count = known.clone().count().min(REIGNS_KEPT);
        for (reign, place) in known.zip(reigns[..count].iter_mut().rev()) {
            *place = *reign;
        }
        VolumeRecord {
            id,
            size_blocks,
            epoch: self.epoch,
            lsn: self.committed.min(appended),
            copy: CopyRecord {
                sharing: self.base.sharing,
                promised: self.promised,
                appended,
                resync: self.resync,
                reigns,
            },
        }
    }
}
