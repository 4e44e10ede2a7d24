//! Streams to the stores of other nodes: connecting, accepting, greeting, sending, receiving.
//!
//! One TCP stream per pair of stores, opened by the primary's side. What the messages mean is decided
//! by the core's machines; here they are moved, in order, within bounds: what waits to be sent
//! ([`outbox`]), what arrived and is not on the disk yet ([`inbox`]), streams and half-open streams.
//! A stream that breaks a rule or falls too far behind is cut; its side that opens opens it again.

pub(crate) mod accept;
pub(crate) mod hub;
pub(crate) mod inbox;
pub(crate) mod outbox;
pub(crate) mod stream;
#[cfg(test)]
mod tests;
