//! Sizes round-trip and wrong ones are refused with a sentence.

use super::{exact, parse};

#[test]
fn sizes_are_read_exactly() {
    for (text, bytes) in [
        ("1", 1),
        ("4096B", 4096),
        ("4KiB", 4096),
        ("512MiB", 512 << 20),
        ("1GiB", 1 << 30),
        ("64TiB", 64 << 40),
    ] {
        assert_eq!(parse(text), Ok(bytes), "{text}");
    }
}

#[test]
fn wrong_sizes_are_refused() {
    for text in [
        "",
        "GiB",
        "1GB",
        "1 GiB",
        "-1",
        "0",
        "0GiB",
        "1.5GiB",
        "99999999TiB",
        "1gib",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
}

#[test]
fn printing_is_exact() {
    for bytes in [1, 4096, 4097, 1 << 30, (1 << 30) + 4096, 3 << 40] {
        assert_eq!(parse(&exact(bytes)), Ok(bytes));
    }
}
