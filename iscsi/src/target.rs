//! One target: the logical unit of a volume, who may use it, and its sessions.
//!
//! Lives on the shard that owns the volume, together with all its connections. Sessions reach each
//! other only through this table: one posts a [`Notice`], the driver wakes the other.

use crate::access::Access;
use crate::scsi::unit::LogicalUnit;
use alloc::string::String;
use alloc::vec::Vec;

/// What a target is made from.
#[derive(Debug)]
pub struct TargetConfig {
    /// iSCSI target name, lower case.
    pub name: String,
    /// The disk, LUN 0.
    pub unit: LogicalUnit,
    /// Who may log in.
    pub access: Access,
    /// Addresses to announce, as `ADDR:PORT` (IPv6 in brackets); empty: where the host came to.
    pub portals: Vec<String>,
}

/// A target with its sessions.
#[derive(Debug)]
pub struct Target {
    name: String,
    unit: LogicalUnit,
    access: Access,
    portals: Vec<String>,
}

impl Target {
    /// A target without sessions.
    pub fn new(config: TargetConfig) -> Self {
        let TargetConfig {
            name,
            unit,
            access,
            portals,
        } = config;
        Target {
            name,
            unit,
            access,
            portals,
        }
    }

    /// iSCSI target name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The disk.
    pub fn unit(&self) -> &LogicalUnit {
        &self.unit
    }

    /// The disk, to tell it of a new capacity.
    pub fn unit_mut(&mut self) -> &mut LogicalUnit {
        &mut self.unit
    }

    /// Replaces who may log in; sessions that exist stay.
    pub fn set_access(&mut self, access: Access) {
        self.access = access;
    }

    /// Replaces the addresses to announce.
    pub fn set_portals(&mut self, portals: Vec<String>) {
        self.portals = portals;
    }

    /// What discovery says of this target.
    pub fn announcement(&self) -> Announcement {
        Announcement {
            target_name: self.name.clone(),
            portals: self.portals.clone(),
            access: self.access.clone(),
        }
    }
}

/// What a discovery session may say of one target. Plain data: shards exchange it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// iSCSI target name.
    pub target_name: String,
    /// Addresses, as in [`TargetConfig::portals`].
    pub portals: Vec<String>,
    /// Initiators that are not admitted do not hear of the target.
    pub access: Access,
}
