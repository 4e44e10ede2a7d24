//! Which blocks the last records changed: a short outage then costs only those, at 4 KiB grain.
//!
//! In memory only, bounded by [`JOURNAL_RECORDS_MAX`]; where it does not reach, the chunk map tells.
//! Hot path: one entry per record.

use crate::block::{Block, BlockRange};
use crate::limits::JOURNAL_RECORDS_MAX;
use crate::lsn::Lsn;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// The last records of one copy.
#[derive(Debug, Default)]
pub struct Journal {
    /// Everything above this LSN, without gaps, is in `records` if it changed blocks.
    floor: Lsn,
    last: Lsn,
    records: VecDeque<(Lsn, BlockRange)>,
}

impl Journal {
    /// Nothing is known up to `lsn`.
    pub fn starting_behind(lsn: Lsn) -> Self {
        Journal {
            floor: lsn,
            last: lsn,
            records: VecDeque::new(),
        }
    }

    /// A record joined the log.
    pub fn add(&mut self, lsn: Lsn, range: Option<BlockRange>) {
        if lsn.0 != self.last.0 + 1 {
            *self = Journal::starting_behind(Lsn(lsn.0 - 1));
        }
        self.last = lsn;
        let Some(range) = range else {
            return;
        };
        if self.records.len() >= JOURNAL_RECORDS_MAX
            && let Some((oldest, _)) = self.records.pop_front()
        {
            self.floor = oldest;
        }
        self.records.push_back((lsn, range));
    }

    /// The log was cut behind `keep` and goes on behind `cut`.
    pub fn cut(&mut self, keep: Lsn, cut: Lsn) {
        if keep < cut || keep < self.floor || keep > self.last {
            *self = Journal::starting_behind(cut);
            return;
        }
        while self.records.pop_back_if(|(lsn, _)| *lsn > keep).is_some() {}
        self.last = keep;
    }

    /// What changed behind `base` up to its end, sorted and joined; `None` when it does not reach.
    pub fn since(&self, base: Lsn) -> Option<Vec<BlockRange>> {
        if base < self.floor || base > self.last {
            return None;
        }
        let first = self.records.partition_point(|(lsn, _)| *lsn <= base);
        let mut ranges: Vec<BlockRange> = self
            .records
            .range(first..)
            .map(|(_, range)| *range)
            .collect();
        ranges.sort_unstable_by_key(|range| range.first);
        let mut joined: Vec<BlockRange> = Vec::new();
        for range in ranges {
            let Some(last) = joined.last_mut().filter(|last| range.first <= last.end()) else {
                joined.push(range);
                continue;
            };
            let end: Block = last.end().max(range.end());
            match u32::try_from(end.0 - last.first.0) {
                Ok(count) => last.count = count,
                Err(_) => joined.push(range),
            }
        }
        Some(joined)
    }
}

#[cfg(test)]
mod tests;
