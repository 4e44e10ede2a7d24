//! Areas follow each other, fit the device, and sizes outside the bounds are refused.

use super::*;

#[test]
fn areas_follow_each_other_and_fit() {
    for store_bytes in [64 << 20, 65 << 20, 1 << 30, (7u64 << 40) + 4096 * 3] {
        let layout = Layout::for_size(store_bytes).unwrap();
        assert!(SUPERBLOCKS[1].0 < layout.log_start().0);
        assert!(layout.log_start() < layout.pages_start());
        assert!(layout.pages_start() < layout.chunks_start());
        assert!(layout.chunks_start().0.is_multiple_of(CHUNK_BYTES as u64));
        assert!(layout.end() <= store_bytes);
        assert!(store_bytes - layout.end() < 3 * CHUNK_BYTES as u64); // Nothing is wasted.
        assert!((32 << 20..=1 << 30).contains(&layout.log_bytes()));
    }
}

#[test]
fn sizes_out_of_bounds_are_refused() {
    assert!(Layout::for_size((64 << 20) - 1).is_err());
    assert!(Layout::for_size(1 << 60).is_err());
    assert!(Layout::with_log(64 << 20, 4 << 20, 1).is_err());
    assert!(Layout::with_log(64 << 20, 12345, 8).is_err());
    let mut layout = Layout::for_size(64 << 20).unwrap();
    layout.chunks += 4;
    assert!(layout.validate(64 << 20).is_err());
}
