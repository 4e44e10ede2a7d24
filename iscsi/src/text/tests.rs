//! What text is, what it is not, and where its bounds are.

use super::{TextError, Writer, binary, decode, number, to_hexadecimal};
use alloc::format;
use alloc::string::String;
use alloc::vec;

fn check(text: &[u8], expected: Result<&[(&str, &str)], TextError>) {
    let decoded = decode(text);
    match expected {
        Ok(pairs) => assert_eq!(decoded.unwrap(), pairs),
        Err(error) => assert_eq!(decoded.unwrap_err(), error),
    }
}

#[test]
fn text_is_taken_apart() {
    check(b"", Ok(&[]));
    check(b"\0\0\0", Ok(&[]));
    check(b"A=b\0", Ok(&[("A", "b")]));
    check(b"A=b", Ok(&[("A", "b")]));
    check(b"A=\0C=d=e\0", Ok(&[("A", ""), ("C", "d=e")]));
}

#[test]
fn text_outside_the_rules_is_refused() {
    check(b"A\0", Err(TextError::Malformed));
    check(b"=b\0", Err(TextError::KeyName));
    check(b"A b=c\0", Err(TextError::KeyName));
    check(b"A=\xff\0", Err(TextError::Value));
    check(b"A=1\0A=1\0", Err(TextError::Repeated));
}

#[test]
fn names_and_values_have_limits() {
    let name = "k".repeat(63);
    check(format!("{name}=v\0").as_bytes(), Ok(&[(&name, "v")]));
    check(format!("{name}k=v\0").as_bytes(), Err(TextError::KeyName));
    let value = "v".repeat(255);
    check(format!("k={value}\0").as_bytes(), Ok(&[("k", &value)]));
    check(format!("k={value}v\0").as_bytes(), Err(TextError::Value));
    let challenge = format!("0x{}", "a".repeat(2048));
    check(
        format!("CHAP_C={challenge}\0").as_bytes(),
        Ok(&[("CHAP_C", &challenge)]),
    );
    check(
        format!("CHAP_C={challenge}a\0").as_bytes(),
        Err(TextError::Value),
    );
}

#[test]
fn two_thousand_keys_are_refused() {
    let mut text = String::new();
    for index in 0..2048 {
        text.push_str(&format!("K{index}=1\0"));
    }
    check(text.as_bytes(), Err(TextError::Count));
}

#[test]
fn numbers_are_decimal_or_hexadecimal() {
    for (text, expected) in [
        ("0", Some(0)),
        ("65535", Some(65535)),
        ("0x10", Some(16)),
        ("4294967296", None),
        ("", None),
        ("0x", None),
        ("-1", None),
        ("+1", None),
        ("1k", None),
    ] {
        assert_eq!(number(text), expected, "{text}");
    }
}

#[test]
fn binary_values_are_hexadecimal_or_base64() {
    for (text, expected) in [
        ("0x00ff", Some(vec![0, 255])),
        ("0xfff", Some(vec![15, 255])),
        ("0bAQID", Some(vec![1, 2, 3])),
        ("0bAQI=", Some(vec![1, 2])),
        ("0bAQ==", Some(vec![1])),
        ("0bAR==", None),
        ("0bA===", None),
        ("0bAQ=", None),
        ("0b", None),
        ("0x", None),
        ("0xg0", None),
        ("12", None),
        ("", None),
    ] {
        assert_eq!(binary(text), expected, "{text}");
    }
    assert_eq!(binary(&to_hexadecimal(&[1; 1024])).unwrap(), vec![1; 1024]);
    assert_eq!(binary(&format!("0x{}", "1".repeat(2050))), None);
}

#[test]
fn a_reply_never_grows_beyond_its_bound() {
    let mut writer = Writer::new(8);
    writer.put("k", "v");
    writer.put("k", "v");
    assert_eq!(writer.clone().finish().unwrap(), b"k=v\0k=v\0");
    writer.put("k", "v");
    assert_eq!(writer.finish(), Err(TextError::NoRoom));
}
