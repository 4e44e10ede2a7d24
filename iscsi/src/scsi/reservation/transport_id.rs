//! iSCSI TransportID: how parameter data names an initiator port (SPC-4 7.6.4.6).

use crate::scsi::limits::ISCSI_NAME_BYTES_MAX;
use crate::scsi::nexus::InitiatorPort;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

/// FORMAT CODE 01b (name and ISID) and PROTOCOL IDENTIFIER 5h.
const FORMAT_AND_PROTOCOL: u8 = 0x45;

/// Encodes a port.
pub(crate) fn encode(port: &InitiatorPort) -> Vec<u8> {
    let [a, b, c, d, e, f] = port.isid;
    let text = format!(
        "{},i,0x{a:02x}{b:02x}{c:02x}{d:02x}{e:02x}{f:02x}",
        port.name
    );
    // Terminated, padded to four bytes, at least 20 bytes of name.
    let bytes = (text.len() + 1).next_multiple_of(4).max(20);
    let length = u16::try_from(bytes).expect("an iSCSI name has 223 bytes at most");
    let [high, low] = length.to_be_bytes();
    let mut data = vec![FORMAT_AND_PROTOCOL, 0, high, low];
    data.extend(text.as_bytes());
    data.resize(4 + bytes, 0);
    data
}

/// Takes one TransportID off the front of `data`.
///
/// `None` when it is damaged, of another protocol, or names no port (format 00b).
pub(crate) fn decode(data: &[u8]) -> Option<(InitiatorPort, &[u8])> {
    let (head, rest) = data.split_at_checked(4)?;
    if head[0] != FORMAT_AND_PROTOCOL {
        return None;
    }
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    if length < 20 || !length.is_multiple_of(4) {
        return None;
    }
    let (text, rest) = rest.split_at_checked(length)?;
    let end = text.iter().position(|&byte| byte == 0)?;
    let text = core::str::from_utf8(&text[..end]).ok()?;
    let (name, isid) = text.split_once(",i,0x")?;
    let name_fits = !name.is_empty() && name.len() <= ISCSI_NAME_BYTES_MAX;
    if !name_fits || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let port = InitiatorPort {
        name: String::from(name),
        isid: decode_isid(isid)?,
    };
    Some((port, rest))
}

fn decode_isid(text: &str) -> Option<[u8; 6]> {
    if text.is_empty() || text.len() > 12 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let value = u64::from_str_radix(text, 16).ok()?;
    let mut isid = [0; 6];
    isid.copy_from_slice(&value.to_be_bytes()[2..]);
    Some(isid)
}
