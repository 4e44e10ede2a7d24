//! From received bytes to the machine's `begin` and `finish`, wherever the bytes are cut. Hot path.

use super::connection::Conn;
use holdfast_iscsi::connection::Arrival;
use holdfast_iscsi::effect::Segment;
use holdfast_iscsi::framing::{DIGEST_BYTES, DataDigest, Digests, HEADER_BYTES};
use std::rc::Rc;

/// Rest of a data segment that is received straight into its task buffer instead of being copied.
const DIRECT_BYTES_MIN: usize = 16 << 10;

/// Padding and digest.
const TRAILER_BYTES_MAX: usize = 3 + DIGEST_BYTES;

/// A PDU whose headers were taken.
struct Incoming {
    segment: Segment,
    done: usize,
    inline: Vec<u8>,
    digest: Option<DataDigest>,
    trailer: [u8; TRAILER_BYTES_MAX],
    trailer_bytes: usize,
    trailer_done: usize,
}

/// The receiving state of a connection.
#[derive(Default)]
pub(super) struct Receiver {
    headers: Vec<u8>,
    incoming: Option<Incoming>,
}

impl Incoming {
    fn new(segment: Segment, digests: Digests) -> Self {
        Incoming {
            segment,
            done: 0,
            inline: Vec::new(),
            digest: digests.data.then(DataDigest::default),
            trailer: [0; TRAILER_BYTES_MAX],
            trailer_bytes: digests.trailer_bytes(segment.bytes()),
            trailer_done: 0,
        }
    }

    fn data_left(&self) -> usize {
        self.segment.bytes() - self.done
    }

    fn is_whole(&self) -> bool {
        self.data_left() == 0 && self.trailer_done == self.trailer_bytes
    }

    /// Takes data; returns how much.
    fn take_data(&mut self, conn: &Conn, bytes: &[u8]) -> usize {
        let length = bytes.len().min(self.data_left());
        let bytes = &bytes[..length];
        if let Some(digest) = &mut self.digest {
            digest.update(bytes);
        }
        match self.segment {
            Segment::None | Segment::Discard { .. } => {}
            Segment::Inline { .. } => self.inline.extend_from_slice(bytes),
            Segment::Task {
                task,
                offset,
                bytes: wanted,
                ..
            } => {
                let useful = length.min(wanted.saturating_sub(self.done));
                if useful > 0 {
                    let start = offset + self.done;
                    conn.with_buffer(task, |buffer| {
                        buffer[start..start + useful].copy_from_slice(&bytes[..useful]);
                    });
                }
            }
        }
        self.done += length;
        length
    }

    fn take_trailer(&mut self, bytes: &[u8]) -> usize {
        let length = bytes.len().min(self.trailer_bytes - self.trailer_done);
        let start = self.trailer_done;
        self.trailer[start..start + length].copy_from_slice(&bytes[..length]);
        self.trailer_done += length;
        length
    }

    fn arrival(&self) -> Arrival {
        match self.digest {
            Some(digest) if self.segment.bytes() > 0 => {
                if digest.matches(&self.trailer[..self.trailer_bytes]) {
                    Arrival::Intact
                } else {
                    Arrival::DigestError
                }
            }
            _ => Arrival::Intact,
        }
    }
}

impl Receiver {
    /// Takes bytes in until all are used or the connection pauses; returns how many were used.
    pub(super) fn feed(&mut self, conn: &Rc<Conn>, bytes: &[u8]) -> usize {
        let mut used = 0;
        while used < bytes.len() && !conn.is_paused() {
            used += match &mut self.incoming {
                None => self.take_headers(conn, &bytes[used..]),
                Some(incoming) if incoming.data_left() > 0 => {
                    incoming.take_data(conn, &bytes[used..])
                }
                Some(incoming) => incoming.take_trailer(&bytes[used..]),
            };
            self.finish_if_whole(conn);
        }
        used
    }

    /// Where the next bytes may be received directly.
    pub(super) fn direct(&self, conn: &Conn) -> Option<Direct> {
        let incoming = self.incoming.as_ref()?;
        let Segment::Task {
            task,
            offset,
            bytes,
            ..
        } = incoming.segment
        else {
            return None;
        };
        let left = bytes.checked_sub(incoming.done)?;
        let useful = left >= DIRECT_BYTES_MIN && conn.with_buffer(task, |_| ()).is_some();
        useful.then_some(Direct {
            task,
            start: offset + incoming.done,
            bytes: left,
        })
    }

    /// Learns that `bytes` bytes were received as [`Self::direct`] said.
    pub(super) fn received_direct(&mut self, conn: &Rc<Conn>, place: Direct, bytes: usize) {
        let incoming = self.incoming.as_mut().expect("direct() looked at it");
        if let Some(digest) = &mut incoming.digest {
            conn.with_buffer(place.task, |buffer| {
                digest.update(&buffer[place.start..place.start + bytes]);
            });
        }
        incoming.done += bytes;
        self.finish_if_whole(conn);
    }

    fn take_headers(&mut self, conn: &Rc<Conn>, bytes: &[u8]) -> usize {
        // The usual case: the headers lie whole in front of us.
        if self.headers.is_empty()
            && let Some(basic) = bytes.first_chunk::<HEADER_BYTES>()
        {
            let needed = conn.headers_bytes(basic);
            if let Some(headers) = bytes.get(..needed) {
                self.begin(conn, headers);
                return needed;
            }
        }
        let needed = match self.headers.first_chunk::<HEADER_BYTES>() {
            Some(basic) => conn.headers_bytes(basic),
            None => HEADER_BYTES,
        };
        let length = bytes.len().min(needed - self.headers.len());
        self.headers.extend_from_slice(&bytes[..length]);
        if let Some(basic) = self.headers.first_chunk::<HEADER_BYTES>()
            && self.headers.len() == conn.headers_bytes(basic)
        {
            let headers = std::mem::take(&mut self.headers);
            self.begin(conn, &headers);
        }
        length
    }

    fn begin(&mut self, conn: &Rc<Conn>, headers: &[u8]) {
        let digests = conn.digests();
        let segment = conn.begin(headers);
        self.incoming = Some(Incoming::new(segment, digests));
    }

    fn finish_if_whole(&mut self, conn: &Rc<Conn>) {
        let Some(whole) = self.incoming.take_if(|incoming| incoming.is_whole()) else {
            return;
        };
        // After `begin` closed the connection there is no `finish`.
        if !conn.is_closing() {
            conn.finish(&whole.inline, whole.arrival());
        }
    }
}

/// A place in a task buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Direct {
    /// Whose buffer.
    pub(super) task: holdfast_iscsi::effect::TaskTag,
    /// First byte.
    pub(super) start: usize,
    /// Length.
    pub(super) bytes: usize,
}
