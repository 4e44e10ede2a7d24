//! Bounds of the protocol machines, with their reasons. Bounds of the SCSI unit are in `scsi::limits`.

use core::time::Duration;

/// Bytes of the data segment of one PDU that we take, after login (MaxRecvDataSegmentLength).
///
/// Large enough that a 256 KiB write is one PDU, small enough that 10,000 idle connections cost nothing.
pub const RECEIVE_SEGMENT_BYTES_MAX: usize = 256 << 10;

/// Bytes of the data segment of one login PDU, fixed by RFC 7143 §13.12 until login ends.
pub const LOGIN_SEGMENT_BYTES_MAX: usize = 8 << 10;

/// Bytes of text of one whole login, both stages: eight full PDUs; real hosts send less than 2 KiB.
pub const LOGIN_BYTES_MAX: usize = 64 << 10;

/// Login requests of one login at most: bounds a host that sends empty requests for ever.
pub const LOGIN_REQUESTS_MAX: usize = 64;

/// Key=value pairs of one login or one text negotiation at most; RFC 7143 defines fewer than 40.
pub const KEYS_MAX: usize = 128;

/// Characters of a key name (RFC 7143 §6.1).
pub const KEY_NAME_CHARS_MAX: usize = 63;

/// Bytes of a text value (RFC 7143 §6.1); larger only for the binary values of CHAP.
pub const VALUE_BYTES_MAX: usize = 255;

/// Bytes of a binary value after decoding (RFC 7143 §12.1.3: CHAP_C and CHAP_R).
pub const BINARY_BYTES_MAX: usize = 1024;

/// Characters of a binary value as text: `0x` and two digits for each byte.
pub const BINARY_CHARS_MAX: usize = 2 + 2 * BINARY_BYTES_MAX;

/// Bytes of one text reply to a login: an answer never grows beyond one PDU, whatever is asked.
pub const LOGIN_REPLY_BYTES_MAX: usize = LOGIN_SEGMENT_BYTES_MAX;

/// Bytes of one SendTargets answer, sent in pieces; 1024 targets with four addresses each fit.
pub const TEXT_REPLY_BYTES_MAX: usize = 512 << 10;

/// Bytes of one text negotiation in full feature phase, over all its requests.
pub const TEXT_REQUEST_BYTES_MAX: usize = 64 << 10;

/// Bytes of any text that this side writes.
pub const WRITER_BYTES_MAX: usize = TEXT_REPLY_BYTES_MAX;

/// Time from the accepted connection to full feature phase.
pub const LOGIN_TIME_MAX: Duration = Duration::from_secs(15);

/// A host that says nothing for this long is asked with a NOP-In.
pub const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);

/// A host that leaves our NOP-In unanswered for this long has gone.
pub const KEEPALIVE_TIME_MAX: Duration = Duration::from_secs(10);

/// Time in which data asked for with R2T, or announced as unsolicited, must make progress.
///
/// Longer than the reconnect time of a host's network bond, shorter than its 30 s command timeout.
pub const DATA_OUT_TIME_MAX: Duration = Duration::from_secs(25);

/// Time in which a host must have logged out after it was asked to.
pub const LOGOUT_TIME_MAX: Duration = Duration::from_secs(3);

/// Commands of one session that may be outstanding: the CmdSN window.
pub const COMMAND_WINDOW: u32 = 256;

/// Immediate commands of one session that may be outstanding beside the window.
pub const IMMEDIATE_COMMANDS_MAX: usize = 16;

/// Bytes of task buffers of one session: a queue of 16 writes of 4 MiB, or 256 of 256 KiB.
///
/// Reached: further writes end with TASK SET FULL, which hosts repeat. The driver may set less.
pub const SESSION_BUFFER_BYTES_MAX: usize = 64 << 20;

/// R2Ts of one task that may be outstanding (MaxOutstandingR2T).
pub const OUTSTANDING_R2T_MAX: u32 = 16;

/// Unsolicited bytes of one command (FirstBurstLength).
pub const FIRST_BURST_BYTES_MAX: u32 = 256 << 10;

/// Bytes of one solicited burst (MaxBurstLength).
pub const MAX_BURST_BYTES: u32 = 4 << 20;

/// Requests that may wait for an earlier CmdSN: 48 bytes each.
pub const PARKED_REQUESTS_MAX: usize = 64;

/// Task management functions of one session that may run at a time.
pub const FUNCTIONS_MAX: usize = 16;

/// A discovery session that says nothing for this long is closed.
pub const DISCOVERY_TIME_MAX: Duration = Duration::from_secs(60);

/// Sessions of one target at most.
pub const SESSIONS_MAX: usize = 256;

/// Bytes of a NOP-Out's ping data that are echoed at most (RFC 7143 §11.19.3 lets a target cut it).
pub const PING_BYTES_MAX: usize = 64 << 10;

const _: () = assert!(LOGIN_REPLY_BYTES_MAX <= LOGIN_SEGMENT_BYTES_MAX);
const _: () = assert!(FIRST_BURST_BYTES_MAX <= MAX_BURST_BYTES);
const _: () = assert!(KEEPALIVE_TIME_MAX.as_secs() < DATA_OUT_TIME_MAX.as_secs());
