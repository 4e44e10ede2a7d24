//! Seeded runs of the fuzz bodies; `HOLDFAST_FUZZ_SEED` and `HOLDFAST_FUZZ_ROUNDS` make them other or longer.

use super::{login, session, text};
use alloc::vec::Vec;
use std::env;

/// Rounds of each body in an ordinary test run.
const ROUNDS: u64 = 300;

/// A small generator (SplitMix64): tests need no more.
struct Bytes(u64);

impl Bytes {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn take(&mut self, bytes_max: u64) -> Vec<u8> {
        let bytes = self.next() % bytes_max;
        (0..bytes).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    fn words(&mut self, count_max: u64) -> Vec<u8> {
        const WORDS: [&str; 18] = [
            "InitiatorName=",
            "TargetName=",
            "SessionType=Discovery",
            "AuthMethod=CHAP",
            "CHAP_A=56",
            "CHAP_A=",
            "CHAP_R=0x",
            "CHAP_I=1",
            "CHAP_C=0b",
            "CHAP_N=user",
            "HeaderDigest=CRC32C",
            "MaxBurstLength=0",
            "iqn.2026-11.io.holdfast:lab",
            "iqn.a",
            ";",
            ";",
            "X-key=",
            "=",
        ];
        let mut text = Vec::new();
        for _ in 0..self.next() % count_max {
            let word = usize::try_from(self.next() % 18).unwrap();
            text.extend_from_slice(WORDS[word].as_bytes());
        }
        text
    }
}

fn check(body: impl Fn(&mut Bytes)) {
    let number = |name: &str| {
        env::var(name)
            .ok()
            .and_then(|value| value.parse::<u64>().ok())
    };
    let first = number("HOLDFAST_FUZZ_SEED").unwrap_or(1);
    let rounds = number("HOLDFAST_FUZZ_ROUNDS").unwrap_or(ROUNDS);
    for seed in (first..).take(usize::try_from(rounds).unwrap()) {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            body(&mut Bytes(seed));
        }));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

#[test]
fn any_text_is_decoded_or_refused() {
    check(|bytes| text(&bytes.take(600)));
    check(|bytes| text(&bytes.words(40)));
}

#[test]
fn any_login_ends_without_harm() {
    check(|bytes| login(&bytes.take(2000)));
    check(|bytes| login(&bytes.words(100)));
}

#[test]
fn any_pdus_after_login_end_without_harm() {
    check(|bytes| session(&bytes.take(4000)));
}
