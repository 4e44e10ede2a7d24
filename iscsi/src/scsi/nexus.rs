//! Who talks to the unit: I_T nexuses, ports and the LUN field.

use alloc::string::String;

/// Handle of a live I_T nexus, given by `LogicalUnit::nexus_added`; never reused by that unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NexusId(pub(crate) u64);

/// The host's end: iSCSI name and ISID (RFC 7143 §4.4.1, "iSCSI Initiator Port").
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InitiatorPort {
    /// iSCSI initiator name, normalised as RFC 3722 wants it, at most 223 bytes.
    pub name: String,
    /// Initiator part of the session identifier.
    pub isid: [u8; 6],
}

/// Our end: one target port per portal group.
///
/// The portal group tag serves as RELATIVE TARGET PORT IDENTIFIER too, from 1 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TargetPort(pub u16);

/// The target port of a unit with one path; and of every registration, whatever path it came by.
///
/// We treat each registration as if ALL_TG_PT were one (SPC-4 5.13.7): a host that comes by another
/// node after a failover, with the same initiator port, has not lost its reservation.
pub const TARGET_PORT: TargetPort = TargetPort(1);

/// An I_T nexus.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nexus {
    /// The host's end.
    pub initiator: InitiatorPort,
    /// Our end.
    pub target: TargetPort,
}

/// The LUN field of a PDU (SAM-5 4.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lun(pub [u8; 8]);

impl Lun {
    /// LUN 0.
    pub const ZERO: Lun = Lun([0; 8]);

    /// Whether this names logical unit 0: peripheral (SAM-5 4.7.7.2) or flat (4.7.7.3) addressing.
    pub fn is_zero(self) -> bool {
        let flat = self.0[0] & 0xC0 == 0x40;
        let first = if flat { self.0[0] & 0x3F } else { self.0[0] };
        first == 0 && self.0[1..].iter().all(|&byte| byte == 0)
    }
}
