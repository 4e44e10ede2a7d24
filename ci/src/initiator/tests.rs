//! The codec against bytes laid out by hand, and the numbers CHAP must give.

use super::chap;
use super::login::{parse_keys, value};
use super::pdu::{Digests, HEADER_BYTES, Pdu, opcode};
use super::scsi::{Sectors, Sense, read, unmap, write_same_unmap};

const MD5_OF_SAMPLE: &str = "0x46e47770030e2b4e26a0db72a7efec00";
const SHA256_OF_SAMPLE: &str = "0x2dfa0526f4764864b7c3c5bc6596bcead3d8dbd984f4fc1d9f330299f0beced4";
const BOTH: Digests = Digests {
    header: true,
    data: true,
};

fn sample() -> Pdu {
    let mut pdu = Pdu::new(opcode::NOP_OUT);
    pdu.set_immediate();
    pdu.put_u32(16, 0x0102_0304);
    pdu.data = b"abcde".to_vec();
    pdu
}

#[test]
fn pdu_is_padded_and_its_lengths_are_set() {
    let bytes = sample().encode(Digests::default());
    assert_eq!(bytes.len(), HEADER_BYTES + 8);
    assert_eq!(bytes[0], 0x40);
    assert_eq!(bytes[4..8], [0, 0, 0, 5]);
    assert_eq!(bytes[16..20], [1, 2, 3, 4]);
    assert_eq!(&bytes[48..], b"abcde\0\0\0");
}

#[test]
fn pdu_survives_the_way_there_and_back_with_every_digest() {
    for header in [false, true] {
        for data in [false, true] {
            let digests = Digests { header, data };
            let mut pdu = sample();
            pdu.additional = vec![0, 5, 1, 0, 1, 2, 3, 4];
            let mut bytes = pdu.encode(digests);
            bytes.extend_from_slice(&[9; 7]);
            let (decoded, used) = Pdu::decode(&bytes, digests).unwrap().unwrap();
            assert_eq!(used, bytes.len() - 7);
            assert_eq!(decoded.additional, pdu.additional);
            assert_eq!(decoded.data, pdu.data);
            for cut in 0..used {
                assert_eq!(Pdu::decode(&bytes[..cut], digests).unwrap(), None);
            }
        }
    }
}

#[test]
fn flipped_bit_is_found_by_a_digest() {
    let good = sample().encode(BOTH);
    for at in 8..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        assert!(Pdu::decode(&bad, BOTH).is_err(), "byte {at}");
    }
}

#[test]
fn digest_is_the_one_of_the_standard() {
    // RFC 7143 appendix A: 32 bytes of zeros have the CRC bytes aa 36 91 8a.
    assert_eq!(
        crc32c::crc32c(&[0; 32]).to_le_bytes(),
        [0xaa, 0x36, 0x91, 0x8a]
    );
}

#[test]
fn chap_digests_match_independent_values() {
    // printf '\x01secretchallenge' | md5sum and sha256sum.
    let md5 = chap::digest("5", 1, "secret", b"challenge").unwrap();
    assert_eq!(chap::to_hex(&md5), MD5_OF_SAMPLE);
    let sha = chap::digest("7", 1, "secret", b"challenge").unwrap();
    assert_eq!(chap::to_hex(&sha), SHA256_OF_SAMPLE);
    assert_eq!(chap::digest("6", 1, "secret", b"challenge"), None);
}

#[test]
fn hex_text_of_odd_length_has_a_leading_zero() {
    assert_eq!(chap::from_hex("0x1ff"), Some(vec![0x01, 0xff]));
    assert_eq!(chap::from_hex("0X00fe"), Some(vec![0, 0xfe]));
    assert_eq!(chap::from_hex("0xg0"), None);
    assert_eq!(chap::from_hex("12"), None);
}

#[test]
fn keys_are_split_at_the_first_equals_sign() {
    let keys = parse_keys(b"A=1\0B=x=y\0\0C=\0");
    assert_eq!(value(&keys, "A"), Some("1"));
    assert_eq!(value(&keys, "B"), Some("x=y"));
    assert_eq!(value(&keys, "C"), Some(""));
    assert_eq!(value(&keys, "D"), None);
}

#[test]
fn sense_is_read_in_both_formats() {
    let mut fixed = [0; 18];
    fixed[0] = 0xf0;
    fixed[2] = 0x03;
    fixed[12] = 0x11;
    assert_eq!(Sense::parse(&fixed), Some(Sense::MEDIUM_ERROR));
    assert_eq!(
        Sense::parse(&[0x72, 0x07, 0x27, 0x07]),
        Some(Sense::SPACE_EXHAUSTED)
    );
    assert_eq!(Sense::parse(&fixed[..12]), None);
    assert_eq!(Sense::parse(&[]), None);
}

#[test]
fn commands_carry_their_range() {
    let sectors = Sectors {
        first: 0x0102_0304_0506,
        count: 0x0708,
    };
    let command = read(sectors);
    assert_eq!(
        command.cdb,
        [0x88, 0, 0, 0, 1, 2, 3, 4, 5, 6, 0, 0, 7, 8, 0, 0]
    );
    assert_eq!(write_same_unmap(sectors).cdb[..2], [0x93, 0x09]);
    let super::scsi::Transfer::Out(list) = unmap(sectors).transfer else {
        panic!("UNMAP sends its list");
    };
    assert_eq!(list[..8], [0, 22, 0, 16, 0, 0, 0, 0]);
    assert_eq!(list[8..20], [0, 0, 1, 2, 3, 4, 5, 6, 0, 0, 7, 8]);
}
