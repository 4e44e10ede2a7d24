//! What waits to be sent on a connection, and the task that sends it.
//!
//! Hot path. Responses of one turn leave with one `sendmsg`: headers from the queue, payload from
//! where it lies. The queue keeps its pieces alive, so a task may be forgotten while it is being sent.

use crate::limits::{QUEUED_BYTES_MAX, SLICES_MAX, STALL_MAX};
use crate::runtime::local::Bell;
use crate::runtime::socket::{Ender, Writer};
use crate::volume::rope::{Piece, Rope};
use holdfast_iscsi::framing::{
    DIGEST_BYTES, DataDigest, Digests, HEADER_BYTES, digest, padding_bytes,
};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::time::Instant;

/// Bytes of a header or trailer with their digests.
const FIXED_BYTES: usize = HEADER_BYTES + DIGEST_BYTES;

/// One run of bytes to send.
enum Item {
    Fixed([u8; FIXED_BYTES], usize),
    Bytes(Vec<u8>),
    Piece(Piece),
    /// Keeps something alive until here.
    Hold {
        _share: super::budget::Share,
    },
}

/// The queue.
#[derive(Default)]
pub(super) struct Output {
    items: RefCell<VecDeque<Item>>,
    /// Bytes of the first item that are sent.
    sent: Cell<usize>,
    queued: Cell<usize>,
    filled: Bell,
    /// Rings when the queue has become short.
    pub(super) drained: Bell,
    ending: Cell<bool>,
    ended: Cell<bool>,
    departed: Cell<bool>,
    progress: Cell<Option<Instant>>,
}

impl Item {
    fn len(&self) -> usize {
        match self {
            Item::Fixed(_, length) => *length,
            Item::Bytes(bytes) => bytes.len(),
            Item::Piece(piece) => piece.len(),
            Item::Hold { .. } => 0,
        }
    }

    fn from(&self, skip: usize) -> &[u8] {
        match self {
            Item::Fixed(bytes, length) => &bytes[skip..*length],
            Item::Bytes(bytes) => &bytes[skip..],
            Item::Piece(piece) => piece.bytes_from(skip),
            Item::Hold { .. } => &[],
        }
    }
}

impl Output {
    /// Queues one PDU.
    pub(super) fn push(&self, header: &[u8; HEADER_BYTES], data: Data<'_>, digests: Digests) {
        let mut fixed = [0; FIXED_BYTES];
        fixed[..HEADER_BYTES].copy_from_slice(header);
        let mut length = HEADER_BYTES;
        if digests.header {
            fixed[HEADER_BYTES..].copy_from_slice(&digest(header));
            length = FIXED_BYTES;
        }
        self.push_item(Item::Fixed(fixed, length));
        let mut crc = DataDigest::default();
        let mut bytes = 0;
        match data {
            Data::None => return self.wake(),
            Data::Bytes(owned) => {
                bytes = owned.len();
                crc.update(&owned);
                self.push_item(Item::Bytes(owned));
            }
            Data::Rope(rope, offset, length) => {
                rope.slice(offset, length, |piece| {
                    bytes += piece.len();
                    if digests.data {
                        update(&mut crc, &piece);
                    }
                    self.push_item(Item::Piece(piece));
                });
            }
        }
        if bytes > 0 {
            self.push_trailer(bytes, digests.data.then_some(crc));
        }
        self.wake();
    }

    fn push_trailer(&self, bytes: usize, crc: Option<DataDigest>) {
        let padding = padding_bytes(bytes);
        let mut fixed = [0; FIXED_BYTES];
        let mut length = padding;
        if let Some(crc) = crc {
            fixed[padding..padding + DIGEST_BYTES].copy_from_slice(&crc.finish());
            length += DIGEST_BYTES;
        }
        if length > 0 {
            self.push_item(Item::Fixed(fixed, length));
        }
    }

    /// Keeps a share of the budget until all queued so far is sent.
    pub(super) fn hold(&self, share: super::budget::Share) {
        if self.items.borrow().is_empty() {
            return;
        }
        self.push_item(Item::Hold { _share: share });
    }

    fn push_item(&self, item: Item) {
        self.queued.set(self.queued.get() + item.len());
        self.items.borrow_mut().push_back(item);
    }

    fn wake(&self) {
        if self.progress.get().is_none() {
            self.progress.set(Some(Instant::now()));
        }
        self.filled.ring();
    }

    /// Bytes that wait.
    pub(super) fn queued(&self) -> usize {
        self.queued.get()
    }

    /// Sends what is queued, then ends.
    pub(super) fn end(&self) {
        self.ending.set(true);
        self.filled.ring();
    }

    /// Ends at once.
    pub(super) fn abandon(&self) {
        self.ended.set(true);
        self.end();
    }

    /// Ends the writing task and leaves the socket alone: it goes on on another shard.
    pub(super) fn depart(&self) {
        self.departed.set(true);
        self.abandon();
    }

    /// Whether the host takes nothing any more.
    pub(super) fn is_stalled(&self) -> bool {
        self.progress
            .get()
            .is_some_and(|since| since.elapsed() > STALL_MAX)
    }

    fn is_empty(&self) -> bool {
        self.items.borrow().is_empty()
    }

    /// Waits until everything queued was sent, or the connection failed.
    pub(super) async fn flushed(&self) {
        while !self.is_empty() && !self.ended.get() {
            self.drained.rung().await;
        }
    }

    fn try_send(&self, writer: &Writer) -> io::Result<Option<usize>> {
        let items = self.items.borrow();
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut count = 0;
        let mut skip = self.sent.get();
        for item in items.iter() {
            if count == SLICES_MAX {
                break;
            }
            let bytes = item.from(skip);
            let whole = skip + bytes.len() == item.len();
            skip = 0;
            if !bytes.is_empty() {
                slices[count] = IoSlice::new(bytes);
                count += 1;
            }
            if !whole {
                break;
            }
        }
        writer.try_send(&slices[..count])
    }

    fn advance(&self, bytes: usize) {
        self.queued.set(self.queued.get() - bytes);
        let mut left = self.sent.get() + bytes;
        let mut items = self.items.borrow_mut();
        while let Some(first) = items.front() {
            if left < first.len() {
                break;
            }
            left -= first.len();
            items.pop_front();
        }
        self.sent.set(left);
        self.progress.set((!items.is_empty()).then(Instant::now));
        if items.is_empty() || self.queued.get() < QUEUED_BYTES_MAX / 2 {
            self.drained.ring();
        }
    }
}

/// The data segment of a PDU.
pub(super) enum Data<'a> {
    None,
    Bytes(Vec<u8>),
    /// Bytes of a rope: offset and length.
    Rope(&'a Rope, usize, usize),
}

fn update(crc: &mut DataDigest, piece: &Piece) {
    let mut done = 0;
    while done < piece.len() {
        let bytes = piece.bytes_from(done);
        crc.update(bytes);
        done += bytes.len();
    }
}

/// The writing task: sends until told to end or the socket fails, then closes both directions.
pub(super) async fn write(output: Rc<Output>, mut writer: Writer, ender: Rc<Ender>) {
    while !output.ended.get() {
        if output.is_empty() {
            if output.ending.get() {
                break;
            }
            output.filled.rung().await;
            continue;
        }
        let sent = match output.try_send(&writer) {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => wait_and_send(&output, &mut writer).await,
            Err(error) => Err(error),
        };
        match sent {
            Ok(bytes) => output.advance(bytes),
            Err(_) => break,
        }
    }
    output.ended.set(true);
    output.items.borrow_mut().clear();
    output.queued.set(0);
    output.drained.ring();
    if !output.departed.get() {
        ender.end();
    }
}

/// Waits until the socket takes bytes of the first item.
async fn wait_and_send(output: &Output, writer: &mut Writer) -> io::Result<usize> {
    let sent = output.sent.get();
    writer
        .send_with(|send| {
            let items = output.items.borrow();
            let first = items.iter().find(|item| item.len() > 0);
            send(first.map_or(&[], |item| item.from(sent)))
        })
        .await
}

#[cfg(test)]
mod tests;
