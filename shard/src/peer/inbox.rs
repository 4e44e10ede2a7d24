//! Messages out of one stream's bytes.
//!
//! Hot path. One `recv` brings many small messages; their payloads are copied into aligned memory (4 KiB
//! in about 0.2 µs, less than a `recv` of their own would cost). The rest of a payload that does not lie
//! whole in the buffer is received straight into its aligned memory. Payload memory comes from a budget:
//! while there is none, the stream is not read from, and its sender's queue fills instead.
//!
//! Invariant: a payload is given on only after every block matched its checksum.

use crate::limits::PEER_BUFFER_BYTES;
use crate::net::budget::{Budget, Share};
use crate::runtime::buffer::Buffer;
use crate::runtime::socket::Reader;
use holdfast_core::peer::Message;
use holdfast_core::peer::wire::{HEAD_BYTES, Head, WireError, first_bad_block};
use std::io;

/// A message, and the payload that came with it.
pub(crate) struct Incoming {
    /// What it says.
    pub(crate) message: Message,
    /// Whole blocks.
    pub(crate) payload: Option<Arrived>,
}

/// Payload from a peer.
pub(crate) struct Arrived {
    /// The bytes, all of it.
    pub(crate) buffer: Buffer,
    /// Its part of the budget, given back when dropped.
    pub(crate) share: Share,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    /// The operating system says so.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The other side closed it.
    #[error("closed by the peer")]
    Closed,
    /// The other side breaks the protocol, or the network damaged a message.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// The network damaged a payload.
    #[error("block {0} of a payload has another checksum than its message says")]
    Payload(usize),
}

/// The receiving side of a stream.
pub(crate) struct Inbox {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    budget: Budget,
}

impl Inbox {
    /// Nothing received yet but `unread`. Payload memory comes from `budget`.
    pub(crate) fn new(budget: Budget, unread: &[u8]) -> Self {
        let mut buffer = vec![0; PEER_BUFFER_BYTES].into_boxed_slice();
        buffer[..unread.len()].copy_from_slice(unread);
        Inbox {
            buffer,
            start: 0,
            end: unread.len(),
            budget,
        }
    }

    /// The next message.
    pub(crate) async fn next(&mut self, reader: &mut Reader) -> Result<Incoming, Lost> {
        let head = loop {
            if let Some(head) = self.unread().first_chunk::<HEAD_BYTES>() {
                break Head::decode(head)?;
            }
            self.receive(reader).await?;
        };
        let length = HEAD_BYTES + head.body_bytes;
        while self.unread().len() < length {
            self.receive(reader).await?;
        }
        let message = head.message(&self.unread()[HEAD_BYTES..length])?;
        self.start += length;
        let payload = match head.payload_bytes {
            0 => None,
            bytes => Some(self.payload(reader, &message, bytes).await?),
        };
        Ok(Incoming { message, payload })
    }

    /// What was received and not looked at.
    pub(crate) fn into_unread(self) -> Vec<u8> {
        self.unread().to_vec()
    }

    async fn payload(
        &mut self,
        reader: &mut Reader,
        message: &Message,
        bytes: usize,
    ) -> Result<Arrived, Lost> {
        let share = self.budget.wait(bytes).await;
        let here = self.unread();
        let buffer = if let Some(whole) = here.get(..bytes) {
            let buffer = Buffer::concat(&[whole]);
            self.start += bytes;
            buffer
        } else {
            let mut buffer = Buffer::zeroed(bytes);
            let mut done = here.len();
            buffer.bytes_mut()[..done].copy_from_slice(here);
            self.start += done;
            while done < bytes {
                done += read_into(reader, &mut buffer.bytes_mut()[done..]).await?;
            }
            buffer
        };
        if let Some(bad) = first_bad_block(message, &buffer) {
            return Err(Lost::Payload(bad));
        }
        Ok(Arrived { buffer, share })
    }

    fn unread(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    async fn receive(&mut self, reader: &mut Reader) -> Result<(), Lost> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.end == self.buffer.len() {
            // What is left of a message moves to the front: less than a body, once per full buffer.
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        self.end += read_into(reader, &mut self.buffer[self.end..]).await?;
        Ok(())
    }
}

async fn read_into(reader: &mut Reader, target: &mut [u8]) -> Result<usize, Lost> {
    let count: io::Result<usize> = reader.read_with(|receive| receive(target)).await;
    match count? {
        0 => Err(Lost::Closed),
        count => Ok(count),
    }
}

// A message without its payload always fits.
const _: () =
    assert!(HEAD_BYTES + holdfast_core::limits::PEER_BODY_BYTES_MAX <= PEER_BUFFER_BYTES / 2);
