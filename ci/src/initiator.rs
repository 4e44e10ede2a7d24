//! A small blocking iSCSI initiator for the lanes that must know exactly what was acknowledged.
//!
//! It shares no code with the product, so that both sides cannot be wrong in the same way. One
//! thread drives one session; many commands may be outstanding. It knows one connection per
//! session and ERL 0, and it does not retry anything: what went wrong is an answer.
//! Source: RFC 7143.

pub(crate) mod chap;
pub(crate) mod login;
pub(crate) mod pdu;
pub(crate) mod scsi;
pub(crate) mod session;
pub(crate) mod wire;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;

/// Why a session or a connection ended, or a command was not even tried.
#[derive(Debug)]
pub(crate) enum Error {
    /// The socket failed: refused, reset, or broken.
    Socket(io::Error),
    /// The target closed the connection.
    Closed,
    /// Nothing came, or nothing went, within the time given.
    TimedOut(&'static str),
    /// The target answered the login with this status class and detail.
    Login { class: u8, detail: u8 },
    /// The target answered with a Reject PDU of this reason.
    Rejected { reason: u8 },
    /// The target broke the protocol, or proved the wrong secret.
    Protocol(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(error) => write!(f, "socket: {error}"),
            Self::Closed => f.write_str("the target closed the connection"),
            Self::TimedOut(what) => write!(f, "timed out: {what}"),
            Self::Login { class, detail } => {
                write!(
                    f,
                    "login refused with class {class:#04x} detail {detail:#04x}"
                )
            }
            Self::Rejected { reason } => write!(f, "rejected with reason {reason:#04x}"),
            Self::Protocol(what) => write!(f, "protocol: {what}"),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}
