//! Golden bytes of standard INQUIRY data.

use super::{no_unit, standard};

#[test]
fn standard_data_says_what_we_are() {
    let data = standard();
    assert_eq!(data.len(), 96);
    assert_eq!(data[..8], [0x00, 0x00, 0x06, 0x12, 91, 0x10, 0x00, 0x02]);
    assert_eq!(&data[8..32], b"HOLDFASTHoldfast volume ");
    assert!(
        data[32..36]
            .iter()
            .all(|b| b.is_ascii_graphic() || *b == b' ')
    );
    assert_eq!(
        data[58..66],
        [0x00, 0xA0, 0x04, 0x60, 0x04, 0xC0, 0x09, 0x60]
    );
    assert!(data[66..].iter().all(|byte| *byte == 0));
}

#[test]
fn other_luns_have_no_unit() {
    assert_eq!(no_unit()[0], 0x7F);
}
