//! The write-ahead log: frame format, ring, and the decision where it ends.
//!
//! One *frame* is one group commit: header blocks with records, then payload blocks, contiguous, and
//! never across a segment. Frame n+1 is written only after frame n is durable; so only the last frame
//! can be torn, and a damaged frame with a later one behind it is corruption, never a tail.

pub mod frame;
pub mod ring;
pub mod scan;
