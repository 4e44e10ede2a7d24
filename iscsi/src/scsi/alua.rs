//! Asymmetric access (SPC-4 5.15): the paths to a unit through the nodes that hold its copies.
//!
//! One target port group with one port for each node. One of them is active/optimized; through the
//! others a host sees the unit, and is told that media access is to be had elsewhere.

use crate::scsi::cdb::Command;
use crate::scsi::nexus::{TARGET_PORT, TargetPort};
use crate::scsi::sense::{AdditionalSense, Sense, SenseKey};
use alloc::vec;
use alloc::vec::Vec;

/// ASYMMETRIC ACCESS STATE (SPC-4 table 306).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AccessState {
    /// All commands.
    ActiveOptimized = 0x0,
    /// Those that tell about the unit.
    Standby = 0x2,
}

/// One target port group, with the one port in it; they have the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortGroup {
    /// TARGET PORT GROUP, RELATIVE TARGET PORT IDENTIFIER and portal group tag; never 0.
    pub port: TargetPort,
    /// Its state.
    pub state: AccessState,
}

/// All paths to a unit, and which of them is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    own: TargetPort,
    groups: Vec<PortGroup>,
}

impl Default for Paths {
    /// The only path.
    fn default() -> Self {
        Paths {
            own: TARGET_PORT,
            groups: vec![PortGroup {
                port: TARGET_PORT,
                state: AccessState::ActiveOptimized,
            }],
        }
    }
}

impl Paths {
    /// Paths through `groups`, of which `own` is one; `None` when it is not, or a number is 0 or there
    /// twice.
    pub fn new(own: TargetPort, mut groups: Vec<PortGroup>) -> Option<Self> {
        groups.sort_unstable_by_key(|group| group.port);
        let distinct = groups.windows(2).all(|pair| pair[0].port < pair[1].port);
        let named = groups.iter().all(|group| group.port.0 != 0);
        let ours = groups.iter().any(|group| group.port == own);
        (distinct && named && ours).then_some(Paths { own, groups })
    }

    /// Our port.
    pub fn own(&self) -> TargetPort {
        self.own
    }

    /// The state of our port.
    pub fn state(&self) -> AccessState {
        let ours = self.groups.iter().find(|group| group.port == self.own);
        ours.expect("our port is in a group").state
    }

    /// Whether the command may be carried out through our port. Hot path.
    pub(crate) fn admits(&self, command: &Command) -> Result<(), Sense> {
        match self.state() {
            AccessState::ActiveOptimized => Ok(()),
            AccessState::Standby if tells_only(command) => Ok(()),
            AccessState::Standby => Err(STANDBY),
        }
    }

    /// REPORT TARGET PORT GROUPS, the descriptors (SPC-4 6.37.2).
    pub(crate) fn descriptors(&self) -> Vec<u8> {
        /// AO_SUP and S_SUP: what can be reported.
        const SUPPORTED: u8 = 0x01 | 0x08;
        /// Changed, if at all, by ourselves (implicitly).
        const IMPLICIT: u8 = 0x02;
        let several = self.groups.len() > 1;
        let mut data = Vec::new();
        for group in &self.groups {
            let [high, low] = group.port.0.to_be_bytes();
            let (supported, status) = if several {
                (SUPPORTED, IMPLICIT)
            } else {
                (0x01, 0)
            };
            data.extend([group.state as u8, supported, high, low, 0, status, 0, 1]);
            data.extend([0, 0, high, low]);
        }
        data
    }
}

/// NOT READY, LOGICAL UNIT NOT ACCESSIBLE, TARGET PORT IN STANDBY STATE (SPC-4 5.15.2.4.4).
pub(crate) const STANDBY: Sense =
    Sense::new(SenseKey::NotReady, AdditionalSense::PORT_IN_STANDBY_STATE);

/// Commands of the standby state (SPC-4 5.15.2.4.4), and those that hosts need to take a path in.
///
/// Of the standard's list we leave out what changes the unit: it is kept by the active port.
fn tells_only(command: &Command) -> bool {
    matches!(
        command,
        Command::Inquiry { .. }
            | Command::ReportLuns { .. }
            | Command::RequestSense { .. }
            | Command::ReportTargetPortGroups { .. }
            | Command::ReportSupportedOpcodes { .. }
            | Command::ReportSupportedTasks { .. }
            | Command::LogSense { .. }
            | Command::ModeSense(_)
            | Command::ReadCapacity10
            | Command::ReadCapacity16 { .. }
    )
}

#[cfg(test)]
mod tests;
