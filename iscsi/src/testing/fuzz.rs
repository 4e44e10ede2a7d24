//! Fuzz bodies: any bytes, no panic, bounded work. A byte string is a script of PDUs.

use crate::access::{Access, Credentials};
use crate::connection::Arrival;
use crate::framing::HEADER_BYTES;
use crate::pdu::login::Stage;
use crate::pdu::{self, Header};
use crate::testing::lab::{Disk, Lab, login_header};
use crate::text;
use alloc::vec::Vec;
use core::time::Duration;

/// Text decoding: whatever is accepted is within its bounds and survives being written again.
pub fn text(bytes: &[u8]) {
    let Ok(pairs) = text::decode(bytes) else {
        return;
    };
    let mut writer = text::Writer::new(crate::limits::TEXT_REPLY_BYTES_MAX);
    for (name, value) in &pairs {
        let _ = (text::number(value), text::binary(value));
        writer.put(name, value);
    }
    let written = writer.finish().expect("bounded pairs have room");
    assert!(text::decode(&written).expect("what was written is text") == pairs);
}

/// Login: the script is login requests with any flags and text.
pub fn login(bytes: &[u8]) {
    let credentials = Credentials::new("user", b"secretsecret").expect("usable credentials");
    let guarded = Access::new(Vec::new(), Some(credentials), None).expect("usable access");
    for access in [Access::default(), guarded] {
        let mut lab = Lab::new(access);
        let host = lab.connect();
        for piece in bytes.chunks(96) {
            let (flags, rest) = piece.split_first().expect("chunks are not empty");
            let mut header = login_header(Stage::Operational, Stage::FullFeature);
            header[1] ^= flags & 0xCF;
            let text = rest.iter().map(|&byte| if byte == b';' { 0 } else { byte });
            lab.give(host, header, &text.collect::<Vec<u8>>());
        }
        lab.disconnect(host);
        assert!(lab.is_over(host));
    }
}

/// Full feature phase: the script is headers of any kind, with data as the target wants it.
pub fn session(bytes: &[u8]) {
    let mut lab = Lab::new(Access::default());
    let keys = "InitialR2T=No\0MaxOutstandingR2T=4\0MaxBurstLength=1024\0FirstBurstLength=512\0";
    let host = lab.ready(keys);
    let other = lab.ready(keys);
    let data = alloc::vec![0x5A; 8192];
    for (turn, piece) in bytes.chunks(24).enumerate() {
        if turn.is_multiple_of(7) {
            lab.disk = Disk::Held;
        }
        let header = scripted(&mut lab, host, piece);
        lab.give_raw(host, &header, &data, Arrival::Intact);
        if turn.is_multiple_of(5) {
            while lab.held(host) > 0 {
                lab.complete(host);
            }
            lab.disk = Disk::Prompt;
        }
        lab.take(host);
    }
    lab.wait(Duration::from_secs(2));
    for host in [host, other] {
        lab.disconnect(host);
    }
    while lab.held(host) > 0 {
        lab.complete(host);
    }
    assert!(lab.is_over(host) && lab.is_over(other));
    assert!(lab.target.sessions().count() == 0);
}

/// A header that is nearly right: opcode, flags, lengths and tags come from the script.
fn scripted(lab: &mut Lab, host: usize, piece: &[u8]) -> Header {
    const OPCODES: [u8; 12] = [0, 1, 1, 1, 2, 4, 5, 5, 6, 0x10, 3, 0x1F];
    let byte = |at: usize| piece.get(at).copied().unwrap_or(0);
    let mut header = [0; HEADER_BYTES];
    let opcode = OPCODES[usize::from(byte(0)) % OPCODES.len()];
    header[0] = opcode | byte(1) & 0x40;
    header[1] = byte(2);
    pdu::put_data_bytes(&mut header, usize::from(byte(3)) * 16);
    header[19] = byte(4) & 0x0F;
    header[20..24].copy_from_slice(&[0, byte(5) & 1, byte(6), byte(7)]);
    let is_numbered = header[0] & 0x40 == 0 && opcode != 5;
    let cmd_sn = if is_numbered && byte(8) < 0xF0 {
        lab.host(host).next_cmd_sn()
    } else {
        u32::from(byte(8))
    };
    header[24..28].copy_from_slice(&cmd_sn.to_be_bytes());
    if opcode == 5 {
        header[20..24].copy_from_slice(&if byte(9) & 1 == 0 {
            [0xFF; 4]
        } else {
            [0, byte(10) & 7, 0, byte(11) & 3]
        });
        header[39] = byte(12) & 3;
        header[42] = byte(13) & 7;
    } else {
        header[32] = [0x28, 0x2A, 0x00, 0x12, 0x35, 0x42, 0x5F, 0x89][usize::from(byte(14)) % 8];
        header[38] = byte(15) & 1;
        header[40] = byte(16) & 0x1F;
    }
    header
}

#[cfg(test)]
mod tests;
