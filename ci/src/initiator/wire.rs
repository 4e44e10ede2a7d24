//! A TCP connection that carries PDUs, and raw bytes for the hostile lane.
//!
//! One thread both sends and receives: while a send finds no room the receive side is drained, so
//! that two full socket buffers cannot wait for each other.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::Error;
use super::pdu::{Digests, Pdu};

/// One read from the socket.
const READ_BYTES: usize = 256 << 10;
/// What may wait unparsed while we are sending; more is a target that floods us.
const INCOMING_BYTES_MAX: usize = 256 << 20;
/// How long a send waits for room before it looks at what came in.
const SEND_SLICE: Duration = Duration::from_millis(20);

/// A connection to a portal.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    incoming: Vec<u8>,
    parsed: usize,
    read_timeout: Option<Duration>,
    /// Digests in force; login switches them on at its end.
    pub(crate) digests: Digests,
}

impl Wire {
    /// Connects within `timeout`.
    pub(crate) fn connect(portal: SocketAddr, timeout: Duration) -> Result<Self, Error> {
        let stream = TcpStream::connect_timeout(&portal, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(SEND_SLICE))?;
        Ok(Self {
            stream,
            incoming: Vec::new(),
            parsed: 0,
            read_timeout: None,
            digests: Digests::default(),
        })
    }

    /// Sends one PDU with the digests in force.
    pub(crate) fn send(&mut self, pdu: &Pdu, timeout: Duration) -> Result<(), Error> {
        let bytes = pdu.encode(self.digests);
        self.send_bytes(&bytes, timeout)
    }

    /// Sends bytes as they are; `timeout` bounds the whole call.
    pub(crate) fn send_bytes(&mut self, mut bytes: &[u8], timeout: Duration) -> Result<(), Error> {
        let started = Instant::now();
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(0) => return Err(Error::Closed),
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if is_timeout(error.kind()) => {
                    if started.elapsed() > timeout {
                        return Err(Error::TimedOut("sending"));
                    }
                    self.fill(Duration::from_millis(1))?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Sends without ever looking at what comes in; the bytes that went before the other side
    /// stopped taking them for `patience`, or closed.
    pub(crate) fn send_blindly(&mut self, bytes: &[u8], patience: Duration) -> usize {
        let mut sent = 0;
        let mut moved = Instant::now();
        while sent < bytes.len() && moved.elapsed() < patience {
            match self.stream.write(&bytes[sent..]) {
                Ok(0) => break,
                Ok(count) => {
                    sent += count;
                    moved = Instant::now();
                }
                Err(error) if is_timeout(error.kind()) => {}
                Err(_) => break,
            }
        }
        sent
    }

    /// The next PDU, or `None` when none is complete within `timeout`.
    pub(crate) fn receive(&mut self, timeout: Duration) -> Result<Option<Pdu>, Error> {
        let started = Instant::now();
        loop {
            let decoded = Pdu::decode(&self.incoming[self.parsed..], self.digests)?;
            if let Some((pdu, bytes)) = decoded {
                self.parsed += bytes;
                if self.parsed == self.incoming.len() {
                    self.incoming.clear();
                    self.parsed = 0;
                }
                return Ok(Some(pdu));
            }
            let left = timeout.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            self.fill(left)?;
        }
    }

    /// Reads and forgets until the target closes: `true` when it did within `timeout`.
    pub(crate) fn closed_within(&mut self, timeout: Duration) -> bool {
        let started = Instant::now();
        loop {
            self.incoming.clear();
            self.parsed = 0;
            let left = timeout.saturating_sub(started.elapsed());
            if left.is_zero() {
                return false;
            }
            if self.fill(left).is_err() {
                return true;
            }
        }
    }

    /// Takes in what is there, waiting at most `timeout` for the first byte.
    fn fill(&mut self, timeout: Duration) -> Result<(), Error> {
        if self.incoming.len() - self.parsed > INCOMING_BYTES_MAX {
            return Err(Error::Protocol(
                "the target sent more than was asked for".into(),
            ));
        }
        let timeout = timeout.max(Duration::from_millis(1));
        if self.read_timeout != Some(timeout) {
            self.stream.set_read_timeout(Some(timeout))?;
            self.read_timeout = Some(timeout);
        }
        if self.parsed > 0 {
            self.incoming.drain(..self.parsed);
            self.parsed = 0;
        }
        let end = self.incoming.len();
        self.incoming.resize(end + READ_BYTES, 0);
        let result = self.stream.read(&mut self.incoming[end..]);
        self.incoming.truncate(end + *result.as_ref().unwrap_or(&0));
        match result {
            Ok(0) => Err(Error::Closed),
            Ok(_) => Ok(()),
            Err(error) if is_timeout(error.kind()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
