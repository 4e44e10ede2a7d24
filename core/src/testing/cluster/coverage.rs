//! What was under way while what was broken: counted from what really overlapped, not from what was drawn.
//!
//! A fault lasts from when it strikes until it is over by itself or mended; work, from its beginning to its
//! good end. Work that met a fault of a kind counts once for that kind.
//!
//! Not here: a host's flush. The engine has no such event, since a write is durable when it is acknowledged; the
//! driver lets a flush wait for the writes under way (`shard`, range locks).

use super::Micros;
use super::plan::Fault;
use alloc::vec::Vec;

/// What a cluster does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A host's write.
    Write,
    /// A host's read.
    Read,
    /// A host's unmap.
    Unmap,
    /// A volume grows.
    Resize,
    /// A copy is filled.
    Resync,
    /// A person moves the volume, until the next reign is registered.
    Move,
    /// An election, until the next reign is registered.
    Promote,
}

impl Work {
    /// All of it.
    pub const ALL: [Work; 7] = [
        Work::Write,
        Work::Read,
        Work::Unmap,
        Work::Resize,
        Work::Resync,
        Work::Move,
        Work::Promote,
    ];
}

/// How often which work met which fault: rows as [`Work::ALL`], columns as [`Fault::ALL`].
pub type Cells = [[u64; Fault::ALL.len()]; Work::ALL.len()];

/// Of one run.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    pub(super) cells: Cells,
    spans: Vec<Span>,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    fault: Fault,
    from: Micros,
    until: Micros,
}

impl Coverage {
    /// A fault struck and lasts so long.
    pub(super) fn strikes(&mut self, fault: Fault, from: Micros, until: Micros) {
        let span = Span { fault, from, until };
        self.spans.push(span);
    }

    /// Faults of these kinds are over.
    pub(super) fn end(&mut self, now: Micros, over: impl Fn(Fault) -> bool) {
        for span in self.spans.iter_mut().filter(|span| over(span.fault)) {
            span.until = span.until.min(now);
        }
    }

    /// Work ended well.
    pub(super) fn done(&mut self, work: Work, began: Micros, ended: Micros) {
        let row = &mut self.cells[work as usize];
        for (cell, fault) in row.iter_mut().zip(Fault::ALL) {
            let meets =
                |span: &Span| span.fault == fault && span.from <= ended && span.until >= began;
            *cell += u64::from(self.spans.iter().any(meets));
        }
    }
}
