//! The bytes of a superblock, and what is refused.

use super::*;

fn superblock() -> Superblock {
    Superblock {
        store: StoreId([9; 16]),
        sequence: 5,
        layout: Layout {
            segment_bytes: 4 << 20,
            segments: 8,
            page_slots: 300,
            chunks: 1200,
        },
        checkpoint: LogPoint {
            seq: FrameSeq(44),
            position: Position(0x1_2345_6000),
            chain: 0xfeed_f00d,
        },
        roots: Roots::default(),
    }
}

#[test]
fn bytes_on_the_disk_do_not_change() {
    let bytes = superblock().encode(1);
    assert_eq!(&bytes[..16], b"HOLDFAST\x03\0\0\0\x01\0\0\0");
    assert_eq!(bytes[32..40], 5u64.to_le_bytes());
    assert_eq!(
        bytes[40..56],
        [0, 0, 64, 0, 8, 0, 0, 0, 44, 1, 0, 0, 176, 4, 0, 0]
    );
    assert_eq!(bytes[56..64], 44u64.to_le_bytes());
    assert_eq!(bytes[64..72], 0x1_2345_6000u64.to_le_bytes());
    assert_eq!(bytes[72..80], [0x0d, 0xf0, 0xed, 0xfe, 0, 0, 0, 0]);
    assert_eq!(bytes[CRC_AT..], [123, 234, 187, 99]);
}

#[test]
fn each_copy_comes_back_in_its_place_only() {
    for copy in [0, 1] {
        let bytes = superblock().encode(copy);
        assert_eq!(Superblock::decode(&bytes, copy), Ok(superblock()));
        let other = Superblock::decode(&bytes, 1 - copy);
        assert!(matches!(other, Err(Unusable::Damaged(_))));
    }
}

#[test]
fn any_flipped_bit_is_noticed() {
    let bytes = superblock().encode(0);
    for bit in 0..BLOCK_BYTES * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Superblock::decode(&damaged, 0).is_err(), "bit {bit}");
    }
    assert_eq!(
        Superblock::decode(&[0; BLOCK_BYTES], 0),
        Err(Unusable::Foreign)
    );
}

#[test]
fn later_version_is_named() {
    let mut bytes = superblock().encode(0);
    bytes[8] = 4;
    let crc = crc32c(&bytes[..CRC_AT]);
    bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(Superblock::decode(&bytes, 0), Err(Unusable::Version(4)));
}

/// Goal: no superblock with a right checksum makes the decoder, the layout or recovery's first steps
/// panic.
#[test]
fn fuzz_superblock() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("HOLDFAST_FUZZ_SEED").unwrap_or(1);
    let rounds = number("HOLDFAST_FUZZ_ROUNDS").unwrap_or(5_000);
    std::println!("seed {seed}: {rounds} superblocks");
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..rounds {
        let mut bytes = superblock().encode(0);
        for _ in 0..rng.usize(1..5) {
            bytes[rng.usize(8..100)] = rng.u8(..);
        }
        let crc = crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        if let Ok(decoded) = Superblock::decode(&bytes, 0)
            && decoded.layout.validate(1 << 30).is_ok()
        {
            assert!(decoded.layout.end() <= 1 << 30);
        }
    }
}
