//! A resync in the eyes of the primary: which blocks a copy may lack, which are on their way.
//!
//! Blocks below the cursor that the copy saved lack only what changed behind its own records; the others
//! what changed behind the base of its resync. Fills are read under a lock against writers, in which they
//! are queued to the stream too, so a live record that comes behind them wins and one that came before is
//! in what was read. Zeros that are not written at this moment need no lock.
//!
//! Bounded: [`FILL_WINDOW_MAX`] fills between reading and being durable there; the window shrinks while
//! hosts' writes take longer than they do without a resync.

use super::{
    Action, OwnCopy, Scope,
    defect::{Defect, Planted},
};
use crate::block::{Block, BlockRange};
use crate::engine::FillId;
use crate::limits::{BLOCK_BYTES, CHUNK_BLOCKS, FILL_WINDOW_MAX, FILL_ZEROS_MAX};
use crate::lsn::Lsn;
use crate::store::append::AppendBody;
use crate::store::{ChangeKind, PayloadId, PayloadSlice, RequestError};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

/// Runs that are asked of the chunk map at once.
const RUNS_MAX: usize = 64;

/// One resync.
#[derive(Debug)]
pub struct Filling {
    /// Everything below lacks changes only behind `kept`.
    boundary: Block,
    kept: Lsn,
    base: Lsn,
    /// From the journal: exactly what changed. Empty and `exact` false: the chunk map is asked.
    exact: bool,
    listed: VecDeque<(BlockRange, ChangeKind)>,
    /// Where the chunk map is asked next.
    next: Block,
    size_blocks: u64,
    reading: BTreeMap<FillId, BlockRange>,
    sent: u64,
    filled: u64,
    /// Blocks of data of each fill that is not durable there yet.
    blocks_under_way: VecDeque<u32>,
    window: usize,
    ended: bool,
    end_told: bool,
    /// A read failed: the rest is done, but the copy cannot become whole this way.
    failed: bool,
    blocks_done: u64,
    blocks_total: u64,
    rate: Rate,
}

/// Bytes per second over the last seconds.
#[derive(Debug)]
struct Rate {
    since: Duration,
    blocks: u64,
    bytes_per_second: u64,
}

/// A fill to be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Fill {
    /// What it says.
    pub body: AppendBody,
    /// Its data.
    pub payload: Option<PayloadSlice>,
    /// Everything below was sent.
    pub cursor: Block,
}

/// What a copy lacks.
#[derive(Clone, Debug)]
pub struct Lack {
    /// It has all records up to this one.
    pub kept: Lsn,
    /// It may lack changes behind this one too, from `cursor` on.
    pub base: Lsn,
    /// See `base`.
    pub cursor: Block,
}

impl Filling {
    /// Plans. `listed` are the exact changes, when the journal knows them.
    pub fn new(
        now: Duration,
        lack: &Lack,
        listed: Option<Vec<BlockRange>>,
        size_blocks: u64,
    ) -> Self {
        let exact = listed.is_some();
        let mut filling = Filling {
            boundary: lack.cursor,
            kept: lack.kept,
            base: lack.base,
            exact,
            listed: VecDeque::new(),
            next: Block(0),
            size_blocks,
            reading: BTreeMap::new(),
            sent: 0,
            filled: 0,
            blocks_under_way: VecDeque::new(),
            window: FILL_WINDOW_MAX / 4,
            ended: false,
            end_told: false,
            failed: false,
            blocks_done: 0,
            blocks_total: size_blocks,
            rate: Rate {
                since: now,
                blocks: 0,
                bytes_per_second: 0,
            },
        };
        for range in listed.into_iter().flatten() {
            filling.list(range.first, u64::from(range.count), ChangeKind::Data);
        }
        if exact {
            filling.next = Block(size_blocks);
            filling.blocks_total = filling
                .listed
                .iter()
                .map(|(range, _)| u64::from(range.count))
                .sum();
        }
        filling
    }

    /// Bytes done, in all, and per second.
    pub fn progress(&self) -> (u64, u64, u64) {
        let bytes = BLOCK_BYTES as u64;
        let done = if self.exact {
            self.blocks_done
        } else {
            self.low().0.min(self.size_blocks)
        };
        (
            done * bytes,
            self.blocks_total * bytes,
            self.rate.bytes_per_second,
        )
    }

    /// Whether this read is one of its own.
    pub fn reads(&self, fill: FillId) -> bool {
        self.reading.contains_key(&fill)
    }

    /// Whether everything was sent and is durable there.
    pub fn is_done(&self) -> bool {
        self.ended && !self.failed && self.filled == self.sent
    }

    /// Whether a read failed.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Fills became durable there.
    pub fn on_filled(&mut self, now: Duration, count: u64) {
        let count = count.min(self.sent);
        while self.filled < count {
            self.filled += 1;
            let blocks = self.blocks_under_way.pop_front().unwrap_or(0);
            self.blocks_done += u64::from(blocks);
            self.rate.blocks += u64::from(blocks);
        }
        let passed = now.saturating_sub(self.rate.since);
        if passed >= Duration::from_secs(1) {
            let bytes = u128::from(self.rate.blocks) * BLOCK_BYTES as u128 * 1000;
            let rate = bytes / passed.as_millis();
            self.rate = Rate {
                since: now,
                blocks: 0,
                bytes_per_second: u64::try_from(rate).unwrap_or(u64::MAX),
            };
        }
    }

    /// Hosts' writes take longer than without a resync, or not.
    pub fn pace(&mut self, hosts_suffer: bool) {
        self.window = if hosts_suffer {
            (self.window / 2).max(1)
        } else {
            (self.window + 1).min(FILL_WINDOW_MAX)
        };
    }

    /// Goes on as far as the window allows: zeros to be sent now, reads to be made.
    pub fn advance(&mut self, scope: &mut Scope<'_>, send: &mut Vec<Fill>) {
        while !self.ended && self.under_way() < self.window {
            if self.listed.is_empty() && !self.list_more(scope.copy) {
                break;
            }
            let Some((range, kind)) = self.listed.pop_front() else {
                continue; // A stretch without changes.
            };
            if kind == ChangeKind::Zero && is_zero_now(scope.copy, range) {
                if !scope.planted(Defect::SkipUnmapInResync) {
                    self.push(AppendBody::Unmap(range), None, send);
                }
                continue;
            }
            self.read_chunk(range, scope);
        }
        let exhausted = self.listed.is_empty() && self.next.0 >= self.size_blocks;
        let read = self.reading.is_empty() || scope.planted(Defect::EndResyncEarly);
        self.ended |= exhausted && read;
    }

    /// Whether its end is to be told now, once: everything was sent and is durable there.
    pub fn ends(&mut self, defect: Planted) -> bool {
        let early = self.ended && defect.is(Defect::EndResyncEarly);
        (self.is_done() || early) && !core::mem::replace(&mut self.end_told, true)
    }

    /// A read came back: the fills that it gives.
    pub fn on_read(
        &mut self,
        fill: FillId,
        result: Result<Option<PayloadId>, RequestError>,
        copy: &dyn OwnCopy,
        send: &mut Vec<Fill>,
    ) {
        let range = self.reading[&fill]; // The caller asked reads().
        let stored = result.and_then(|payload| copy.stored(range).map(|stored| (payload, stored)));
        let Ok((payload, stored)) = stored else {
            self.reading.remove(&fill);
            self.failed = true;
            return;
        };
        let mut at = 0;
        for (blocks, is_stored) in stored.runs {
            let part = BlockRange {
                first: range.first.plus(u64::from(at)),
                count: blocks,
            };
            if at + blocks == range.count {
                // Only with its last part has the whole range been sent.
                self.reading.remove(&fill);
            }
            let slice = payload.map(|payload| PayloadSlice {
                payload,
                first_block: at,
                blocks,
            });
            match slice.filter(|_| is_stored) {
                None if is_stored => self.failed = true,
                None => self.push(AppendBody::Unmap(part), None, send),
                Some(slice) => {
                    let sums = &stored.checksums[at as usize..(at + blocks) as usize];
                    self.push(data_of(part, sums), Some(slice), send);
                }
            }
            at += blocks;
        }
        self.reading.remove(&fill);
    }

    /// Something besides blocks is sent.
    pub fn push_unnumbered(&mut self, body: AppendBody, send: &mut Vec<Fill>) {
        self.push(body, None, send);
    }

    /// Everything below was sent.
    fn low(&self) -> Block {
        let reading = self.reading.values().map(|range| range.first).min();
        let listed = self.listed.front().map(|(range, _)| range.first);
        let next = self.next;
        reading
            .into_iter()
            .chain(listed)
            .fold(next, |low, first| low.min(first))
    }

    fn under_way(&self) -> usize {
        let sent = usize::try_from(self.sent - self.filled).unwrap_or(usize::MAX);
        sent.saturating_add(self.reading.len())
    }

    fn push(&mut self, body: AppendBody, payload: Option<PayloadSlice>, send: &mut Vec<Fill>) {
        self.sent += 1;
        let blocks = u32::try_from(body.payload_blocks()).expect("at most a chunk");
        self.blocks_under_way.push_back(blocks);
        send.push(Fill {
            body,
            payload,
            cursor: self.low(),
        });
    }

    /// The first chunk's part of `range` is read, the rest is listed again.
    fn read_chunk(&mut self, range: BlockRange, scope: &mut Scope<'_>) {
        let room = CHUNK_BLOCKS - range.first.index_in_chunk();
        let count = u32::try_from(room).expect("a chunk has few blocks");
        let count = count.min(range.count);
        let part = BlockRange {
            first: range.first,
            count,
        };
        if count < range.count {
            let rest = BlockRange {
                first: part.end(),
                count: range.count - count,
            };
            self.listed.push_front((rest, ChangeKind::Data));
        }
        *scope.next_fill += 1;
        let fill = FillId(*scope.next_fill);
        self.reading.insert(fill, part);
        scope.push(Action::Read { fill, range: part });
    }

    /// Asks the chunk map for the next runs. False: it is exhausted.
    fn list_more(&mut self, copy: &dyn OwnCopy) -> bool {
        if self.next.0 >= self.size_blocks {
            return false;
        }
        let below = self.next < self.boundary;
        let base = if below { self.kept } else { self.base };
        let Ok(changes) = copy.changed(self.next, base, RUNS_MAX) else {
            self.failed = true;
            self.next = Block(self.size_blocks);
            return false;
        };
        let limit = if below {
            self.boundary
        } else {
            Block(self.size_blocks)
        };
        let mut end = self.next;
        for change in changes {
            let stop = change.first.plus(change.blocks).min(limit);
            if stop <= end {
                break;
            }
            if change.kind != ChangeKind::Same {
                self.list(end, stop.0 - end.0, change.kind);
            }
            end = stop;
        }
        // A map that tells nothing more has nothing more.
        self.next = if end == self.next { limit } else { end };
        true
    }

    fn list(&mut self, first: Block, blocks: u64, kind: ChangeKind) {
        let end = first.plus(blocks).0.min(self.size_blocks);
        let mut at = first.0;
        while at < end {
            let count = u32::try_from(end - at).unwrap_or(u32::MAX);
            let count = count.min(FILL_ZEROS_MAX);
            let range = BlockRange {
                first: Block(at),
                count,
            };
            self.listed.push_back((range, kind));
            at += u64::from(count);
        }
    }
}

/// Whether nothing is stored or under way in `range`.
fn is_zero_now(copy: &dyn OwnCopy, range: BlockRange) -> bool {
    let changes = copy.changed(range.first, Lsn(0), 1).unwrap_or_default();
    changes.first().is_some_and(|change| {
        change.kind == ChangeKind::Zero && change.first.plus(change.blocks) >= range.end()
    })
}

fn data_of(range: BlockRange, checksums: &[u32]) -> AppendBody {
    match checksums.try_into() {
        Ok(checksums) => AppendBody::Chunk {
            chunk: range.first.chunk(),
            checksums,
        },
        Err(_) => AppendBody::Write {
            range,
            checksums: checksums.to_vec(),
        },
    }
}
