//! Sizes: what is read, what is shown, what is refused.

use super::Size;

#[test]
fn units_are_read_and_shown_exactly() {
    let cases: &[(&str, u64, &str)] = &[
        ("1GiB", 1 << 30, "1GiB"),
        ("1G", 1 << 30, "1GiB"),
        ("1GB", 1_000_000_000, "1000000000B"),
        ("1TB", 1_000_000_000_000, "976562500KiB"),
        ("1536MiB", 1536 << 20, "1536MiB"),
        ("2048MiB", 2 << 30, "2GiB"),
        ("4096", 4096, "4KiB"),
        ("4k", 4096, "4KiB"),
        ("512 MiB", 512 << 20, "512MiB"),
        ("0", 0, "0B"),
        ("16777215TiB", 16_777_215 << 40, "16777215TiB"),
    ];
    for (text, bytes, shown) in cases {
        let size: Size = text.parse().expect(text);
        assert_eq!(size, Size(*bytes), "{text}");
        assert_eq!(size.to_string(), *shown, "{text}");
        assert_eq!(shown.parse::<Size>(), Ok(size), "{text}");
    }
}

#[test]
fn other_texts_are_refused() {
    for text in [
        "",
        "GiB",
        "-1",
        "1.5GiB",
        "1XB",
        "1gib",
        "1 G B",
        "16777216TiB",
        "99999999999999999999",
    ] {
        assert!(text.parse::<Size>().is_err(), "{text}");
    }
}

#[test]
fn measured_values_have_one_decimal() {
    assert_eq!(Size(0).rounded(), "0B");
    assert_eq!(Size(1023).rounded(), "1023B");
    assert_eq!(Size(1536 << 20).rounded(), "1.5GiB");
    assert_eq!(Size((1 << 30) + 1).rounded(), "1GiB");
    assert_eq!(Size(u64::MAX).rounded(), "16777215.9TiB");
}
