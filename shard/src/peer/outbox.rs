//! What waits to be sent on one stream, and the task that sends it.
//!
//! Hot path. Messages of one turn leave with one `sendmsg`: heads from the queue, payload from the
//! buffer it arrived in. A payload that has to be read first keeps its place in the order. The queue is
//! bounded in bytes and messages; one that overflows ends the stream.

use crate::limits::{PEER_QUEUED_MESSAGES_MAX, SLICES_MAX};
use crate::runtime::local::Bell;
use crate::runtime::socket::Writer;
use crate::volume::rope::{Piece, Rope};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;

/// One run of bytes to send.
enum Item {
    Head(Vec<u8>),
    Piece(Piece),
    /// Payload that is being read; nothing behind it is sent before it is there.
    Awaited(Place),
}

/// Where awaited payload will be; clones are the same place.
#[derive(Clone, Default)]
pub(crate) struct Place(Rc<RefCell<Option<Rope>>>);

/// The queue overflowed, or the stream has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut;

/// The queue.
pub(crate) struct Outbox {
    items: RefCell<VecDeque<Item>>,
    /// Bytes of the first item that are sent.
    sent: Cell<usize>,
    queued: Cell<usize>,
    queued_max: usize,
    filled: Bell,
    ended: Cell<bool>,
}

impl Item {
    fn len(&self) -> usize {
        match self {
            Item::Head(bytes) => bytes.len(),
            Item::Piece(piece) => piece.len(),
            Item::Awaited(_) => 0,
        }
    }

    fn from(&self, skip: usize) -> &[u8] {
        match self {
            Item::Head(bytes) => &bytes[skip..],
            Item::Piece(piece) => piece.bytes_from(skip),
            Item::Awaited(_) => &[],
        }
    }
}

impl Outbox {
    /// An empty queue of at most `queued_max` bytes.
    pub(crate) fn new(queued_max: usize) -> Rc<Self> {
        Rc::new(Outbox {
            items: RefCell::default(),
            sent: Cell::new(0),
            queued: Cell::new(0),
            queued_max,
            filled: Bell::default(),
            ended: Cell::new(false),
        })
    }

    /// Queues a message and its payload.
    pub(crate) fn push(&self, head: Vec<u8>, payload: &[Piece]) -> Result<(), Cut> {
        self.admit(head.len() + payload.iter().map(Piece::len).sum::<usize>())?;
        let mut items = self.items.borrow_mut();
        items.push_back(Item::Head(head));
        items.extend(payload.iter().cloned().map(Item::Piece));
        drop(items);
        self.filled.ring();
        Ok(())
    }

    /// Queues a message whose payload of `bytes` bytes is still being read; [`Self::fill`] follows.
    pub(crate) fn push_awaiting(&self, head: Vec<u8>, bytes: usize) -> Result<Place, Cut> {
        self.admit(head.len() + bytes)?;
        let place = Place::default();
        let mut items = self.items.borrow_mut();
        items.push_back(Item::Head(head));
        items.push_back(Item::Awaited(place.clone()));
        drop(items);
        self.filled.ring();
        Ok(place)
    }

    /// Gives the payload of a place.
    pub(crate) fn fill(&self, place: &Place, payload: Rope) {
        *place.0.borrow_mut() = Some(payload);
        self.filled.ring();
    }

    /// Ends the stream's sending; what is queued is dropped.
    pub(crate) fn end(&self) {
        self.ended.set(true);
        self.filled.ring();
    }

    fn admit(&self, bytes: usize) -> Result<(), Cut> {
        let full = self.queued.get() + bytes > self.queued_max
            || self.items.borrow().len() >= 2 * PEER_QUEUED_MESSAGES_MAX;
        if self.ended.get() || full {
            return Err(Cut);
        }
        self.queued.set(self.queued.get() + bytes);
        Ok(())
    }

    /// Bytes that wait.
    #[cfg(test)]
    pub(crate) fn queued(&self) -> usize {
        self.queued.get()
    }

    /// Puts payload that has arrived at the front of the queue into its place.
    fn settle_front(&self) {
        let mut items = self.items.borrow_mut();
        while let Some(first) = items.front() {
            match first {
                Item::Head(_) | Item::Piece(_) => return,
                Item::Awaited(place) => {
                    let Some(rope) = place.0.borrow_mut().take() else {
                        return;
                    };
                    items.pop_front();
                    for piece in rope.pieces().iter().rev() {
                        items.push_front(Item::Piece(piece.clone()));
                    }
                }
            }
        }
    }

    /// Sends what can be sent; `Ok(None)`: the socket takes nothing now; `Ok(Some(0))`: nothing waits.
    fn try_send(&self, writer: &Writer) -> io::Result<Option<usize>> {
        self.settle_front();
        let items = self.items.borrow();
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut count = 0;
        let mut skip = self.sent.get();
        for item in items.iter() {
            if count == SLICES_MAX || matches!(item, Item::Awaited(_)) {
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
        if count == 0 {
            return Ok(Some(0));
        }
        writer.try_send(&slices[..count])
    }

    fn advance(&self, bytes: usize) {
        self.queued.set(self.queued.get() - bytes);
        let mut left = self.sent.get() + bytes;
        let mut items = self.items.borrow_mut();
        while let Some(first) = items.front() {
            if matches!(first, Item::Awaited(_)) || left < first.len() {
                break;
            }
            left -= first.len();
            items.pop_front();
        }
        self.sent.set(left);
    }
}

/// The writing task: sends until the stream ends or the socket fails. Gives the writer back.
pub(crate) async fn write(outbox: &Outbox, writer: &mut Writer) {
    while !outbox.ended.get() {
        let sent = match outbox.try_send(writer) {
            Ok(Some(0)) => {
                outbox.filled.rung().await;
                continue;
            }
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => wait_and_send(outbox, writer).await,
            Err(error) => Err(error),
        };
        match sent {
            Ok(bytes) => outbox.advance(bytes),
            Err(_) => break,
        }
    }
    outbox.ended.set(true);
    outbox.items.borrow_mut().clear();
    outbox.queued.set(0);
    outbox.sent.set(0);
}

/// Waits until the socket takes bytes of the first item.
async fn wait_and_send(outbox: &Outbox, writer: &mut Writer) -> io::Result<usize> {
    let sent = outbox.sent.get();
    writer
        .send_with(|send| {
            let items = outbox.items.borrow();
            let first = items.iter().find(|item| item.len() > 0);
            send(first.map_or(&[], |item| item.from(sent)))
        })
        .await
}
