//! Aligned memory for direct I/O.
//!
//! A [`Buffer`] is written by one owner while it is being filled and shared read-only afterwards
//! (`Rc<Buffer>`). Every byte is defined from the start: glommio hands out recycled memory, and stale
//! bytes of another volume must never reach a host or a disk.

use core::ops::Deref;
use glommio::io::{DmaBuffer, ReadResult};
use std::rc::Rc;

/// Aligned memory, filled with zeros when made.
#[derive(Debug)]
pub(crate) struct Buffer(pub(super) Rc<DmaBuffer>);

impl Buffer {
    /// `bytes` zero bytes, aligned to 4096. `bytes` is not 0.
    pub(crate) fn zeroed(bytes: usize) -> Self {
        assert!(bytes > 0);
        let mut memory = glommio::allocate_dma_buffer(bytes);
        assert!(memory.len() >= bytes);
        // SAFETY: the pointer is valid for `len()` bytes for as long as `memory` lives, nobody else has it
        // yet, and any byte value is valid. A slice cannot be used: the memory is uninitialised.
        unsafe { memory.as_mut_ptr().write_bytes(0, memory.len()) };
        Buffer(Rc::new(memory))
    }

    /// A copy of `parts`, one behind the other; not empty.
    pub(crate) fn concat(parts: &[&[u8]]) -> Self {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        assert!(bytes > 0);
        let mut memory = glommio::allocate_dma_buffer(bytes);
        assert!(memory.len() == bytes);
        let mut at = memory.as_mut_ptr();
        for part in parts {
            // SAFETY: the target is `bytes` long and the parts before took their share of it, the sources
            // are slices, and fresh memory overlaps none of them. Not a slice: it is uninitialised.
            unsafe {
                at.copy_from_nonoverlapping(part.as_ptr(), part.len());
                at = at.add(part.len());
            }
        }
        Buffer(Rc::new(memory))
    }

    /// The bytes, to fill. Only the one owner of a buffer that was never shared may call this.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        Rc::get_mut(&mut self.0)
            .expect("a buffer is filled before it is shared")
            .as_bytes_mut()
    }

    /// The same memory, for another reader.
    pub(crate) fn share(&self) -> Buffer {
        Buffer(Rc::clone(&self.0))
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// What a read brought: immutable, cheap to share.
#[derive(Clone, Debug)]
pub(crate) enum ReadBytes {
    /// From a ring.
    Ring(ReadResult),
    /// From memory.
    #[cfg(test)]
    Memory(Rc<[u8]>),
}

impl Deref for ReadBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            ReadBytes::Ring(result) => result,
            #[cfg(test)]
            ReadBytes::Memory(bytes) => bytes,
        }
    }
}
