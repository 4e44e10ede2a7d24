//! The durable frames behind the checkpoint, and which of them a checkpoint may not pass.
//!
//! A frame with *pending* records (of a shared volume, not known to be committed) stays in the log, and
//! so does all behind it. When pending records are dropped, their frames and those up to the record that
//! dropped them belong together: a checkpoint ends in front of them all or behind them all, so that a
//! replay never meets a record whose predecessors are missing.

use crate::lsn::FrameSeq;
use crate::wal::ring::Position;
use crate::wal::scan::LogPoint;
use alloc::collections::VecDeque;

/// Their ends, in order and without gaps.
#[derive(Debug, Default)]
pub(super) struct Frames {
    ends: VecDeque<FrameEnd>,
    pending: u64,
    spanned: u64,
}

#[derive(Clone, Copy, Debug)]
struct FrameEnd {
    point: LogPoint,
    pending: u32,
    /// The frame behind it drops records in front of it.
    spanned: bool,
}

impl Frames {
    /// One more is durable.
    pub(super) fn push(&mut self, point: LogPoint) {
        let follows = |last: &FrameEnd| last.point.seq.next() == point.seq;
        assert!(self.ends.back().is_none_or(follows));
        self.ends.push_back(FrameEnd {
            point,
            pending: 0,
            spanned: false,
        });
    }

    /// The last one has one more pending record.
    pub(super) fn hold(&mut self) {
        let last = self.ends.back_mut().expect("its frame was just pushed");
        last.pending += 1;
        self.pending += 1;
    }

    /// A pending record of frame `seq` is pending no more.
    pub(super) fn settle(&mut self, seq: FrameSeq) {
        let at = self.index(seq).expect("a pending record keeps its frame");
        self.ends[at].pending -= 1;
        self.pending -= 1;
    }

    /// Pending records of frame `first` and later ones are dropped by frame `by`.
    pub(super) fn span(&mut self, first: FrameSeq, by: FrameSeq) {
        let from = self.index(first).expect("a pending record keeps its frame");
        let between = self.ends.range_mut(from..);
        for end in between.take_while(|end| end.point.seq < by) {
            self.spanned += u64::from(!end.spanned);
            end.spanned = true;
        }
    }

    /// Frames up to `seq` are behind a checkpoint.
    pub(super) fn release(&mut self, seq: FrameSeq) {
        while let Some(end) = self.ends.pop_front_if(|end| end.point.seq <= seq) {
            assert_eq!(end.pending, 0);
            self.spanned -= u64::from(end.spanned);
        }
    }

    /// Whether there are frames and none of them may be passed.
    pub(super) fn is_blocked(&self) -> bool {
        let held = self.pending > 0 || self.spanned > 0;
        held && self.end_within(Position(0)).is_none()
    }

    /// Where a checkpoint may end: the last place up to `within`, or the first behind it.
    pub(super) fn end_within(&self, within: Position) -> Option<LogPoint> {
        if self.pending == 0 && self.spanned == 0 {
            let inside = |end: &FrameEnd| end.point.position <= within;
            let count = self.ends.partition_point(inside);
            let at = count.max(1) - 1;
            return self.ends.get(at).map(|end| end.point);
        }
        let mut found = None;
        for end in &self.ends {
            let beyond = end.point.position > within && found.is_some();
            if end.pending > 0 || beyond {
                break;
            }
            if !end.spanned {
                found = Some(end.point);
            }
        }
        found
    }

    fn index(&self, seq: FrameSeq) -> Option<usize> {
        let first = self.ends.front()?.point.seq;
        let at = usize::try_from(seq.0.checked_sub(first.0)?).ok()?;
        (at < self.ends.len()).then_some(at)
    }
}
